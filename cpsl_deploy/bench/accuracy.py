"""Accuracy of an exported file on labelled images: what a user gets, not what training believed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .. import metrics
from ..classes import ClassSpace
from ..errors import DataError
from ..segmenter import labels_of
from .latency import Progress, no_progress

if TYPE_CHECKING:
    from ..data import Dataset
    from ..segmenter import Segmenter


@dataclass(frozen=True, kw_only=True)
class ClassAccuracy:
    """Confusion of a model's K classes with a dataset's labels, joined on class names.

    Pixels that are labelled with no class of the model are left out. A pixel predicted as a class that the
    data does not have is an error of its true class.
    """

    names: tuple[str, ...]
    """The model's class names."""
    confusion: np.ndarray
    """(K, K) int64: row is the label, column the prediction."""
    unknown_to_data: tuple[str, ...] = ()
    """Classes of the model that the data does not have; their IoU is n/a (NaN) and enters no mean."""
    unknown_to_model: tuple[str, ...] = ()
    """Classes of the data that the model does not have; their pixels are left out."""
    frames: int
    """Images scored."""

    @cached_property
    def iou(self) -> np.ndarray:
        """(K,) float64 from 0 to 1; NaN for a class the data does not have, or that is neither labelled nor
        predicted anywhere."""
        iou = np.array(metrics.iou(self.confusion), np.float64)
        iou[[name in self.unknown_to_data for name in self.names]] = np.nan
        return iou

    @property
    def mean_iou(self) -> float:
        """Mean over the classes whose IoU is not n/a, from 0 to 1; NaN if there is none."""
        known = self.iou[~np.isnan(self.iou)]
        return float(known.mean()) if known.size else float("nan")

    @property
    def pixel_accuracy(self) -> float:
        """Share of the scored pixels that are right, from 0 to 1; NaN if no pixel is labelled."""
        return metrics.pixel_accuracy(self.confusion)

    @property
    def label_share(self) -> np.ndarray:
        """(K,) float64: share of the scored pixels that is labelled with each class; zeros if none is."""
        return _shares(self.confusion.sum(axis=1))

    @property
    def predicted_share(self) -> np.ndarray:
        """(K,) float64: share of the scored pixels that is predicted as each class; zeros if none is."""
        return _shares(self.confusion.sum(axis=0))


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    *,
    progress: Progress = no_progress,
) -> ClassAccuracy:
    """Score a loaded segmenter on a labelled dataset, whose labels are joined to its classes by name.

    Raises DataError for a dataset without labels, or with no class name in common with the model.
    """
    if not dataset.has_labels or dataset.classes is None:
        raise DataError(
            f"accuracy needs labels, and the split {dataset.split!r} of {dataset.name} has none. "
            "Name a labelled split or another dataset."
        )
    only_model, only_data = class_differences(segmenter.classes, dataset.classes)
    joined = dataset.with_classes(segmenter.classes)
    classes = len(segmenter.classes)
    confusion = np.zeros((classes, classes), np.int64)
    for i in range(len(joined)):
        progress("accuracy", i, len(joined))
        predicted = labels_of(segmenter, joined.image(i), colour_order="RGB")
        confusion += metrics.confusion_matrix(joined.label(i), predicted, classes)
    progress("accuracy", len(joined), len(joined))
    return ClassAccuracy(
        names=segmenter.classes.names,
        confusion=confusion,
        unknown_to_data=only_model,
        unknown_to_model=only_data,
        frames=len(joined),
    )


def class_differences(model: ClassSpace, data: ClassSpace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class names only the model has, and only the data has. Raises DataError if nothing is common."""
    only_model = tuple(name for name in model.names if name not in data.names)
    only_data = tuple(name for name in data.names if name not in model.names)
    if len(only_model) == len(model):
        raise DataError(
            "model and data have no class name in common: the model has "
            f"{', '.join(model.names)}; the data has {', '.join(data.names)}. "
            "Rename the classes in the dataset file so that the shared ones are spelled as in the model."
        )
    return only_model, only_data


def _shares(pixels: np.ndarray) -> np.ndarray:
    return pixels / max(int(pixels.sum()), 1)
