"""A running window of frames held against the reference: the alarm, with hysteresis."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError
from .reference import DriftReference
from .statistics import FrameStatistics
from .words import Cause, causes

log = logging.getLogger(__name__)

MOST_IN_WINDOW = 4096
"""Frames; the sampling keeps windows far below it."""
_GAP = 6
"""Windows without a frame after which what was before no longer counts."""


@dataclass(frozen=True, kw_only=True)
class DriftPolicy:
    """When there is an alarm. Raises InputError if a value breaks its rule."""

    window_s: float = 10.0
    """Seconds whose mean statistics are held against the reference."""
    min_frames: int = 5
    """Frames in a window at least: at low rates it is longer than ``window_s``."""
    sample_s: float = 0.2
    """Seconds between frames that are looked at: neighbours say nothing new."""
    hold_s: float = 2.0
    """The score must be above 1 for as long before the alarm goes on, and below ``release`` before it goes
    off."""
    release: float = 0.8

    def __post_init__(self) -> None:
        for name, least in (("window_s", 0.1), ("sample_s", 0.0), ("hold_s", 0.0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and least <= value <= 86400):
                raise InputError(f"{name} of a drift policy is {least:g} to 86400 seconds; got {value}")
        if not 2 <= self.min_frames <= MOST_IN_WINDOW // 2:
            raise InputError(
                f"min_frames of a drift window is 2 to {MOST_IN_WINDOW // 2}; got {self.min_frames}"
            )
        if not 0 < self.release <= 1:
            raise InputError(f"the alarm is released at a score above 0 and at most 1; got {self.release}")


@dataclass(frozen=True, kw_only=True, eq=False)
class DriftState:
    """What is known after a frame."""

    time_s: float
    score: float
    """1 is the threshold."""
    parts: dict[str, float]
    """Of the model's answers and of the frames' look, each against its own threshold."""
    alarm: bool
    changed: bool
    """Whether the alarm went on or off with this frame."""
    frames: int
    """In the window."""
    window: np.ndarray = field(repr=False)
    """float64 (statistics,): means over the window."""


class DriftDetector:
    """Looks at the frames of one source. `update` is for one thread; `snapshot` for any."""

    def __init__(
        self,
        reference: DriftReference,
        policy: DriftPolicy | None = None,
        *,
        name: str = "frames",
        note: str = "",
    ) -> None:
        """``name``: of the source, for the log. ``note``: what follows from an alarm, for the log."""
        self.reference, self.policy, self.name = reference, policy or DriftPolicy(), name
        self._note = f"; {note}" if note else ""
        self.alarm = False
        self._window: deque[tuple[float, np.ndarray]] = deque(maxlen=MOST_IN_WINDOW)
        self._beyond_s: float | None = None
        """Since when the score speaks for the other state of the alarm."""
        self._state: DriftState | None = None
        self._alarms = 0
        self._lock = threading.Lock()

    def wants(self, time_s: float) -> bool:
        """Whether a frame of this time is to be looked at. Asked before its statistics are computed."""
        if not self._window:
            return True
        since = time_s - self._window[-1][0]
        return since < 0 or since >= self.policy.sample_s - 1e-6

    def update(self, statistics: FrameStatistics, time_s: float) -> DriftState | None:
        """Add a frame. ``time_s``: seconds on a clock that does not go back, or the window begins anew, as it
        does after a gap of six windows. None until the window is half full.

        Raises InputError if the frame has other statistics than the reference.
        """
        self.reference.require_fits(statistics.names)
        self._append(time_s, statistics.values)
        policy = self.policy
        span = time_s - self._window[0][0]
        if len(self._window) < policy.min_frames or span < policy.window_s / 2 - 1e-6:
            return None
        window = np.mean([values for _, values in self._window], axis=0)
        scored = self.reference.score(window)
        changed = self._turn(scored.value, time_s)
        state = DriftState(
            time_s=time_s,
            score=scored.value,
            parts=scored.parts,
            alarm=self.alarm,
            changed=changed,
            frames=len(self._window),
            window=window,
        )
        with self._lock:
            self._state = state
            self._alarms += changed and self.alarm
        if changed:
            self._tell(state)
        return state

    def causes(self, most: int = 3) -> list[Cause]:
        """Which statistics differ most from the reference now; none before the first score."""
        with self._lock:
            state = self._state
        return causes(self.reference, state.window, most) if state else []

    def snapshot(self) -> dict[str, object]:
        """Everything, ready for JSON; the score is None before there is one."""
        with self._lock:
            state, alarms = self._state, self._alarms
        found = causes(self.reference, state.window) if state else []
        return {
            "score": round(state.score, 4) if state else None,
            "threshold": 1.0,
            "alarm": state.alarm if state else False,
            "alarms": alarms,
            "parts": {part: round(value, 4) for part, value in state.parts.items()} if state else {},
            "frames": state.frames if state else 0,
            "causes": [cause.words for cause in found],
        }

    def _append(self, time_s: float, values: np.ndarray) -> None:
        policy = self.policy
        if self._window:
            since = time_s - self._window[-1][0]
            if since < 0 or since > _GAP * policy.window_s:
                self._window.clear()
                self._beyond_s = None
        self._window.append((time_s, values))
        while len(self._window) > policy.min_frames and time_s - self._window[0][0] > policy.window_s:
            self._window.popleft()

    def _turn(self, score: float, time_s: float) -> bool:
        """Turn the alarm on or off if the score has asked for it long enough."""
        asks = score < self.policy.release if self.alarm else score > 1
        if not asks:
            self._beyond_s = None
            return False
        if self._beyond_s is None:
            self._beyond_s = time_s
        if time_s - self._beyond_s < self.policy.hold_s - 1e-6:
            return False
        self.alarm, self._beyond_s = not self.alarm, None
        return True

    def _tell(self, state: DriftState) -> None:
        found = (
            ", ".join(cause.words for cause in causes(self.reference, state.window)) or "many small changes"
        )
        if state.alarm:
            log.warning(
                "%s: the model no longer fits what it sees, drift score %.2f (threshold 1): %s%s",
                self.name,
                state.score,
                found,
                self._note,
            )
        else:
            log.info("%s: the model fits again, drift score %.2f", self.name, state.score)
