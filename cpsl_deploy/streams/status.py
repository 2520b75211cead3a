"""What is known of a running source: its state, its counters, the ages of its frames.

States change by `SourceStatus.become`, which logs each change once, with its reason: the one line to look for
when a stream stopped.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

log = logging.getLogger("cpsl_deploy.streams")

State = Literal["connecting", "connected", "stalled", "reconnecting", "resumed", "ended", "failed"]
STATES: tuple[State, ...] = (
    "connecting",
    "connected",
    "stalled",
    "reconnecting",
    "resumed",
    "ended",
    "failed",
)
"""``connected``: the first time; ``resumed``: frames come again after ``stalled`` or ``reconnecting``;
``ended``: as it should; ``failed``: given up."""
_LOUD: tuple[State, ...] = ("stalled", "reconnecting", "failed")

_AGE_EDGES_MS = np.concatenate([[0.0], np.geomspace(1, 1e6, 241)])
"""Bins 6 % wide: percentiles of any number of frames in constant memory."""


@dataclass(kw_only=True)
class Counters:
    """Of one source since its start."""

    received: int = 0
    """Frames decoded, those dropped later too."""
    delivered: int = 0
    """Frames segmented and handed on."""
    dropped: int = 0
    """Frames that a newer one replaced before the model was free (policy ``latest``)."""
    skipped: int = 0
    """Frames left out on request (``every``)."""
    corrupt: int = 0
    """Frames, or stretches of garbage, that could not be decoded or break an input limit."""
    reconnects: int = 0
    """Connections made after the first."""


@dataclass
class SourceStatus:
    """State and counters of one source; safe to use from any thread."""

    name: str
    state: State = "connecting"
    reason: str = ""
    counters: Counters = field(default_factory=Counters)
    size: tuple[int, int] | None = None
    """(height, width) of its frames in pixels, the latest; None before it is known."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._since_s = time.monotonic()
        self._last_frame_s: float | None = None
        self._last_delivered_s: float | None = None
        self._ages = np.zeros(len(_AGE_EDGES_MS) + 1, np.int64)
        self._oldest_ms = 0.0

    def become(self, state: State, reason: str = "", *, level: int | None = None) -> None:
        """Change the state and log it, once: nothing happens if it is the state already.

        ``level``: of the logging; by default warning for what is bad, else info.
        """
        with self._lock:
            if self.state == state:
                return
            self.state, self.reason = state, reason
            self._since_s = time.monotonic()
        if level is None:
            level = logging.WARNING if state in _LOUD else logging.INFO
        log.log(level, "%s: %s%s", self.name, state, f" ({reason})" if reason else "")

    def count(self, **increments: int) -> None:
        """Add to counters, for example ``count(received=1)``."""
        with self._lock:
            for name, increment in increments.items():
                setattr(self.counters, name, getattr(self.counters, name) + increment)
            if increments.get("received"):
                self._last_frame_s = time.monotonic()

    def deliver(self, age_ms: float) -> None:
        """Count a delivered frame of this age."""
        with self._lock:
            self._last_delivered_s = time.monotonic()
            self.counters.delivered += 1
            self._ages[np.searchsorted(_AGE_EDGES_MS, age_ms)] += 1
            self._oldest_ms = max(self._oldest_ms, age_ms)

    def age_percentile_ms(self, percent: float) -> float | None:
        """Upper edge of the bin that holds the percentile; None before the first frame."""
        with self._lock:
            total = int(self._ages.sum())
            if not total:
                return None
            at = int(np.searchsorted(np.cumsum(self._ages), total * percent / 100))
            return float(min(_AGE_EDGES_MS[min(at, len(_AGE_EDGES_MS) - 1)], self._oldest_ms))

    def snapshot(self) -> dict[str, object]:
        """Everything, ready for JSON."""
        ages = {f"p{percent}": self.age_percentile_ms(percent) for percent in (50, 90, 99)}
        now = time.monotonic()
        with self._lock:
            return {
                "name": self.name,
                "state": self.state,
                "reason": self.reason,
                "state_for_s": round(now - self._since_s, 3),
                "size": None if self.size is None else list(self.size),
                "last_frame_s_ago": _ago(now, self._last_frame_s),
                "last_delivered_s_ago": _ago(now, self._last_delivered_s),
                **vars(self.counters),
                "age_ms": {**ages, "max": self._oldest_ms if self.counters.delivered else None},
            }


def _ago(now_s: float, moment_s: float | None) -> float | None:
    return None if moment_s is None else round(now_s - moment_s, 3)
