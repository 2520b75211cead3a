"""Whether several frames at a time are faster than one by one, by measurement."""

from __future__ import annotations

import logging
import time

import numpy as np

from ..segmenter import Prepared, Segmenter

log = logging.getLogger(__name__)

_ROUNDS = 3
_GAIN = 0.95
"""A batch pays if its time per frame is below this part of a single frame's."""


def batch_that_pays(segmenter: Segmenter, batch: int) -> int:
    """``batch``, or the least number of frames the file takes if a batch is not clearly faster per frame.

    Measured on frames of noise at the model's size; the first inference of each kind, which prepares the
    library, is not counted. A ``batch`` of that least number is warmed up and not measured.
    """
    single = max(1, segmenter.backend.least_batch)
    seconds_single = _seconds_per_frame(segmenter, single, _ROUNDS if batch > single else 0)
    if batch <= single:
        return single
    seconds_batch = _seconds_per_frame(segmenter, batch, _ROUNDS)
    pays = seconds_batch < _GAIN * seconds_single
    log.info(
        "a frame takes %.1f ms in a batch of %d and %.1f ms in one of %d: %s",
        1e3 * seconds_batch,
        batch,
        1e3 * seconds_single,
        single,
        "batching" if pays else "not batching",
    )
    return batch if pays else single


def _seconds_per_frame(segmenter: Segmenter, batch: int, rounds: int) -> float:
    """The fastest of some rounds, after one that is not counted."""
    noise = np.random.default_rng(0).integers(0, 256, (*segmenter.spec.size, 3), np.uint8)
    prepared: list[Prepared] = [segmenter.prepare(noise)] * batch
    seconds = []
    for _ in range(1 + rounds):
        started = time.perf_counter()
        segmenter.infer(prepared)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:], default=seconds[0]) / batch
