"""One benchmark of one model file: every part measured in turn, and put into one record."""

from __future__ import annotations

import datetime
import json
import math
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..data import Dataset, dataset_splits, open_dataset
from ..errors import InputError, ModelFileError
from ..files import sha256
from ..machine import describe_machine, package_versions
from ..segmenter import Segmenter, find_model, load
from . import sections
from .accuracy import ClassAccuracy, class_differences
from .class_cost import measure_extraction
from .clock import measure_clock
from .conditions import Conditions
from .fingerprint import data_sha256
from .frames import EncodedFrame, dataset_frames, evenly_spaced, synthetic_frames
from .latency import LatencySamples, LatencySummary, Progress, measure_latency, no_progress
from .notes import RELIABLE_P99, notes_of
from .record import KIND, SCHEMA_VERSION, Record
from .roofline import Roofline
from .sections import Job, Section
from .settings import BenchmarkSettings
from .sustained import Sustained

SYNTHETIC_COUNT = RELIABLE_P99
"""Measured frames when there is no data and no number is given."""


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
    job = Job(model=Path(model), path=path, settings=chosen, whole=whole, dataset=dataset, progress=progress)
    return _measure(job, command)


def model_file(model: str | os.PathLike[str]) -> Path:
    """The model file itself, or the one in a run folder. Raises ModelFileError if there is none."""
    path = find_model(model)
    if not path.is_file():
        raise ModelFileError(f"there is no model file {path}. Make one with: cpsl-export RUN")
    return path


def _measure(job: Job, command: str | None) -> BenchmarkResult:
    """Everything, in an order in which no part warms up or slows down another that is not meant to."""
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    machine = describe_machine()  # its load is that before the benchmark
    clock = measure_clock()
    conditions = Conditions()
    with _load(job) as segmenter:
        frames = _frames(job, segmenter)
    parts: dict[str, Section] = {"cold_start": sections.cold_start(job, frames[0])}
    # What may end with an error comes first: it should not cost the minutes of the rest.
    with conditions.part("variants"):
        parts["variants"] = sections.variants(job, frames)
    with _load(job) as segmenter:
        with conditions.part("latency"):
            samples = measure_latency(
                segmenter,
                frames,
                count=job.settings.frames or (SYNTHETIC_COUNT if job.dataset is None else len(frames)),
                warm_up=job.settings.warm_up,
                progress=job.progress,
            )
        with conditions.part("throughput"):
            parts["throughput"] = sections.throughput(job, segmenter, frames, samples)
        with conditions.part("stream"):
            parts["stream"] = sections.stream(job, segmenter, frames)
        with conditions.part("load"):
            parts["load"] = sections.load(job, segmenter, frames)
        with conditions.part("sweep"):
            parts["sweep"] = sections.sweep(job, segmenter, frames)
        with conditions.part("roofline"):
            parts["roofline"] = sections.roofline(job, segmenter, samples)
        extraction = measure_extraction(segmenter, frames, samples, job.progress)
        with conditions.part("accuracy"):
            accuracy = sections.accuracy(job, segmenter)
        with conditions.part("sustained"):
            sustained = sections.sustained(job, segmenter, frames)
        parts |= {"accuracy": accuracy, "sustained": sustained}
        described = _description(job, segmenter)
    asked = {name for name, part in parts.items() if part is not None} | {"latency"}
    conditions.parts = {name: part for name, part in conditions.parts.items() if name in asked}
    notes = [*notes_of(job.whole, machine, samples, accuracy), *conditions.notes()]
    if isinstance(sustained, Sustained):
        notes += sustained.notes
    if isinstance(parts["roofline"], Roofline):
        notes += parts["roofline"].notes()
    record: Record = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "created": created,
        "command": command,
        "machine": asdict(machine),
        "versions": package_versions(),
        "clock": clock.to_json(),
        "conditions": conditions.to_json(),
        **described,
        "synchronisation": samples.synchronisation.to_json(),
        "warm_up": samples.warm_up.to_json(),
        "latency": samples.to_json(),
        **{name: part and part.to_json() for name, part in parts.items()},
        "classes": sections.classes(segmenter.spec, samples, extraction, accuracy, parts["stream"]),
        "notes": notes,
        "samples": samples.every_sample(),
    }
    # Tuples become lists, as in the file, and what is not JSON, NaN among it, fails here.
    record = json.loads(json.dumps(record, allow_nan=False))
    return BenchmarkResult(record=record, samples=samples, stages=samples.summary(), accuracy=accuracy)


def _description(job: Job, segmenter: Segmenter) -> Record:
    """What was measured: the sections ``model``, ``data``, ``settings`` and ``runtime``."""
    contract = segmenter.contract
    return {
        "model": {
            "name": job.path.name,
            "sha256": sha256(job.path),
            "bytes": job.path.stat().st_size,
            "spec": asdict(segmenter.spec),
            "contract": {
                "outputs": list(contract.outputs),
                "output_stride": contract.output_stride,
                "colour_order": contract.colour_order,
                "precision": contract.precision,
            },
        },
        "data": _data(job),
        "settings": asdict(job.settings),
        "runtime": segmenter.backend.describe(),
    }


def _load(job: Job) -> Segmenter:
    chosen = job.settings
    return load(
        job.path,
        backend=chosen.backend,
        device=chosen.device,
        threads=chosen.threads,
        precision=chosen.precision,
    )


def _frames(job: Job, segmenter: Segmenter) -> list[EncodedFrame]:
    """Those to measure. Fails here, before minutes of measuring, if the classes cannot be joined."""
    if job.dataset is None:
        return synthetic_frames(job.settings.size or segmenter.spec.size)
    if job.dataset.classes is not None:
        class_differences(segmenter.spec.classes, job.dataset.classes)
    return dataset_frames(job.dataset)


def _data(job: Job) -> dict[str, Any] | None:
    if job.dataset is None or job.whole is None:
        return None
    return {
        "reference": job.settings.data,
        "split": job.settings.split,
        "name": job.dataset.name,
        "images": len(job.dataset),
        "sha256": data_sha256(job.dataset),
        "labelled": job.dataset.has_labels,
    }


def _settings(
    data: str | os.PathLike[str] | None, root: Path | None, given: dict[str, Any]
) -> BenchmarkSettings:
    known = {field.name for field in fields(BenchmarkSettings)} - {"data"}
    if unknown := sorted(set(given) - known):
        raise InputError(f"a benchmark has the settings {', '.join(sorted(known))}; got {', '.join(unknown)}")
    if data is None:
        if root is not None:
            raise InputError(f"data is looked for in it, and none is given; got {root}. Name the data, too")
        return BenchmarkSettings(**given)
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


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
