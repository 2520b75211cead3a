"""Pixel contrast against a literal NumPy double loop and the reference's number."""

# ruff: noqa: E402
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_training import golden

from cpsl_deploy.train.pixel_contrast import pixel_contrast


def unit_rows(seed: int, count: int, channels: int = 6) -> torch.Tensor:
    rows = torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def literal(
    features: np.ndarray, labels: np.ndarray, bank: np.ndarray, bank_labels: np.ndarray, temperature: float
):
    per_pixel = []
    for feature, label in zip(features, labels, strict=True):
        similarity = bank @ feature / temperature
        negatives = np.exp(similarity[bank_labels != label]).sum()
        terms = [-np.log(np.exp(s) / (np.exp(s) + negatives)) for s in similarity[bank_labels == label]]
        if terms:
            per_pixel.append(np.mean(terms))
    return np.mean(per_pixel) if per_pixel else 0.0


def test_loss_is_the_reference_s():
    case = golden("contrastive")
    tensors = (torch.from_numpy(case[key]) for key in ("feats", "labels", "bank", "bank_labels"))
    assert float(pixel_contrast(*tensors, float(case["temperature"]))) == pytest.approx(
        float(case["loss"]), rel=1e-5
    )


@pytest.mark.parametrize("temperature", [0.08, 1.0])
def test_loss_is_the_literal_sum(temperature: float):
    features, bank = unit_rows(0, 9), unit_rows(1, 40)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 7, 0, 1])  # 7: no positive in the bank
    bank_labels = torch.arange(40) % 4
    found = pixel_contrast(features, labels, bank, bank_labels, temperature)
    wanted = literal(
        features.double().numpy(), labels.numpy(), bank.double().numpy(), bank_labels.numpy(), temperature
    )
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_pixels_without_positives_cost_nothing():
    features = unit_rows(0, 3).requires_grad_()
    loss = pixel_contrast(
        features, torch.tensor([5, 5, 5]), unit_rows(1, 8), torch.zeros(8, dtype=torch.long)
    )
    loss.backward()
    assert float(loss.detach()) == 0 and torch.equal(features.grad, torch.zeros_like(features))


def test_a_bank_of_positives_alone_costs_nothing_and_stays_finite():
    loss = pixel_contrast(unit_rows(0, 3), torch.zeros(3), unit_rows(1, 8), torch.zeros(8), temperature=1e-3)
    assert float(loss) == pytest.approx(0, abs=1e-6)


def test_nearer_positives_cost_less():
    bank = torch.eye(2)
    bank_labels = torch.tensor([0, 1])
    label = torch.tensor([0])
    near = pixel_contrast(torch.tensor([[1.0, 0.0]]), label, bank, bank_labels)
    far = pixel_contrast(torch.tensor([[0.0, 1.0]]), label, bank, bank_labels)
    assert float(near) < 1e-3 < 10 < float(far)


def test_autocast_does_not_change_the_loss():
    arguments = (unit_rows(0, 9), torch.arange(9) % 3, unit_rows(1, 40), torch.arange(40) % 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = pixel_contrast(*arguments)
    assert torch.allclose(cast, pixel_contrast(*arguments), rtol=1e-6)
