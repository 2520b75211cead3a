"""One benchmark of one model file: every part measured in turn, and put into one record."""

from __future__ import annotations

import datetime
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..data import Dataset, dataset_splits, open_dataset
from ..errors import CpslError, InputError, ModelFileError
from ..files import sha256
from ..machine import Machine, Sensors, describe_machine, package_versions
from ..segmenter import Segmenter, find_model, load
from .accuracy import ClassAccuracy, class_differences, evaluate
from .class_cost import class_latencies, measure_extraction
from .clock import measure_clock
from .cold_start import measure_cold_start
from .fingerprint import data_sha256
from .frames import EncodedFrame, dataset_frames, decoded_frames, evenly_spaced, synthetic_frames
from .latency import LatencySamples, LatencySummary, Progress, measure_latency, no_progress
from .load import measure_load
from .record import KIND, SCHEMA_VERSION, Record, unavailable
from .settings import BenchmarkSettings
from .stream_age import StreamAge, measure_stream_age
from .sustained import measure_sustained
from .throughput import measure_throughput
from .variant_files import variants_of
from .variants import measure_variants

RELIABLE_P99 = 100
"""With fewer frames a 99th percentile lies between the two slowest ones."""
SYNTHETIC_COUNT = RELIABLE_P99
"""Measured frames when there is no data and no number is given."""
_VARIANT_FRAMES = 4
"""Different frames on which variants are compared."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BenchmarkResult:
    """Everything measured: ``record`` is the whole of it, the rest are its parts as arrays and objects."""

    record: Record
    """Ready for JSON; see `cpsl_deploy.bench.record`."""
    samples: LatencySamples
    stages: dict[str, LatencySummary]
    """Milliseconds, by the names of `cpsl_deploy.bench.latency.STAGES`."""
    accuracy: ClassAccuracy | None
    """None without labels."""

    @property
    def mean_iou(self) -> float | None:
        """From 0 to 1; None without labels."""
        return _finite(self.accuracy.mean_iou) if self.accuracy else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before believing a figure, one sentence or two each."""
        return tuple(self.record["notes"])

    def to_json(self) -> Record:
        """The record."""
        return self.record

    def headline(self) -> dict[str, Any]:
        """The figures that fit in one line."""
        total, runtime = self.stages["total"], self.record["runtime"]
        return {
            "model": self.record["model"]["name"],
            "backend": runtime["backend"],
            "device": runtime["device"],
            "frames": total.count,
            "miou": _rounded(self.mean_iou, 4),
            "p50_ms": _rounded(total.p50, 3),
            "p90_ms": _rounded(total.p90, 3),
            "p99_ms": _rounded(total.p99, 3),
            "fps": _rounded(self.samples.fps, 2),
        }


def benchmark(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    data_root: str | os.PathLike[str] | None = None,
    command: str | None = None,
    progress: Progress = no_progress,
    **settings: Any,
) -> BenchmarkResult:
    """Load a model and measure it.

    ``model``: a model file, or a run folder that holds one, as `cpsl_deploy.load` takes it; with ``variants``
    a run folder gives those in torch, too.
    ``data``: a dataset reference as `cpsl_deploy.data.open_dataset` takes it, looked for under ``data_root``.
    With labels the accuracy of the file is measured too; without data, frames are synthetic. ``split``:
    without one "val", or the data's only split (a folder of photos has one).
    ``command``: what was typed, for the record. ``settings``: fields of `BenchmarkSettings`;
    `cpsl_deploy.bench.QUICK` holds those that leave all but latency and accuracy out.

    A part that was asked for and cannot be measured is in the record with the reason.
    Raises ModelFileError for a missing or damaged model, DataError for data that cannot be used, InputError
    for a setting that breaks its rule, UnavailableError for a backend or device that is not there, that
    returns before its work is over, or that does something else than it was asked for.
    """
    path = model_file(model)
    root = None if data_root is None else Path(data_root)
    chosen = _settings(data, root, settings)
    whole = _open_data(chosen, root)
    dataset = None if whole is None else whole.subset(evenly_spaced(len(whole), chosen.frames or len(whole)))
    run = _Run(Path(model), path, chosen, whole, dataset, progress)
    return run.measure(command)


def model_file(model: str | os.PathLike[str]) -> Path:
    """The model file itself, or the one in a run folder. Raises ModelFileError if there is none."""
    path = find_model(model)
    if not path.is_file():
        raise ModelFileError(f"there is no model file {path}. Make one with: cpsl-export RUN")
    return path


class _Run:
    """The parts of one benchmark, each a method that gives its section of the record."""

    def __init__(
        self,
        model: Path,
        path: Path,
        settings: BenchmarkSettings,
        whole: Dataset | None,
        dataset: Dataset | None,
        progress: Progress,
    ) -> None:
        self.model, self.path, self.settings = model, path, settings
        self.whole, self.dataset, self.progress = whole, dataset, progress
        self.machine = describe_machine()  # its load is that before the benchmark
        self.notes: list[str] = []

    def measure(self, command: str | None) -> BenchmarkResult:
        """Everything, in an order in which no part warms up or slows down another that is not meant to."""
        created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        clock = measure_clock()
        chosen = self.settings
        with self._load() as segmenter:
            frames = self._frames(segmenter)
        cold_start = self._cold_start(frames[0])
        # First, as it may end with an error, which should not cost the minutes of the rest.
        variants = self._variants(frames)
        with self._load() as segmenter:
            count = chosen.frames or (len(frames) if self.dataset is not None else SYNTHETIC_COUNT)
            samples = measure_latency(
                segmenter, frames, count=count, warm_up=chosen.warm_up, progress=self.progress
            )
            throughput = self._throughput(segmenter, frames, samples)
            stream = self._stream(segmenter, frames)
            load_found = self._load_found(segmenter, frames)
            sweep = self._sweep(segmenter, frames)
            roofline = self._roofline(segmenter, samples)
            extraction = measure_extraction(segmenter, frames, samples, self.progress)
            accuracy = self._accuracy(segmenter)
            sustained = self._sustained(segmenter, frames)
            runtime, contract = segmenter.backend.describe(), segmenter.contract
            spec = segmenter.spec
        self.notes += _notes(self.whole, self.machine, samples, accuracy)
        record: Record = {
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "created": created,
            "command": command,
            "machine": asdict(self.machine),
            "versions": package_versions(),
            "clock": clock.to_json(),
            "model": {
                "name": self.path.name,
                "sha256": sha256(self.path),
                "bytes": self.path.stat().st_size,
                "spec": asdict(spec),
                "contract": {
                    "outputs": list(contract.outputs),
                    "output_stride": contract.output_stride,
                    "colour_order": contract.colour_order,
                    "precision": contract.precision,
                },
            },
            "data": self._data(),
            "settings": asdict(chosen),
            "runtime": runtime,
            "synchronisation": samples.synchronisation.to_json(),
            "cold_start": cold_start,
            "warm_up": samples.warm_up.to_json(),
            "latency": samples.to_json(),
            "throughput": throughput,
            "sweep": sweep,
            "accuracy": accuracy.to_json() if accuracy else None,
            "classes": _classes(spec, samples, extraction, accuracy, stream),
            "stream": stream.to_json() if isinstance(stream, StreamAge) else stream,
            "load": load_found,
            "variants": variants,
            "roofline": roofline,
            "sustained": sustained,
            "notes": self.notes,
            "samples": {
                "frames": list(samples.frames),
                "sizes": [list(size) for size in samples.sizes],
                "stages_ms": {stage: times.tolist() for stage, times in samples.stages_ms.items()},
                "predicted_pixels": samples.predicted_pixels.tolist(),
            },
        }
        # Tuples become lists as in the file, and what is not JSON, NaN among it, fails here.
        record = json.loads(json.dumps(record, allow_nan=False))
        return BenchmarkResult(record=record, samples=samples, stages=samples.summary(), accuracy=accuracy)

    def _load(self) -> Segmenter:
        chosen = self.settings
        return load(
            self.path,
            backend=chosen.backend,
            device=chosen.device,
            threads=chosen.threads,
            precision=chosen.precision,
        )

    def _frames(self, segmenter: Segmenter) -> list[EncodedFrame]:
        """Those to measure. Fails here, before minutes of measuring, if the classes cannot be joined."""
        if self.dataset is None:
            return synthetic_frames(self.settings.size or segmenter.spec.size)
        if self.dataset.classes is not None:
            class_differences(segmenter.spec.classes, self.dataset.classes)
        return dataset_frames(self.dataset)

    def _data(self) -> dict[str, Any] | None:
        if self.dataset is None or self.whole is None:
            return None
        return {
            "reference": self.settings.data,
            "split": self.settings.split,
            "name": self.dataset.name,
            "images": len(self.dataset),
            "sha256": data_sha256(self.dataset),
            "labelled": self.dataset.has_labels,
        }

    def _cold_start(self, frame: EncodedFrame) -> Any:
        chosen = self.settings
        if not chosen.cold_starts:
            return None
        return _section(
            lambda: measure_cold_start(
                self.path,
                frame,
                runs=chosen.cold_starts,
                backend=chosen.backend,
                device=chosen.device,
                threads=chosen.threads,
                precision=chosen.precision,
                progress=self.progress,
            ).to_json()
        )

    def _variants(self, frames: Sequence[EncodedFrame]) -> Any:
        if not self.settings.variants:
            return None
        first, *others = decoded_frames(frames, _VARIANT_FRAMES)
        images = [first, *(image for image in others if image.shape == first.shape)]
        size = first.shape[0], first.shape[1]
        labelled = self.dataset if self.dataset is not None and self.dataset.has_labels else None
        # The file itself where a run folder holds no weights.
        of = self.model if any(self.model.glob("*.safetensors")) or not self.model.is_dir() else self.path
        with tempfile.TemporaryDirectory(prefix="cpsl-variants-") as folder:
            variants = variants_of(of, frame_size=size, folder=Path(folder), threads=self.settings.threads)
            return measure_variants(variants, images, dataset=labelled, progress=self.progress).to_json()

    def _throughput(
        self, segmenter: Segmenter, frames: Sequence[EncodedFrame], samples: LatencySamples
    ) -> Any:
        if not self.settings.throughput:
            return None
        return _section(
            lambda: measure_throughput(segmenter, frames, samples.stages_ms, progress=self.progress).to_json()
        )

    def _stream(self, segmenter: Segmenter, frames: Sequence[EncodedFrame]) -> Any:
        chosen = self.settings
        if not chosen.stream_seconds:
            return None
        return _section(
            lambda: measure_stream_age(
                segmenter,
                frames,
                fps=chosen.stream_fps,
                seconds=chosen.stream_seconds,
                progress=self.progress,
            )
        )

    def _load_found(self, segmenter: Segmenter, frames: Sequence[EncodedFrame]) -> Any:
        chosen, limit = self.settings, self.settings.max_age_ms
        if limit is None:
            return None
        return _section(
            lambda: measure_load(
                segmenter,
                frames,
                max_age_ms=limit,
                fps=chosen.stream_fps,
                seconds=chosen.stream_seconds,
                progress=self.progress,
            ).to_json()
        )

    def _sweep(self, segmenter: Segmenter, frames: Sequence[EncodedFrame]) -> Any:
        chosen = self.settings
        if not chosen.sweep_sizes and not chosen.sweep_batches:
            return None
        from .sweep import measure_sweep

        first = decoded_frames(frames, 1)[0]
        return _section(
            lambda: measure_sweep(
                segmenter,
                sizes=chosen.sweep_sizes or ((first.shape[0], first.shape[1]),),
                batches=chosen.sweep_batches or (1,),
                frames=frames,
                progress=self.progress,
            ).to_json()
        )

    def _roofline(self, segmenter: Segmenter, samples: LatencySamples) -> Any:
        if not self.settings.roofline:
            return None
        return unavailable("not measured yet")

    def _accuracy(self, segmenter: Segmenter) -> ClassAccuracy | None:
        if self.dataset is None or not self.dataset.has_labels:
            return None
        return evaluate(
            segmenter,
            self.dataset,
            boundary_pixels=self.settings.boundary_pixels,
            progress=self.progress,
        )

    def _sustained(self, segmenter: Segmenter, frames: Sequence[EncodedFrame]) -> Any:
        minutes = self.settings.sustain_minutes
        if minutes is None:
            return None
        sensors = Sensors.find(gpu=segmenter.backend.device == "cuda")
        try:
            found = measure_sustained(
                segmenter, frames, minutes=minutes, sensors=sensors, progress=self.progress
            )
        finally:
            sensors.close()
        self.notes += found.notes()
        return found.to_json()


def _section(measure: Callable[[], Any]) -> Any:
    """A part of the record; what could not be measured costs nothing of what was."""
    try:
        return measure()
    except CpslError as error:
        return unavailable(error)


def _settings(
    data: str | os.PathLike[str] | None, root: Path | None, given: dict[str, Any]
) -> BenchmarkSettings:
    known = {field.name for field in fields(BenchmarkSettings)} - {"data"}
    if unknown := sorted(set(given) - known):
        raise InputError(f"a benchmark has the settings {', '.join(sorted(known))}; got {', '.join(unknown)}")
    if data is None:
        return BenchmarkSettings(**{**given, "split": None})  # synthetic frames have none
    reference = os.fspath(data)
    chosen = BenchmarkSettings(data=reference, **given)
    return chosen if chosen.split else replace(chosen, split=_default_split(reference, root))


def _open_data(settings: BenchmarkSettings, root: Path | None) -> Dataset | None:
    if settings.data is None or settings.split is None:
        return None
    return open_dataset(settings.data, settings.split, root=root, role="target")


def _default_split(data: str, root: Path | None) -> str:
    splits = dataset_splits(data, root=root)
    if "val" not in splits and len(splits) == 1:
        return splits[0]
    return "val"


def _classes(
    spec: Any,
    samples: LatencySamples,
    extraction: Sequence[Any],
    accuracy: ClassAccuracy | None,
    stream: StreamAge | Any,
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
            "extraction": asdict(extraction[k]) if extraction[k] else None,
            "stream_age": asdict(ages[k]) if ages else None,
        }
        for k, name in enumerate(spec.class_names)
    ]


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
        yield from accuracy.notes()
    if whole is not None and count > len(whole):
        yield f"The split's {len(whole)} images were gone round to make {count} measured frames."
    if count < RELIABLE_P99:
        yield f"p99 of {count} frames says little more than their maximum; measure {RELIABLE_P99} or more."
    if note := samples.warm_up.note:
        yield note
    if machine.was_busy:
        yield (
            f"The machine was busy in the minute before the start (load average {machine.load_average}): "
            "if that work went on, latencies are too high."
        )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
