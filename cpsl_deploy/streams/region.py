"""Region of interest: the rectangle of a frame that is segmented; what lies outside is not looked at."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass

import numpy as np

from ..classes import IGNORE
from ..errors import DataError, InputError
from ..segmenter import Prediction
from ..sources.base import InputLimits

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}")
_RULE = (
    "a region of interest is X,Y,WIDTH,HEIGHT: whole pixels, for example 100,200,640,360, or parts of the "
    "frame from 0 to 1, for example 0.1,0.3,0.8,0.7"
)
_TOLERANCE = 1e-6
"""By which parts may pass 1 in sum: 0.7 + 0.3 does."""


@dataclass(frozen=True)
class Region:
    """A rectangle, its left top corner first. Raises InputError if a value breaks its rule.

    If none of the four is above 1 they are parts of the frame's width and height, and the region follows when
    a stream changes its size; otherwise they are whole pixels. Either way the rectangle must lie in the
    frame: nothing is cut off in silence.

    A stage that smooths in time or looks for drift comes before `place`, which makes the region's answer one
    of the whole frame.
    """

    x: float
    y: float
    width: float
    height: float

    def __post_init__(self) -> None:
        values = dataclasses.astuple(self)
        if not all(_is_number(value) and math.isfinite(value) and value >= 0 for value in values):
            raise InputError(f"{_RULE}; got {_text(values)}. Give four numbers of 0 or more")
        if self.width == 0 or self.height == 0:
            raise InputError(f"{_RULE}; got {_text(values)}, which has no pixel. Give a width and a height")
        if self.in_parts:
            if max(self.x + self.width, self.y + self.height) > 1 + _TOLERANCE:
                raise InputError(
                    f"{_RULE}; {_text(values)} reaches beyond the frame. Give x + width and y + height of 1 "
                    "at most"
                )
        elif not all(float(value).is_integer() for value in values):
            raise InputError(f"{_RULE}; got {_text(values)}, a mixture. Give whole pixels, or parts up to 1")

    @classmethod
    def parse(cls, text: str) -> Region:
        """From text: four numbers with commas between. Raises InputError if that is not what it is."""
        parts = [part.strip() for part in text.split(",")]
        if len(parts) != 4 or not all(_NUMBER.fullmatch(part) for part in parts):
            raise InputError(f"{_RULE}; got {text[:80]!r}. Give four numbers with commas between")
        return cls(*(float(part) for part in parts))

    @property
    def in_parts(self) -> bool:
        """Whether the values are parts of the frame and not pixels."""
        return max(self.x, self.y, self.width, self.height) <= 1

    def check(self, limits: InputLimits) -> None:
        """Raise InputError if no frame will ever do: a region in pixels with a side below the limit."""
        least = limits.min_side
        if not self.in_parts and min(self.width, self.height) < least:
            raise InputError(
                f"a region of interest has sides of {least} pixels or more (limit min_side); got {self}. "
                "Give a larger one"
            )

    def box(self, height: int, width: int, limits: InputLimits | None = None) -> tuple[slice, slice]:
        """Rows and columns of the region in a frame of this size.

        Raises DataError if it is not inside of the frame or a side is below ``limits.min_side``.
        """
        if self.in_parts:
            left, right = _edges(self.x, self.width, width)
            top, bottom = _edges(self.y, self.height, height)
        else:
            left, top = int(self.x), int(self.y)
            right, bottom = left + int(self.width), top + int(self.height)
        if right > width or bottom > height:
            raise DataError(
                f"the region of interest {self} reaches beyond a frame of {width}x{height} pixels. Give a "
                "smaller one, or one in parts of the frame, which follows its size"
            )
        least = (limits or InputLimits()).min_side
        if min(right - left, bottom - top) < least:
            raise DataError(
                f"the region of interest {self} has {right - left}x{bottom - top} pixels in a frame of "
                f"{width}x{height}: a side is below {least} (limit min_side). Give a larger one"
            )
        return slice(top, bottom), slice(left, right)

    def share(self, height: int, width: int) -> float:
        """Part of the frame's pixels that lies in the region, 0..1. Raises DataError as `box` does."""
        rows, columns = self.box(height, width, InputLimits(min_side=1))
        return (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)

    def view(self, frame: np.ndarray, limits: InputLimits | None = None) -> np.ndarray:
        """The region of a frame uint8 (H, W, 3), not copied. Raises DataError as `box` does."""
        height, width = frame.shape[:2]
        return frame[self.box(height, width, limits)]

    def place(self, prediction: Prediction, frame: np.ndarray) -> Prediction:
        """What was said of the `view` of a frame, as a prediction of the whole frame uint8 (H, W, 3).

        Outside, labels are IGNORE (255) and the confidence is 0. `Prediction.areas` are then shares of all
        the frame's pixels, as a stored label map gives them too, and sum to the region's `share`; divide by
        it for shares of the region. There are no ``logits``: those given are of the region alone.

        Raises DataError if the prediction is of another size than the region in this frame.
        """
        height, width = frame.shape[:2]
        box = self.box(height, width, InputLimits(min_side=1))
        labels = np.full((height, width), IGNORE, np.uint8)
        if prediction.labels.shape != labels[box].shape:
            raise DataError(
                f"the region of interest {self} has {labels[box].shape} pixels (height, width) in this "
                f"frame; the prediction has {prediction.labels.shape}. Give the prediction of view(frame)"
            )
        labels[box] = prediction.labels
        confidence = None
        if prediction.confidence is not None:
            confidence = np.zeros((height, width), np.uint8)
            confidence[box] = prediction.confidence
        return dataclasses.replace(prediction, frame=frame, labels=labels, confidence=confidence, logits=None)

    def __str__(self) -> str:
        return _text(dataclasses.astuple(self))


def _edges(start: float, extent: float, side: int) -> tuple[int, int]:
    """First pixel and the one after the last: neighbouring regions in parts share no pixel and miss none."""
    return round(start * side), min(round((start + extent) * side), side)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _text(values: tuple[object, ...]) -> str:
    return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
