"""Whether a frame follows the one before it, or something new begins: what state over time must know."""

from __future__ import annotations

import cv2
import numpy as np

MOST_GAP_S = 1.0
"""Seconds between two frames beyond which the second is a new beginning."""
LEAST_CORRELATION = 0.8
"""Of two frames of one scene. Seen on a motorway at 25 frames a second: 0.96 and more between neighbours,
0.93 over 4 frames, 0.86 over a second; between different road scenes mostly below 0.7."""
_THUMBNAIL = (64, 36)
_FLAT = 1.0
"""Grey levels of standard deviation below which a picture has nothing to correlate."""


class Continuity:
    """Remembers the last frame of one source. Cheap: about half a millisecond, whatever the frame's size."""

    def __init__(self) -> None:
        self._index: int | None = None
        self._time_s: float | None = None
        self._size: tuple[int, ...] = ()
        self._thumbnail = np.zeros(_THUMBNAIL[::-1], np.float32)

    def follows(self, frame: np.ndarray, index: int, time_s: float | None) -> bool:
        """Whether this frame, uint8 (H, W, 3), continues the last one given, and remember it.

        It does not if it is the first, of another size, not later, more than `MOST_GAP_S` later, or another
        scene: its thumbnail correlates with the last one's by less than `LEAST_CORRELATION`, which a change
        of the exposure does not touch. Without times only the next index follows.
        """
        thumbnail = _thumbnail(frame)
        follows = (
            self._is_next(index, time_s)
            and self._size == frame.shape
            and _correlation(self._thumbnail, thumbnail) >= LEAST_CORRELATION
        )
        self._index, self._time_s, self._size, self._thumbnail = index, time_s, frame.shape, thumbnail
        return follows

    def _is_next(self, index: int, time_s: float | None) -> bool:
        if self._index is None or index <= self._index:
            return False
        if time_s is None or self._time_s is None:
            return index == self._index + 1
        return 0 <= time_s - self._time_s <= MOST_GAP_S


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    """float32, grey. Of a large frame only some pixels are read."""
    step = max(1, min(frame.shape[0] // (4 * _THUMBNAIL[1]), frame.shape[1] // (4 * _THUMBNAIL[0])))
    some = np.ascontiguousarray(frame[::step, ::step])
    small = cv2.resize(some, _THUMBNAIL, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's, -1..1; of a picture without contrast 1 with another such, else 0."""
    first, second = first - first.mean(), second - second.mean()
    deviations = float(first.std()), float(second.std())
    if min(deviations) < _FLAT:
        return float(max(deviations) < _FLAT)
    return float((first * second).mean()) / (deviations[0] * deviations[1])
