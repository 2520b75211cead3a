"""Accuracy of an exported file on labelled images: what a user gets, not what training believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import metrics
from ..classes import ClassSpace
from ..errors import DataError, InputError
from ..segmenter import labels_of
from .bootstrap import FEW_IMAGES, IouIntervals, iou_intervals
from .boundary import BoundaryCounts, boundary_counts
from .latency import Progress, no_progress

if TYPE_CHECKING:
    from ..data import Dataset
    from ..segmenter import Segmenter


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageCounts:
    """Pixels of N images by class, as they enter IoU: those whose label is a class of the model."""

    names: tuple[str, ...]
    """Of the images, N."""
    hits: np.ndarray
    """(N, K) int64: labelled and predicted as the class."""
    labelled: np.ndarray
    """(N, K) int64."""
    predicted: np.ndarray
    """(N, K) int64."""

    @classmethod
    def of(cls, names: Sequence[str], confusions: Sequence[np.ndarray]) -> ImageCounts:
        """From one confusion (K, K) per image."""
        return cls(
            names=tuple(names),
            hits=np.stack([np.diag(confusion) for confusion in confusions]),
            labelled=np.stack([confusion.sum(axis=1) for confusion in confusions]),
            predicted=np.stack([confusion.sum(axis=0) for confusion in confusions]),
        )

    def to_json(self) -> dict[str, Any]:
        """Lists under the names above."""
        return {
            "names": list(self.names),
            "hits": self.hits.tolist(),
            "labelled": self.labelled.tolist(),
            "predicted": self.predicted.tolist(),
        }


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """Accuracy of one class: from 0 to 1, None for n/a."""

    name: str
    iou: float | None
    iou_interval: dict[str, float] | None
    """``low`` and ``high``, at the level of `ClassAccuracy.intervals`. None for a class without an IoU, or
    that occurs in fewer than two images."""
    precision: float | None
    """Share of the pixels predicted as the class that are right; None if there are none."""
    recall: float | None
    """Share of the pixels labelled with the class that are found; None if there are none."""
    boundary_iou: float | None
    """See `cpsl_deploy.bench.boundary`; None if not asked for, or without a boundary anywhere."""
    boundary_f_score: float | None
    """As ``boundary_iou``."""
    label_share: float | None
    """Share of the scored pixels that is labelled with the class; None for a class the data does not have."""
    predicted_share: float
    """Share of the scored pixels that is predicted as the class."""

    def to_json(self) -> dict[str, Any]:
        """The fields by their names."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
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
    """Classes of the model that the data does not have; their scores are n/a (NaN) and enter no mean."""
    unknown_to_model: tuple[str, ...] = ()
    """Classes of the data that the model does not have; their pixels are left out."""
    images: ImageCounts
    """The same image by image: what the intervals are made of."""
    boundary_pixels: int | None = None
    """How far from a boundary still counts as on it; None: the boundaries were not looked at."""
    boundary: BoundaryCounts | None = None
    """None without ``boundary_pixels``."""

    @property
    def frames(self) -> int:
        """Images scored."""
        return len(self.images.names)

    @cached_property
    def iou(self) -> np.ndarray:
        """(K,) float64 from 0 to 1; NaN for a class the data does not have, or that is neither labelled nor
        predicted anywhere."""
        return self._known(metrics.iou(self.confusion))

    @property
    def precision(self) -> np.ndarray:
        """(K,) float64 from 0 to 1; NaN for a class the data does not have, or that is never predicted."""
        return self._known(metrics.precision(self.confusion))

    @property
    def recall(self) -> np.ndarray:
        """(K,) float64 from 0 to 1; NaN for a class that is never labelled."""
        return self._known(metrics.recall(self.confusion))

    @property
    def boundary_iou(self) -> np.ndarray | None:
        """(K,) float64 from 0 to 1; NaN for a class the data does not have, or without a boundary anywhere.
        None if the boundaries were not looked at. See `cpsl_deploy.bench.boundary`."""
        return None if self.boundary is None else self._known(self.boundary.iou)

    @property
    def boundary_f_score(self) -> np.ndarray | None:
        """As ``boundary_iou``."""
        return None if self.boundary is None else self._known(self.boundary.f_score)

    @cached_property
    def intervals(self) -> IouIntervals:
        """How far ``mean_iou`` and ``iou`` would move with other images of the same kind."""
        counts = self.images
        return iou_intervals(counts.hits, counts.labelled, counts.predicted, left_out=np.isnan(self.iou))

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

    def class_scores(self) -> tuple[ClassScores, ...]:
        """One per class of the model, in its order."""
        iou, precision, recall = self.iou, self.precision, self.recall
        boundary_iou, boundary_f_score = self.boundary_iou, self.boundary_f_score
        intervals = self.intervals.classes
        label_share, predicted_share = self.label_share, self.predicted_share
        return tuple(
            ClassScores(
                name=name,
                iou=_finite(iou[k]),
                iou_interval=_interval(*intervals[k]),
                precision=_finite(precision[k]),
                recall=_finite(recall[k]),
                boundary_iou=None if boundary_iou is None else _finite(boundary_iou[k]),
                boundary_f_score=None if boundary_f_score is None else _finite(boundary_f_score[k]),
                label_share=None if name in self.unknown_to_data else float(label_share[k]),
                predicted_share=float(predicted_share[k]),
            )
            for k, name in enumerate(self.names)
        )

    def notes(self) -> list[str]:
        """What a reader must know before believing the intervals, one sentence each."""
        block, notes = self.intervals.block, []
        if block > 1:
            notes.append(
                "Images that follow each other score alike: for the intervals of IoU they were drawn in "
                f"runs of {block}."
            )
        if (runs := self.frames / block) < FEW_IMAGES:
            runs_text = f" in about {runs:.0f} runs" if block > 1 else ""
            notes.append(
                f"Intervals of IoU over {self.frames} images{runs_text} are too narrow: {FEW_IMAGES} or more "
                "that say nothing of each other are needed to hold the truth as often as they say."
            )
        return notes

    def to_json(self) -> dict[str, Any]:
        """The section "accuracy" of a benchmark's record; n/a is None."""
        return {
            "frames": self.frames,
            "miou": _finite(self.mean_iou),
            "miou_interval": self.intervals.to_json(),
            "pixel_accuracy": _finite(self.pixel_accuracy),
            "boundary_pixels": self.boundary_pixels,
            "unknown_to_data": list(self.unknown_to_data),
            "unknown_to_model": list(self.unknown_to_model),
            "confusion": self.confusion.tolist(),
            "images": self.images.to_json(),
        }

    def _known(self, scores: np.ndarray) -> np.ndarray:
        lacking = [name in self.unknown_to_data for name in self.names]
        return np.where(lacking, np.nan, scores)


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    *,
    boundary_pixels: int | None = None,
    progress: Progress = no_progress,
) -> ClassAccuracy:
    """Score a loaded segmenter on a labelled dataset, whose labels are joined to its classes by name.

    ``boundary_pixels``: how far from a boundary still counts as on it; None leaves the boundary scores out,
    which cost about 25 ms more per image of 720x960.

    Raises DataError for a dataset without labels, or with no class name in common with the model, InputError
    for fewer boundary pixels than one.
    """
    if boundary_pixels is not None and boundary_pixels < 1:
        raise InputError(f"a boundary is looked for within 1 pixel or more; got {boundary_pixels}")
    if not dataset.has_labels or dataset.classes is None:
        raise DataError(
            f"accuracy needs labels, and the split {dataset.split!r} of {dataset.name} has none. "
            "Name a labelled split or another dataset."
        )
    only_model, only_data = class_differences(segmenter.classes, dataset.classes)
    joined = dataset.with_classes(segmenter.classes)
    classes = len(segmenter.classes)
    confusions = []
    boundary = None if boundary_pixels is None else BoundaryCounts.zeros(classes)
    for i in range(len(joined)):
        progress("accuracy", i, len(joined))
        predicted, label = labels_of(segmenter, joined.image(i), colour_order="RGB"), joined.label(i)
        confusions.append(metrics.confusion_matrix(label, predicted, classes))
        if boundary is not None and boundary_pixels is not None:
            boundary += boundary_counts(label, predicted, classes, boundary_pixels)
    progress("accuracy", len(joined), len(joined))
    return ClassAccuracy(
        names=segmenter.classes.names,
        confusion=np.sum(confusions, axis=0),
        unknown_to_data=only_model,
        unknown_to_model=only_data,
        images=ImageCounts.of(joined.names, confusions),
        boundary_pixels=boundary_pixels,
        boundary=boundary,
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


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _interval(low: float, high: float) -> dict[str, float] | None:
    return None if math.isnan(low) else {"low": float(low), "high": float(high)}
