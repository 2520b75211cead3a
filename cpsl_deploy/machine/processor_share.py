"""Whether a measurement had the processor for itself: its CPU time by the time its threads could have had."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Protocol, TypeVar

UNDISTURBED = 0.8
"""Threads that multiply or copy without a pause use nearly all of the time; below this they waited."""
PATIENCE_S = 4.0
"""For how long a disturbed measurement is made again."""
STALE_S = 30.0
"""For how long a disturbed rate is given again before it is measured anew."""


class Disturbable(Protocol):
    """A rate that knows whether other work disturbed it."""

    @property
    def disturbed(self) -> bool: ...


RateT = TypeVar("RateT", bound=Disturbable)
GivenT = TypeVar("GivenT", bound=Disturbable, covariant=True)


class ProcessorShare:
    """Of one stretch of work, from its making on."""

    def __init__(self, threads: int) -> None:
        self._threads, self._wall, self._cpu = threads, time.perf_counter(), time.process_time()

    def value(self) -> float:
        """CPU seconds of this process by seconds and threads; 1 if none ever waited."""
        wall = time.perf_counter() - self._wall
        return (time.process_time() - self._cpu) / max(wall * self._threads, 1e-9)


class Remembered(Protocol[GivenT]):
    """A measurement that is made once."""

    def __call__(self, *key: object) -> GivenT: ...

    def cache_clear(self) -> None: ...


def remember_undisturbed(measure: Callable[..., RateT]) -> Remembered[RateT]:
    """As `functools.cache`, but a disturbed rate is kept for `STALE_S` seconds alone."""
    known: dict[tuple[object, ...], tuple[RateT, float]] = {}

    @wraps(measure)
    def remembered(*key: object) -> RateT:
        if key in known:
            rate, when = known[key]
            if not rate.disturbed or time.monotonic() - when < STALE_S:
                return rate
        rate = measure(*key)
        known[key] = rate, time.monotonic()
        return rate

    remembered.cache_clear = known.clear  # type: ignore[attr-defined]
    return remembered  # type: ignore[return-value]
