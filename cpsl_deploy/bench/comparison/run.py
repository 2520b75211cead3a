"""A record as what a comparison needs of it, checked, and how the conditions of two of them differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..record import DAMAGE, Record, check_record, damaged, measured

_LEAST_MS = 1e-6
"""A nanosecond: of a stage that was faster than the clock can tell."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageCounts:
    """Pixels of each of N images, by class; (N, K) float64 each."""

    names: tuple[str, ...]
    hits: np.ndarray
    labelled: np.ndarray
    predicted: np.ndarray
    """That are labelled with any class, and predicted as this one."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a record that has no samples."""

    value: float
    unit: str
    higher_is_better: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What is compared of one record."""

    record: Record
    origin: str
    """For errors and notes."""
    frames: tuple[str, ...]
    """Names of the N measured frames."""
    stages_ms: dict[str, np.ndarray]
    """(N,) each, positive."""
    shown: np.ndarray
    """(N, K) bool: whether a class appears in the labels of a frame (`latency.APPEARS_SHARE`)."""
    classes: tuple[str, ...]
    images: ImageCounts | None
    """None without labels."""
    unknown: frozenset[str]
    """Classes of the model that the data does not have."""
    figures: dict[str, Figure]
    """By name, from the sections that were measured."""
    variants_ms: dict[str, np.ndarray]
    """Samples of each variant, by its name."""


def read_run(record: Record, origin: str) -> Run:
    """What is compared of a record. ``origin`` names it in errors.

    Raises InputError for another kind or version, or a record that lacks something or was damaged.
    """
    check_record(record, origin)
    try:
        return _read(record, origin)
    except DAMAGE as error:
        raise damaged(origin, error) from error


def _read(record: Record, origin: str) -> Run:
    samples, accuracy = record["samples"], measured(record, "accuracy")
    frames = tuple(samples["frames"])
    classes = tuple(row["name"] for row in record["classes"])
    variants = measured(record, "variants")
    if "total" not in samples["stages_ms"]:
        raise ValueError("samples without the total latency")
    return Run(
        record=record,
        origin=origin,
        frames=frames,
        stages_ms={
            name: np.maximum(_array(times, (len(frames),)), _LEAST_MS)
            for name, times in samples["stages_ms"].items()
        },
        shown=_shown(samples, len(frames), len(classes)),
        classes=classes,
        images=_images(accuracy["images"], len(classes)) if accuracy else None,
        unknown=frozenset(accuracy["unknown_to_data"]) if accuracy else frozenset(),
        figures=dict(_figures(record)),
        variants_ms={
            name: np.maximum(_array(times, (len(times),)), _LEAST_MS)
            for name, times in (variants["samples_ms"] if variants else {}).items()
            if times
        },
    )


def _shown(samples: dict[str, Any], frames: int, classes: int) -> np.ndarray:
    """As the latencies by class of a record are made: without stray pixels."""
    from ..latency import APPEARS_SHARE

    areas = _array(samples["sizes"], (frames, 2)).prod(axis=1)
    pixels = _array(samples["predicted_pixels"], (frames, classes))
    shown: np.ndarray = pixels >= np.maximum(1, APPEARS_SHARE * areas)[:, None]
    return shown


def _array(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Finite float64, 0 or more. Raises ValueError for another shape, none at all, or other values."""
    array = np.array(values, np.float64)
    if array.shape != shape or not array.size:
        raise ValueError(f"an array of shape {array.shape} where {shape} is expected")
    if not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError("a number that is not finite, or below 0")
    return array


def _images(images: dict[str, Any], classes: int) -> ImageCounts:
    shape = len(images["names"]), classes
    hits, labelled, predicted = (_array(images[name], shape) for name in ("hits", "labelled", "predicted"))
    if (hits > np.minimum(labelled, predicted)).any():
        raise ValueError("an image with more hits of a class than pixels of it")
    return ImageCounts(names=tuple(images["names"]), hits=hits, labelled=labelled, predicted=predicted)


def _figures(record: Record) -> Iterator[tuple[str, Figure]]:
    """Names and figures of the optional sections; of cold starts the median over their processes."""
    yield "first frame", _figure(record["warm_up"]["first_frame_ms"], "ms")
    if cold := measured(record, "cold_start"):
        for name in ("load_ms", "first_frame_ms", "to_first_labels_ms"):
            words = name.removesuffix("_ms").replace("_", " ")
            yield f"cold start, {words}", _figure(np.median(cold[name]), "ms")
    yield "one frame after the other", _figure(record["latency"]["fps"], "fps", True)
    if throughput := measured(record, "throughput"):
        yield "throughput", _figure(throughput["fps"], "fps", True)
    if stream := measured(record, "stream"):
        yield "stream, age p99", _figure(stream["age_ms"]["p99"], "ms")
        yield "stream, peak age p99", _figure(stream["peak_age_ms"]["p99"], "ms")
    if load := measured(record, "load"):
        limits = f"{load['max_age_ms']:g} ms, {load['source_fps']:g} fps"
        yield f"streams within {limits}", _figure(load["streams"], "streams", True)
    if sustained := measured(record, "sustained"):
        series = sustained["series"]
        peak = [value for value in series["process_bytes"] if value is not None]
        if peak:
            yield "sustained, peak memory", _figure(max(peak), "bytes")
        yield "sustained, median rate", _figure(np.median(series["fps"]), "fps", True)
        for rail, joules in (sustained["energy_per_frame_j"] or {}).items():
            yield f"sustained, energy per frame, {rail}", _figure(joules, "J")
    yield "model file", _figure(record["model"]["bytes"], "bytes")


def _figure(value: Any, unit: str, higher_is_better: bool = False) -> Figure:
    number = float(value)
    if not np.isfinite(number):
        raise ValueError("a number that is not finite")
    return Figure(value=number, unit=unit, higher_is_better=higher_is_better)


def differences(a: Run, b: Run) -> list[str]:
    """Conditions that differ, so that the two cannot say what a change of the model did: one line each."""
    return [
        f"{name}: {_short(of_a)} in A and {_short(of_b)} in B"
        for (name, of_a), (_, of_b) in zip(_conditions(a), _conditions(b), strict=True)
        if of_a != of_b
    ]


def _conditions(run: Run) -> list[tuple[str, Any]]:
    machine, runtime, data = run.record["machine"], run.record["runtime"], run.record["data"] or {}
    jetson = machine.get("jetson") or {}
    return [
        ("processor", machine.get("cpu")),
        ("usable cores", machine.get("usable_cores")),
        ("GPUs", [gpu.split(",")[0] for gpu in machine.get("gpus") or ()]),
        ("Jetson", [jetson.get(key) for key in ("board", "module", "power_mode")] if jetson else None),
        ("device", runtime.get("device")),
        ("threads", runtime.get("threads")),
        ("data's hash", data.get("sha256")),
        ("split", data.get("split")),
        ("measured frames", run.frames),
        ("sizes of the frames", run.record["samples"]["sizes"]),
        ("classes", run.classes),
    ]


def remarks(a: Run, b: Run) -> list[str]:
    """What may be meant to differ, and what a reader must know of either run: one sentence each."""
    found = []
    runtime_a, runtime_b = a.record["runtime"], b.record["runtime"]
    for name in ("backend", "version", "precision", "providers"):
        if runtime_a.get(name) != runtime_b.get(name):
            found.append(f"The {name} is {runtime_a.get(name)} in A and {runtime_b.get(name)} in B.")
    same_model = a.record["model"].get("sha256") == b.record["model"].get("sha256")
    found.append(f"The model files are {'the same' if same_model else 'different'}.")
    versions_a, versions_b = a.record["versions"], b.record["versions"]
    for name in sorted({*versions_a, *versions_b}):
        if versions_a.get(name) != versions_b.get(name):
            found.append(f"{name} is {versions_a.get(name)} in A and {versions_b.get(name)} in B.")
    for word, run in (("A", a), ("B", b)):
        machine, sustained = run.record["machine"], measured(run.record, "sustained")
        if (machine.get("load_average") or 0) > (machine.get("usable_cores") or 1) / 4:
            found.append(f"The machine was busy before {word}.")
        if run.record["warm_up"].get("steady") is False:
            found.append(f"The latency of {word} had not become steady.")
        if sustained and sustained.get("throttled"):
            found.append(f"The sustained run of {word} was throttled.")
    return found


def _short(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) > 4:
        return f"{len(value)} ({', '.join(map(str, value[:2]))}, ...)"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
