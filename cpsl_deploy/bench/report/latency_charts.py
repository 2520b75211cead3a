"""Charts of where a frame's time goes, frame by frame, and of what comes before and between frames."""

from __future__ import annotations

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
    PALE,
    PURPLE,
    STAGE_COLOURS,
    VERMILLION,
    along_rows,
    at_right,
    beside,
    draw_cell,
    name_rows,
    new_figure,
    whole_numbers,
)
from .formats import frame_size, milliseconds, number, plural
from .tables import measured_stages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FAR = 1.6
"""An axis with slower frames than a quarter beyond that ends at so many times the slowest usual frame."""


def stages(record: Record) -> Figure:
    """Means as one stacked bar, percentiles of every stage on a logarithmic axis."""
    found = record["latency"]["stages_ms"]
    figure = new_figure(1.75 + 0.3 * len(found))
    top, bottom = figure.subplots(2, 1, height_ratios=(1, 0.75 + 0.42 * len(found)))
    draw_mean_stack(top, found)
    draw_percentiles(bottom, found)
    return figure


def draw_mean_stack(axes: Axes, found: dict[str, Any], columns: int = 5) -> None:
    """One bar whose parts add up: means do, percentiles do not. ``columns``: of its legend."""
    means = {stage: found[stage]["mean"] for stage in measured_stages(found) if stage != "total"}
    total = found["total"]["mean"]
    means["other"] = max(0.0, total - sum(means.values()))
    whole = max(sum(means.values()), 1e-9)
    left = 0.0
    for stage, mean in means.items():
        colour = STAGE_COLOURS.get(stage, GREY)
        axes.barh(0, mean, left=left, color=colour, height=0.8, label=f"{stage} {milliseconds(mean)}")
        left += mean
    axes.set(title=f"Mean of a frame: {milliseconds(total)} ms", xticks=[], yticks=[], xlim=(0, whole))
    handles, labels = axes.get_legend_handles_labels()
    order = along_rows(len(labels), columns)
    axes.legend(
        [handles[i] for i in order], [labels[i] for i in order], ncols=min(len(means), columns),
        loc="upper left", bbox_to_anchor=(-0.01, -0.02), columnspacing=1.6, handlelength=1.0,
        borderaxespad=0.2,
    )  # fmt: skip
    axes.spines[:].set_visible(False)


def draw_percentiles(axes: Axes, found: dict[str, Any]) -> None:
    """From p50 to p99 as a line, the greatest as a cross; logarithmic, since stages differ so much."""
    rows = measured_stages(found)
    least = min(max(found[stage]["p50"], 1e-4) for stage in rows)
    for row, stage in enumerate(rows):
        colour = STAGE_COLOURS.get(stage, GREY)
        p50, p90, p99, most = (max(found[stage][key], 1e-4) for key in ("p50", "p90", "p99", "max"))
        axes.plot([p50, p99], [row, row], color=colour, linewidth=5, alpha=0.45, solid_capstyle="butt")
        axes.plot([p50], [row], "o", color=colour, markersize=7)
        axes.plot([p90], [row], "|", color=colour, markersize=10, markeredgewidth=2)
        axes.plot([most], [row], "x", color=colour, markersize=5)
        text = " / ".join(milliseconds(found[stage][key]) for key in ("p50", "p90", "p99"))
        at_right(axes, row, text)
    greatest = max(max(found[stage]["max"], 1e-4) for stage in rows)
    axes.set(xscale="log", xlim=(0.7 * least, 1.25 * greatest), xlabel="ms, logarithmic")
    axes.set_title("p50 (dot), p90 (bar), p99 (line's end), max (cross)")
    at_right(axes, -0.85, "p50 / p90 / p99", color=MUTED)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    name_rows(axes, rows)


def distribution(record: Record) -> Figure:
    """A histogram of the total with its percentiles marked and every outlier shown."""
    figure = new_figure(2.7)
    axes = figure.subplots()
    totals = np.asarray(record["samples"]["stages_ms"]["total"], np.float64)
    outlying, edge = _outlying(record, totals)
    shown = np.minimum(totals, edge)
    low = float(shown.min())
    bins = np.linspace(
        low, max(edge, 1.02 * low, low + 1e-3), int(np.clip(2.5 * np.sqrt(totals.size), 8, 60)) + 1
    )
    counts, _ = np.histogram(totals[totals <= edge], bins)
    axes.bar(bins[:-1], counts, np.diff(bins), align="edge", color=BLUE, alpha=0.75)
    tall = max(int(counts.max()), 1)
    axes.plot(shown[outlying], np.full(outlying.sum(), 0.04 * tall), "x", color=VERMILLION, label="outlier",
              clip_on=False, zorder=4)  # fmt: skip
    for place, (name, colour) in enumerate((("p50", INK), ("p90", ORANGE), ("p99", PURPLE))):
        value = record["latency"]["stages_ms"]["total"][name]
        height = 1.32 - 0.12 * place
        axes.vlines(min(value, edge), 0, height * tall, color=colour, linewidth=1.4)
        text = f"{name} {milliseconds(value)}"
        beside(axes, min(value, edge), height * tall, text, color=colour, fontsize=FONT)
    beyond = totals > edge
    if beyond.any():
        beside(
            axes, edge, 0.14 * tall,
            f"{plural(int(beyond.sum()), 'frame')} beyond,\nup to {milliseconds(totals.max())} ms",
            color=VERMILLION,
        )  # fmt: skip
    axes.set(xlabel="total, ms", ylabel="frames", ylim=(0, 1.42 * tall))
    axes.set_title(f"Distribution over {plural(totals.size, 'frame')}")
    whole_numbers(axes.yaxis)
    axes.ticklabel_format(useOffset=False)
    axes.grid(axis="y")
    if outlying.any():
        axes.legend(loc="upper right")
    return figure


def timeline(record: Record) -> Figure:
    """The total of every frame in the order of the run."""
    figure = new_figure(2.3)
    axes = figure.subplots()
    totals = np.asarray(record["samples"]["stages_ms"]["total"], np.float64)
    outlying, _ = _outlying(record, totals)
    places = np.arange(totals.size)
    size = 9 if totals.size <= 400 else 3
    axes.scatter(places[~outlying], totals[~outlying], s=size, color=BLUE, linewidths=0)
    label = "outlier" if outlying.any() else None
    far: dict[str, Any] = {"marker": "x", "color": VERMILLION, "s": 28, "linewidths": 1.2}
    axes.scatter(places[outlying], totals[outlying], label=label, **far)
    summary = record["latency"]["stages_ms"]["total"]
    for name, colour in (("p50", INK), ("p99", PURPLE)):
        label = f"{name} {milliseconds(summary[name])}"
        axes.axhline(summary[name], color=colour, linewidth=1, label=label)
    if totals.max() > 5 * np.median(totals):
        _scale(axes, "y", totals.tolist())
    else:
        axes.set_ylim(0, 1.1 * totals.max())
    axes.set(xlabel="frame, in the order of the run", ylabel="total, ms", title="Over the run")
    axes.set_xlim(-0.5 - 0.005 * totals.size, totals.size - 0.5 + 0.005 * totals.size)
    whole_numbers(axes.xaxis)
    axes.grid(axis="y")
    axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return figure


def _outlying(record: Record, totals: np.ndarray) -> tuple[np.ndarray, float]:
    """(N,) bool of the frames that the record calls outliers, and how far an axis of all of them reaches."""
    outlying = np.zeros(totals.size, bool)
    for frame in (record["latency"].get("outliers") or {"frames": ()})["frames"]:
        outlying[frame["index"]] = True
    usual = totals[~outlying] if not outlying.all() else totals
    edge = _FAR * usual.max()
    return outlying, float(edge if totals.max() > 1.25 * edge else totals.max())


def _scale(axes: Axes, name: str, values: list[float]) -> None:
    """Logarithmic where values differ by a factor of 5 or more, else from zero."""
    axis = axes.xaxis if name == "x" else axes.yaxis
    if min(values) > 0 and max(values) >= 5 * min(values):
        axes.set(**{f"{name}scale": "log"})
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(_two_and_five)
    else:
        axes.set(**{f"{name}lim": (0, 1.12 * max(values))})


def _two_and_five(value: float, _: float) -> str:
    """Labels of a logarithmic axis between its powers of ten."""
    return f"{value:g}" if f"{value:.2e}"[:4] in ("2.00", "5.00") else ""


def throughput(record: Record) -> Figure | None:
    """Frames per second, one after the other and overlapped, and what the slowest stage allows."""
    found = measured(record, "throughput")
    if not found:
        return None
    figure = new_figure(1.75)
    axes = figure.subplots()
    rows = {
        "one after the other": (found["single_fps"], GREY),
        "stages overlapped": (found["fps"], BLUE),
        f"limit: {found['slowest_stage']} without a pause": (found["slowest_stage_fps"], PALE),
    }
    for row, (value, colour) in enumerate(rows.values()):
        axes.barh(row, value, color=colour, height=0.66)
        beside(axes, value, row, number(value, 1))
    name_rows(axes, list(rows))
    axes.set(xlabel="frames/s", xlim=(0, 1.12 * max(value for value, _ in rows.values())))
    return figure


def cold_start(record: Record) -> Figure | None:
    """One stacked bar per fresh process."""
    found = measured(record, "cold_start")
    if not found or not found["runs"]:
        return None
    figure = new_figure(1.35 + 0.3 * found["runs"])
    axes = figure.subplots()
    parts = {"start the interpreter": ("process_ms", GREY), "import": ("import_ms", ORANGE),
             "load the model": ("load_ms", GREEN), "first frame": ("first_frame_ms", BLUE)}  # fmt: skip
    rows = np.arange(found["runs"])
    left = np.zeros(found["runs"])
    for name, (key, colour) in parts.items():
        axes.barh(rows, found[key], left=left, color=colour, height=0.66, label=name)
        left += np.asarray(found[key])
    for row, whole in enumerate(found["to_first_labels_ms"]):
        beside(axes, max(whole, left[row]), row, f"{whole:.0f} ms")
    name_rows(axes, [f"process {row + 1}" for row in rows])
    axes.set(xlabel="ms", xlim=(0, 1.1 * max(left.max(), *found["to_first_labels_ms"])))
    axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(-0.01, 1.0))
    return figure


def sweep(record: Record) -> Figure | None:
    """Milliseconds per frame by size and batch, and the rate over the size."""
    cells = measured(record, "sweep")
    timed = [cell for cell in cells or () if "unavailable" not in cell]
    if not timed:
        return None
    sizes = sorted({tuple(cell["frame_size"]) for cell in cells}, key=lambda size: (size[0] * size[1], size))
    batches = sorted({cell["batch"] for cell in cells})
    figure = new_figure(max(2.6, 1.2 + 0.42 * len(sizes)))
    heat, lines = figure.subplots(1, 2, width_ratios=(1, 1.25))
    _draw_heat(heat, cells, sizes, batches)
    for batch, colour, mark in zip(
        batches, (BLUE, ORANGE, GREEN, PURPLE, VERMILLION) * 9, "os^Dv" * 9, strict=False
    ):
        points = sorted((c["frame_size"][0] * c["frame_size"][1] / 1e6, c["fps"]) for c in timed
                        if c["batch"] == batch)  # fmt: skip
        if points:
            lines.plot(
                *zip(*points, strict=True), marker=mark, color=colour, label=f"batch {batch}", markersize=5
            )
    lines.set(xlabel="million pixels of a frame", ylabel="frames/s", title="Rate over size")
    _scale(lines, "x", [size[0] * size[1] / 1e6 for size in sizes])
    _scale(lines, "y", [cell["fps"] for cell in timed])
    lines.grid(axis="both")
    lines.legend()
    return figure


def _draw_heat(
    axes: Axes, cells: list[dict[str, Any]], sizes: list[tuple[int, ...]], batches: list[int]
) -> None:
    times = [cell["stages_ms"]["total"]["p50"] for cell in cells if "unavailable" not in cell]
    low, high = np.log(max(min(times), 1e-6)), np.log(max(*times, 1e-6))
    for cell in cells:
        x, y = batches.index(cell["batch"]), sizes.index(tuple(cell["frame_size"]))
        if "unavailable" in cell:
            draw_cell(axes, x, y, facecolor="none", hatch="////", edgecolor=GREY)
            continue
        ms = cell["stages_ms"]["total"]["p50"]
        depth = 0.5 if high == low else (np.log(max(ms, 1e-6)) - low) / (high - low)
        draw_cell(axes, x, y, facecolor=BLUE, alpha=0.08 + 0.42 * depth)
        axes.text(x, y, milliseconds(ms), ha="center", va="center")
    axes.set(xticks=range(len(batches)), xticklabels=batches, xlim=(-0.5, len(batches) - 0.5), xlabel="batch")
    name_rows(axes, [frame_size(size) for size in sizes])
    axes.grid(False)
    axes.tick_params(axis="x", length=0)
    axes.spines["bottom"].set_visible(False)
    axes.set_title("Total p50, ms per frame (hatched: n/a)")
