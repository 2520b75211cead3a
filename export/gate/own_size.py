"""What another frame size than the model's own costs, which a comparison at the file's size does not show."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpsl_deploy.contract import Contract
from cpsl_deploy.metrics import confusion_matrix, iou
from cpsl_deploy.segmenter import PIXEL_TOLERANCE, runtime_size
from cpsl_deploy.train.models.base import Segmenter

from .frames import resized
from .reference import Reference, decided, network_input, torch_logits

_log = logging.getLogger(__name__)

MOST_FRAMES = 50
"""Of the comparison frames, spread over them: as many more answers of the model."""


@dataclass(frozen=True, kw_only=True)
class OwnSize:
    """The model at its own size and at the file's, on the same frames."""

    own: tuple[int, int]
    """(height, width) that the network saw in training."""
    file: tuple[int, int]
    frames: int
    at_own: float
    """Mean IoU of the model at its own size, its labels brought to the file's size, 0..1."""
    at_file: float
    """Of the model at the file's size, over the same classes."""

    @property
    def drop(self) -> float:
        """Points of mean IoU that the file's size costs; negative if it gains."""
        return 100 * (self.at_own - self.at_file)

    @property
    def words(self) -> str:
        own, file = (f"{height}x{width}" for height, width in (self.own, self.file))
        return (
            f"the model at its own size, {own}: {100 * self.at_own:.1f} % mean IoU, and at the file's, "
            f"{file}: {100 * self.at_file:.1f} %, on {self.frames} frame{'s' * (self.frames > 1)}"
        )

    def as_dict(self) -> dict[str, Any]:
        """For export.json."""
        return {
            "own_size": list(self.own),
            "file_size": list(self.file),
            "frames": self.frames,
            "mean_iou": {"own_size": round(self.at_own, 6), "file_size": round(self.at_file, 6)},
        }


def compare_sizes(reference: Reference, size: tuple[int, int] | None) -> OwnSize | None:
    """What a file for frames of ``size`` = (height, width) costs. None if it takes any size or as many pixels
    as the model's own, within what the runtime allows; and without ground truth, which is said in the log.
    """
    own = reference.spec.size
    if size is None or abs(size[0] * size[1] / (own[0] * own[1]) - 1) <= PIXEL_TOLERANCE:
        return None
    model, original = reference.model, reference.frames.original
    if not reference.has_truth or model is None or original is None:
        _log.warning(
            "the file is for frames of %dx%d, and the model's own size is %dx%d: what that costs is not seen "
            "without labelled frames (--frames)",
            *(*size, *own),
        )
        return None
    count = len(reference.spec.class_names)
    at_own, at_file = np.zeros((count, count), np.int64), np.zeros((count, count), np.int64)
    number = min(MOST_FRAMES, len(reference.frames))
    for i in np.linspace(0, len(reference.frames) - 1, number).round().astype(int).tolist():
        truth = reference.truth[i]
        at_own += confusion_matrix(truth, _labels(model, reference, original(i), truth.shape), count)
        at_file += confusion_matrix(truth, reference.labels[i], count)
    there = at_own.sum(1) > 0
    return OwnSize(
        own=own,
        file=size,
        frames=number,
        at_own=float(iou(at_own)[there].mean()),
        at_file=float(iou(at_file)[there].mean()),
    )


def _labels(
    model: Segmenter, reference: Reference, original: np.ndarray, size: tuple[int, ...]
) -> np.ndarray:
    """uint8 of ``size``, of the camera's own frame uint8 (H, W, 3) BGR."""
    spec = reference.spec
    image = resized(original, runtime_size(spec, *original.shape[:2]))
    logits = torch_logits(model, network_input(image, spec, Contract()))
    return decided(logits, (size[0], size[1]), align_corners=spec.align_corners)[0]
