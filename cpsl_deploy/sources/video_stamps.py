"""The time stamps of a video file, as far as they can be believed."""

from __future__ import annotations

_LONGEST_GAP_S = 600.0
"""Between two frames. A time stamp further on is damage."""


class VideoStamps:
    """Seconds since the first frame, always growing."""

    def __init__(self, step_s: float) -> None:
        """``step_s``: from one frame to the next where the file does not say."""
        self._step_s = step_s
        self._first_s: float | None = None
        self._last_s = -step_s

    def time_s(self, stamp_s: float | None) -> float:
        """Of the next frame. ``stamp_s``: what the file says, None if it says nothing."""
        counted = self._last_s + self._step_s
        if stamp_s is None:
            self._last_s = counted
            return counted
        if self._first_s is None:
            self._first_s = stamp_s - counted
        since = stamp_s - self._first_s
        self._last_s = since if self._last_s < since <= self._last_s + _LONGEST_GAP_S else counted
        return self._last_s

    @property
    def end_s(self) -> float:
        """When the last frame is over, by the file's own clock, which does not begin at 0 in every file."""
        return (self._first_s or 0.0) + self._last_s + self._step_s
