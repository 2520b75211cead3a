"""Charts of what each class gets and costs. A class's own colour is a swatch beside its name alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..record import Record, measured
from .canvas import (
    BLUE,
    FONT,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    WIDTH,
    beside,
    draw_cell,
    name_rows,
    new_figure,
    shorten,
)
from .formats import milliseconds
from .tables import extraction_ms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Classes = list[dict[str, Any]]
Panel = Callable[["Axes", Classes], None]
_EXTRACTION = {"mask": ("mask_ms", SKY), "area": ("area_ms", BLUE), "contours": ("contours_ms", ORANGE)}
_SCORES = {
    "precision": ("precision", "^", GREEN), "recall": ("recall", "v", ORANGE),
    "boundary IoU": ("boundary_iou", "D", PURPLE), "boundary F": ("boundary_f_score", "s", VERMILLION),
    "IoU": ("iou", "o", BLUE),
}  # fmt: skip


def classes(record: Record) -> Figure:
    """IoU with its interval beside latency, extraction and age in a stream, a row for each class."""
    rows = record["classes"]
    panels: list[Panel] = [draw_latency]
    if any(row["iou"] is not None for row in rows):
        panels.insert(0, draw_iou)
    if any(row.get("extraction") for row in rows):
        panels.append(_draw_extraction)
    if any((row.get("stream_age") or {}).get("p50_ms") is not None for row in rows):
        panels.append(_draw_age)
    figure = new_figure(1.35 + 0.265 * len(rows))
    draw_panels(list(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]), panels, rows)
    return figure


def draw_panels(axes: list[Axes], panels: list[Panel], rows: Classes) -> None:
    """Panels of the same rows side by side, the names at the first alone."""
    for i, (place, draw) in enumerate(zip(axes, panels, strict=True)):
        draw(place, rows)
        name_rows(place, [shorten(row["name"]) for row in rows])
        if i:
            place.tick_params(labelleft=False)
        else:
            place.tick_params(axis="y", pad=14)
            _draw_swatches(place, rows)


def _draw_swatches(axes: Axes, rows: Classes) -> None:
    for row, result in enumerate(rows):
        colour = tuple(value / 255 for value in result["colour"])
        axes.plot(
            [0], [row], "s", transform=axes.get_yaxis_transform(), color=colour, markersize=7,
            markeredgecolor=MUTED, markeredgewidth=0.6, clip_on=False,
        )  # fmt: skip
        axes.lines[-1].set_transform(axes.get_yaxis_transform() + _points_left(axes, 8))


def _points_left(axes: Axes, points: float) -> Any:
    from matplotlib.transforms import ScaledTranslation

    return ScaledTranslation(-points / 72, 0, axes.figure.dpi_scale_trans)


def draw_iou(axes: Axes, rows: Classes) -> None:
    """Bars of IoU; a line is the interval."""
    for row, result in enumerate(rows):
        if result["iou"] is None:
            beside(axes, 0, row, "n/a", color=MUTED)
            continue
        iou, end = 100 * result["iou"], 100 * result["iou"]
        axes.barh(row, iou, color=BLUE, alpha=0.75, height=0.66)
        if found := result.get("iou_interval"):
            low, end = 100 * found["low"], max(100 * found["high"], iou)
            axes.plot([low, 100 * found["high"]], [row, row], color=INK, linewidth=1.3, solid_capstyle="butt")
            for edge in (low, 100 * found["high"]):
                axes.plot([edge], [row], "|", color=INK, markersize=6)
        beside(axes, end, row, f"{iou:.1f}")
    axes.set(title="IoU, % (interval)", xlim=(0, 128), xticks=range(0, 101, 25))


def draw_latency(axes: Axes, rows: Classes) -> None:
    """From p50 to p99 of the frames that show a class."""
    _draw_ranges(axes, rows, [row["latency"] for row in rows], "never predicted", BLUE)
    axes.set_title("Latency, ms")


def _draw_age(axes: Axes, rows: Classes) -> None:
    _draw_ranges(axes, rows, [row.get("stream_age") or {} for row in rows], "n/a", PURPLE)
    axes.set_title("Age in a stream, ms")


def _draw_ranges(axes: Axes, rows: Classes, ranges: list[dict[str, Any]], none: str, colour: str) -> None:
    known = [found["p99_ms"] for found in ranges if found.get("p99_ms") is not None]
    largest = max(known, default=1.0) or 1.0
    for row, found in enumerate(ranges):
        p50, p99 = found.get("p50_ms"), found.get("p99_ms")
        if p50 is None or p99 is None:
            beside(axes, 0, row, none, color=MUTED)
            continue
        axes.plot([p50, p99], [row, row], color=colour, linewidth=5, alpha=0.4, solid_capstyle="butt")
        axes.plot([p50], [row], "o", color=colour, markersize=5.5)
        beside(axes, p99, row, f"{milliseconds(p50)} / {milliseconds(p99)}")
    axes.set(xlim=(0, 1.75 * largest), xlabel="p50 (dot) to p99")


def _draw_extraction(axes: Axes, rows: Classes) -> None:
    largest = max((extraction_ms(row) or 0 for row in rows), default=0) or 1.0
    for row, result in enumerate(rows):
        cost = result.get("extraction")
        if not cost:
            beside(axes, 0, row, "never predicted", color=MUTED)
            continue
        left = 0.0
        for key, colour in _EXTRACTION.values():
            axes.barh(row, cost[key], left=left, color=colour, height=0.66)
            left += cost[key]
        beside(axes, left, row, f"{left:.3f}")
    for name, (_, colour) in _EXTRACTION.items():
        axes.barh([0], [0], color=colour, label=name)
    axes.set(title="Extraction, ms", xlim=(0, 1.4 * largest))
    axes.legend(
        ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.28 / max(0.265 * len(rows), 0.6)),
        fontsize=FONT - 0.5, handlelength=0.9, columnspacing=0.9, handletextpad=0.4,
    )  # fmt: skip


def class_scores(record: Record) -> Figure | None:
    """IoU, precision, recall and boundary scores as marks in a class's row."""
    rows = record["classes"]
    shown = {
        name: look for name, look in _SCORES.items() if any(row.get(look[0]) is not None for row in rows)
    }
    if len(shown) < 2:
        return None
    figure = new_figure(1.3 + 0.265 * len(rows))
    axes = figure.subplots()
    for name, (key, mark, colour) in shown.items():
        places = [i for i, row in enumerate(rows) if row.get(key) is not None]
        values = [100 * rows[i][key] for i in places]
        axes.plot(
            values,
            places,
            mark,
            color=colour,
            label=name,
            markersize=6.5 if key == "iou" else 5.5,
            clip_on=False,
        )
    for i, row in enumerate(rows):
        if all(row.get(key) is None for key, _, _ in shown.values()):
            beside(axes, 0, i, "n/a", color=MUTED)
    name_rows(axes, [shorten(row["name"]) for row in rows])
    axes.tick_params(axis="y", pad=14)
    _draw_swatches(axes, rows)
    axes.grid(axis="y")
    axes.set(xlim=(0, 100), xlabel="%")
    axes.legend(ncols=len(shown), loc="lower left", bbox_to_anchor=(-0.01, 1.0), handletextpad=0.2)
    return figure


def confusion(record: Record) -> Figure | None:
    """Where the pixels of every class went, in percent of its labelled pixels."""
    accuracy = measured(record, "accuracy")
    if not accuracy or not accuracy.get("confusion"):
        return None
    counts = np.asarray(accuracy["confusion"], np.float64)
    labelled = counts.sum(axis=1, keepdims=True)
    shares = np.divide(100 * counts, labelled, out=np.zeros_like(counts), where=labelled > 0)
    names = [shorten(row["name"], 20) for row in record["classes"]]
    number = len(names)
    figure = new_figure(1.7 + 0.27 * number, min(WIDTH, max(5.2, 3.2 + 0.44 * number)))
    axes = figure.subplots()
    for row, column in np.ndindex(number, number):
        share = shares[row, column]
        if share < 0.5:
            continue
        colour = BLUE if row == column else VERMILLION
        draw_cell(axes, column, row, facecolor=colour, alpha=0.08 + 0.005 * share)
        axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=FONT - 0.5)
    for row in np.flatnonzero(labelled[:, 0] == 0).tolist():
        axes.text((number - 1) / 2, row, "no labelled pixel", ha="center", va="center", color=GREY)
    name_rows(axes, names)
    axes.set(xlim=(-0.5, number - 0.5), title="% of a class's labels (row) predicted as (column)")
    axes.set_xticks(range(number), names, rotation=90 if number > 6 else 0)
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
