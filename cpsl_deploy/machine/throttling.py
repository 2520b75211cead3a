"""Whether a machine slowed down under a sustained load, and how that shows.

A machine that heats up, or takes more power than it may, lowers its clocks, and latency rises with it: what a
short benchmark measures then does not last. Four signs are taken, each enough alone:

- the hardware says so: a reason for throttling in one of the readings (NVML);
- a counter rose: thermal events of the CPU, over-current events of a Jetson;
- a temperature reached the limit at which hardware or driver slows down;
- a clock fell below its start in the part of the run in which latency rose above its start.

A container's CPU quota and other virtual machines take time too, without any clock falling: seconds lost are
a sign where they are more than a stated share of the run. That latency alone rose is none, for it may have
many causes; a clock alone falls when there is less to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .sensors import Reading

PARTS = 5
"""A run is looked at in so many parts of equal length; the first is its start."""
LATENCY_RISE = 0.05
"""By this share the median latency of a part is above the start's, for its clocks to be looked at."""
CLOCK_FALL = 0.03
"""By this share the median clock of such a part is below the start's: it fell."""
LOST_SHARE = 0.01
"""Of the run's time, lost to a quota or to other virtual machines."""
NEAR_LIMIT_C = 0.5
"""A temperature so near to its limit, or above, is at it: sensors and drivers round."""


def slowdown(latency_ms: Sequence[float]) -> float | None:
    """Median latency of the slowest later part over that of the first: 1.25 is a quarter slower.

    ``latency_ms``: one figure per interval, in their order. None for fewer than two.
    """
    ratios = _part_ratios(latency_ms)
    return max(ratios) if ratios else None


def throttle_reasons(
    before: Reading,
    readings: Sequence[Reading],
    latency_ms: Sequence[float],
    *,
    seconds: float,
    temperature_limits_c: Mapping[str, float],
) -> tuple[str, ...]:
    """Signs of throttling, each in words; empty without one.

    ``before``: a reading at the start, for the counters. ``readings`` and ``latency_ms``: one per interval.
    ``seconds``: length of the run.
    """
    if not readings:
        return ()
    return (
        *_told(readings),
        *_counted(before, readings[-1]),
        *_lost(before, readings[-1], seconds),
        *_hot(readings, temperature_limits_c),
        *_clocks_fell(readings, latency_ms),
    )


def _told(readings: Sequence[Reading]) -> list[str]:
    names = sorted({name for reading in readings for name in reading.throttle_reasons})
    times = {name: sum(name in reading.throttle_reasons for reading in readings) for name in names}
    return [f"{name} in {times[name]} of {len(readings)} readings" for name in names]


def _counted(before: Reading, after: Reading) -> list[str]:
    return [
        f"{name}: {count - before.throttle_counts[name]:.0f} more than at the start"
        for name, count in after.throttle_counts.items()
        if count > before.throttle_counts.get(name, count)
    ]


def _lost(before: Reading, after: Reading, seconds: float) -> list[str]:
    lost = {name: total - before.lost_s.get(name, total) for name, total in after.lost_s.items()}
    return [
        f"{name}: {time:.1f} s without a processor in {seconds:.0f} s"
        for name, time in lost.items()
        if time > LOST_SHARE * seconds
    ]


def _hot(readings: Sequence[Reading], limits_c: Mapping[str, float]) -> list[str]:
    found = []
    for name, limit in limits_c.items():
        highest = max((r.temperature_c[name] for r in readings if name in r.temperature_c), default=None)
        if highest is not None and highest >= limit - NEAR_LIMIT_C:
            found.append(f"temperature {name} reached {highest:.1f} °C and its limit is {limit:.1f} °C")
    return found


def _clocks_fell(readings: Sequence[Reading], latency_ms: Sequence[float]) -> list[str]:
    slower = _part_ratios(latency_ms)
    found = []
    for name in sorted({name for reading in readings for name in reading.clock_mhz}):
        clocks = _part_ratios([reading.clock_mhz.get(name, np.nan) for reading in readings])
        both = [
            (clock, latency)
            for clock, latency in zip(clocks, slower, strict=True)
            if latency >= 1 + LATENCY_RISE and clock <= 1 - CLOCK_FALL
        ]
        if both:
            clock, latency = max(both, key=lambda pair: pair[1])
            found.append(f"clock {name} at {clock:.2f} times its start while latency was {latency:.2f} times")
    return found


def _part_ratios(values: Sequence[float]) -> list[float]:
    """Median of each later part over that of the first; NaN for a part without any value."""
    if len(values) < 2:
        return []
    parts = np.array_split(np.asarray(values, np.float64), min(PARTS, len(values)))
    medians = [
        float(np.median(part[np.isfinite(part)])) if np.isfinite(part).any() else np.nan for part in parts
    ]
    if not medians or not medians[0] > 0:
        return [np.nan] * max(len(medians) - 1, 0)
    return [median / medians[0] for median in medians[1:]]
