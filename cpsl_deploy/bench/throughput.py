"""Frames per second with the stages overlapped, as against one frame after the other.

The product's own stream engine runs the model over the frames: decoding, pre-processing, inference, post-
processing and the encoding of label maps each have a thread, and no frame is dropped. The rate can then be
that of the slowest stage at most, however long one frame takes from end to end. How busy each thread is, is
measured inside that very run: stages are slower beside others than alone, and a machine changes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..overlay import encode_label_png
from ..sinks.base import Sink
from ..streams.options import StreamOptions
from ..streams.result import StreamResult
from ..streams.stream import Stream
from .encoded_feed import EncodedFeed
from .frames import EncodedFrame
from .latency import Progress, no_progress

if TYPE_CHECKING:
    from ..segmenter import Segmenter

log = logging.getLogger(__name__)

SECONDS = 5.0
"""That are measured, about."""
LEAST_FRAMES, MOST_FRAMES = 16, 5000
MARGIN = 16
"""Frames before and after those that are counted: as many as fit into the queues between the threads, so that
these are in use from the first frame counted to the last."""
STRETCHES = 12
"""Parts of the run whose rates are told apart, as far as there are frames."""
THREADS = {
    "decode": ("read", "decode"),
    "pre": ("pre",),
    "inference": ("host_to_device", "inference", "device_to_host"),
    "post": ("post",),
    "encode": ("encode",),
}
"""What one thread of the engine does: its name, and the stages of `latency.STAGES` that it runs."""


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Rates are frames per second."""

    frames: int
    """That were counted."""
    seconds: float
    """In which they were done, their labels encoded."""
    fps: float
    fps_quartiles: tuple[float, float, float]
    """Of the rates of up to STRETCHES parts of the run: how even it was."""
    single_fps: float
    """Of one frame after the other: 1 / mean of the total latency."""
    slowest_stage: str
    """A name of THREADS: the thread that was busy longest in this run."""
    slowest_stage_fps: float
    """``fps / share_of_slowest``: the rate if that thread never waited, its stages as slow as in this run."""
    share_of_slowest: float
    """How much of the run that thread was busy, 0..1: seconds in its stages over seconds on the wall, from
    the first frame read to the last one encoded. The filling and emptying of the queues count as waiting."""
    cpu_cores_used: float
    """Processor time of the process per second: 2.0 is two cores all the time."""

    def to_json(self) -> dict[str, Any]:
        """The record's section ``throughput``."""
        return asdict(self)


def measure_throughput(
    segmenter: Segmenter,
    frames: Sequence[EncodedFrame],
    stages_ms: Mapping[str, np.ndarray],
    *,
    count: int | None = None,
    progress: Progress = no_progress,
) -> Throughput:
    """Run the frames through a lossless stream with a sink that encodes labels as PNG, into memory.

    ``stages_ms``: of `latency.measure_latency` on the same frames: milliseconds of single frames by stage,
    ``total`` among them. ``count``: frames counted, going round ``frames``; by default those that about
    `SECONDS` have time for.

    Raises InputError without frames or latencies or for a count below 1, DataError for a frame that does not
    decode.
    """
    if not frames or not len(stages_ms.get("total", ())) or (count is not None and count < 1):
        raise InputError(
            "throughput needs one frame or more, their latencies and a count of 1 or more; got "
            f"{len(frames)}, {', '.join(stages_ms) or 'none'} and {count}"
        )
    single_fps = 1000 / float(np.mean(stages_ms["total"]))
    if count is None:
        count = int(np.clip(SECONDS * single_fps, LEAST_FRAMES, MOST_FRAMES))
    run = _run(segmenter, frames, count, progress)
    seconds = run.counted_s[-1] - run.counted_s[0]
    stage = max(run.busy_s, key=lambda thread: run.busy_s[thread])
    share = run.busy_s[stage] / run.wall_s
    return Throughput(
        frames=count,
        seconds=seconds,
        fps=count / seconds,
        fps_quartiles=stretch_quartiles(run.counted_s),
        single_fps=single_fps,
        slowest_stage=stage,
        slowest_stage_fps=count / seconds / share,
        share_of_slowest=share,
        cpu_cores_used=run.cpu_s / seconds,
    )


def stretch_quartiles(done_s: Sequence[float]) -> tuple[float, float, float]:
    """Quartiles of the rates of up to STRETCHES parts of a run, from the (N + 1,) moments of its frames."""
    edges = np.linspace(0, len(done_s) - 1, min(STRETCHES, len(done_s) - 1) + 1).round().astype(int)
    rates = np.diff(edges) / np.diff(np.asarray(done_s, np.float64)[edges])
    low, middle, high = (float(rate) for rate in np.percentile(rates, [25, 50, 75]))
    return low, middle, high


def busy_seconds(timings_ms: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Seconds in each thread of THREADS, from the milliseconds of single frames by stage."""
    busy_s = dict.fromkeys(THREADS, 0.0)
    of = {stage: thread for thread, stages in THREADS.items() for stage in stages}
    for times in timings_ms:
        for stage, ms in times.items():
            if stage in of:
                busy_s[of[stage]] += ms / 1e3
    return busy_s


@dataclass(frozen=True, kw_only=True)
class _Run:
    counted_s: list[float]
    """When the last frame before those counted was encoded, and each of them."""
    cpu_s: float
    """Seconds of processors meanwhile."""
    busy_s: dict[str, float]
    """Seconds inside the stages of each thread, in the whole run."""
    wall_s: float
    """Of the whole run."""


class _CountingSink(Sink):
    """Encodes labels and forgets them; remembers when each was done."""

    name = "encode"

    def __init__(self, first: int, last: int) -> None:
        self._marks = (first, last)
        self.done_s: list[float] = []
        self.cpu_s: list[float] = []
        self.busy_s = 0.0

    def write(self, result: StreamResult) -> None:
        began_s = time.perf_counter()
        encode_label_png(result.labels, result.classes)
        self.done_s.append(time.perf_counter())
        self.busy_s += self.done_s[-1] - began_s
        if len(self.done_s) in self._marks:
            self.cpu_s.append(time.process_time())

    def close(self) -> None:
        """Nothing is held open."""


def _run(segmenter: Segmenter, frames: Sequence[EncodedFrame], count: int, progress: Progress) -> _Run:
    """Frames are counted from the `MARGIN`-th on."""
    total = MARGIN + count + MARGIN
    feed = EncodedFeed("throughput", frames, total)
    sink = _CountingSink(MARGIN, MARGIN + count)
    timings_ms = []
    with Stream([feed], segmenter, StreamOptions(policy="lossless"), sinks=[sink]) as stream:
        for done, result in enumerate(stream):
            timings_ms.append(result.prediction.timings_ms)
            progress("throughput", done, total)
    progress("throughput", total, total)
    busy_s = busy_seconds(timings_ms) | {"decode": feed.busy_s, "encode": sink.busy_s}
    cpu_first, cpu_last = sink.cpu_s
    return _Run(
        counted_s=sink.done_s[MARGIN - 1 : MARGIN + count],
        cpu_s=cpu_last - cpu_first,
        busy_s=busy_s,
        wall_s=sink.done_s[-1] - (feed.began_s or sink.done_s[0]),
    )
