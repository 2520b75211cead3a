"""Charts of what could be had: other libraries and precisions, the machine's roofline, the slowest layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..record import Record, measured
from .canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    YELLOW,
    at_right,
    beside,
    name_rows,
    new_figure,
    place_labels,
    shorten,
)
from .formats import frame_size, middle_cut, milliseconds, percent, plural, scaled
from .section_tables import SHOWN_LAYERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKS = "os^Dv<>Ph"
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION, SKY, YELLOW, GREY, INK)


def ratios(record: Record) -> Figure | None:
    """How many times as fast as the yardstick, with intervals."""
    found = measured(record, "variants")
    if not found or not found["rows"]:
        return None
    rows = sorted(found["rows"], key=lambda row: -row["ratio"])
    figure = new_figure(1.15 + 0.28 * len(rows))
    axes = figure.subplots()
    looks = _looks(rows)
    for place, row in enumerate(rows):
        mark, colour = looks[row["precision"]]
        axes.plot([row["ratio_low"], row["ratio_high"]], [place, place], color=colour, linewidth=5, alpha=0.4,
                  solid_capstyle="butt")  # fmt: skip
        axes.plot([row["ratio"]], [place], mark, color=colour, markersize=6)
        at_right(axes, place, f"{row['ratio']:.2f} ×, {milliseconds(row['p50_ms'])} ms")
    axes.axvline(1, color=INK, linewidth=1)
    name_rows(axes, [shorten(row["name"], 34) for row in rows])
    greatest = max(max(row["ratio"], row["ratio_high"]) for row in rows)
    axes.set(
        xlim=(0, 1.06 * max(greatest, 1.0)), xlabel=f"times as fast as {shorten(found['yardstick'], 40)}"
    )
    _precision_legend(axes, looks)
    return figure


def front(record: Record) -> Figure | None:
    """Frames per second against mIoU, or agreement where no labels are; the Pareto front is marked."""
    found = measured(record, "variants")
    if not found:
        return None
    key, words = "miou", "mIoU, %"
    if not any(row["miou"] is not None for row in found["rows"]):
        key, words = "agreement", f"labels as {shorten(found['yardstick'], 30)}, %"
    rows = [row for row in found["rows"] if row[key] is not None and row["p50_ms"] > 0]
    if len(rows) < 2:
        return None
    figure = new_figure(3.7)
    axes = figure.subplots()
    looks = _looks(rows)
    points = [(1000 / row["p50_ms"], 100 * row[key]) for row in rows]
    best = pareto_front(points)
    steps = sorted(points[i] for i in best)
    axes.step(*zip(*steps, strict=True), where="pre", color=MUTED, linewidth=1.2, linestyle="--", zorder=1,
              label="Pareto front")  # fmt: skip
    for i, (row, (fps, score)) in enumerate(zip(rows, points, strict=True)):
        mark, colour = looks[row["precision"]]
        filled = colour if i in best else "none"
        axes.plot(
            [fps], [score], mark, color=colour, markerfacecolor=filled, markersize=8, markeredgewidth=1.6
        )
    fastest = max(fps for fps, _ in points)
    low, high = min(score for _, score in points), max(score for _, score in points)
    middle = (low + high) / 2
    spread = max(high - low, 0.5)  # percent: no front is made of noise
    axes.set(xlim=(0, 1.18 * fastest), ylim=(middle - 0.75 * spread, middle + 0.75 * spread),
             xlabel="frames/s, the inverse of p50", ylabel=words)  # fmt: skip
    axes.ticklabel_format(useOffset=False)
    axes.grid(axis="both")
    _precision_legend(axes, looks)
    order = [*best, *(i for i in range(len(rows)) if i not in best)]
    place_labels(axes, [(*points[i], shorten(rows[i]["name"], 34)) for i in order])
    return figure


def pareto_front(points: list[tuple[float, float]]) -> list[int]:
    """Places of the points that no other one beats in one coordinate without losing in the other."""
    return [
        i
        for i, (x, y) in enumerate(points)
        if not any(a >= x and b >= y and (a > x or b > y) for a, b in points)
    ]


def _looks(rows: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """A mark and a colour for each precision."""
    precisions = sorted({row["precision"] for row in rows})
    return {name: (_MARKS[i % len(_MARKS)], _COLOURS[i % len(_COLOURS)]) for i, name in enumerate(precisions)}


def _precision_legend(axes: Axes, looks: dict[str, tuple[str, str]]) -> None:
    for name, (mark, colour) in looks.items():
        axes.plot([], [], mark, color=colour, label=name)
    axes.legend(ncols=8, loc="lower left", bbox_to_anchor=(-0.01, 1.0), handletextpad=0.3)


def roofline(record: Record) -> Figure | None:
    """Layers under the machine's limits, by the work they do for each byte they move."""
    found = measured(record, "roofline")
    if not found:
        return None
    peak, copy = found["rates"]["matrix_flops"], found["rates"]["copy_bytes"]
    layers = [layer for layer in found["layers"] if layer["flops"] > 0 and layer["bytes"] > 0]
    if not layers or not found["bytes"] or not found["measured_ms"]:
        return None
    figure = new_figure(4.2)
    axes = figure.subplots()
    intensity = np.array([layer["flops"] / layer["bytes"] for layer in layers])
    whole = (found["flops"] / found["bytes"], found["flops"] / found["measured_ms"] * 1000)
    ridge = peak / copy
    left = 0.6 * min(intensity.min(), whole[0], ridge)
    right = 2.5 * max(intensity.max(), whole[0], ridge)
    axes.plot([left, ridge, right], [left * copy, peak, peak], color=INK, linewidth=1.6)
    sizes = 12 + 260 * np.array([layer["limit_ms"] for layer in layers]) / max(found["layer_limit_ms"], 1e-9)
    for bound, colour in (("memory", ORANGE), ("compute", BLUE)):
        chosen = np.array([layer["bound"] == bound for layer in layers])
        if chosen.any():
            axes.scatter(intensity[chosen], np.minimum(intensity[chosen] * copy, peak), s=sizes[chosen],
                         color=colour, alpha=0.55, linewidths=0, zorder=3,
                         label=f"layer's limit, bound by {bound}")  # fmt: skip
    profiled = _profiled(found, layers)
    for x, roof, achieved, _ in profiled:
        axes.plot([x, x], [achieved, min(x * copy, roof)], color=GREEN, linewidth=0.8, alpha=0.8, zorder=2)
    if profiled:
        axes.plot([p[0] for p in profiled], [p[2] for p in profiled], "v", color=GREEN, markersize=6,
                  label="slow layer, as profiled", zorder=4)  # fmt: skip
    axes.plot(*whole, "D", color=VERMILLION, markersize=9, zorder=5,
              label=f"whole model, measured: {scaled(whole[1], 'FLOP/s')}")  # fmt: skip
    lowest = min(whole[1], left * copy, *(p[2] for p in profiled or [(0, 0, whole[1], "")]))
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(0.5 * lowest, 3.2 * peak),
             xlabel="FLOP per byte moved", ylabel="FLOP/s")  # fmt: skip
    axes.yaxis.set_major_formatter(lambda value, _: scaled(value, ""))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.annotate(f"matrix products: {scaled(peak, 'FLOP/s')}", (right, peak), xytext=(-4, 6),
                  textcoords="offset points", ha="right")  # fmt: skip
    axes.annotate(f"memory: {scaled(copy, 'B/s')}", (2 * left, 2 * left * copy), xytext=(10, -8),
                  textcoords="offset points", va="top")  # fmt: skip
    axes.grid(axis="both")
    axes.legend(loc="lower right")
    without = len(found["layers"]) - len(layers)
    if without:
        hidden = f"{plural(without, 'layer')} without arithmetic not shown"
        axes.set_title(hidden, loc="right", fontweight="normal", color=MUTED)
    place_labels(axes, [(x, achieved, middle_cut(name, 30)) for x, _, achieved, name in profiled[:5]])
    return figure


def _profiled(found: dict[str, Any], layers: list[dict[str, Any]]) -> list[tuple[float, float, float, str]]:
    """(FLOP per byte, the machine's peak, FLOP/s reached, name) of the slowest layers that the graph has too:
    libraries rename layers that they fuse."""
    by_name = {layer["name"]: layer for layer in layers}
    reached = []
    for slow in found["slowest"]:
        layer = by_name.get(slow["name"])
        if layer and slow["ms"] > 0:
            per_second = layer["flops"] / slow["ms"] * 1000
            peak = found["rates"]["matrix_flops"]
            reached.append((layer["flops"] / layer["bytes"], peak, per_second, slow["name"]))
    return reached


def slowest(record: Record) -> Figure | None:
    """The slowest layers of the profile."""
    found = measured(record, "roofline")
    if not found or not found["slowest"]:
        return None
    rows = found["slowest"][:SHOWN_LAYERS]
    limits = {layer["name"]: layer["limit_ms"] for layer in found["layers"]}
    figure = new_figure(1.2 + 0.27 * len(rows))
    axes = figure.subplots()
    for place, row in enumerate(rows):
        axes.barh(place, row["ms"], color=BLUE, alpha=0.75, height=0.66)
        end = row["ms"]
        if (limit := limits.get(row["name"])) is not None:
            axes.plot([limit], [place], "|", color=VERMILLION, markersize=12, markeredgewidth=2)
            end = max(end, limit)
        text = (
            f"{milliseconds(row['ms'])} ms, {percent(row['share'])} %, to {frame_size(row['output_shape'])}"
        )
        beside(axes, end, place, text)
    name_rows(axes, [f"{row['operator']}: {middle_cut(row['name'], 34)}" for row in rows])
    if any(row["name"] in limits for row in rows):
        axes.plot([], [], "|", color=VERMILLION, markersize=12, markeredgewidth=2, label="the layer's limit")
        axes.legend(loc="lower right")
    greatest = max(max(row["ms"], limits.get(row["name"], 0)) for row in rows)
    axes.set(xlim=(0, 1.5 * greatest or 1), xlabel="ms per frame")
    return figure
