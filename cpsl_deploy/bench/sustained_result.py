"""What a sustained run showed: series, energy per frame, throttling, growth of memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..machine.probe import Unavailable
from ..machine.sensors import Reading
from ..machine.throttling import LATENCY_RISE, slowdown, throttle_reasons
from .frames import evenly_spaced

SETTLING_SHARE = 0.2
"""Of the run, at its start, in which memory may grow: caches fill, allocators settle."""
LEAST_FOR_SLOPE, SHORTEST_FOR_SLOPE_S = 5, 30.0
"""Readings after it, and seconds from the first to the last of them, for a growth of memory to be stated."""
MOST_FOR_SLOPE = 400
WAIT_SHARE = 0.05
"""Of the run, for which threads waited for a core, from which on it is said."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """One stretch of a sustained run."""

    t_s: float
    """Its end, seconds after the start of the run."""
    frames: int
    p50_ms: float
    """Of the wall clock from reading a frame's bytes to its label map."""
    p99_ms: float
    fps: float
    """Frames over the time they took, readings included."""
    reading: Reading
    """At its end."""


@dataclass(frozen=True, kw_only=True)
class Sustained:
    """What `measure_sustained` saw."""

    seconds: float
    """Measured, up to the last reading."""
    interval_s: float
    intervals: tuple[Interval, ...]
    before: Reading
    """Before the first frame."""
    temperature_limits_c: Mapping[str, float]
    unavailable: tuple[Unavailable, ...]
    interrupted: bool
    """Whether Ctrl-C ended it early."""

    @property
    def frames(self) -> int:
        """Frames of all intervals."""
        return sum(interval.frames for interval in self.intervals)

    @property
    def slowdown(self) -> float | None:
        """Median latency of the slowest later fifth of the run over that of the first."""
        return slowdown([interval.p50_ms for interval in self.intervals])

    @property
    def throttle_reasons(self) -> tuple[str, ...]:
        """Signs that the machine throttled; see `cpsl_deploy.machine.throttling`."""
        return throttle_reasons(
            self.before,
            [interval.reading for interval in self.intervals],
            [interval.p50_ms for interval in self.intervals],
            seconds=self.seconds,
            temperature_limits_c=self.temperature_limits_c,
        )

    @property
    def energy_per_frame_j(self) -> dict[str, float] | None:
        """By rail: of its energy counter, else of its power, taken as changing evenly between readings. All
        that the rail feeds counts, idle or not. None if no rail could be read."""
        last = self.intervals[-1].reading
        energy = {
            rail: last.energy_j[rail] - joules
            for rail, joules in self.before.energy_j.items()
            if rail in last.energy_j
        }
        # Power before the first frame is that of a machine at rest: only readings beside frames count.
        for rail in {rail for one in self.intervals for rail in one.reading.power_w} - set(energy):
            known = [one for one in self.intervals if rail in one.reading.power_w]
            watts = _mean_over_time([one.t_s for one in known], [one.reading.power_w[rail] for one in known])
            energy[rail] = watts * self.seconds
        return {rail: energy[rail] / self.frames for rail in sorted(energy)} or None

    @property
    def memory_growth_bytes_per_hour(self) -> float | None:
        """Robust slope (Theil-Sen) of the process's memory after the first fifth of the run; None for
        fewer than five readings or less than half a minute. Of a run of minutes it is a coarse figure."""
        points = [
            (interval.t_s, interval.reading.process_bytes)
            for interval in self.intervals
            if interval.t_s > SETTLING_SHARE * self.seconds and interval.reading.process_bytes is not None
        ]
        if len(points) < LEAST_FOR_SLOPE or points[-1][0] - points[0][0] < SHORTEST_FOR_SLOPE_S:
            return None
        return 3600 * robust_slope(points)

    @property
    def waited_s(self) -> float | None:
        """For so long threads of the process were ready and had no core, added up; None where not counted."""
        first, last = self.before.waited_s, self.intervals[-1].reading.waited_s
        return None if first is None or last is None else max(last - first, 0.0)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before believing the figures."""
        return tuple(_notes(self))

    def to_json(self) -> dict[str, Any]:
        """The section "sustained" of a record."""
        readings = [interval.reading for interval in self.intervals]
        device = [reading.device_bytes for reading in readings]
        reasons = self.throttle_reasons
        return {
            "minutes": self.seconds / 60,
            "frames": self.frames,
            "interval_s": self.interval_s,
            "series": {
                "t_s": [interval.t_s for interval in self.intervals],
                "p50_ms": [interval.p50_ms for interval in self.intervals],
                "p99_ms": [interval.p99_ms for interval in self.intervals],
                "fps": [interval.fps for interval in self.intervals],
                "process_bytes": [reading.process_bytes for reading in readings],
                "device_bytes": None if all(value is None for value in device) else device,
                "power_w": _by_name([reading.power_w for reading in readings]),
                "clock_mhz": _by_name([reading.clock_mhz for reading in readings]),
                "temperature_c": _by_name([reading.temperature_c for reading in readings]),
            },
            "energy_per_frame_j": self.energy_per_frame_j,
            "throttled": bool(reasons),
            "throttle_reasons": list(reasons),
            "slowdown": self.slowdown,
            "memory_growth_bytes_per_hour": self.memory_growth_bytes_per_hour,
            "unavailable_sensors": [one.to_json() for one in self.unavailable],
        }


def robust_slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil-Sen estimator: median of the slopes between all pairs of points (x, y), of 400 of them at most.

    Up to 29 % of the points may lie anywhere without moving it far (Sen 1968). Two points or more, and no
    two with one x.
    """
    x, y = np.array([points[i] for i in evenly_spaced(len(points), MOST_FOR_SLOPE)], np.float64).T
    first, second = np.triu_indices(len(x), 1)
    return float(np.median((y[second] - y[first]) / (x[second] - x[first])))


def _mean_over_time(times: Sequence[float], values: Sequence[float]) -> float:
    """Mean of a quantity that changes evenly between the times at which it was read."""
    x, y = np.asarray(times, np.float64), np.asarray(values, np.float64)
    if len(y) < 2:
        return float(y[0])
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))


def _by_name(values: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    names = sorted({name for one in values for name in one})
    return {name: [one.get(name) for one in values] for name in names}


def _notes(run: Sustained) -> Iterator[str]:
    if run.interrupted:
        yield f"The sustained run was ended by hand after {run.seconds / 60:.1f} minutes."
    reasons = run.throttle_reasons
    if reasons:
        yield f"The machine throttled in the sustained run ({'; '.join(reasons)}): its speed does not last."
    elif run.slowdown is not None and run.slowdown >= 1 + LATENCY_RISE:
        clocks = any(interval.reading.clock_mhz for interval in run.intervals)
        why = "no sign of throttling was seen" if clocks else "no clock could be read"
        yield f"Latency rose to {run.slowdown:.2f} times its start in the sustained run, and {why}."
    if run.waited_s is not None and run.waited_s > WAIT_SHARE * run.seconds:
        yield (
            f"Threads of the benchmark waited {run.waited_s:.0f} s in all for a core in {run.seconds:.0f} s "
            "of the sustained run: other programs ran, or there are more threads than cores."
        )
