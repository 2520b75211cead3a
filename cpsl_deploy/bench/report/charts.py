"""Every chart by its name, as inline SVG for the HTML document; and one picture of the main ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..record import Record
from . import class_charts, latency_charts, limit_charts, load_charts
from .canvas import FONT, chart_style, inline_svg, new_figure, require_matplotlib, save_png
from .headline import headline, subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Chart:
    """A chart with the words that stand for it where it is not seen."""

    title: str
    description: str
    draw: Callable[[Record], Figure | None]
    """None if the record has nothing to draw."""
    captioned: bool = False
    """Whether the title is shown above it, where neither the section nor the chart says what it is."""


CHARTS = {
    "stages": Chart(
        "Latency by stage",
        "A stacked bar of the stages' means, and below it each stage's p50, p90, p99 and maximum on a "
        "logarithmic axis.",
        latency_charts.stages,
    ),
    "distribution": Chart(
        "Distribution of the total latency",
        "A histogram of all measured frames with lines at p50, p90 and p99 and a cross for every outlier.",
        latency_charts.distribution,
    ),
    "timeline": Chart(
        "Total latency over the run",
        "A dot for every frame in the order of the run, with lines at p50 and p99 and crosses for outliers.",
        latency_charts.timeline,
    ),
    "throughput": Chart(
        "Throughput",
        "Frames per second one after the other, with stages overlapped, and of the slowest stage alone.",
        latency_charts.throughput,
    ),
    "cold_start": Chart(
        "Cold start",
        "A bar for each fresh process: starting the interpreter, importing, loading the model, first frame.",
        latency_charts.cold_start,
    ),
    "sweep": Chart(
        "Frame sizes and batches",
        "Milliseconds per frame by size and batch as a heat table, and frames per second over the size.",
        latency_charts.sweep,
    ),
    "classes": Chart(
        "Classes: what each gets and costs",
        "For each class its IoU with interval, the latency of the frames that show it, the cost of taking it "
        "out of a label map, and its age in a live stream, as far as measured.",
        class_charts.classes,
    ),
    "class_scores": Chart(
        "Classes: scores",
        "For each class its IoU, precision, recall and boundary scores as marks on a line from 0 to 100 %.",
        class_charts.class_scores,
        captioned=True,
    ),
    "confusion": Chart(
        "Classes: confusion",
        "Where the labelled pixels of every class went, in percent of the class.",
        class_charts.confusion,
    ),
    "ratios": Chart(
        "Speed of libraries and precisions",
        "For each variant how many times as fast as the yardstick it is, with an interval.",
        limit_charts.ratios,
        captioned=True,
    ),
    "front": Chart(
        "Precision against speed",
        "Each variant by its frames per second and its accuracy; those on the Pareto front are filled.",
        limit_charts.front,
        captioned=True,
    ),
    "roofline": Chart(
        "Roofline",
        "FLOP per second over FLOP per byte, both logarithmic: the machine's limits as lines, layers as "
        "dots at their limits, the slowest layers and the whole model where they were measured.",
        limit_charts.roofline,
        captioned=True,
    ),
    "slowest": Chart(
        "Slowest layers",
        "Milliseconds of the slowest layers in the profile, with each layer's limit.",
        limit_charts.slowest,
        captioned=True,
    ),
    "sustained": Chart(
        "Sustained load",
        "Latency, rate, clocks, temperature, power and memory over the minutes of the run.",
        load_charts.sustained,
    ),
    "load": Chart(
        "Streams at once",
        "Age of the results and delivered frames per second against the number of streams, with the limit.",
        load_charts.load,
    ),
}


def chart_svg(record: Record, name: str) -> str | None:
    """A chart of CHARTS as an SVG element; None if there is nothing to draw. Raises MissingExtraError."""
    require_matplotlib()
    chart = CHARTS[name]
    with chart_style():
        figure = chart.draw(record)
        return None if figure is None else inline_svg(figure, f"chart-{name}", chart.title, chart.description)


def write_overview(record: Record, path: Path) -> None:
    """Latency by stage and by class as one PNG. Raises MissingExtraError, OutputError as files do."""
    require_matplotlib()
    rows = record["classes"]
    with chart_style():
        panels: list[class_charts.Panel] = [class_charts.draw_latency]
        if any(row["iou"] is not None for row in rows):
            panels.insert(0, class_charts.draw_iou)
        found = record["latency"]["stages_ms"]
        height = max(2.9 + 0.3 * len(found), 1.9 + 0.27 * len(rows))
        figure = new_figure(height, 7.0 + 3.4 * len(panels))
        halves: Any = figure.subfigures(1, 2, width_ratios=(7.0, 3.4 * len(panels)))
        left, right = halves
        top, bottom = left.subplots(2, 1, height_ratios=(1, 1.0 + 0.45 * len(found)))
        latency_charts.draw_mean_stack(top, found, columns=3)
        latency_charts.draw_percentiles(bottom, found)
        axes = list(right.subplots(1, len(panels), sharey=True, squeeze=False)[0])
        class_charts.draw_panels(axes, panels, rows)
        facts = "   ".join(f"{f.title} {f.value} {f.unit}" for f in headline(record)[:5])
        words = dict(subject(record))
        figure.suptitle(
            f"{record['model']['name']}: {facts}\n{words['runtime']}; {words['machine']}; {words['frames']}",
            fontsize=FONT + 1, x=0.01, ha="left",
        )  # fmt: skip
        save_png(figure, path)
