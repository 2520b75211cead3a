"""How the latency of a frame changes with its size and with how many are taken at a time.

All configurations are measured in turns: each round visits every one of them, so that a machine that becomes
slower for a while is slower for all. A visit begins with a batch that is not counted, because the library may
have to prepare for other shapes (TensorRT does, when they change) and the caches hold another one's data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..errors import CpslError, InputError
from ..segmenter import FrameBuffers, Segmenter, runtime_size
from .clock import Stopwatch
from .frames import EncodedFrame, decoded_frames
from .latency import STAGES, LatencySummary, Progress, no_progress, summarise

ROUNDS, PER_ROUND = 6, 5
"""Rounds, and batches that each visit of a configuration counts."""
LEAST_ROUNDS = 3
"""Fewer say nothing of how a configuration does at other times, whatever the budget is."""
BUDGET_S = 120.0
"""All rounds together, by what the batches before took."""
SLOW_MS = 500.0
"""A batch that takes longer is not slowed to speak of by what another one left, and is counted at once; two
of them are a visit."""
DISTINCT = 8
"""Different frames at most, of each size."""
_WARM_UP = 3
"""Batches before the first round; the first pays for memory and choice of kernels."""

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """A configuration and its latency, milliseconds a frame: what a batch takes by the frames in it."""

    frame_size: Size
    batch: int
    input_size: Size
    """At which the frames were given to the file."""
    stages_ms: dict[str, LatencySummary]
    """Of those of `latency.STAGES` from ``pre`` to ``post``, and of ``total``, the wall clock over them. The
    count is of batches."""
    fps: float
    """Frames per second, one batch after the other."""

    def to_json(self) -> dict[str, Any]:
        return {
            "frame_size": list(self.frame_size),
            "batch": self.batch,
            "input_size": list(self.input_size),
            "stages_ms": {stage: asdict(summary) for stage, summary in self.stages_ms.items()},
            "fps": self.fps,
        }


@dataclass(frozen=True, kw_only=True)
class SweepGap:
    """A configuration that the file does not take, and why."""

    frame_size: Size
    batch: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {"frame_size": list(self.frame_size), "batch": self.batch, "unavailable": self.reason}


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Every size with every batch, sizes outermost, in the order in which they were asked for."""

    cells: tuple[SweepPoint | SweepGap, ...]

    def to_json(self) -> list[dict[str, Any]]:
        return [cell.to_json() for cell in self.cells]


def measure_sweep(
    segmenter: Segmenter,
    frames: Sequence[EncodedFrame],
    *,
    sizes: Iterable[Size] = (),
    batches: Iterable[int] = (),
    own_size: bool = False,
    rounds: int = ROUNDS,
    per_round: int = PER_ROUND,
    budget_s: float = BUDGET_S,
    progress: Progress = no_progress,
) -> Sweep:
    """Measure every size with every batch.

    ``frames``: resized to each of ``sizes`` (height, width), from memory to labels in memory; without sizes
    the model's own is taken, without ``batches`` one frame at a time. ``own_size``: False resizes a frame to
    what the file is given in use, about as many pixels as the model was made for, so that its inference
    hardly changes with the frame; True gives it to the file at its own size, which shows what the network
    itself costs. ``budget_s`` takes rounds away, down to `LEAST_ROUNDS`.

    A configuration that fails with one of the project's errors becomes a `SweepGap`. Raises InputError for no
    frames, or sizes, batches or rounds under 1.
    """
    sizes, batches = tuple(sizes) or (segmenter.spec.size,), tuple(batches) or (1,)
    if not frames or min(rounds, per_round, *batches, *(side for size in sizes for side in size)) < 1:
        raise InputError(
            "a sweep is of one frame or more, and its sizes, batches and rounds are 1 or more; got "
            f"{len(frames)} frames, sizes {sizes}, batches {batches}, {rounds} rounds of {per_round}"
        )
    opened = _AtOwnSize(segmenter.backend, segmenter.origin) if own_size else segmenter
    found: list[_Configuration | SweepGap] = []
    for size in sizes:
        images = decoded_frames(frames, DISTINCT, size)
        found += [_open(opened, images, batch) for batch in batches]
    ready = [one for one in found if isinstance(one, _Configuration)]
    _measure_in_turns(ready, rounds, per_round, budget_s, progress)
    return Sweep(cells=tuple(one if isinstance(one, SweepGap) else one.point() for one in found))


class _AtOwnSize(Segmenter):
    """Frames are given to the file as they are; what it does not take is its own error."""

    def input_size(self, height: int, width: int) -> Size:
        return height, width


@dataclass(kw_only=True)
class _Configuration:
    """Frames of one size, a number of them at a time, and what was measured of them."""

    segmenter: Segmenter
    images: Sequence[np.ndarray]
    batch: int
    input_size: Size = (0, 0)
    expected_ms: float = 0.0
    """Of one batch."""
    rows: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._buffers = [FrameBuffers() for _ in range(self.batch)]
        self._next = 0

    def run(self) -> dict[str, float]:
        """Milliseconds a frame, by stage, of the next batch."""
        chosen = [self.images[(self._next + i) % len(self.images)] for i in range(self.batch)]
        self._next += self.batch
        watch = Stopwatch()
        prepared = [
            self.segmenter.prepare(image, buffers=buffers)
            for image, buffers in zip(chosen, self._buffers, strict=True)
        ]
        predictions = [self.segmenter.finish(one) for one in self.segmenter.infer(prepared, timed=True)]
        total_ms = watch.lap() / self.batch
        height, width = prepared[0].image.shape[:2]
        self.input_size = height, width
        rows = [prediction.timings_ms for prediction in predictions]
        stages = {stage: sum(row[stage] for row in rows) / self.batch for stage in STAGES if stage in rows[0]}
        return {**stages, "total": total_ms}

    def point(self) -> SweepPoint:
        stages_ms = {stage: summarise([row[stage] for row in self.rows]) for stage in self.rows[0]}
        return SweepPoint(
            frame_size=_size_of(self.images),
            batch=self.batch,
            input_size=self.input_size,
            stages_ms=stages_ms,
            fps=1000.0 / stages_ms["total"].mean,
        )


def _open(segmenter: Segmenter, images: Sequence[np.ndarray], batch: int) -> _Configuration | SweepGap:
    """A configuration that has run, or why it does not."""
    configuration = _Configuration(segmenter=segmenter, images=images, batch=batch)
    try:
        _require_batch(segmenter, batch)
        _require_in_profile(segmenter, _size_of(images))
        for _ in range(_WARM_UP):
            configuration.expected_ms = batch * configuration.run()["total"]
            if configuration.expected_ms > SLOW_MS and configuration.input_size != (0, 0):
                break
    except CpslError as error:
        return SweepGap(frame_size=_size_of(images), batch=batch, reason=str(error))
    return configuration


def _require_batch(segmenter: Segmenter, batch: int) -> None:
    taken = segmenter.backend.batch
    if taken not in (None, batch):
        frames = "1 frame" if taken == 1 else f"{taken} frames"
        raise InputError(
            f"this file takes {frames} at a time, no more and no less. Export it with a free batch: "
            "cpsl-export RUN --batch free"
        )


def _require_in_profile(segmenter: Segmenter, size: Size) -> None:
    """Raises InputError where a frame would be brought into an engine's profile: not what was asked for."""
    limits, static = segmenter.backend.size_limits, segmenter.backend.static_size
    if limits is None or static is not None or isinstance(segmenter, _AtOwnSize):
        return
    resizes_inside = segmenter.contract.network_size is not None
    wanted = size if resizes_inside else runtime_size(segmenter.spec, *size)
    if not all(low <= side <= high for low, side, high in zip(limits[0], wanted, limits[1], strict=True)):
        least, most, given = ("x".join(map(str, sides)) for sides in (*limits, wanted))
        raise InputError(
            f"this engine takes frames from {least} to {most} (height x width), and such a frame would be "
            f"given to it at {given}. Build an engine for them: cpsl-export RUN --trt"
        )


def _measure_in_turns(
    ready: Sequence[_Configuration], rounds: int, per_round: int, budget_s: float, progress: Progress
) -> None:
    visits = [(one, *_visit(one.expected_ms, per_round)) for one in ready]
    round_ms = sum(one.expected_ms * (untimed + timed) for one, untimed, timed in visits)
    if round_ms:
        rounds = min(rounds, max(LEAST_ROUNDS, int(1e3 * budget_s / round_ms)))
    for i in range(rounds):
        progress("sweep", i, rounds)
        turn = i % max(1, len(visits))
        for one, untimed, timed in (*visits[turn:], *visits[:turn]):
            for _ in range(untimed):
                one.run()
            one.rows += [one.run() for _ in range(timed)]
    progress("sweep", rounds, rounds)


def _visit(expected_ms: float, per_round: int) -> tuple[int, int]:
    """Batches not counted and batches counted in one visit."""
    return (1, per_round) if expected_ms < SLOW_MS else (0, min(2, per_round))


def _size_of(images: Sequence[np.ndarray]) -> Size:
    height, width = images[0].shape[:2]
    return height, width
