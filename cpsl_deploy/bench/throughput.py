"""Frames per second with the stages overlapped, as against one frame after the other.

The product's own stream engine runs the model over the frames: decoding, pre-processing, inference,
post-processing and the encoding of label maps each have a thread, and no frame is dropped. The rate can then
be that of the slowest stage at most, however long one frame takes from end to end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
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
    single_fps: float
    """Of one frame after the other: 1 / mean of the total latency."""
    slowest_stage: str
    """A name of THREADS: the thread that is busy longest with one frame when nothing runs beside it."""
    slowest_stage_fps: float
    """Its rate when nothing runs beside it: the highest that overlapping can give, batching aside."""
    share_of_slowest: float
    """``fps`` as a share of that; below 1 where threads compete for cores, caches or memory."""
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
    stage, stage_fps = slowest_stage(stages_ms)
    seconds, cpu_seconds = _run(segmenter, frames, count, progress)
    return Throughput(
        frames=count,
        seconds=seconds,
        fps=count / seconds,
        single_fps=single_fps,
        slowest_stage=stage,
        slowest_stage_fps=stage_fps,
        share_of_slowest=count / seconds / stage_fps,
        cpu_cores_used=cpu_seconds / seconds,
    )


def slowest_stage(stages_ms: Mapping[str, np.ndarray]) -> tuple[str, float]:
    """The thread of THREADS with the longest mean time per frame, and its frames per second."""
    means = {
        thread: sum(float(np.mean(stages_ms[stage])) for stage in stages if stage in stages_ms)
        for thread, stages in THREADS.items()
    }
    slowest = max(means, key=lambda thread: means[thread])
    return slowest, 1000 / means[slowest]


class _CountingSink(Sink):
    """Encodes labels and forgets them; remembers the clocks when two of its results were done."""

    name = "encode"

    def __init__(self, first: int, last: int) -> None:
        self._marks = (first, last)
        self._written = 0
        self.wall_s: list[float] = []
        self.cpu_s: list[float] = []

    def write(self, result: StreamResult) -> None:
        encode_label_png(result.labels, result.classes)
        self._written += 1
        if self._written in self._marks:
            self.wall_s.append(time.perf_counter())
            self.cpu_s.append(time.process_time())

    def close(self) -> None:
        """Nothing is held open."""


def _run(
    segmenter: Segmenter, frames: Sequence[EncodedFrame], count: int, progress: Progress
) -> tuple[float, float]:
    """Seconds on the wall, and of processors, in which ``count`` frames left the last thread."""
    total = MARGIN + count + MARGIN
    feed = EncodedFeed("throughput", frames, total)
    sink = _CountingSink(MARGIN, MARGIN + count)
    with Stream([feed], segmenter, StreamOptions(policy="lossless"), sinks=[sink]) as stream:
        for done, _ in enumerate(stream):
            progress("throughput", done, total)
    progress("throughput", total, total)
    (wall_first, wall_last), (cpu_first, cpu_last) = sink.wall_s, sink.cpu_s
    return wall_last - wall_first, cpu_last - cpu_first
