"""How fast files are against each other: measured in turns, so that a busy machine is busy for all of
them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from cpsl_deploy.errors import InputError

WARM_UP, ROUNDS = 3, 25
"""Frames before the clock starts, and rounds of one frame each; a round takes every file once."""


_PAUSE_S = 0.01
"""onnxruntime's threads spin for some milliseconds after each inference."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Milliseconds of one frame, from a frame in memory to its label map."""

    median_ms: float
    ratio: float
    """How many times as fast as the first file: the median over rounds of its time by this one's."""
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
    """Time files on the same frames, uint8 (H, W, 3) BGR; the first of them is the yardstick.

    ``files``: what takes a frame to its labels, by name, for example an opened file's ``predict``; each does
    the work of ``at_once`` frames, if the files have a fixed batch.
    Each round runs one frame through every file, in an order that turns with the rounds: after a pause, in
    which the threads of the file before stop waiting for more, once untimed and once timed. Raises InputError
    without files, frames or rounds.
    """
    if not files or not frames or rounds < 1:
        raise InputError(
            "speeds are compared of one file or more, on one frame or more, in one round or more; got "
            f"{len(files)}, {len(frames)} and {rounds}"
        )
    for segment in files.values():
        for i in range(warm_up):
            segment(frames[i % len(frames)])
    names = list(files)
    times = {name: np.empty(rounds) for name in names}
    for i in range(rounds):
        frame = frames[i % len(frames)]
        turn = i % len(names)
        for name in (*names[turn:], *names[:turn]):
            time.sleep(_PAUSE_S)
            files[name](frame)
            began = time.perf_counter()
            files[name](frame)
            times[name][i] = 1e3 * (time.perf_counter() - began) / at_once
    yardstick = times[names[0]]
    return {name: _speed(yardstick, times[name]) for name in names}


def _speed(yardstick: np.ndarray, times: np.ndarray) -> Speed:
    low, ratio, high = np.percentile(yardstick / times, [25, 50, 75])
    return Speed(median_ms=median(times.tolist()), ratio=float(ratio), low=float(low), high=float(high))
