"""Segmentation metrics from a confusion matrix, as the field computes them (Pascal VOC, Cityscapes).

Counts add up, so a whole split is scored by adding one matrix per image and dividing once at the end.
"""

from __future__ import annotations

import numpy as np

from .classes import IGNORE
from .errors import InputError


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pixels by true and predicted class.

    ``labels``, ``predictions``: integer arrays of one shape, any number of dimensions. Pixels whose label is
    IGNORE are skipped, whatever was predicted there.

    Returns (num_classes, num_classes) int64: rows are the truth, columns the prediction. Raises InputError
    if the shapes differ or a counted value is not a class.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape:
        raise InputError(
            f"labels and predictions have one shape; got {labels.shape} and {predictions.shape}. "
            "Resize the predictions to the labels with nearest neighbour first."
        )
    valid = labels != IGNORE
    truth, predicted = labels[valid].astype(np.int64), predictions[valid].astype(np.int64)
    for kind, values in (("label", truth), ("prediction", predicted)):
        if values.size and not (values.min() >= 0 and values.max() < num_classes):
            outside = np.unique(values[(values < 0) | (values >= num_classes)])[:5]
            raise InputError(
                f"a {kind} is a class from 0 to {num_classes - 1}, or {IGNORE} in labels for pixels to skip; "
                f"got {', '.join(map(str, outside))}. Remap the ids before they are scored."
            )
    counts = np.bincount(num_classes * truth + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union per class, (C,) float64 in 0..1.

    NaN where a class occurs neither in the truth nor in the predictions; 0 where it occurs and is never hit.
    """
    confusion = np.asarray(confusion, np.float64)
    hits = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    return _shares(hits, union)


def precision(confusion: np.ndarray) -> np.ndarray:
    """Share of each class's predicted pixels that are right, (C,) float64 in 0..1.

    NaN where a class is never predicted.
    """
    confusion = np.asarray(confusion, np.float64)
    return _shares(np.diag(confusion), confusion.sum(axis=0))


def recall(confusion: np.ndarray) -> np.ndarray:
    """Share of each class's labelled pixels that are found, (C,) float64 in 0..1.

    NaN where a class is never labelled.
    """
    confusion = np.asarray(confusion, np.float64)
    return _shares(np.diag(confusion), confusion.sum(axis=1))


def mean_iou(confusion: np.ndarray) -> float:
    """Mean of the classes' IoU, 0..1, without classes that never occur. NaN if none does."""
    per_class = iou(confusion)
    occurs = ~np.isnan(per_class)
    return float(per_class[occurs].mean()) if occurs.any() else float("nan")


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Share of counted pixels whose class is right, 0..1. NaN if no pixel was counted."""
    confusion = np.asarray(confusion, np.float64)
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")


def _shares(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
