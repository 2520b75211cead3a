"""How fast things are against each other: measured in turns, so that a busy machine is busy for all of
them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from ..errors import InputError
from .latency import Progress, no_progress

WARM_UP, ROUNDS = 3, 25
"""Frames before the clock starts, and rounds of one frame each; a round takes everything once."""
LEAST_ROUNDS = 5
"""Fewer than that say nothing of the spread, whatever the budget is."""

_PAUSE_S = 0.01
"""onnxruntime's threads spin for some milliseconds after each inference."""
_SLOW_S = 0.5
"""What takes longer than that is not slowed to speak of by threads and caches that another one left: it needs
no untimed frame before the timed one. Nor does it need more than two frames to warm up."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Milliseconds of one frame, from a frame in memory to its label map."""

    median_ms: float
    ratio: float
    """How many times as fast as the yardstick: the median over rounds of its time by this one's."""
    low: float
    """Quartiles of that ratio over the rounds: how far it can be trusted."""
    high: float


def compare_speed(
    files: Mapping[str, Callable[[np.ndarray], object]],
    frames: Sequence[np.ndarray],
    *,
    rounds: int = ROUNDS,
    warm_up: int = WARM_UP,
    at_once: int = 1,
) -> dict[str, Speed]:
    """`measure_in_turns` as speeds; the first of the files is the yardstick."""
    times = measure_in_turns(files, frames, rounds=rounds, warm_up=warm_up, at_once=at_once)
    yardstick = times[next(iter(files))]
    return {name: speed(yardstick, times[name]) for name in files}


def speed(yardstick: np.ndarray, times: np.ndarray) -> Speed:
    """Of (rounds,) milliseconds, held against those of the yardstick in the same rounds."""
    low, ratio, high = np.percentile(yardstick / times, [25, 50, 75])
    return Speed(median_ms=median(times.tolist()), ratio=float(ratio), low=float(low), high=float(high))


def measure_in_turns(
    files: Mapping[str, Callable[[np.ndarray], object]],
    frames: Sequence[np.ndarray],
    *,
    rounds: int = ROUNDS,
    warm_up: int = WARM_UP,
    at_once: int | Mapping[str, int] = 1,
    budget_s: float | None = None,
    progress: Progress = no_progress,
) -> dict[str, np.ndarray]:
    """(rounds,) float64 milliseconds a frame, for each file, on the same frames uint8 (H, W, 3) BGR.

    ``files``: what takes a frame to its labels, by name, for example an opened file's ``predict``; each does
    the work of ``at_once`` frames (a number for all, or one by name). It returns when the labels are there.
    Each round runs one frame through every file, in an order that turns with the rounds: after a pause, in
    which the threads of the file before stop waiting for more, once untimed and once timed. ``budget_s``: of
    all rounds together, by what warming up took: fewer rounds are then run, `LEAST_ROUNDS` at least.

    Raises InputError without files, frames or rounds.
    """
    if not files or not frames or rounds < 1:
        raise InputError(
            "speeds are compared of one file or more, on one frame or more, in one round or more; got "
            f"{len(files)}, {len(frames)} and {rounds}"
        )
    expected = {name: _warm(segment, frames, warm_up) for name, segment in files.items()}
    if budget_s is not None:
        rounds = min(rounds, max(LEAST_ROUNDS, int(budget_s / _round_s(expected.values()))))
    names = list(files)
    times = {name: np.empty(rounds) for name in names}
    for i in range(rounds):
        progress("variants", i, rounds)
        frame = frames[i % len(frames)]
        turn = i % len(names)
        for name in (*names[turn:], *names[:turn]):
            time.sleep(_PAUSE_S)
            if expected[name] < _SLOW_S:
                files[name](frame)
            began = time.perf_counter()
            files[name](frame)
            times[name][i] = 1e3 * (time.perf_counter() - began)
    progress("variants", rounds, rounds)
    share = at_once if isinstance(at_once, Mapping) else dict.fromkeys(names, at_once)
    return {name: times[name] / share[name] for name in names}


def _warm(segment: Callable[[np.ndarray], object], frames: Sequence[np.ndarray], warm_up: int) -> float:
    """Seconds of the last frame of the warm-up; 0 without any."""
    last = 0.0
    for i in range(warm_up):
        began = time.perf_counter()
        segment(frames[i % len(frames)])
        last = time.perf_counter() - began
        if i and last > _SLOW_S:
            break
    return last


def _round_s(expected: Iterable[float]) -> float:
    return sum(_PAUSE_S + one * (2 if one < _SLOW_S else 1) for one in expected)
