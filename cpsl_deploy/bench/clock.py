"""The clock that everything is timed with: how fine it is, and what reading it costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from ..errors import UnavailableError

Clock = Callable[[], int]
"""Gives nanoseconds from any beginning, and never goes back."""
CLOCK_NAME = "perf_counter_ns"
SAMPLES = 10_000
_BLOCKS = 20
"""The cost of a lap is the median of so many means: an interruption spoils one of them."""
_SLOWEST_TICK_NS = 1_000_000_000
"""A clock that stands still for this long, by another clock, is broken."""


class Stopwatch:
    """Wall clock in milliseconds; starts when it is made."""

    def __init__(self, clock: Clock = time.perf_counter_ns) -> None:
        self._clock = clock
        self._start = self._lap = clock()

    def lap(self) -> float:
        """Milliseconds since the last lap, or since the start."""
        now = self._clock()
        since, self._lap = now - self._lap, now
        return since / 1e6

    def elapsed(self) -> float:
        """Milliseconds from the start to the last lap, so that laps add up to it exactly."""
        return (self._lap - self._start) / 1e6


@dataclass(frozen=True, kw_only=True)
class ClockQuality:
    """What a time measured with a clock is worth."""

    name: str
    resolution_ns: float
    """The step in which the clock was seen to go: every difference of two readings is a multiple of it."""
    overhead_ns: float
    """What one lap of the stopwatch adds to the stage that it ends."""
    samples: int
    """Readings that this was found with, of each kind."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_clock(
    clock: Clock = time.perf_counter_ns, *, name: str = CLOCK_NAME, samples: int = SAMPLES
) -> ClockQuality:
    """Read a clock ``samples`` times, and as often through a stopwatch.

    Raises UnavailableError for a clock that stands still or goes back.
    """
    return ClockQuality(
        name=name,
        resolution_ns=float(_resolution_ns(clock, name, samples)),
        overhead_ns=_lap_ns(clock, samples),
        samples=samples,
    )


def _resolution_ns(clock: Clock, name: str, samples: int) -> int:
    """The greatest common divisor of what the clock goes on by between readings: its step, even if that is
    shorter than a reading takes."""
    step, last, began_ns = 0, clock(), time.monotonic_ns()
    taken = 0
    while taken < samples or not step:
        now = clock()
        if now < last or (not step and time.monotonic_ns() - began_ns > _SLOWEST_TICK_NS):
            what = "goes back" if now < last else "stands still"
            raise UnavailableError(f"the clock {name} {what}: nothing can be timed on this machine")
        step, last, taken = math.gcd(step, now - last), now, taken + 1
    return step


def _lap_ns(clock: Clock, samples: int) -> float:
    laps = max(1, samples // _BLOCKS)
    means = []
    for _ in range(_BLOCKS):
        watch = Stopwatch(clock)
        for _ in range(laps):
            watch.lap()
        means.append(1e6 * watch.elapsed() / laps)
    return float(median(means))
