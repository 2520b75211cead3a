"""Latency of a segmenter from the file of a frame to the file of its labels, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..overlay import encode_label_png
from ..segmenter import FrameBuffers, Prediction
from .clock import Stopwatch
from .drift import drift_of
from .frames import EncodedFrame, decoded_frames
from .latency_interval import latency_intervals
from .steady import MAD_TO_SIGMA, SteadyRule, WarmUp, run_warm_up
from .synchronisation import CHECKED_FRAMES, Synchronisation, check_synchronised

if TYPE_CHECKING:
    from ..segmenter import Segmenter

STAGES = ("read", "decode", "pre", "host_to_device", "inference", "device_to_host", "post", "encode", "total")
"""In the order of the work.

``read`` gets the bytes of a file, which the page cache holds by then: how fast the disk is, is not measured.
``decode`` makes a BGR frame of them. ``pre``, ``inference`` and ``post`` are what the segmenter reports of
itself; where a device has memory of its own, the two transfers are told apart from ``inference``, else there
is no such stage. ``encode`` makes a PNG of the labels, as `cpsl_deploy.sinks.LabelSink` writes it. ``total``
is the wall clock over all of it, so at least the sum of the others.
"""

APPEARS_SHARE = 0.001
"""A class appears in a frame in which at least this share of the pixels is predicted as it: stray pixels of
every class lie in nearly every label map, and would make all classes alike."""
OUTLIER_SIGMAS = 5
OUTLIER_LEAST_SHARE = 0.01
"""Of the median: frames that all take the same, to a hundredth, have no outliers."""
OUTLIER_RULE = (
    f"Total above the median by more than {OUTLIER_SIGMAS} x {MAD_TO_SIGMA} x its median absolute deviation "
    f"and more than {OUTLIER_LEAST_SHARE:g} of it; kept in every figure."
)

Progress = Callable[[str, int, int], None]
"""Called between measurements, never inside one: (phase, done, total)."""


def no_progress(phase: str, done: int, total: int) -> None:
    """The progress of a caller that wants none."""


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
class Outlier:
    """A frame that took much longer than the others."""

    index: int
    """Among the measured frames, in the order in which they were run."""
    frame: str
    total_ms: float


@dataclass(frozen=True, kw_only=True)
class LatencySamples:
    """What `measure_latency` saw, frame by frame, in the order in which frames were run."""

    frames: tuple[str, ...]
    """Name of each measured frame; N of them."""
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of each measured frame, in pixels."""
    stages_ms: dict[str, np.ndarray]
    """One (N,) float64 for each of STAGES that there is, in their order, milliseconds."""
    predicted_pixels: np.ndarray
    """(N, K) int64: pixels of each of the K classes in the predicted labels."""
    warm_up: WarmUp
    """What was run before; not among the samples."""
    synchronisation: Synchronisation

    @property
    def first_frame_ms(self) -> float:
        """Total of the very first frame. Not among the samples."""
        return self.warm_up.first_frame_ms

    @property
    def shown(self) -> np.ndarray:
        """(N, K) bool: the classes that appear in each frame, by APPEARS_SHARE."""
        areas = np.array([height * width for height, width in self.sizes])
        shown: np.ndarray = self.predicted_pixels >= np.maximum(1, APPEARS_SHARE * areas)[:, None]
        return shown

    def notes(self) -> list[str]:
        """What a reader must know before believing the latencies; a sentence or two each."""
        notes = []
        if drift := drift_of(self.stages_ms["total"]):
            notes.append(drift.note)
        shown = self.shown[:, self.predicted_pixels.any(axis=0)]
        if shown.shape[1] > 1 and shown.all():
            notes.append(
                "Every class that is predicted is in every frame: latency by class is that of all frames."
            )
        return notes

    def summary(self) -> dict[str, LatencySummary]:
        """One summary for each stage that there is."""
        return {stage: summarise(times) for stage, times in self.stages_ms.items()}

    @property
    def fps(self) -> float:
        """Frames per second of one stream whose frames are handled one after the other."""
        return 1000.0 / float(self.stages_ms["total"].mean())

    def outliers(self) -> tuple[Outlier, ...]:
        """Frames that OUTLIER_RULE picks, in the order in which they were run. They stay in every figure."""
        totals = self.stages_ms["total"]
        middle = float(np.median(totals))
        spread = MAD_TO_SIGMA * float(np.median(np.abs(totals - middle)))
        limit = middle + max(OUTLIER_SIGMAS * spread, OUTLIER_LEAST_SHARE * middle)
        return tuple(
            Outlier(index=int(i), frame=self.frames[i], total_ms=float(totals[i]))
            for i in np.flatnonzero(totals > limit)
        )

    def to_json(self) -> dict[str, Any]:
        """The section ``latency`` of a record."""
        found = self.outliers()
        return {
            "fps": self.fps,
            "stages_ms": {stage: asdict(summary) for stage, summary in self.summary().items()},
            "intervals": latency_intervals(self.stages_ms["total"]),
            "outliers": {
                "rule": OUTLIER_RULE,
                "count": len(found),
                "frames": [asdict(outlier) for outlier in found],
            },
        }

    def every_sample(self) -> dict[str, Any]:
        """The section ``samples`` of a record."""
        return {
            "frames": list(self.frames),
            "sizes": [list(size) for size in self.sizes],
            "stages_ms": {stage: times.tolist() for stage, times in self.stages_ms.items()},
            "predicted_pixels": self.predicted_pixels.tolist(),
        }


def measure_latency(
    segmenter: Segmenter,
    frames: Sequence[EncodedFrame],
    *,
    count: int,
    warm_up: int | None = None,
    steady_rule: SteadyRule | None = None,
    progress: Progress = no_progress,
) -> LatencySamples:
    """Run ``count`` frames one by one, going round ``frames`` as often as needed.

    Before come one look at every file, so that none is read from the disk later; the first frame; the proof
    that the backend waits for its device (`check_synchronised`); and ``warm_up`` frames, or without a number
    as many as it takes until the latency is steady.

    Raises InputError for no frames, a count under 1 or a negative warm-up, DataError for a frame that cannot
    be read or decoded, UnavailableError for a backend that returns before its work is over.
    """
    if not frames:
        raise InputError("a benchmark needs at least one frame; there are none.")
    if count < 1 or (warm_up is not None and warm_up < 0):
        raise InputError(f"frames must be 1 or more and warm-up 0 or more; got {count} and {warm_up}")
    for frame in frames[:count]:
        frame.read()
    timer = FrameTimer(segmenter)
    first_frame_ms = timer.run(frames[0])[0]["total"]
    synchronisation = check_synchronised(segmenter, decoded_frames(frames, CHECKED_FRAMES))
    warmed = run_warm_up(
        lambda index: timer.run(frames[index])[0]["total"],
        len(frames),
        first_frame_ms=first_frame_ms,
        frames=warm_up,
        rule=steady_rule,
        progress=progress,
    )
    rows: list[dict[str, float]] = []
    classes = len(segmenter.classes)
    predicted_pixels = np.empty((count, classes), np.int64)
    sizes = []
    for i in range(count):
        progress("latency", i, count)
        times, labels = timer.run(frames[i % len(frames)])
        rows.append(times)
        sizes.append((labels.shape[0], labels.shape[1]))
        predicted_pixels[i] = np.bincount(labels.ravel(), minlength=256)[:classes]
    progress("latency", count, count)
    return LatencySamples(
        frames=tuple(frames[i % len(frames)].name for i in range(count)),
        sizes=tuple(sizes),
        stages_ms={stage: np.array([row[stage] for row in rows]) for stage in STAGES if stage in rows[0]},
        predicted_pixels=predicted_pixels,
        warm_up=warmed,
        synchronisation=synchronisation,
    )


class FrameTimer:
    """Times one frame after the other through a segmenter, whose buffers it holds."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter, self._buffers = segmenter, FrameBuffers()

    def run(self, frame: EncodedFrame) -> tuple[dict[str, float], np.ndarray]:
        """Milliseconds of each of STAGES that there is, and the (H, W) uint8 labels."""
        watch = Stopwatch()
        encoded = frame.read()
        read_ms = watch.lap()
        image = frame.decode(encoded)
        decode_ms = watch.lap()
        prediction = self._predict(image)
        watch.lap()
        encode_label_png(prediction.labels, self._segmenter.classes)
        encode_ms = watch.lap()
        around = {"read": read_ms, "decode": decode_ms, "encode": encode_ms, "total": watch.elapsed()}
        return {**around, **prediction.timings_ms}, prediction.labels

    def _predict(self, image: np.ndarray) -> Prediction:
        """As `Segmenter.predict`, with the transfers told apart."""
        prepared = self._segmenter.prepare(image, buffers=self._buffers)
        return self._segmenter.finish(*self._segmenter.infer([prepared], timed=True))
