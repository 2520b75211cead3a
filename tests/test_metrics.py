"""Metrics against the reference implementation's figures and hand-made cases."""

from pathlib import Path

import numpy as np
import pytest

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.errors import InputError
from cpsl_deploy.metrics import confusion_matrix, iou, mean_iou, pixel_accuracy, precision, recall

GOLDEN = Path(__file__).parent / "golden" / "metrics.npz"


def test_reproduces_the_reference():
    golden = np.load(GOLDEN)
    labels = np.where(golden["labels"] == golden["ignore_index"], IGNORE, golden["labels"])
    confusion = confusion_matrix(labels, golden["predictions"], 19)
    assert confusion.dtype == np.int64
    np.testing.assert_array_equal(confusion, golden["confusion"])
    np.testing.assert_allclose(iou(confusion), golden["iou"], rtol=1e-12)
    assert mean_iou(confusion) == pytest.approx(float(golden["mean_iou"]), rel=1e-12)


def test_rows_are_the_truth_and_ignored_pixels_do_not_count():
    labels = np.array([[0, 0, 1], [1, IGNORE, 2]], np.uint8)
    predictions = np.array([[0, 1, 1], [1, 2, 1]], np.uint8)
    confusion = confusion_matrix(labels, predictions, 4)
    np.testing.assert_array_equal(confusion, [[1, 1, 0, 0], [0, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(iou(confusion), [1 / 2, 2 / 4, 0, np.nan])
    assert mean_iou(confusion) == pytest.approx(1 / 3)
    assert pixel_accuracy(confusion) == pytest.approx(3 / 5)


def test_precision_and_recall_by_hand():
    # Class 1 is never found, class 2 labelled and never predicted, class 3 predicted and never labelled.
    confusion = np.array([[6, 2, 0, 1], [3, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]])
    np.testing.assert_allclose(precision(confusion), [6 / 10, 0, np.nan, 0])
    np.testing.assert_allclose(recall(confusion), [6 / 9, 0, 0, np.nan])
    np.testing.assert_allclose(precision(confusion), recall(confusion.T))


def test_nothing_to_count_is_nan_without_a_warning():
    confusion = confusion_matrix(np.full((2, 2), IGNORE), np.zeros((2, 2)), 3)
    assert (
        np.isnan(mean_iou(confusion))
        and np.isnan(pixel_accuracy(confusion))
        and np.isnan(iou(confusion)).all()
        and np.isnan(precision(confusion)).all()
        and np.isnan(recall(confusion)).all()
    )


@pytest.mark.parametrize(
    ("labels", "predictions", "kind"), [([[3]], [[0]], "label"), ([[0]], [[255]], "prediction")]
)
def test_a_value_that_is_no_class_is_refused(labels, predictions, kind):
    with pytest.raises(InputError, match=f"a {kind} is a class from 0 to 2"):
        confusion_matrix(np.array(labels), np.array(predictions), 3)


def test_shapes_must_agree():
    with pytest.raises(InputError, match="one shape"):
        confusion_matrix(np.zeros((2, 2)), np.zeros((4,)), 3)
