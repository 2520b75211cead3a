"""Is an exported file still the model it was made from? Labels compared pixel by pixel on frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cpsl_deploy.errors import AccuracyError, InputError, ModelFileError
from cpsl_deploy.metrics import confusion_matrix
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.models.base import Segmenter

from .probe import Probe
from .reference import torch_labels

MIN_AGREEMENT = 0.999
"""Share of pixels that must agree. Two exact float32 implementations differ on about 2 in 100,000: ties."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two sets of label maps agree."""

    classes: tuple[str, ...]
    frames: int
    pixels: int
    equal: int
    """Pixels with the same label in both."""
    class_pixels: tuple[int, ...]
    """Per class, pixels that the torch model gives it."""
    class_equal: tuple[int, ...]
    """Per class, how many of those the exported file gives it, too."""

    @classmethod
    def from_confusion(cls, classes: Sequence[str], confusion: np.ndarray, frames: int) -> Agreement:
        """From counts (C, C) int64, rows as the torch model says, columns as the exported file does."""
        return cls(
            classes=tuple(classes),
            frames=frames,
            pixels=int(confusion.sum()),
            equal=int(np.trace(confusion)),
            class_pixels=tuple(int(n) for n in confusion.sum(1)),
            class_equal=tuple(int(n) for n in np.diag(confusion)),
        )

    @property
    def share(self) -> float:
        """Share of all pixels that agree, 0 to 1."""
        return self.equal / self.pixels

    @property
    def per_class(self) -> dict[str, float]:
        """Share of each class's pixels that agree, 0 to 1; classes the model saw nowhere are left out."""
        return {
            name: equal / pixels
            for name, pixels, equal in zip(self.classes, self.class_pixels, self.class_equal, strict=True)
            if pixels
        }

    @property
    def worst_class(self) -> tuple[str, float]:
        """Name and share of the class that agrees least."""
        return min(self.per_class.items(), key=lambda item: item[1])

    def require(self, minimum: float) -> None:
        """Raises AccuracyError if less than ``minimum`` of the pixels agree."""
        if self.share < minimum:
            name, share = self.worst_class
            raise AccuracyError(
                f"the exported file must agree with its model on {minimum:.3%} of the pixels and agrees on "
                f"{self.share:.3%} of {self.pixels:,} ({self.frames} frames); least on {name}: {share:.3%}. "
                "The file was not put in place. A fixed --size or another torch or onnxruntime may help."
            )

    def as_dict(self) -> dict[str, Any]:
        """For a report, shares rounded to six digits."""
        name, share = self.worst_class
        return {
            "frames": self.frames,
            "pixels": self.pixels,
            "agreement": round(self.share, 6),
            "worst_class": {"name": name, "agreement": round(share, 6)},
            "per_class": {key: round(value, 6) for key, value in self.per_class.items()},
        }


def compare_labels(
    classes: Sequence[str], expected: Sequence[np.ndarray], got: Sequence[np.ndarray]
) -> Agreement:
    """Compare label maps, uint8 (H, W) each.

    Raises ModelFileError if two differ in shape or one has a value that is no class.
    """
    confusion = sum(
        (confusion_of(want, have, len(classes)) for want, have in zip(expected, got, strict=True)),
        start=np.zeros((len(classes), len(classes)), np.int64),
    )
    return Agreement.from_confusion(classes, confusion, len(expected))


def confusion_of(expected: np.ndarray, got: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) int64 counts, rows as ``expected`` uint8 (H, W), its IGNORE skipped; columns as a file says.

    Raises ModelFileError for labels of another shape, or with a value that is no class.
    """
    if expected.shape != got.shape:
        raise ModelFileError(
            f"an exported file gives labels at frame size {expected.shape}; it gave {got.shape}"
        )
    highest = int(got.max(initial=0))
    if highest >= num_classes:
        raise ModelFileError(
            f"an exported file gives labels from 0 to {num_classes - 1}; this one gave {highest}. Export it "
            "again, from weights whose spec is theirs"
        )
    return confusion_matrix(expected, got, num_classes)


def verify(
    onnx_path: str | os.PathLike[str], model: Segmenter, spec: ModelSpec, frames: Sequence[np.ndarray]
) -> Agreement:
    """Run an exported file with onnxruntime and its model with torch on ``frames``, uint8 (H, W, 3) BGR.

    The frames must have the file's size if that is fixed. The torch side repeats nothing of the exported
    graph, so that a mistake in the graph shows, too. Raises InputError without frames, ModelFileError if
    onnxruntime refuses the file.
    """
    if not frames:
        raise InputError("an exported file is compared with its model on one frame or more; none was given")
    probe = Probe(Path(onnx_path))
    got = [probe.labels(frame) for frame in frames]
    return compare_labels(spec.class_names, [torch_labels(model, spec, frame) for frame in frames], got)
