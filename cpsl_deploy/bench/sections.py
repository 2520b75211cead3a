"""The sections of a benchmark's record that settings switch on, each a function of the job."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np

from ..errors import CpslError
from ..machine import Sensors
from ..machine.rates import Rates, stated_rates
from .accuracy import ClassAccuracy, evaluate
from .class_cost import ExtractionCost, class_latencies
from .cold_start import measure_cold_start
from .frames import EncodedFrame, decoded_frames
from .latency import LatencySamples, Progress
from .load import measure_load
from .record import unavailable
from .roofline import measure_roofline, roofline_fraction
from .settings import BenchmarkSettings
from .stream_age import StreamAge, measure_stream_age
from .sustained import measure_sustained
from .sweep import measure_sweep
from .throughput import measure_throughput
from .variant_files import variants_of
from .variants import measure_variants

if TYPE_CHECKING:
    from ..data import Dataset
    from ..segmenter import Segmenter
    from ..spec import ModelSpec

_VARIANT_FRAMES = 4
"""Different frames on which variants are compared."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What is measured, and how."""

    model: Path
    """As it was given: a file, or a run folder."""
    path: Path
    """The model file."""
    settings: BenchmarkSettings
    whole: Dataset | None
    """None for synthetic frames."""
    dataset: Dataset | None
    """The images of ``whole`` that are measured."""
    progress: Progress


class HasSection(Protocol):
    """What one of the measurements gives."""

    def to_json(self) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class NotMeasured:
    """What was asked for and could not be measured: a section, too."""

    reason: str

    def to_json(self) -> dict[str, str]:
        return unavailable(self.reason)


Section = HasSection | None
"""None: not asked for."""


def _measured(measure: Callable[[], HasSection]) -> HasSection:
    """What could not be measured costs nothing of what was."""
    try:
        return measure()
    except CpslError as error:
        return NotMeasured(reason=str(error))
    except (MemoryError, cv2.error) as error:  # OpenCV says so in its own way
        return NotMeasured(reason=f"it does not fit into memory or OpenCV cannot do it: {str(error)[:200]}")


def cold_start(job: Job, frame: EncodedFrame) -> Section:
    """In fresh processes."""
    chosen = job.settings
    if not chosen.cold_starts:
        return None
    return _measured(
        lambda: measure_cold_start(
            job.path,
            frame,
            runs=chosen.cold_starts,
            backend=chosen.backend,
            device=chosen.device,
            threads=chosen.threads,
            precision=chosen.precision,
            progress=job.progress,
        )
    )


def variants(job: Job, frames: Sequence[EncodedFrame]) -> Section:
    """First of all, as it may end with an error: one that was replaced in silence."""
    if not job.settings.variants:
        return None
    first, *others = decoded_frames(frames, _VARIANT_FRAMES)
    images = [first, *(image for image in others if image.shape == first.shape)]
    size = first.shape[0], first.shape[1]
    labelled = job.dataset if job.dataset is not None and job.dataset.has_labels else None
    # The file itself where a run folder holds no weights.
    of = job.model if any(job.model.glob("*.safetensors")) or not job.model.is_dir() else job.path
    with tempfile.TemporaryDirectory(prefix="cpsl-variants-") as folder:
        found = variants_of(of, frame_size=size, folder=Path(folder), threads=job.settings.threads)
        fraction = partial(roofline_fraction, threads=job.settings.threads, rates=_stated_rates(job.settings))
        return measure_variants(
            found,
            images,
            dataset=labelled,
            fraction=fraction if job.settings.roofline else None,
            progress=job.progress,
        )


def throughput(
    job: Job, segmenter: Segmenter, frames: Sequence[EncodedFrame], samples: LatencySamples
) -> Section:
    """With overlapping stages."""
    if not job.settings.throughput:
        return None
    return _measured(lambda: measure_throughput(segmenter, frames, samples.stages_ms, progress=job.progress))


def stream(job: Job, segmenter: Segmenter, frames: Sequence[EncodedFrame]) -> Section:
    """Ages in one stream."""
    chosen = job.settings
    if not chosen.stream_seconds:
        return None
    return _measured(
        lambda: measure_stream_age(
            segmenter,
            frames,
            fps=chosen.stream_fps,
            seconds=chosen.stream_seconds,
            progress=job.progress,
        )
    )


def load(job: Job, segmenter: Segmenter, frames: Sequence[EncodedFrame]) -> Section:
    """How many streams keep the age that was asked for."""
    chosen, limit = job.settings, job.settings.max_age_ms
    if limit is None:
        return None
    return _measured(
        lambda: measure_load(
            segmenter,
            frames,
            max_age_ms=limit,
            fps=chosen.stream_fps,
            seconds=chosen.stream_seconds,
            progress=job.progress,
        )
    )


def sweep(job: Job, segmenter: Segmenter, frames: Sequence[EncodedFrame]) -> Section:
    """Frame sizes and batches."""
    chosen = job.settings
    if not chosen.sweep_sizes and not chosen.sweep_batches:
        return None
    first = decoded_frames(frames, 1)[0]
    return _measured(
        lambda: measure_sweep(
            segmenter,
            frames,
            sizes=chosen.sweep_sizes or ((first.shape[0], first.shape[1]),),
            batches=chosen.sweep_batches or (1,),
            # What the network itself costs, where the file takes frames as they are.
            own_size=segmenter.backend.static_size is None,
            progress=job.progress,
        )
    )


def roofline(job: Job, segmenter: Segmenter, samples: LatencySamples) -> Section:
    """What the machine could do at most."""
    if not job.settings.roofline:
        return None
    usual = Counter(samples.sizes).most_common(1)[0][0]
    return _measured(
        lambda: measure_roofline(
            job.path,
            segmenter.backend.describe(),
            segmenter.input_size(*usual),
            float(np.median(samples.stages_ms["inference"])),
            threads=job.settings.threads,
            rates=_stated_rates(job.settings),
            progress=job.progress,
        )
    )


def _stated_rates(settings: BenchmarkSettings) -> Rates | None:
    tflops, gbs = settings.matrix_tflops, settings.copy_gbs
    if tflops is None or gbs is None:
        return None
    return stated_rates(matrix_flops=1e12 * tflops, copy_bytes=1e9 * gbs)


def accuracy(job: Job, segmenter: Segmenter) -> ClassAccuracy | None:
    """None without labels."""
    if job.dataset is None or not job.dataset.has_labels:
        return None
    return evaluate(
        segmenter,
        job.dataset,
        boundary_pixels=job.settings.boundary_pixels,
        progress=job.progress,
    )


def sustained(job: Job, segmenter: Segmenter, frames: Sequence[EncodedFrame]) -> Section:
    """Minutes without a pause, and the sensors."""
    minutes = job.settings.sustain_minutes
    if minutes is None:
        return None
    sensors = Sensors.find(gpu=segmenter.backend.device == "cuda")
    try:
        return measure_sustained(segmenter, frames, minutes=minutes, sensors=sensors, progress=job.progress)
    finally:
        sensors.close()


def classes(
    spec: ModelSpec,
    samples: LatencySamples,
    extraction: Sequence[ExtractionCost | None],
    accuracy: ClassAccuracy | None,
    stream: Section,
) -> list[dict[str, Any]]:
    """The section ``classes``: what is known of each class of the model, in its order."""
    predicted = samples.predicted_pixels.sum(axis=0)
    latencies = class_latencies(samples)
    scores = accuracy.class_scores() if accuracy else None
    ages = stream.classes if isinstance(stream, StreamAge) else None
    no_scores = dict.fromkeys(
        ("iou", "iou_interval", "precision", "recall", "boundary_iou", "boundary_f_score", "label_share")
    )
    return [
        {
            **(scores[k].to_json() if scores else no_scores),
            "name": name,
            "colour": list(spec.palette[k]),
            "predicted_share": float(predicted[k] / predicted.sum()),
            "latency": asdict(latencies[k]),
            "extraction": None if cost is None else asdict(cost),
            "stream_age": asdict(ages[k]) if ages else None,
        }
        for k, (name, cost) in enumerate(zip(spec.class_names, extraction, strict=True))
    ]
