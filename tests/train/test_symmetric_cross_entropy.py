"""Symmetric cross entropy against the reference's numbers and a literal NumPy form with clamping."""

# ruff: noqa: E402
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_training import golden

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.train.symmetric_cross_entropy import (
    cross_entropy,
    reverse_cross_entropy,
    symmetric_cross_entropy,
)

LOSSES = (cross_entropy, reverse_cross_entropy, symmetric_cross_entropy)


def case(scale: float = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(2, 5, 8, 9, generator=generator)
    labels = torch.randint(0, 5, (2, 8, 9), generator=generator)
    return logits, labels.masked_fill(torch.rand(2, 8, 9, generator=generator) < 0.25, IGNORE)


def literal(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Cross entropy and reverse cross entropy, pixel by pixel as the paper writes them."""
    ce, rce = [], []
    for row, label in zip(
        logits.double().permute(0, 2, 3, 1).reshape(-1, 5).numpy(), labels.flatten(), strict=True
    ):
        if label == IGNORE:
            continue
        probs = np.exp(row - row.max())
        probs /= probs.sum()
        one_hot = np.eye(5)[label]
        ce.append(-np.log(probs[label]))
        rce.append(-(np.clip(probs, 1e-7, 1) * np.log(np.clip(one_hot, 1e-4, 1))).sum())
    return float(np.mean(ce)), float(np.mean(rce))


def test_losses_are_the_reference_s():
    values = golden("symmetric_cross_entropy")
    logits, labels = torch.from_numpy(values["logits"]), torch.from_numpy(values["labels"]).long()
    ignored, alpha, beta = int(values["ignore_index"]), float(values["alpha"]), float(values["beta"])
    found = {
        "ce": cross_entropy(logits, labels, ignored),
        "rce": reverse_cross_entropy(logits, labels, ignored),
        "sce": symmetric_cross_entropy(logits, labels, alpha, beta, ignored),
    }
    for name, value in found.items():
        assert float(value) == pytest.approx(float(values[name]), rel=1e-5), name


@pytest.mark.parametrize("scale", [0.1, 3, 40])  # at 40 most probabilities are below the clamp
def test_losses_are_the_literal_ones(scale: float):
    logits, labels = case(scale)
    ce, rce = literal(logits, labels)
    assert float(cross_entropy(logits, labels)) == pytest.approx(ce, rel=1e-5)
    assert float(reverse_cross_entropy(logits, labels)) == pytest.approx(rce, rel=1e-5)
    both = symmetric_cross_entropy(logits, labels, alpha=0.3, beta=0.7)
    assert float(both) == pytest.approx(0.3 * ce + 0.7 * rce, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_ignored_pixels_enter_nothing(loss):
    logits, labels = case()
    ignored = (labels == IGNORE)[:, None].expand_as(logits)
    changed = torch.where(ignored, 1000 * torch.randn_like(logits), logits).requires_grad_()
    value = loss(changed, labels)
    assert torch.allclose(value, loss(logits, labels), rtol=1e-6)
    value.backward()
    assert torch.equal(changed.grad[ignored], torch.zeros(int(ignored.sum())))
    assert (changed.grad[~ignored] != 0).any()


@pytest.mark.parametrize("loss", LOSSES)
def test_without_a_pixel_the_loss_is_zero_with_a_zero_gradient(loss):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    value = loss(logits, torch.full((1, 4, 4), IGNORE))
    value.backward()
    assert float(value.detach()) == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("loss", LOSSES)
def test_certain_predictions_stay_finite_in_half_precision(loss):
    logits = torch.tensor([1000.0, -1000.0]).view(1, 2, 1, 1).half().requires_grad_()
    value = loss(logits, torch.ones(1, 1, 1, dtype=torch.long))
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value) and torch.isfinite(logits.grad).all()


def test_a_wrong_label_s_pull_is_bounded_unlike_cross_entropy_s():
    certain = torch.tensor([40.0, 0.0]).view(1, 2, 1, 1)
    wrong = torch.ones(1, 1, 1, dtype=torch.long)
    assert float(cross_entropy(certain, wrong)) == pytest.approx(40)
    assert float(reverse_cross_entropy(certain, wrong)) == pytest.approx(-np.log(1e-4), rel=1e-5)
