"""Is an exported file still the model it was made from? Labels compared pixel by pixel on frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpsl_deploy.errors import ModelFileError
from cpsl_deploy.metrics import confusion_matrix


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
