"""The same model in every library and precision that can be had, in turns on the same frames.

A variant is a way to run the model, opened as a `Segmenter`, so that all do the very same work: a uint8 frame
in, uint8 labels of the frame's size out. What cannot be had is listed with the reason. A library that was
asked for one thing and quietly does another is an error, not a row: its figures would go by a wrong name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, UnavailableError
from ..segmenter import Segmenter, labels_of
from .accuracy import evaluate
from .interleaved import ROUNDS, measure_in_turns, speed
from .latency import Progress, no_progress, summarise

if TYPE_CHECKING:
    from ..data import Dataset

_log = logging.getLogger(__name__)

Fraction = Callable[[Path, Mapping[str, Any], tuple[int, int], float], "float | None"]
"""`roofline.roofline_fraction`: of an ONNX file or engine, what a backend says of itself, the (height, width)
that the file is given, and milliseconds a frame, the share of the least time that the machine allows."""
_PLAIN = ("fp32", "bf16", "fp16")
BUDGET_S = 120.0
"""Seconds for the rounds; what takes seconds a frame is measured in fewer of them."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to run a model."""

    name: str
    """For tables: ``fp32 onnxruntime``, ``int8 openvino bf16``, ``bf16 torch compiled``."""
    precision: str
    """What the network computes in: "fp32", "fp16", "bf16", "int8", and "int8+bf16" or "int8+fp16" where what
    is not in integers is not in fp32, either."""
    asked: Mapping[str, Any]
    """What the opened backend's ``describe()`` must say of itself, for example its device."""
    open: Callable[[], Segmenter] = field(repr=False)
    """May make the file first. Raises UnavailableError, or InputError for what a library refuses."""


@dataclass(frozen=True, kw_only=True)
class VariantRow:
    """One variant's figures."""

    name: str
    runtime: dict[str, Any]
    """As the backend describes itself."""
    precision: str
    """As of `Variant`."""
    bytes: int | None
    """Of the file; None for what runs none."""
    p50_ms: float
    """Milliseconds a frame, from a frame in memory to its label map."""
    p90_ms: float
    p99_ms: float
    ratio: float
    """How many times as fast as the yardstick: the median over the rounds."""
    ratio_low: float
    """Quartiles of it."""
    ratio_high: float
    agreement: float
    """Share of pixels, 0 to 1, that have the yardstick's label."""
    miou: float | None
    """0 to 1; None without labelled data."""
    roofline_fraction: float | None = None
    """The least time that the machine's rates allow over p50; None where that was not computed."""


@dataclass(frozen=True, kw_only=True)
class Unavailable:
    """A variant that could not be had."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class VariantResults:
    """The section ``variants`` of a record."""

    yardstick: str
    """Name of the first variant that could be had."""
    size: tuple[int, int]
    """(height, width) of the frames in pixels."""
    rows: tuple[VariantRow, ...]
    """The yardstick first."""
    unavailable: tuple[Unavailable, ...]
    samples_ms: dict[str, np.ndarray]
    """(rounds,) float64 milliseconds a frame, by the variants' names."""

    @property
    def rounds(self) -> int:
        return len(self.samples_ms[self.yardstick])

    def to_json(self) -> dict[str, Any]:
        """The section, in types that JSON knows; n/a is null."""
        return {
            "yardstick": self.yardstick,
            "rounds": self.rounds,
            "size": list(self.size),
            "rows": [asdict(row) for row in self.rows],
            "unavailable": [asdict(one) for one in self.unavailable],
            "samples_ms": {name: times.tolist() for name, times in self.samples_ms.items()},
        }


def measure_variants(
    variants: Sequence[Variant],
    frames: Sequence[np.ndarray],
    *,
    dataset: Dataset | None = None,
    rounds: int = ROUNDS,
    budget_s: float = BUDGET_S,
    fraction: Fraction | None = None,
    graph: Path | None = None,
    progress: Progress = no_progress,
) -> VariantResults:
    """Open all variants, and measure them in turns on frames uint8 (H, W, 3) BGR, all of one size.

    The first variant that can be had is the yardstick. ``dataset``: labelled images on which each is scored.
    ``rounds`` and ``budget_s``: as of `measure_in_turns`. ``fraction``: for the rows' ``roofline_fraction``;
    what runs no file, such as torch, is held against the layers of ``graph``, an ONNX file, or without one
    against those of the first float32 file.

    Raises UnavailableError if a variant does something else than it was asked for, or if none can be had;
    InputError without frames, for frames of several sizes, or names that are not unique.
    """
    _check(variants, frames)
    with contextlib.ExitStack() as stack:
        opened, unavailable = _open_all(variants, frames, stack, progress)
        if not opened:
            reasons = "; ".join(f"{one.name}: {one.reason}" for one in unavailable)
            raise UnavailableError(f"the model can be run in no way at all here. {reasons}")
        samples = measure_in_turns(
            {one.variant.name: partial(labels_of, one.segmenter) for one in opened},
            frames,
            rounds=rounds,
            at_once={one.variant.name: one.at_once for one in opened},
            budget_s=budget_s,
            progress=progress,
        )
        yardstick = opened[0]
        rows = [
            _row(one, yardstick, samples, None if dataset is None else _miou(one, dataset, progress))
            for one in opened
        ]
        if fraction is not None:
            rows = _held_against(rows, opened, frames[0].shape[:2], fraction, graph)
    return VariantResults(
        yardstick=yardstick.variant.name,
        size=(frames[0].shape[0], frames[0].shape[1]),
        rows=tuple(rows),
        unavailable=tuple(unavailable),
        samples_ms=samples,
    )


def unavailable_variant(name: str, error: UnavailableError) -> Variant:
    """One that is known not to be had, so that it is listed."""

    def refuse() -> Segmenter:
        raise error

    return Variant(name=name, precision="", asked={}, open=refuse)


def require_as_asked(variant: Variant, described: Mapping[str, Any]) -> None:
    """Raises UnavailableError if what runs is not what was asked for."""
    wrong = [
        f"{key} {described.get(key)!r} instead of {value!r}"
        for key, value in variant.asked.items()
        if described.get(key) != value
    ]
    if wrong:
        raise UnavailableError(
            f"the variant {variant.name!r} opened without an error and runs with {', '.join(wrong)}: it was "
            "replaced in silence, and its figures would go by a wrong name. Check the drivers and libraries "
            "that it needs, or uninstall the library"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Opened:
    variant: Variant
    segmenter: Segmenter
    labels: list[np.ndarray]
    """uint8 (H, W) of each frame."""

    @property
    def at_once(self) -> int:
        """Frames that one call of `labels_of` computes."""
        return self.segmenter.backend.batch or self.segmenter.backend.least_batch

    @property
    def file(self) -> Path | None:
        """What is run, if it is a file."""
        path = Path(self.segmenter.origin)
        return path if path.is_file() else None


def _check(variants: Sequence[Variant], frames: Sequence[np.ndarray]) -> None:
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) != 1:
        raise InputError(
            "variants are compared on frames of one size; got "
            f"{', '.join(map(str, sorted(sizes))) or 'no frame'}"
        )
    names = [variant.name for variant in variants]
    if len(set(names)) != len(names):
        raise InputError(f"variants are told apart by their names; got {', '.join(names)}")


def _open_all(
    variants: Sequence[Variant],
    frames: Sequence[np.ndarray],
    stack: contextlib.ExitStack,
    progress: Progress,
) -> tuple[list[_Opened], list[Unavailable]]:
    opened, unavailable = [], []
    for i, variant in enumerate(variants):
        progress("opening variants", i, len(variants))
        try:
            segmenter = stack.enter_context(variant.open())
            # Some find out with the first frame that they do not run: memory, a kernel that is missing.
            labels = [labels_of(segmenter, frame) for frame in frames]
        except (UnavailableError, InputError) as error:
            _log.info("the variant %s is not measured: %s", variant.name, error)
            unavailable.append(Unavailable(name=variant.name, reason=str(error)))
            continue
        # Outside of the try: being replaced in silence is no way of not being there.
        require_as_asked(variant, segmenter.backend.describe())
        opened.append(_Opened(variant=variant, segmenter=segmenter, labels=labels))
    progress("opening variants", len(variants), len(variants))
    return opened, unavailable


def _row(one: _Opened, yardstick: _Opened, samples: dict[str, np.ndarray], miou: float | None) -> VariantRow:
    times = samples[one.variant.name]
    summary, compared = summarise(times), speed(samples[yardstick.variant.name], times)
    same = [np.mean(a == b) for a, b in zip(one.labels, yardstick.labels, strict=True)]
    return VariantRow(
        name=one.variant.name,
        runtime=one.segmenter.backend.describe(),
        precision=one.variant.precision,
        bytes=one.file.stat().st_size if one.file else None,
        p50_ms=summary.p50,
        p90_ms=summary.p90,
        p99_ms=summary.p99,
        ratio=compared.ratio,
        ratio_low=compared.low,
        ratio_high=compared.high,
        agreement=float(np.mean(same)),
        miou=miou,
    )


def _held_against(
    rows: Sequence[VariantRow],
    opened: Sequence[_Opened],
    frame_size: tuple[int, ...],
    fraction: Fraction,
    graph: Path | None,
) -> list[VariantRow]:
    floats = (one.file for one in opened if one.file and one.segmenter.contract.precision == "fp32")
    usual = graph or next(floats, None)
    held = []
    for row, one in zip(rows, opened, strict=True):
        counted = one.file or usual
        if counted is not None:
            # What the network really computes in, where one word says it.
            runtime = {**row.runtime, "precision": row.precision} if row.precision in _PLAIN else row.runtime
            share = fraction(counted, runtime, one.segmenter.input_size(*frame_size), row.p50_ms)
            row = dataclasses.replace(row, roofline_fraction=share)
        held.append(row)
    return held


def _miou(one: _Opened, dataset: Dataset, progress: Progress) -> float | None:
    mean = evaluate(one.segmenter, dataset, progress=progress).mean_iou
    return mean if math.isfinite(mean) else None
