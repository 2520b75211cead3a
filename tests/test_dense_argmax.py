"""Labels of upsampled logits against every class upsampled by plain NumPy."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from cpsl_deploy import InputError
from cpsl_deploy.dense_argmax import labels_from_logits


def positions(few: int, many: int, align_corners: bool) -> np.ndarray:
    """Where the pixels of the result lie among those of the logits."""
    if align_corners:
        return np.arange(many) * ((few - 1) / (many - 1) if many > 1 else 0.0)
    return np.clip((np.arange(many) + 0.5) * few / many - 0.5, 0, few - 1)


def upsampled(logits: np.ndarray, size: tuple[int, int], align_corners: bool) -> np.ndarray:
    """float64 (classes, H, W)."""
    result = logits.astype(np.float64)
    for axis in (0, 1):
        at = positions(logits.shape[axis + 1], size[axis], align_corners)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, logits.shape[axis + 1] - 1)
        share = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
        result = result.take(low, axis + 1) * (1 - share) + result.take(high, axis + 1) * share
    return result


def assert_exact(logits: np.ndarray, size: tuple[int, int], align_corners: bool = False) -> None:
    """Different labels only where the two best classes tie."""
    dense = upsampled(logits, size, align_corners)
    labels = labels_from_logits(logits, size, align_corners=align_corners)
    assert labels.dtype == np.uint8 and labels.shape == size and labels.flags.c_contiguous
    chosen = np.take_along_axis(dense, labels[None].astype(int), axis=0)[0]
    assert (dense.max(0) - chosen).max() < 1e-5


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_any_size_and_number_of_classes(seed: int, align_corners: bool) -> None:
    rng = np.random.default_rng(seed)
    classes, height, width = rng.integers(1, 10), *rng.integers(1, 14, 2)
    size = tuple(int(side) for side in rng.integers(1, 90, 2))
    if seed % 3 == 0:
        size = (int(8 * height), int(8 * width))
    assert_exact(rng.normal(size=(classes, height, width)).astype(np.float32), size, align_corners)


@pytest.mark.parametrize("size", [(128, 256), (127, 250), (16, 32), (9, 100)])
def test_smooth_regions(size: tuple[int, int]) -> None:
    """As a network gives them: one class far and wide, and gentle slopes between."""
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:16, :32].astype(np.float32)
    centres = rng.uniform(0, 32, (19, 2)).astype(np.float32)
    distance = np.hypot(rows - centres[:, :1, None] / 2, columns - centres[:, 1:, None])
    assert_exact((-distance).astype(np.float32), size)


def test_a_class_that_wins_only_between_corners() -> None:
    """Second at both sides of a cell and the best in its middle: no corner's winner gives it away."""
    logits = np.array([[[8, -8]], [[-8, 8]], [[2, 2]]], np.float32)
    labels = labels_from_logits(logits, (1, 16))
    assert set(labels[0]) == {0, 1, 2}
    assert_exact(logits, (1, 16))


def test_of_equal_classes_the_first_wins() -> None:
    logits = np.ones((5, 4, 4), np.float32)
    assert not labels_from_logits(logits, (32, 32)).any()
    logits[0] = 0
    assert (labels_from_logits(logits, (31, 29)) == 1).all()


def test_same_size_is_the_argmax() -> None:
    logits = np.random.default_rng(2).normal(size=(6, 9, 11)).astype(np.float32)
    np.testing.assert_array_equal(labels_from_logits(logits, (9, 11)), logits.argmax(0))


def test_255_classes_and_strided_logits() -> None:
    logits = np.random.default_rng(3).normal(size=(4, 6, 255)).astype(np.float32).transpose(2, 0, 1)
    assert not logits.flags.c_contiguous
    assert_exact(logits, (32, 48))


def test_confidence_is_the_softmax_of_the_label() -> None:
    rng = np.random.default_rng(4)
    for align_corners in (False, True):
        logits = rng.normal(size=(7, 5, 6), scale=2).astype(np.float32)
        labels, confidence = labels_from_logits(
            logits, (37, 48), align_corners=align_corners, confidence=True
        )
        dense = np.exp(upsampled(logits, (37, 48), align_corners))
        expected = 255 * (dense / dense.sum(0)).max(0)
        assert confidence.dtype == np.uint8 and np.abs(confidence - expected).max() < 0.51
        np.testing.assert_array_equal(
            labels, labels_from_logits(logits, (37, 48), align_corners=align_corners)
        )


def test_memory_is_bounded_where_every_cell_is_mixed() -> None:
    """Noise: all upsampled logits would take 40 MB, and the confidence as much again."""
    logits = np.random.default_rng(5).normal(size=(19, 64, 128)).astype(np.float32)
    tracemalloc.start()
    labels_from_logits(logits, (512, 1024), confidence=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 14e6, f"{peak / 1e6:.1f} MB"
    assert_exact(logits[:, :16, :32], (128, 256))


@pytest.mark.parametrize(
    ("logits", "size", "message"),
    [
        (np.zeros((3, 4, 4)), (8, 8), "float64"),
        (np.zeros((3, 4), np.float32), (8, 8), r"\(3, 4\)"),
        (np.zeros((256, 1, 1), np.float32), (8, 8), "1 to 255 classes"),
        (np.zeros((3, 0, 4), np.float32), (8, 8), "not empty"),
        (np.zeros((3, 4, 4), np.float32), (0, 8), r"got \(0, 8\)"),
        (np.full((3, 4, 4), np.nan, np.float32), (8, 8), "finite"),
        (np.full((3, 4, 4), np.inf, np.float32), (8, 8), "finite"),
    ],
)
def test_bad_input(logits: np.ndarray, size: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        labels_from_logits(logits, size)
