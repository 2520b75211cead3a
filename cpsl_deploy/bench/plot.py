"""A benchmark as one picture: latency by stage on the left, what each class gets and costs on the right."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MissingExtraError
from ..files import atomic_path
from .latency import STAGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .benchmark import BenchmarkResult, ClassResult

_STAGE_COLOURS = {
    "decode": "#8da0cb",
    "pre": "#66c2a5",
    "inference": "#fc8d62",
    "post": "#e78ac3",
    "other": "#d9d9d9",
    "total": "#4d4d4d",
}
_EXTRACTION_COLOURS = {"mask": "#3182bd", "area": "#9ecae1", "contours": "#fdae6b"}
_LATENCY_COLOUR = "#4d4d4d"


def require_matplotlib() -> None:
    """Raises MissingExtraError if matplotlib is not installed; imports nothing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "plot", "The plot of a benchmark (leave it out with --no-plot)")


def write_plot(result: BenchmarkResult, path: Path) -> None:
    """Draw the benchmark as a PNG. Raises MissingExtraError without matplotlib, OutputError as files do."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class_panels = _class_panels(result)
    height = max(5.0, 2.2 + 0.32 * len(result.classes))
    figure = Figure(figsize=(5.6 + 3.4 * len(class_panels), height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(4, 3 + 2 * len(class_panels))
    _draw_mean_stack(figure.add_subplot(grid[0, :3]), result)
    _draw_percentiles(figure.add_subplot(grid[1:, :3]), result)
    first: Axes | None = None
    for column, draw in enumerate(class_panels):
        left = 3 + 2 * column
        axes = figure.add_subplot(grid[:, left : left + 2], sharey=first)
        draw(axes, result.classes)
        _style_class_axes(axes, result.classes, labelled=first is None)
        first = first or axes
    figure.suptitle(_title(result), fontsize=12)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _title(result: BenchmarkResult) -> str:
    accuracy = "" if result.mean_iou is None else f"mIoU {100 * result.mean_iou:.1f} %, "
    total = result.stages["total"]
    return (
        f"{result.model_name}: {accuracy}p50 {total.p50:.1f} ms, p99 {total.p99:.1f} ms, "
        f"{result.samples.fps:.1f} frames/s on {result.machine.cpu}, {result.runtime['backend']}"
    )


def _draw_mean_stack(axes: Axes, result: BenchmarkResult) -> None:
    """One bar whose parts add up: means do, percentiles do not."""
    means = {stage: result.stages[stage].mean for stage in STAGES if stage != "total"}
    means["other"] = max(0.0, result.stages["total"].mean - sum(means.values()))
    left = 0.0
    for stage, mean in means.items():
        axes.barh(0, mean, left=left, color=_STAGE_COLOURS[stage], label=f"{stage} {mean:.2f}")
        left += mean
    axes.set(title=f"Mean of a frame, {left:.2f} ms", xticks=[], yticks=[], xlim=(0, left))
    axes.legend(ncols=3, fontsize=9, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 0.0))
    axes.spines[:].set_visible(False)


def _draw_percentiles(axes: Axes, result: BenchmarkResult) -> None:
    largest = max(summary.p99 for summary in result.stages.values())
    for row, stage in enumerate(STAGES):
        summary = result.stages[stage]
        for value, opacity in ((summary.p99, 0.35), (summary.p90, 0.5), (summary.p50, 1.0)):
            axes.barh(row, value, color=_STAGE_COLOURS[stage], alpha=opacity, height=0.62)
        text = f"{summary.p50:.2f} / {summary.p90:.2f} / {summary.p99:.2f}"
        axes.text(summary.p99 + 0.015 * largest, row, text, va="center", fontsize=9)
    axes.set(
        title="p50 (solid) / p90 / p99 (palest) by stage",
        xlabel="ms",
        xlim=(0, 1.6 * largest),
        yticks=range(len(STAGES)),
        yticklabels=STAGES,
    )
    axes.invert_yaxis()
    _open_frame(axes)


def _class_panels(result: BenchmarkResult) -> list[Callable[[Axes, tuple[ClassResult, ...]], None]]:
    panels: list[Callable[[Axes, tuple[ClassResult, ...]], None]] = [_draw_class_latency, _draw_extraction]
    return [_draw_iou, *panels] if result.accuracy else panels


def _draw_iou(axes: Axes, classes: tuple[ClassResult, ...]) -> None:
    for row, result in enumerate(classes):
        iou = None if result.iou is None else 100 * result.iou
        colour = tuple(value / 255 for value in result.colour)
        axes.barh(row, iou or 0, color=colour, edgecolor="#666666", linewidth=0.5, height=0.7)
        share = "" if not result.label_share else f"  ({_share_text(result.label_share)})"
        _annotate(axes, iou or 0, row, "n/a" if iou is None else f"{iou:.1f}{share}", 100)
    axes.set(title="IoU, % (share of labels)", xlim=(0, 165), xticks=range(0, 101, 25))


def _share_text(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def _draw_class_latency(axes: Axes, classes: tuple[ClassResult, ...]) -> None:
    largest = max((c.latency.p99_ms or 0 for c in classes), default=0) or 1.0
    for row, result in enumerate(classes):
        p50, p99, frames = result.latency.p50_ms, result.latency.p99_ms, result.latency.frames
        if p50 is None or p99 is None:
            _annotate(axes, 0, row, "never predicted", largest)
            continue
        axes.barh(row, p99, color=_LATENCY_COLOUR, alpha=0.35, height=0.7)
        axes.barh(row, p50, color=_LATENCY_COLOUR, height=0.7)
        _annotate(axes, p99, row, f"{p50:.1f} / {p99:.1f}  ({frames} frames)", largest)
    axes.set(title="Total latency where predicted,\np50 / p99 ms", xlim=(0, 1.9 * largest))


def _draw_extraction(axes: Axes, classes: tuple[ClassResult, ...]) -> None:
    largest = max((c.extraction.total_ms for c in classes if c.extraction), default=0) or 1.0
    for row, result in enumerate(classes):
        cost = result.extraction
        if cost is None:
            _annotate(axes, 0, row, "never predicted", largest)
            continue
        parts = {"mask": cost.mask_ms, "area": cost.area_ms, "contours": cost.contours_ms}
        starts = np.cumsum([0.0, *parts.values()])
        for start, (part, value) in zip(starts, parts.items(), strict=False):
            axes.barh(row, value, left=start, color=_EXTRACTION_COLOURS[part], height=0.7)
        _annotate(axes, cost.total_ms, row, f"{cost.total_ms:.3f}", largest)
    for part, colour in _EXTRACTION_COLOURS.items():
        axes.barh([0], [0], color=colour, label=part)
    axes.set(title="Extracting one class, ms", xlim=(0, 1.35 * largest))
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3, frameon=False)


def _annotate(axes: Axes, value: float, row: int, text: str, largest: float) -> None:
    axes.text(value + 0.02 * largest, row, text, va="center", fontsize=9)


def _style_class_axes(axes: Axes, classes: tuple[ClassResult, ...], *, labelled: bool) -> None:
    names: Any = [result.name for result in classes]
    if labelled:
        axes.set(yticks=range(len(classes)), yticklabels=names, ylim=(len(classes) - 0.5, -0.5))
    else:
        axes.tick_params(labelleft=False)
    _open_frame(axes)


def _open_frame(axes: Axes) -> None:
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
