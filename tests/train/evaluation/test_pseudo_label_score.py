"""How right pseudo labels are: hand-made labels against hand-made truth."""

# ruff: noqa: E402
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_training import CLASSES, Pictures, streets

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.train.evaluation.pseudo_label_score import PseudoLabelScore, score_pseudo_labels

CPU = torch.device("cpu")


def test_figures_of_a_hand_made_table():
    """Eight road pixels: five right, two taken for sky, one without label. Sky: all four right. No car."""
    score = PseudoLabelScore(np.array([[5, 2, 0, 1], [0, 4, 0, 0], [0, 0, 0, 0]]))
    found = score.to_json()
    assert found["share"] == pytest.approx([5 / 11, 6 / 11, 0])
    assert found["true_share"] == pytest.approx([8 / 12, 4 / 12, 0])
    assert found["precision"] == [1, pytest.approx(4 / 6), None]
    assert found["recall"] == [pytest.approx(5 / 8), 1, None]
    assert found["iou"] == [pytest.approx(5 / 7), pytest.approx(4 / 6), None]
    assert found["mistaken_for"] == [1, None, None]
    assert found["mistaken_share"] == [pytest.approx(2 / 8), 0, None]


def test_pixels_are_counted_where_the_truth_is_known():
    """Perfect labels but for the upper half, which gets none; unlabelled truth counts nowhere."""
    pictures = streets(3)
    truths = iter([pictures.label(index) for index in range(3)])

    def label_image(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        assert image.dtype == torch.uint8 and image.shape == (1, 3, 64, 96)
        found = torch.from_numpy(next(truths)).long()
        found[found == IGNORE] = 0
        found[:8] = IGNORE
        return found[None]

    score = score_pseudo_labels(label_image, pictures, len(CLASSES), (64, 96), CPU, most=10)
    labels = np.stack([pictures.label(index) for index in range(3)])
    assert score.counts.sum() == (labels != IGNORE).sum()
    assert score.counts[1, 3] == 3 * 8 * 96, "sky without a pseudo label"
    found = score.to_json()
    assert found["precision"] == [1, 1, 1]
    assert found["recall"][1] == pytest.approx(1 - 3 * 8 * 96 / (labels == 1).sum())


def test_labels_are_made_at_the_truth_s_size_of_evenly_spaced_images():
    small = streets(9)
    truths = [np.kron(small.label(i), np.ones((2, 2), np.uint8)) for i in range(9)]
    pictures, sizes = Pictures([small.image(i) for i in range(9)], truths), []

    def label_image(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        sizes.append((tuple(image.shape[2:]), size))
        return torch.zeros(1, *size, dtype=torch.long)

    score_pseudo_labels(label_image, pictures, len(CLASSES), (64, 96), CPU, most=3)
    assert sizes == [((64, 96), (128, 192))] * 3
