"""A benchmark as files: bench.json with every sample, bench.md to read, bench.png to look at."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import new_output_folder, write_json, write_text
from .benchmark import BenchmarkResult, ClassResult
from .latency import STAGES
from .plot import require_matplotlib, write_plot


@dataclass(frozen=True, kw_only=True)
class ReportPaths:
    """Where the files of a benchmark are."""

    json: Path
    markdown: Path
    plot: Path | None
    """None if no plot was wanted."""


def write_report(
    result: BenchmarkResult,
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    plot: bool = True,
) -> ReportPaths:
    """Write the files of a benchmark into a folder, each whole or not at all.

    Raises OutputError for a folder that is not empty without ``overwrite``, or cannot be written;
    MissingExtraError for a plot without matplotlib.
    """
    if plot:
        require_matplotlib()
    place = new_output_folder(folder, overwrite=overwrite)
    paths = ReportPaths(
        json=place / "bench.json", markdown=place / "bench.md", plot=place / "bench.png" if plot else None
    )
    write_json(paths.json, result.to_json())
    write_text(paths.markdown, markdown(result, plot_name=paths.plot.name if paths.plot else None))
    if paths.plot:
        write_plot(result, paths.plot)
    return paths


def markdown(result: BenchmarkResult, *, plot_name: str | None = None) -> str:
    """The benchmark as a Markdown document; ``plot_name`` is the picture to show in it."""
    parts = [f"# Benchmark of {result.model_name}", _setting_sentence(result)]
    if result.accuracy:
        parts.append(
            f"**mIoU {percent(result.mean_iou)} %**, pixel accuracy "
            f"{percent(result.accuracy.pixel_accuracy)} % on {result.accuracy.frames} labelled images."
        )
    parts.append(
        f"**{result.samples.fps:.1f} frames per second**, one after the other; loading "
        f"{result.load_ms:.0f} ms, first frame {result.samples.first_frame_ms:.1f} ms."
    )
    if result.notes:
        parts.append("\n".join(f"- {note}" for note in result.notes))
    parts += ["## Latency, ms", _markdown_table(STAGE_COLUMNS, stage_rows(result))]
    parts += [
        "## Per class",
        _markdown_table(CLASS_COLUMNS, (class_row(c) for c in result.classes)),
        CLASS_LEGEND,
    ]
    if plot_name:
        parts.append(f"![Latency by stage; IoU, latency and extraction cost by class]({plot_name})")
    parts += ["## Machine and versions", _environment(result)]
    return "\n\n".join(parts) + "\n"


STAGE_COLUMNS = ("stage", "mean", "p50", "p90", "p99", "max")
CLASS_COLUMNS = (
    "class", "IoU %", "labelled %", "predicted %", "frames",
    "p50 ms", "p99 ms", "mask ms", "area ms", "contours ms",
)  # fmt: skip
SHORT_CLASS_COLUMNS = ("class", "IoU %", "labelled %", "frames", "p50 ms", "p99 ms", "extract ms")
"""For terminals of 80 columns."""
CLASS_LEGEND = (
    "p50 and p99: total latency over the measured frames in which the class is predicted (their number under "
    "frames). Mask, area, contours: median cost of taking the class out of a label map. n/a: no such figure."
)


def stage_rows(result: BenchmarkResult) -> list[tuple[str, ...]]:
    """One row of text per stage, milliseconds, in the columns of STAGE_COLUMNS."""
    summaries = ((stage, result.stages[stage]) for stage in STAGES)
    return [
        (stage, *(f"{value:.2f}" for value in (s.mean, s.p50, s.p90, s.p99, s.max))) for stage, s in summaries
    ]


def class_row(result: ClassResult) -> tuple[str, ...]:
    """One row of text for a class, in the columns of CLASS_COLUMNS."""
    cost = result.extraction
    costs = (cost.mask_ms, cost.area_ms, cost.contours_ms) if cost else (None, None, None)
    return (
        result.name,
        percent(result.iou),
        percent(result.label_share, digits=2),
        percent(result.predicted_share, digits=2),
        str(result.latency.frames),
        _number(result.latency.p50_ms, 2),
        _number(result.latency.p99_ms, 2),
        *(_number(value, 3) for value in costs),
    )


def short_class_row(result: ClassResult) -> tuple[str, ...]:
    """One row of text for a class, in the columns of SHORT_CLASS_COLUMNS."""
    name, iou, labelled, _, frames, p50, p99, *_ = class_row(result)
    cost = result.extraction
    return (name, iou, labelled, frames, p50, p99, _number(cost.total_ms if cost else None, 3))


def percent(share: float | None, digits: int = 1) -> str:
    """A share from 0 to 1 as a percentage without the sign; ``n/a`` for None."""
    return _number(None if share is None else 100 * share, digits)


def _number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def size_text(result: BenchmarkResult) -> str:
    """The frame size, or the range of sizes, as HxW."""
    sizes = sorted(set(result.samples.sizes))
    first, last = ("x".join(map(str, size)) for size in (sizes[0], sizes[-1]))
    return first if len(sizes) == 1 else f"{len(sizes)} sizes from {first} to {last}"


def _setting_sentence(result: BenchmarkResult) -> str:
    settings = result.settings
    frames = f"{settings.data} ({settings.split})" if settings.data else "synthetic frames"
    runtime = ", ".join(f"{key} {value}" for key, value in result.runtime.items() if value is not None)
    return (
        f"{result.spec.architecture}, {len(result.classes)} classes, on {frames}: "
        f"{len(result.samples.frames)} frames of {size_text(result)}, {settings.warm_up} to warm up; "
        f"{runtime}."
    )


def _environment(result: BenchmarkResult) -> str:
    machine = result.machine
    model = f"{result.model_name}, {result.model_bytes / 2**20:.1f} MiB, SHA-256 {result.model_sha256}"
    rows = [
        ("CPU", f"{machine.cpu}, {machine.cores} cores, {machine.usable_cores:g} usable"),
        ("memory", "n/a" if machine.memory_gib is None else f"{machine.memory_gib} GiB"),
        ("GPU", "; ".join(machine.gpus) or "none"),
        ("system", machine.os),
        *((name, version) for name, version in result.versions.items() if version),
        ("model", model),
        ("measured", result.created),
    ]
    return _markdown_table(("what", "value"), rows)


def _markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in columns[1:])] if len(columns) > 2 else ["---"] * len(columns)
    lines = [columns, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
