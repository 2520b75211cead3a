"""Warming up: frames that are run, and not counted, until their latency is steady.

The first frames after loading pay for memory, choice of kernels, caches and a clock that still rises. How
many there are depends on library and machine, so they are run until it is seen to be over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from .clock import Stopwatch

if TYPE_CHECKING:
    from .latency import Progress

WINDOWS = 3
"""Successive windows that must agree."""
MEDIAN_ERROR = 1.2533
"""Standard error of the median of n normal samples, in units of sigma / sqrt(n): sqrt(pi / 2)."""
MAD_TO_SIGMA = 1.4826
"""Median absolute deviation to standard deviation, for normal samples."""


@dataclass(frozen=True, kw_only=True)
class SteadyRule:
    """When a latency counts as steady.

    Steady: in three windows, one after the other, each median differs from the one before by no more than
    ``tolerance``, or by no more than one standard error of that difference, estimated from the spread inside
    the windows: on a noisy machine smaller trends cannot be seen. A trend cannot hide behind the spread that
    it makes itself: one that changes a window by r moves the median by r, and the error is then 0.21 r.

    Two comparisons, because one agrees by chance too often: 200 simulated latencies that fall by
    100 exp(-i / 25) ms to 10 ms, with a noise of 20 %, were let go at 1.1 times their last level (median;
    with one comparison 1.5, and with one of two standard errors 3.0), steady ones after 90 frames.
    """

    window: int = 10
    """Frames whose median is compared with that of as many before them; there are `WINDOWS` of them."""
    tolerance: float = 0.05
    """Of the earlier median."""
    most_frames: int = 500
    """After so many the measurement begins anyway."""
    most_seconds: float = 60.0
    """After so long the measurement begins anyway."""

    def __post_init__(self) -> None:
        if self.window < 2 or self.most_frames < 1 or not self.tolerance >= 0 or not self.most_seconds > 0:
            raise InputError(
                "a rule for a steady latency has a window of 2 frames or more, a tolerance of 0 or more and "
                f"limits above 0; got {self}"
            )

    def is_steady(self, totals_ms: Sequence[float]) -> bool:
        """Whether the last windows of these frames agree; never with fewer frames than that."""
        if len(totals_ms) < WINDOWS * self.window:
            return False
        windows = np.asarray(totals_ms[-WINDOWS * self.window :]).reshape(WINDOWS, self.window)
        return all(self._agree(before, after) for before, after in pairwise(windows))

    def _agree(self, before: np.ndarray, after: np.ndarray) -> bool:
        change = abs(float(np.median(after)) - float(np.median(before)))
        error = MEDIAN_ERROR * float(np.hypot(_sigma(before), _sigma(after))) / self.window**0.5
        return change <= max(self.tolerance * float(np.median(before)), error)

    def sentence(self) -> str:
        return (
            f"Until the medians of {WINDOWS} successive windows of {self.window} frames differ, each from "
            f"the one before, by no more than {self.tolerance:g} of it or one standard error; for at most "
            f"{self.most_frames} frames or {self.most_seconds:g} s."
        )


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """What was run before the first measured frame."""

    first_frame_ms: float
    """Total of the very first frame, which pays for allocations and the choice of kernels."""
    frames: int
    """Frames run after the first one and not counted."""
    ms: float
    """Wall clock of the first frame and all of these: by then the latency was steady."""
    steady: bool | None
    """False if a limit ended the warm-up, None if a fixed number was asked for."""
    rule: str
    """In one sentence."""

    @property
    def note(self) -> str | None:
        """What a reader must know, if anything."""
        if self.steady is not False:
            return None
        return (
            f"The latency was not steady after {self.frames} frames and {self.ms / 1e3:.0f} s of warming up: "
            "the figures may hold frames that were slower, or faster, than those of a long run."
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run_warm_up(
    run_frame: Callable[[int], float],
    distinct: int,
    *,
    first_frame_ms: float,
    frames: int | None = None,
    rule: SteadyRule | None = None,
    progress: Progress | None = None,
) -> WarmUp:
    """Run ``frames`` frames after the first one, or without a number until their latency is steady.

    ``run_frame``: runs one of ``distinct`` frames by its index and gives its milliseconds.
    ``first_frame_ms``: what the very first one took, which the caller has run. Without a number
    the indices go round no more frames than a window has, so that every window holds the same ones, and
    what is compared is not two contents. Raises InputError for a negative number.
    """
    if frames is not None and frames < 0:
        raise InputError(f"warm-up is 0 or more frames; got {frames}")
    rule = rule or SteadyRule()
    watch = Stopwatch()
    if frames is not None:
        for i in range(frames):
            if progress:
                progress("warm-up", i, frames)
            run_frame((i + 1) % distinct)
        return WarmUp(
            first_frame_ms=first_frame_ms,
            frames=frames,
            ms=first_frame_ms + watch.lap(),
            steady=None,
            rule=f"{frames} frames, as asked for.",
        )
    steady, count = _run_until_steady(run_frame, min(distinct, rule.window), rule, progress)
    return WarmUp(
        first_frame_ms=first_frame_ms,
        frames=count,
        ms=first_frame_ms + watch.lap(),
        steady=steady,
        rule=rule.sentence(),
    )


def _run_until_steady(
    run_frame: Callable[[int], float], distinct: int, rule: SteadyRule, progress: Progress | None
) -> tuple[bool, int]:
    """Looked at once a window, not after every frame: who looks often sees chance agree sooner."""
    totals_ms: list[float] = []
    began = time.monotonic()
    while len(totals_ms) < rule.most_frames and time.monotonic() - began < rule.most_seconds:
        if progress:
            progress("warm-up", len(totals_ms), rule.most_frames)
        totals_ms.append(run_frame(len(totals_ms) % rule.window % distinct))
        if len(totals_ms) % rule.window == 0 and rule.is_steady(totals_ms):
            return True, len(totals_ms)
    return False, len(totals_ms)


def _sigma(samples: np.ndarray) -> float:
    return MAD_TO_SIGMA * float(np.median(np.abs(samples - np.median(samples))))
