"""Labels of upsampled logits against every class upsampled by plain NumPy."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from cpsl_deploy import InputError, dense_argmax
from cpsl_deploy.bilinear_cells import Axis
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


def smooth_regions(height: int, width: int) -> np.ndarray:
    """As a network gives them: one of 19 classes far and wide, and gentle slopes between."""
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    centres = rng.uniform(0, width, (19, 2)).astype(np.float32)
    distance = np.hypot(rows - centres[:, :1, None] / 2, columns - centres[:, 1:, None])
    return (-distance).astype(np.float32)


@pytest.mark.parametrize("size", [(128, 256), (127, 250), (16, 32), (9, 100)])
def test_smooth_regions(size: tuple[int, int]) -> None:
    assert_exact(smooth_regions(16, 32), size)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("ratios", [(1, 2), (2, 4), (4, 4), (8, 8), (16, 3), (5, 8), (0.5, 4)])
def test_whole_ratios(ratios: tuple[float, float], align_corners: bool) -> None:
    """One matrix for all cells where both are powers of two; smooth regions, and noise with its many
    candidates."""
    rng = np.random.default_rng(7)
    for logits in (smooth_regions(14, 22), rng.normal(size=(6, 14, 22)).astype(np.float32)):
        assert_exact(logits, (int(14 * ratios[0]), int(22 * ratios[1])), align_corners)


@pytest.mark.parametrize(
    ("few", "many", "align_corners", "weights"),
    [
        (6, 24, False, [0.125, 0.375, 0.625, 0.875]),
        (6, 12, False, [0.25, 0.75]),
        (3, 5, True, [0, 0.5]),
        (6, 25, False, None),
        (6, 18, False, None),  # thirds are not the same everywhere in float32
        (6, 24, True, None),
    ],
)
def test_cells_with_the_same_weights(
    few: int, many: int, align_corners: bool, weights: list[float] | None
) -> None:
    repeated = Axis.of(few, many, align_corners).repeated
    assert (repeated is None) == (weights is None)
    np.testing.assert_array_equal(repeated, weights)


@pytest.mark.parametrize("size", [(64, 96), (63, 95)])
def test_however_few_cells_are_drawn_at_a_time(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = np.random.default_rng(8).normal(size=(7, 16, 24)).astype(np.float32)
    expected = labels_from_logits(logits, size)
    monkeypatch.setattr(dense_argmax, "_CORNER_VALUES", 4 * 7 * 30)
    monkeypatch.setattr(dense_argmax, "_PIXEL_VALUES", 40)
    np.testing.assert_array_equal(labels_from_logits(logits, size), expected)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (128, 192), (61, 97), (7, 50)])
def test_what_torch_says(size: tuple[int, int], align_corners: bool) -> None:
    torch = pytest.importorskip("torch")
    for seed in range(5):
        logits = torch.randn(5, 16, 24, generator=torch.Generator().manual_seed(seed))
        dense = torch.nn.functional.interpolate(
            logits[None], size=size, mode="bilinear", align_corners=align_corners
        )[0]
        best = dense.topk(2, dim=0)
        clear = (best.values[0] - best.values[1] > 1e-5).numpy()
        labels = labels_from_logits(logits.numpy(), size, align_corners=align_corners)
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(labels[clear], best.indices[0].numpy()[clear])


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


@pytest.mark.parametrize("size", [(64, 64), (56, 60)])
def test_of_classes_equal_everywhere_the_first_wins(size: tuple[int, int]) -> None:
    """Rounding does not tell them apart."""
    three = np.random.default_rng(9).normal(size=(3, 8, 8)).astype(np.float32)
    labels = labels_from_logits(three.repeat(2, axis=0), size)
    np.testing.assert_array_equal(labels, 2 * labels_from_logits(three, size))


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


def test_a_warm_call_takes_memory_of_the_logits_size_alone() -> None:
    """What is as large as the labels is memory that came back."""
    logits = smooth_regions(64, 128)
    for _ in range(2):
        labels_from_logits(logits, (1024, 2048))
    tracemalloc.start()
    labels = labels_from_logits(logits, (1024, 2048))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < labels.size / 2, f"{peak / 1e6:.1f} MB"


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
