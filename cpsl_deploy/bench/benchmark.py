"""One benchmark of one model file: latency, accuracy where labels are, and both per class."""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data import Dataset, dataset_splits, open_dataset
from ..errors import InputError, ModelFileError
from ..files import sha256
from ..machine import Machine, describe_machine, package_versions
from ..segmenter import find_model, load
from ..spec import ModelSpec
from .accuracy import ClassAccuracy, class_differences, evaluate
from .class_cost import ClassLatency, ExtractionCost, class_latencies, measure_extraction
from .frames import dataset_frames, evenly_spaced, synthetic_frames
from .latency import LatencySamples, LatencySummary, Progress, Stopwatch, measure_latency, no_progress

SCHEMA_VERSION = 1
RELIABLE_P99 = 100
"""With fewer frames a 99th percentile lies between the two slowest ones."""
SYNTHETIC_COUNT = RELIABLE_P99
"""Measured frames when there is no data and no number is given."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """What was asked for."""

    data: str | None = None
    """Dataset reference; None for synthetic frames."""
    split: str | None = None
    """None for synthetic frames."""
    frames: int | None = None
    """Frames to measure, spread evenly over the split; the split is gone round again if it has fewer. Without
    a number every frame of the split is measured once, or SYNTHETIC_COUNT synthetic ones."""
    warm_up: int = 10
    """Frames run and discarded after the first one."""
    size: tuple[int, int] | None = None
    """(height, width) of synthetic frames; the model's own size without. Files are measured as they are."""
    backend: str = "auto"
    device: str | None = None
    """None is the CPU for an ONNX file and the GPU for an engine."""
    threads: int | None = None
    """Threads of one inference; None leaves the choice to the backend."""
    precision: str | None = None
    """In which OpenVINO computes; None is f32, and the file's own for the other backends."""

    def __post_init__(self) -> None:
        if self.frames is not None and self.frames < 1:
            raise InputError(f"frames must be 1 or more; got {self.frames}")
        if self.warm_up < 0:
            raise InputError(f"warm-up must be 0 or more frames; got {self.warm_up}")
        if self.size is not None and self.data is not None:
            raise InputError(
                "a size is for synthetic frames; a dataset's frames are measured as their files hold them. "
                "Give a size or data, not both."
            )


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """One class of the model. Shares and IoU are from 0 to 1; None stands for n/a."""

    name: str
    colour: tuple[int, int, int]
    """RGB, 0..255."""
    iou: float | None
    label_share: float | None
    """Share of the scored pixels that is labelled with the class."""
    predicted_share: float
    """Share of all predicted pixels of the measured frames."""
    latency: ClassLatency
    extraction: ExtractionCost | None
    """None for a class that was never predicted."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """Everything measured, with what is needed to believe it. Times are milliseconds."""

    created: str
    """UTC, ISO 8601."""
    machine: Machine
    versions: dict[str, str | None]
    model_name: str
    """File name of the model."""
    model_sha256: str
    model_bytes: int
    spec: ModelSpec
    settings: BenchmarkSettings
    runtime: dict[str, Any]
    """What ran the model, as the backend describes itself: backend, version, device, threads, precision."""
    load_ms: float
    """From the path to a segmenter that can predict, without the first frame. A cold start, importing the
    backend's package included, unless this process had loaded a model before."""
    samples: LatencySamples
    stages: dict[str, LatencySummary]
    accuracy: ClassAccuracy | None
    """None without labels."""
    classes: tuple[ClassResult, ...]
    notes: tuple[str, ...]
    """What a reader must know before believing a figure, one sentence or two each."""

    @property
    def mean_iou(self) -> float | None:
        return _finite(self.accuracy.mean_iou) if self.accuracy else None

    def headline(self) -> dict[str, Any]:
        """The figures that fit in one line."""
        total = self.stages["total"]
        return {
            "model": self.model_name,
            "backend": self.runtime["backend"],
            "device": self.runtime["device"],
            "frames": total.count,
            "miou": _rounded(self.mean_iou, 4),
            "p50_ms": _rounded(total.p50, 3),
            "p90_ms": _rounded(total.p90, 3),
            "p99_ms": _rounded(total.p99, 3),
            "fps": _rounded(self.samples.fps, 2),
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, in types that JSON knows; n/a is null."""
        return {
            "schema_version": SCHEMA_VERSION,
            "created": self.created,
            "machine": asdict(self.machine),
            "versions": self.versions,
            "model": {
                "name": self.model_name,
                "sha256": self.model_sha256,
                "bytes": self.model_bytes,
                "spec": asdict(self.spec),
            },
            "settings": asdict(self.settings),
            "runtime": self.runtime,
            "latency": {
                "load_ms": self.load_ms,
                "first_frame_ms": self.samples.first_frame_ms,
                "fps": self.samples.fps,
                "stages_ms": {stage: asdict(summary) for stage, summary in self.stages.items()},
            },
            "accuracy": _accuracy_json(self.accuracy) if self.accuracy else None,
            "classes": [asdict(result) for result in self.classes],
            "notes": list(self.notes),
            "samples": {
                "frames": list(self.samples.frames),
                "sizes": [list(size) for size in self.samples.sizes],
                "stages_ms": {stage: times.tolist() for stage, times in self.samples.stages_ms.items()},
                "predicted_pixels": self.samples.predicted_pixels.tolist(),
            },
        }


def benchmark(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    split: str | None = None,
    data_root: str | os.PathLike[str] | None = None,
    frames: int | None = None,
    warm_up: int = 10,
    size: tuple[int, int] | None = None,
    backend: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    progress: Progress = no_progress,
) -> BenchmarkResult:
    """Load a model and measure it; see BenchmarkSettings for the arguments.

    ``model``: a model file, or a run folder that holds one, as `cpsl_deploy.load` takes it.
    ``data``: a dataset reference as `cpsl_deploy.data.open_dataset` takes it, looked for under ``data_root``.
    With labels the accuracy of the file is measured too; without data, frames are synthetic.
    ``split``: without one "val", or the data's only split (a folder of photos has one).

    Raises ModelFileError for a missing or damaged model, DataError for data that cannot be used, InputError
    for a setting that breaks its rule, UnavailableError for a backend or device that is not there.
    """
    path = model_file(model)
    root = None if data_root is None else Path(data_root)
    settings = BenchmarkSettings(
        data=None if data is None else os.fspath(data),
        split=None if data is None else split or _default_split(os.fspath(data), root),
        frames=frames,
        warm_up=warm_up,
        size=size,
        backend=backend,
        device=device,
        threads=threads,
        precision=precision,
    )
    whole = _open_data(settings, root)
    dataset = None if whole is None else whole.subset(evenly_spaced(len(whole), frames or len(whole)))
    machine = describe_machine()
    watch = Stopwatch()
    opening = load(path, backend=backend, device=device, threads=threads, precision=precision)
    with opening as segmenter:
        load_ms = watch.lap()
        spec = segmenter.spec
        if dataset is not None and dataset.classes is not None:
            class_differences(spec.classes, dataset.classes)  # fail before minutes of measuring
        encoded = dataset_frames(dataset) if dataset is not None else synthetic_frames(size or spec.size)
        count = frames or (len(dataset) if dataset is not None else SYNTHETIC_COUNT)
        samples = measure_latency(segmenter, encoded, count=count, warm_up=warm_up, progress=progress)
        extraction = measure_extraction(segmenter, encoded, samples, progress)
        accuracy = None
        if dataset is not None and dataset.has_labels:
            accuracy = evaluate(segmenter, dataset, progress=progress)
        runtime = segmenter.backend.describe()
    return BenchmarkResult(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        machine=machine,
        versions=package_versions(),
        model_name=path.name,
        model_sha256=sha256(path),
        model_bytes=path.stat().st_size,
        spec=spec,
        settings=settings,
        runtime=runtime,
        load_ms=load_ms,
        samples=samples,
        stages=samples.summary(),
        accuracy=accuracy,
        classes=_class_results(spec, samples, extraction, accuracy),
        notes=tuple(_notes(whole, machine, samples, accuracy)),
    )


def model_file(model: str | os.PathLike[str]) -> Path:
    """The model file itself, or the one in a run folder. Raises ModelFileError if there is none."""
    path = find_model(model)
    if not path.is_file():
        raise ModelFileError(f"there is no model file {path}. Make one with: cpsl-export RUN")
    return path


def _open_data(settings: BenchmarkSettings, root: Path | None) -> Dataset | None:
    if settings.data is None or settings.split is None:
        return None
    return open_dataset(settings.data, settings.split, root=root, role="target")


def _default_split(data: str, root: Path | None) -> str:
    splits = dataset_splits(data, root=root)
    if "val" not in splits and len(splits) == 1:
        return splits[0]
    return "val"


def _class_results(
    spec: ModelSpec,
    samples: LatencySamples,
    extraction: list[ExtractionCost | None],
    accuracy: ClassAccuracy | None,
) -> tuple[ClassResult, ...]:
    predicted = samples.predicted_pixels.sum(axis=0)
    latencies = class_latencies(samples)
    return tuple(
        ClassResult(
            name=name,
            colour=spec.palette[k],
            iou=_finite(accuracy.iou[k]) if accuracy else None,
            label_share=(
                float(accuracy.label_share[k]) if accuracy and name not in accuracy.unknown_to_data else None
            ),
            predicted_share=float(predicted[k] / predicted.sum()),
            latency=latencies[k],
            extraction=extraction[k],
        )
        for k, name in enumerate(spec.class_names)
    )


def _notes(
    whole: Dataset | None, machine: Machine, samples: LatencySamples, accuracy: ClassAccuracy | None
) -> Iterator[str]:
    count = len(samples.frames)
    if whole is None:
        yield (
            "Frames are synthetic: latency is real, predicted classes mean nothing, accuracy is not measured."
        )
    elif accuracy is None:
        yield (
            f"The split {whole.split!r} of {whole.name} has no labels: latency is measured, accuracy is not."
        )
    else:
        if accuracy.frames < len(whole):
            yield f"Accuracy is of {accuracy.frames} of the split's {len(whole)} images, evenly spread."
        if accuracy.unknown_to_data:
            yield f"n/a, because the data does not have them: {', '.join(accuracy.unknown_to_data)}."
        if accuracy.unknown_to_model:
            yield (
                "Left out, because the model does not have them: "
                f"pixels labelled {', '.join(accuracy.unknown_to_model)}."
            )
    if whole is not None and count > len(whole):
        yield f"The split's {len(whole)} images were gone round to make {count} measured frames."
    if count < RELIABLE_P99:
        yield f"p99 of {count} frames says little more than their maximum; measure {RELIABLE_P99} or more."
    if machine.was_busy:
        yield (
            f"The machine was busy in the minute before the start (load average {machine.load_average}): "
            "if that work went on, latencies are too high."
        )


def _accuracy_json(accuracy: ClassAccuracy) -> dict[str, Any]:
    return {
        "miou": _finite(accuracy.mean_iou),
        "pixel_accuracy": _finite(accuracy.pixel_accuracy),
        "frames": accuracy.frames,
        "unknown_to_data": list(accuracy.unknown_to_data),
        "unknown_to_model": list(accuracy.unknown_to_model),
        "confusion": accuracy.confusion.tolist(),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
