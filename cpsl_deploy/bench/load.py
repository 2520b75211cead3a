"""How many live streams one device carries: found by search, until the age of what is shown breaks a limit.

One opened model is shared by n sources, as in `cpsl-run` with n cameras, each paced and decoding its own
frames. The limit is held against the 99th percentile of the *peak* age (`bench.stream_age`): in the policy
``latest`` the age at delivery hardly grows with load, since the model always takes the newest frame; the time
between results grows, and with it the age that the latest result has reached when the next one comes.

With a period T of the sources and s seconds of the model per frame, results of each of n streams are T apart
while n s < T, and n s apart beyond that. A frame is then up to T old when it is taken, so that the peak age
goes up to (n + 1) s + T.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from .encoded_feed import in_memory
from .frames import EncodedFrame
from .latency import Progress, no_progress
from .stream_age import PacedRun, play

if TYPE_CHECKING:
    from ..segmenter import Segmenter

log = logging.getLogger(__name__)

PERCENTILE = 99.0
MOST_STREAMS = 64
CLEAR = 0.3
"""A peak age further from the limit than this part of it decides with one trial; nearer, two of up to three
trials that agree. Trials of one number of streams were seen to differ by a quarter."""
_VOTES = 2
"""Equal ones that decide."""


@dataclass(frozen=True, kw_only=True)
class LoadTrial:
    """One measurement of a number of streams."""

    streams: int
    age_p99_ms: float | None
    """At delivery. None if there was no result."""
    peak_age_p99_ms: float | None
    delivered_fps: float
    """Results per second, all streams together."""
    dropped_share: float
    """Of the frames, 0..1."""
    results: int
    """Peak ages that the percentile is of; below 100 it is little more than their maximum."""
    within: bool
    """Whether the peak age kept to the limit and no stream went without a result."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the search found."""

    max_age_ms: float
    percentile: float
    source_fps: float
    seconds_per_trial: float
    streams: int
    """The most that kept to the limit, where one more did not or was not tried (``limit`` says which); 0 if
    not even one did."""
    limit: str
    """What broke, or why the search ended, in a sentence."""
    trials: tuple[LoadTrial, ...]
    """All, in their order."""

    def to_json(self) -> dict[str, Any]:
        """The record's section ``load``."""
        return asdict(self) | {"trials": [asdict(trial) for trial in self.trials]}


def measure_load(
    segmenter: Segmenter,
    frames: Sequence[EncodedFrame],
    *,
    max_age_ms: float,
    fps: float = 25.0,
    seconds: float = 5.0,
    most_streams: int = MOST_STREAMS,
    budget_s: float = 180.0,
    progress: Progress = no_progress,
) -> Load:
    """Search for the number of sources, each of ``fps`` frames per second, that the model carries.

    ``seconds``: of each trial. ``most_streams`` and ``budget_s`` bound the search.
    Raises InputError for a limit that not even a model without latency keeps, and as `play` does.
    """
    if not max_age_ms > 1000 / fps:
        raise InputError(
            f"a source of {fps:g} frames a second lets the age of what is shown grow by {1000 / fps:g} ms "
            f"before its next frame, and the limit of the age is {max_age_ms:g} ms. Allow more, or give "
            "faster sources"
        )
    loaded = in_memory(frames)

    def measure(streams: int) -> LoadTrial:
        # Another draw of the sources' phases for each trial: one number is not judged by one arrangement.
        run = play(segmenter, loaded, streams=streams, fps=fps, seconds=seconds, seed=next(seeds))
        return trial_of(run, max_age_ms)

    seeds = iter(range(1_000_000))
    search = LoadSearch(measure, max_age_ms, most_streams=most_streams, budget_s=budget_s, progress=progress)
    streams, limit = search.run()
    return Load(
        max_age_ms=max_age_ms,
        percentile=PERCENTILE,
        source_fps=fps,
        seconds_per_trial=seconds,
        streams=streams,
        limit=limit,
        trials=tuple(search.trials),
    )


def trial_of(run: PacedRun, max_age_ms: float) -> LoadTrial:
    """What a run says of the limit."""
    every_one = all(stream.captured_s for stream in run.streams)
    age = float(np.percentile(run.age_ms, PERCENTILE)) if run.delivered else None
    peaks_ms = run.peak_age_ms if run.delivered else np.empty(0)
    peak = float(np.percentile(peaks_ms, PERCENTILE)) if peaks_ms.size else None
    return LoadTrial(
        streams=len(run.streams),
        age_p99_ms=age,
        peak_age_p99_ms=peak,
        delivered_fps=run.delivered / run.seconds,
        dropped_share=1 - run.delivered / run.frames,
        results=len(peaks_ms),
        within=every_one and peak is not None and peak <= max_age_ms,
    )


class _OutOfTimeError(Exception):
    """The budget is spent."""


class LoadSearch:
    """The largest n that keeps to the limit while n + 1 does not.

    n is doubled until it fails, then the interval is bisected. That more streams are never younger is not
    taken for granted: results near the limit are measured again and a majority decides, and at the end both
    sides of the edge found are confirmed; one that turns out otherwise sends the search on from there.
    """

    def __init__(
        self,
        measure: Callable[[int], LoadTrial],
        max_age_ms: float,
        *,
        most_streams: int = MOST_STREAMS,
        budget_s: float = 180.0,
        clock: Callable[[], float] = time.monotonic,
        progress: Progress = no_progress,
    ) -> None:
        """``measure`` tries a number of streams. Raises InputError for fewer than one stream at most."""
        if most_streams < 1:
            raise InputError(f"the search for streams tries one or more; got {most_streams}")
        self._measure, self._limit_ms, self._most = measure, max_age_ms, most_streams
        self._clock, self._ends_s, self._budget_s = clock, clock() + budget_s, budget_s
        self._progress = progress
        self.trials: list[LoadTrial] = []

    def run(self) -> tuple[int, str]:
        """The number of streams, and in a sentence what broke beyond it."""
        try:
            streams = self._edge()
        except _OutOfTimeError:
            streams = max((n for n in self._tried() if self._verdict(n)), default=0)
            return streams, (
                f"The search ended after {self._budget_s:g} s; more than {streams} streams may do."
            )
        if streams == self._most:
            return streams, f"None was reached: {streams} streams kept to it, and more were not tried."
        return streams, self._what_broke(streams + 1)

    def _edge(self) -> int:
        low, high = 0, self._most + 1
        while True:
            while high - low > 1:
                middle = (low + high) // 2 if high <= self._most else min(max(1, 2 * low), self._most)
                if self._holds(middle):
                    low = middle
                else:
                    high = middle
            if low > 0 and not self._holds(low, confirmed=True):
                low, high = max((n for n in self._tried() if n < low and self._verdict(n)), default=0), low
            elif low < self._most and self._holds(low + 1, confirmed=True):
                low, high = low + 1, self._most + 1
            else:
                return low

    def _holds(self, streams: int, *, confirmed: bool = False) -> bool:
        """Whether a number keeps to the limit, after as many trials as that takes."""
        while not self._is_decided(streams, confirmed):
            if self._clock() >= self._ends_s:
                raise _OutOfTimeError
            self._progress("load", len(self.trials), len(self.trials) + 1)
            trial = self._measure(streams)
            log.info("%d streams: peak age %s ms, %s", streams, trial.peak_age_p99_ms, trial.within)
            self.trials.append(trial)
        return self._verdict(streams)

    def _of(self, streams: int) -> list[LoadTrial]:
        return [trial for trial in self.trials if trial.streams == streams]

    def _tried(self) -> set[int]:
        return {trial.streams for trial in self.trials}

    def _verdict(self, streams: int) -> bool:
        """By majority; a tie is no."""
        trials = self._of(streams)
        return 2 * sum(trial.within for trial in trials) > len(trials)

    def _is_decided(self, streams: int, confirmed: bool) -> bool:
        trials = self._of(streams)
        if len(trials) == 1 and not confirmed:
            peak = trials[0].peak_age_p99_ms
            return peak is None or abs(peak - self._limit_ms) > CLEAR * self._limit_ms
        votes = sum(trial.within for trial in trials)
        return max(votes, len(trials) - votes) >= _VOTES

    def _what_broke(self, streams: int) -> str:
        """Of the trials that broke the limit, the one in the middle."""
        broke = [trial.peak_age_p99_ms for trial in self._of(streams) if not trial.within]
        above = [peak for peak in broke if peak is not None and peak > self._limit_ms]
        word = "stream" if streams == 1 else "streams"
        if not above:
            return f"At {streams} {word} one or more had no result."
        return (
            f"At {streams} {word} the 99th percentile of the peak age was {median(above):.0f} ms, "
            f"above {self._limit_ms:g} ms."
        )
