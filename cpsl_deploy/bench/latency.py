"""Latency of a segmenter from encoded frame to label map, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from .frames import EncodedFrame

if TYPE_CHECKING:
    from ..segmenter import Segmenter

STAGES = ("decode", "pre", "inference", "post", "total")
"""``decode`` is file bytes to a BGR frame; ``pre``, ``inference`` and ``post`` are what the segmenter reports
of itself; ``total`` is the wall clock over all of it, so at least the sum of the others."""

Progress = Callable[[str, int, int], None]
"""Called between measurements, never inside one: (phase, done, total)."""


def no_progress(phase: str, done: int, total: int) -> None:
    """The progress of a caller that wants none."""


class Stopwatch:
    """Wall clock in milliseconds on ``time.perf_counter_ns``; starts when it is made."""

    def __init__(self) -> None:
        self._start = self._lap = time.perf_counter_ns()

    def lap(self) -> float:
        """Milliseconds since the last lap, or since the start."""
        now = time.perf_counter_ns()
        since, self._lap = now - self._lap, now
        return since / 1e6

    def elapsed(self) -> float:
        """Milliseconds from the start to the last lap, so that laps add up to it exactly."""
        return (self._lap - self._start) / 1e6


@dataclass(frozen=True, kw_only=True)
class LatencySummary:
    """Milliseconds. Percentiles interpolate linearly between the two nearest samples."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


def summarise(samples_ms: Sequence[float] | np.ndarray) -> LatencySummary:
    """Summary of one or more samples in milliseconds. Raises InputError for none."""
    samples = np.asarray(samples_ms, np.float64)
    if samples.size == 0:
        raise InputError("percentiles need at least one sample; there are none. Measure one frame or more.")
    p50, p90, p99 = np.percentile(samples, [50, 90, 99])
    return LatencySummary(
        count=samples.size,
        mean=float(samples.mean()),
        p50=float(p50),
        p90=float(p90),
        p99=float(p99),
        max=float(samples.max()),
    )


@dataclass(frozen=True, kw_only=True)
class LatencySamples:
    """What `measure_latency` saw, frame by frame, in the order in which frames were run."""

    frames: tuple[str, ...]
    """Name of each measured frame; N of them."""
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of each measured frame, in pixels."""
    stages_ms: dict[str, np.ndarray]
    """One (N,) float64 per name of STAGES, milliseconds."""
    predicted_pixels: np.ndarray
    """(N, K) int64: pixels of each of the K classes in the predicted labels."""
    first_frame_ms: float
    """Total of the very first frame, which pays for allocations and kernel choice. Not among the samples."""

    def summary(self) -> dict[str, LatencySummary]:
        """One summary per stage."""
        return {stage: summarise(self.stages_ms[stage]) for stage in STAGES}

    @property
    def fps(self) -> float:
        """Frames per second of one stream whose frames are handled one after the other."""
        return 1000.0 / float(self.stages_ms["total"].mean())


def measure_latency(
    segmenter: Segmenter,
    frames: Sequence[EncodedFrame],
    *,
    count: int,
    warm_up: int,
    progress: Progress = no_progress,
) -> LatencySamples:
    """Run ``count`` frames one by one, going round ``frames`` as often as needed.

    The first frame and then ``warm_up`` further ones run before, untimed but for the first. Bytes are read
    from the disk outside of the clock. Raises InputError for no frames, a count under 1 or a negative
    warm-up, DataError for a frame that does not decode.
    """
    if not frames:
        raise InputError("a benchmark needs at least one frame; there are none.")
    if count < 1 or warm_up < 0:
        raise InputError(f"frames must be 1 or more and warm-up 0 or more; got {count} and {warm_up}")
    first_frame_ms = _run_frame(segmenter, frames[0])[0]["total"]
    for i in range(warm_up):
        progress("warm-up", i, warm_up)
        _run_frame(segmenter, frames[(i + 1) % len(frames)])

    classes = len(segmenter.classes)
    stages_ms = {stage: np.empty(count) for stage in STAGES}
    predicted_pixels = np.empty((count, classes), np.int64)
    sizes = []
    for i in range(count):
        progress("latency", i, count)
        times, labels = _run_frame(segmenter, frames[i % len(frames)])
        for stage in STAGES:
            stages_ms[stage][i] = times[stage]
        sizes.append((labels.shape[0], labels.shape[1]))
        predicted_pixels[i] = np.bincount(labels.ravel(), minlength=256)[:classes]
    progress("latency", count, count)
    return LatencySamples(
        frames=tuple(frames[i % len(frames)].name for i in range(count)),
        sizes=tuple(sizes),
        stages_ms=stages_ms,
        predicted_pixels=predicted_pixels,
        first_frame_ms=first_frame_ms,
    )


def _run_frame(segmenter: Segmenter, frame: EncodedFrame) -> tuple[dict[str, float], np.ndarray]:
    """Milliseconds per stage, and the (H, W) uint8 labels."""
    encoded = frame.read()
    watch = Stopwatch()
    image = frame.decode(encoded)
    decode_ms = watch.lap()
    prediction = segmenter.predict(image)
    watch.lap()
    return {**prediction.timings_ms, "decode": decode_ms, "total": watch.elapsed()}, prediction.labels
