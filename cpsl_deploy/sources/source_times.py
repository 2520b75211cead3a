"""Times of the frames of one source, growing through all its connections."""

from __future__ import annotations

_STEP_S = 0.001
"""Frames whose time stamps do not grow are set so far apart: a video file needs times that do."""


class SourceTimes:
    """Seconds since the first frame of a source."""

    def __init__(self) -> None:
        self._first_s: float | None = None
        self._offset_s: float | None = None
        self.last_s: float | None = None
        """Of the latest frame."""

    def connected(self, *, finite: bool) -> None:
        """A connection was made. ``finite``: its time stamps count from the start of the source."""
        self._offset_s = 0.0 if finite else None

    def of(self, captured_s: float, stream_s: float | None) -> float:
        """``captured_s``: `time.monotonic`. ``stream_s``: since the connection's first frame, if known."""
        if self._first_s is None:
            self._first_s = captured_s
        if self._offset_s is None:  # the first frame of a connection
            self._offset_s = captured_s - self._first_s
        time_s = captured_s - self._first_s if stream_s is None else stream_s + self._offset_s
        if self.last_s is not None and time_s <= self.last_s:
            time_s = self.last_s + _STEP_S
        self.last_s = time_s
        return time_s
