"""KL divergence: zero at equality, never negative, and only over valid pixels."""

# ruff: noqa: E402
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cpsl_deploy.train.kl_divergence import kl_divergence


def random_logits(seed: int, scale: float = 2) -> torch.Tensor:
    return scale * torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_mean_over_pixels_of_the_sum_over_classes():
    student, teacher = random_logits(0), random_logits(1)
    q = teacher.double().softmax(dim=1).numpy()
    p = student.double().softmax(dim=1).numpy()
    wanted = (q * np.log(q / p)).sum(axis=1).mean()
    found = kl_divergence(student.log_softmax(dim=1), teacher.softmax(dim=1))
    assert float(found) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("scale", [0.01, 1, 30])
def test_it_is_zero_when_the_student_is_the_teacher(scale: float):
    logits = random_logits(0, scale).requires_grad_()
    value = kl_divergence(logits.log_softmax(dim=1), logits.detach().softmax(dim=1))
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6


def test_it_is_never_negative():
    for seed in range(50):
        student = random_logits(seed, scale=0.2 * seed).double()
        teacher = student + random_logits(1000 + seed, scale=0.1)
        assert float(kl_divergence(student.log_softmax(dim=1), teacher.softmax(dim=1))) >= 0


def test_a_certain_teacher_stays_finite():
    teacher = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    student = torch.zeros(1, 2, 1, 1, requires_grad=True)
    value = kl_divergence(student.log_softmax(dim=1), teacher)
    value.backward()
    assert float(value.detach()) == pytest.approx(np.log(2))
    assert torch.isfinite(student.grad).all()


def test_pixels_that_are_not_valid_enter_nothing():
    valid = torch.rand(2, 6, 7, generator=torch.Generator().manual_seed(2)) > 0.4
    student, teacher = random_logits(0), random_logits(1).softmax(dim=1)
    outside = (~valid)[:, None].expand_as(student)
    changed = torch.where(outside, random_logits(3, scale=100), student).requires_grad_()
    value = kl_divergence(changed.log_softmax(dim=1), teacher, valid)
    per_pixel = (teacher * (teacher.log() - student.log_softmax(dim=1))).sum(dim=1)
    assert torch.allclose(value, per_pixel[valid].mean(), rtol=1e-5)
    value.backward()
    assert torch.equal(changed.grad[outside], torch.zeros(int(outside.sum())))


def test_without_a_valid_pixel_it_is_zero():
    none = torch.zeros(2, 6, 7, dtype=torch.bool)
    value = kl_divergence(random_logits(0).log_softmax(dim=1), random_logits(1).softmax(dim=1), none)
    assert float(value) == 0
