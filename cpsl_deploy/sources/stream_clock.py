"""The time stamps of a stream, as far as they can be believed."""

from __future__ import annotations

_DRIFT_S = 5.0
"""A live stream's stamps and the arrival of its frames never part by more."""


class StreamClock:
    """Turns a stream's own stamps into seconds since its first frame.

    Stamps that jump (a camera that sets its clock, a counter that wraps) are not believed: the jump is left
    out, and the time goes on from that of arrival.
    """

    def __init__(self, *, trust: bool = False) -> None:
        """``trust``: a file's stamps are its own affair and have nothing to do with arrival."""
        self._trust = trust
        self._offset: float | None = None
        self._first_s = 0.0
        self._last = 0.0

    def since_first(self, stamp_s: float, now: float) -> float:
        """Seconds since the first frame, never less than the time before."""
        if self._offset is None:
            self._offset, self._first_s = stamp_s, now
        time_s = stamp_s - self._offset
        arrived_s = now - self._first_s
        if not self._trust and abs(time_s - arrived_s) > _DRIFT_S:
            self._offset = stamp_s - arrived_s
            time_s = arrived_s
        self._last = max(self._last, time_s)
        return self._last
