"""One frame as a short vector: cheap statistics of what the model says of it and of how it looks.

Which ones there are depends on what the model file gives; all are taken on a grid of at most `GRID` points,
so that they cost a millisecond or two, whatever the frame's size.

| group        | statistics                                                           | needs        |
| ------------ | -------------------------------------------------------------------- | ------------ |
| `labels`     | `share:CLASS`: share of the pixels                                   | any file     |
| `confidence` | `confidence:mean`, `confidence:low` (share below one half)           | confidence   |
| `logits`     | `logit:CLASS`: mean over the pixels; `entropy:mean`, `margin:mean`   | logits       |
| `image`      | `image:luminance`, `:contrast`, `:red`, `:blue`, `:detail`, `:grain` | the frame    |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..contract import CONFIDENCE, LOGITS
from ..errors import InputError
from ..segmenter import Prediction

GROUPS = ("labels", "confidence", "logits", "image")
GRID = 20_000
"""Points at most on which labels, confidence and logits are looked at."""
_LOOK = (96, 160)
"""(height, width) in pixels to which a frame is reduced for its image statistics."""
_IMAGE = ("luminance", "contrast", "red", "blue", "detail", "grain")
_LOW = 128
"""Confidence below which a pixel counts as unsure: one half of 255."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameStatistics:
    """The statistics of one frame."""

    names: tuple[str, ...]
    values: np.ndarray
    """float64 (len(names),). All finite, and scaled so that a change of one size means about the same
    everywhere: shares and gradients are given by their square root and logarithm."""

    @classmethod
    def of(cls, prediction: Prediction) -> FrameStatistics:
        """Of one segmented frame. Raises InputError if the logits are not those of the labels' classes."""
        names = statistic_names(prediction.classes.names, _outputs(prediction))
        parts = [_shares(prediction.labels, len(prediction.classes))]
        if prediction.confidence is not None:
            parts.append(_confidence(prediction.confidence))
        if prediction.logits is not None:
            parts.append(_logits(prediction.logits, len(prediction.classes)))
        parts.append(_look(prediction.frame, prediction.colour_order))
        values = np.concatenate(parts)
        return cls(names=names, values=np.nan_to_num(values, nan=0.0, posinf=1e6, neginf=-1e6))


def statistic_names(class_names: Sequence[str], outputs: Sequence[str]) -> tuple[str, ...]:
    """Names of the statistics of a model with these classes and outputs, in the order of the vector."""
    names = [f"share:{name}" for name in class_names]
    if CONFIDENCE in outputs:
        names += ["confidence:mean", "confidence:low"]
    if LOGITS in outputs:
        names += [*(f"logit:{name}" for name in class_names), "entropy:mean", "margin:mean"]
    return (*names, *(f"image:{name}" for name in _IMAGE))


def group_of(name: str) -> str:
    """Which of `GROUPS` a statistic belongs to."""
    kind = name.split(":", 1)[0]
    return {"share": "labels", "confidence": "confidence", "image": "image"}.get(kind, "logits")


def _outputs(prediction: Prediction) -> tuple[str, ...]:
    given = {CONFIDENCE: prediction.confidence, LOGITS: prediction.logits}
    return tuple(name for name, array in given.items() if array is not None)


def _thin(array: np.ndarray) -> np.ndarray:
    """Every so many rows and columns of an array (..., H, W), as a view."""
    step = max(1, math.ceil(math.sqrt(array.shape[-2] * array.shape[-1] / GRID)))
    start = step // 2 if min(array.shape[-2:]) > step // 2 else 0
    return array[..., start::step, start::step]


def _shares(labels: np.ndarray, classes: int) -> np.ndarray:
    """Square roots of the class shares, of the pixels that have a class: a share's spread grows with it,
    that of its root does not."""
    counts = np.bincount(_thin(labels).ravel(), minlength=256)[:classes]
    return np.sqrt(counts / max(int(counts.sum()), 1))


def _confidence(confidence: np.ndarray) -> np.ndarray:
    thin = _thin(confidence)
    return np.array([thin.mean() / 255, np.sqrt(np.count_nonzero(thin < _LOW) / thin.size)])


def _logits(logits: np.ndarray, classes: int) -> np.ndarray:
    """Means over the pixels: of the logits less their mean over the classes, which softmax does not see; of
    the entropy, 0..1; of the difference between the largest and the second."""
    if len(logits) != classes:
        raise InputError(f"there is one logit for each of {classes} classes; got {len(logits)}")
    flat = np.ascontiguousarray(_thin(logits)).reshape(classes, -1)
    flat = flat - flat.max(axis=0)
    exponentials = np.exp(flat)
    total = exponentials.sum(axis=0)
    entropy = np.log(total) - (exponentials * flat).sum(axis=0) / total
    margin = 0.0
    if classes > 1:
        margin = float(-np.partition(flat, classes - 2, axis=0)[classes - 2].mean())
    centred = flat.mean(axis=1) - flat.mean()
    return np.array([*centred, entropy.mean() / max(math.log(classes), 1e-9), margin])


def _look(frame: np.ndarray, colour_order: str) -> np.ndarray:
    """Luminance mean and standard deviation, 0..1; red and blue less green, of the mean luminance; detail and
    grain: logarithm of the mean gradient and of the mean second difference, which noise raises and blur and
    fog lower."""
    small = _reduced(frame)
    if colour_order == "RGB":
        small = small[..., ::-1]
    grey = cv2.cvtColor(np.ascontiguousarray(small), cv2.COLOR_BGR2GRAY).astype(np.float32) / 255
    blue, green, red = (float(mean) / 255 for mean in cv2.mean(small)[:3])
    light = max(float(grey.mean()), 1 / 255)
    dx = np.abs(grey[:, 2:] - grey[:, :-2]).mean()
    dy = np.abs(grey[2:] - grey[:-2]).mean()
    second = grey[1:-1, 1:-1] * 4 - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    floor = 1 / 255
    return np.array(
        [
            grey.mean(),
            grey.std(),
            (red - green) / light,
            (blue - green) / light,
            math.log(float(dx + dy) + floor),
            math.log(float(np.abs(second).mean()) + floor),
        ]
    )


def _reduced(frame: np.ndarray) -> np.ndarray:
    height, width = _LOOK
    # Averaging every pixel of a 4K frame would cost more than all the rest.
    step = max(1, min(frame.shape[0] // (4 * height), frame.shape[1] // (4 * width)))
    return cv2.resize(frame[::step, ::step], (width, height), interpolation=cv2.INTER_AREA)
