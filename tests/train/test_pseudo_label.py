"""Pseudo labels against NumPy, their thresholds and their masks."""

# ruff: noqa: E402
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.train.pseudo_label import hard_pseudo_label, mirrored_average, rectified_pseudo_label

ALL = torch.ones(2, 6, 7, dtype=torch.bool)


def distributions(seed: int, sharpness: float = 2) -> torch.Tensor:
    logits = torch.randn(2, 4, 6, 7, generator=torch.Generator().manual_seed(seed))
    return (sharpness * logits).softmax(dim=1)


def test_rectified_label_is_the_argmax_of_the_product():
    soft, assignment = distributions(0), distributions(1)
    labels, confidence = rectified_pseudo_label(soft, assignment, ALL)
    product = soft.double().numpy() * assignment.double().numpy()
    product /= product.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(labels.numpy(), product.argmax(axis=1))
    np.testing.assert_allclose(confidence.numpy(), product.max(axis=1), rtol=1e-5)
    assert labels.dtype == torch.int64
    assert (labels != soft.argmax(dim=1)).any(), "the assignment rectifies some labels"


def test_pixels_below_the_threshold_or_outside_are_ignored():
    valid = torch.rand(2, 6, 7, generator=torch.Generator().manual_seed(2)) > 0.3
    labels, confidence = rectified_pseudo_label(distributions(0), distributions(1), valid, threshold=0.8)
    kept = labels != IGNORE
    assert torch.equal(kept, valid & (confidence >= 0.8))
    assert 0 < kept.sum() < valid.sum()


def test_a_threshold_of_zero_keeps_every_valid_pixel():
    labels, _ = rectified_pseudo_label(distributions(0), distributions(1), ALL)
    assert (labels != IGNORE).all()


def test_opposed_certainties_stay_finite():
    soft = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    _, confidence = rectified_pseudo_label(soft, 1 - soft, ALL[:1, :1, :1])
    assert torch.isfinite(confidence).all()


def test_hard_label_needs_the_threshold_reached():
    probabilities = torch.tensor([[0.95, 0.05], [0.94, 0.06], [0.02, 0.98]]).T.reshape(1, 2, 1, 3)
    assert hard_pseudo_label(probabilities, 0.95).tolist() == [[[0, IGNORE, 1]]]
    valid = torch.tensor([[[True, True, False]]])
    assert hard_pseudo_label(probabilities, 0.95, valid).tolist() == [[[0, IGNORE, IGNORE]]]


def test_mirrored_average_brings_the_mirror_back():
    probabilities, other = distributions(0), distributions(1)
    assert torch.equal(mirrored_average(probabilities, probabilities.flip(3)), probabilities)
    mean = mirrored_average(probabilities, other)
    wanted = 0.5 * (probabilities[0, :, 2, 1] + other[0, :, 2, 5])
    assert torch.allclose(mean[0, :, 2, 1], wanted, atol=1e-6)
    assert torch.allclose(mean.sum(dim=1), torch.ones(2, 6, 7), atol=1e-5)
