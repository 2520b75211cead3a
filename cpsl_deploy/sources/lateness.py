"""How late the frames of a live stream come, by the stamps that the camera gave them.

A network slower than its camera holds back more and more: every frame comes fresh from the wire and shows
what was seconds ago. The time of arrival does not tell; that stamps fall behind it does.
"""

from __future__ import annotations

_CLOCKS_PART = 5e-4
"""Seconds a second by which the camera's clock may be slower than this machine's: a delay that grows no
faster is taken for that."""


class Lateness:
    """Compares stamps with arrivals. The soonest frame counts as in time: what all take is not seen."""

    def __init__(self) -> None:
        self._late_s = 0.0
        self._stamp_s = self._arrived_s = 0.0
        self._begun = False

    def of(self, stamp_s: float | None, arrived_s: float) -> float:
        """Seconds by which this frame is late, 0 or more; as late as the last one if it has no stamp.

        A stamp before the last one's tells of a clock that was set, not of a delay.
        """
        if stamp_s is None:
            return self._late_s
        if self._begun and stamp_s >= self._stamp_s:
            took_s = arrived_s - self._arrived_s
            later_s = took_s * (1 - _CLOCKS_PART) - (stamp_s - self._stamp_s)
            self._late_s = max(0.0, self._late_s + later_s)
        self._begun, self._stamp_s, self._arrived_s = True, stamp_s, arrived_s
        return self._late_s
