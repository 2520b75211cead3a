"""IoU per class before and after, as bars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .figures import FONT, new_figure, open_frame, plain, save
from .run_summary import Result, RunSummary, group_title, points_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"source_only": "#b5b5b5", "self_labelling": "#9ecae1", "adapted": "#08519c"}
_ORACLE_COLOUR = "#d94801"
_FIGURES_AT = 1.19
"""Right edge of the figures beside the bars, in widths of the bars' axes."""

Row = tuple[str, list[int]]
"""A text and the classes whose mean it stands for."""


def write_per_class(summary: RunSummary, path: Path) -> None:
    """Draw source-only, self-labelling and the last stage for every class: head and tail classes apart, by
    descending share, with the last figure and its gain beside the bars. An oracle is a mark across them."""
    bars, groups = _bars(summary), summary.groups
    lines = [len(classes) + 1 for classes in groups.values()]
    unit = 0.16 + 0.16 * len(bars)
    width, height = 10.0, unit * sum(lines) + 0.55 * len(groups) + 1.45
    figure = new_figure(width, height)
    between = 0.55 * len(groups) / (unit * sum(lines))
    grid = figure.add_gridspec(len(groups), 1, height_ratios=lines, hspace=between)
    grid.update(left=2.2 / width, right=1 - 1.5 / width, top=1 - 1.1 / height, bottom=0.6 / height)
    for row, (group, classes) in enumerate(groups.items()):
        axes = figure.add_subplot(grid[row])
        rows = [(f"mean of {group}", classes), *((summary.title(k), [k]) for k in classes)]
        _draw_bars(axes, summary, bars, rows)
        _write_figures(axes, summary, rows)
        axes.set_title(group_title(group), fontsize=FONT + 1, loc="left")
    axes.set_xlabel("IoU, %")
    _legend(axes, height)
    title = f"{plain(summary.name)}: IoU per class on {plain(summary.scored_on)}"
    figure.suptitle(title, fontsize=FONT + 3, y=1 - 0.12 / height)
    save(figure, path)


def _bars(summary: RunSummary) -> dict[str, tuple[str, Result]]:
    """Label and result of each bar, as far as the run has come."""
    chosen = {"source_only": ("source-only", summary.source_only)}
    for stage in summary.stages:
        if stage.key == "self_labelling":
            chosen["self_labelling"] = ("after self-labelling", stage)
    last = summary.adapted
    if last is not None and last.key not in chosen:
        chosen["adapted"] = ("adapted (final)" if summary.is_finished else f"after {last.title}", last)
    return chosen


def _draw_bars(axes: Axes, summary: RunSummary, bars: dict[str, tuple[str, Result]], rows: list[Row]) -> None:
    thickness = 0.84 / len(bars)
    for place, (key, (label, result)) in enumerate(bars.items()):
        offsets = np.arange(len(rows)) + (place - (len(bars) - 1) / 2) * thickness
        lengths = [100 * (result.mean_over(members) or 0) for _, members in rows]
        axes.barh(offsets, lengths, height=0.94 * thickness, color=_COLOURS[key], label=label)
    if summary.oracle is not None:
        marks = [summary.oracle.mean_over(members) for _, members in rows]
        places = [row for row, mark in enumerate(marks) if mark is not None]
        axes.vlines(
            [100 * mark for mark in marks if mark is not None],
            [row - 0.44 for row in places],
            [row + 0.44 for row in places],
            color=_ORACLE_COLOUR,
            linewidth=2.2,
            label="oracle (trained on the target's labels)",
        )
    axes.axhline(0.5, color="#999999", linewidth=0.8)
    axes.set(xlim=(0, 100), xticks=range(0, 101, 20), ylim=(len(rows) - 0.45, -0.55))
    axes.set_yticks(range(len(rows)), [plain(name) for name, _ in rows])
    axes.get_yticklabels()[0].set_fontweight("bold")
    open_frame(axes, grid="x")


def _write_figures(axes: Axes, summary: RunSummary, rows: list[Row]) -> None:
    """A column at the right: the last stage's figure and its gain."""
    last = summary.adapted or summary.source_only
    heading = "IoU" if summary.adapted is None else "IoU (gain)"
    where = axes.get_yaxis_transform()
    axes.text(_FIGURES_AT, -0.8, heading, transform=where, ha="right", fontsize=FONT)
    for row, (_, members) in enumerate(rows):
        before, after = summary.source_only.mean_over(members), last.mean_over(members)
        text = "never occurs" if after is None else f"{100 * after:.1f}"
        if summary.adapted is not None and before is not None and after is not None:
            text += f" ({points_text(after - before)})"
        figures = axes.text(_FIGURES_AT, row, text, transform=where, va="center", ha="right", fontsize=FONT)
        figures.set_fontweight("normal" if row else "bold")


def _legend(axes: Axes, height: float) -> None:
    """Above the bars, in the order in which they are drawn, the oracle last."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i].startswith("oracle"))
    axes.figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="center",
        bbox_to_anchor=(0.5, 1 - 0.6 / height),
        ncols=len(labels),
        frameon=False,
        fontsize=FONT,
    )
