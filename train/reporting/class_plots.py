"""Pseudo labels over a run as small multiples, a class each: what it was given, and how right that was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .figures import FONT, legible, new_figure, open_frame, plain, save
from .run_summary import STAGE_TITLES, ClassLines, RunSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELLING = ("self_labelling", "distillation_1", "distillation_2")
"""The stages that learn pseudo labels."""
_COLUMNS = 5
_GREY = "#666666"
_PRECISION, _RECALL, _CONFIDENCE = "#1f77b4", "#d62728", "#9e9e9e"


def has_pseudo_labels(summary: RunSummary) -> bool:
    """Whether the run logged what its pseudo labels give each class; early versions did not."""
    return any(len(summary.per_class(stage, "pseudo_label_share")[0]) for stage in _LABELLING)


def write_pseudo_labels(summary: RunSummary, path: Path) -> None:
    """Draw each class's prior, its share of the pseudo labels and its true share; below them the pseudo
    labels' precision and recall, as far as there are labelled images, and their confidence.
    """
    order = [k for classes in summary.groups.values() for k in classes]
    columns = min(_COLUMNS, len(order))
    rows = -(-len(order) // columns)
    width, height = 3.1 * columns + 0.6, 3.5 * rows + 1.55
    figure = new_figure(width, height)
    grid = figure.add_gridspec(rows, columns, wspace=0.32, hspace=0.3)
    grid.update(left=0.75 / width, right=1 - 0.25 / width, top=1 - 1.55 / height, bottom=0.55 / height)
    for place, k in enumerate(order):
        row, column = divmod(place, columns)
        cells = grid[row, column].subgridspec(2, 1, hspace=0.12, height_ratios=(1.1, 1))
        shares, quality = figure.add_subplot(cells[0]), figure.add_subplot(cells[1])
        _draw_shares(shares, summary, k)
        _draw_quality(quality, summary, k)
        for axes in (shares, quality):
            _mark_stages(axes, summary)
        shares.set_title(plain(summary.classes.names[k]), fontsize=FONT + 1, loc="left", pad=4)
        shares.tick_params(labelbottom=False)
        if column == 0:
            shares.set_ylabel("share, %", fontsize=FONT - 1)
            quality.set_ylabel("%", fontsize=FONT - 1)
        if place + columns >= len(order):
            quality.set_xlabel("iteration since self-labelling began", fontsize=FONT - 2)
    _explain(figure, summary, height)
    save(figure, path)


def _along(summary: RunSummary, name: str, k: int) -> tuple[np.ndarray, np.ndarray]:
    """A per-class figure in percent over all stages that learn pseudo labels; broken between them."""
    x: list[float] = []
    y: list[float] = []
    for stage, start in _starts(summary).items():
        iterations, values = summary.per_class(stage, name)
        if len(iterations):
            x += [*(start + iterations).tolist(), float(start + iterations[-1])]
            y += [*(100 * values[:, k]).tolist(), np.nan]
    return np.array(x), np.array(y)


def _starts(summary: RunSummary) -> dict[str, int]:
    starts = summary.starts()
    first = starts.get("self_labelling", 0)
    return {stage: at - first for stage, at in starts.items() if stage in _LABELLING}


def _draw_shares(axes: Axes, summary: RunSummary, k: int) -> None:
    colour = legible(summary.classes.palette[k])
    x, given = _along(summary, "pseudo_label_share", k)
    axes.plot(x, given, color=colour, linewidth=1.6, zorder=3)
    x, prior = _along(summary, "prior", k)
    axes.plot(x, prior, color="black", linestyle="--", linewidth=1.2, zorder=4)
    _, true = summary.of_pseudo_labels("true_share")
    drawn = [given, prior]
    if len(true):
        axes.axhline(100 * true[-1, k], color=_GREY, linestyle=":", linewidth=1.6, zorder=2)
        drawn.append(100 * true[-1:, k])
    values = np.concatenate(drawn)
    highest = float(np.nanmax(values)) if not np.isnan(values).all() else 0.0
    axes.set_ylim(0, max(1.12 * highest, 0.1))
    _finish(axes, summary)


def _draw_quality(axes: Axes, summary: RunSummary, k: int) -> None:
    x, confidence = _along(summary, "pseudo_label_confidence", k)
    axes.plot(x, confidence, color=_CONFIDENCE, linewidth=1.2, zorder=2)
    for name, colour, marker in (("precision", _PRECISION, "^"), ("recall", _RECALL, "o")):
        lines: ClassLines = summary.of_pseudo_labels(name)
        if len(lines[0]):
            x, y = lines[0], 100 * lines[1][:, k]
            axes.plot(x, y, color=colour, marker=marker, markersize=4, clip_on=False, zorder=3)
    axes.set_ylim(-2, 102)
    axes.set_yticks((0, 50, 100))
    _finish(axes, summary)


def _finish(axes: Axes, summary: RunSummary) -> None:
    axes.set_xlim(0, _end(summary))
    axes.tick_params(labelsize=FONT - 2)
    axes.locator_params(axis="x", nbins=4)
    open_frame(axes)


def _end(summary: RunSummary) -> float:
    ends = [1.0]
    for stage, start in _starts(summary).items():
        iterations, _ = summary.per_class(stage, "pseudo_label_share")
        ends += (start + iterations).tolist()
    return max(ends)


def _mark_stages(axes: Axes, summary: RunSummary) -> None:
    for start in list(_starts(summary).values())[1:]:
        axes.axvline(start, color="#bbbbbb", linewidth=0.8, zorder=1)


def _explain(figure: object, summary: RunSummary, height: float) -> None:
    """Title, the stages and a key above the panels."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    assert isinstance(figure, Figure)
    figure.suptitle(f"{plain(summary.name)}: pseudo labels per class", fontsize=FONT + 3, y=1 - 0.15 / height)
    stages = ", ".join(STAGE_TITLES[stage] for stage in _starts(summary))
    scored = bool(len(summary.of_pseudo_labels("recall")[0]))
    key = [
        Line2D(
            [], [], color="#7b3fa0", linewidth=1.6, label="share of the pseudo labels (the class's colour)"
        ),
        Line2D([], [], color="black", linestyle="--", linewidth=1.2, label="class prior"),
        Line2D([], [], color=_CONFIDENCE, linewidth=1.2, label="mean confidence"),
    ]
    if scored:
        key += [
            Line2D([], [], color=_GREY, linestyle=":", linewidth=1.6, label="true share"),
            Line2D([], [], color=_PRECISION, marker="^", markersize=4, label="precision"),
            Line2D([], [], color=_RECALL, marker="o", markersize=4, label="recall"),
        ]
    top = 1 - 0.42 / height
    figure.legend(
        handles=key, loc="upper center", bbox_to_anchor=(0.5, top), ncols=3, frameon=False, fontsize=FONT
    )
    note = f"Vertical lines between stages: {stages}."
    if scored:
        note += " True share, precision and recall: labelled target images that no training reads."
    figure.text(0.5, 1 - 1.12 / height, note, ha="center", va="center", fontsize=FONT - 1, color="#555555")
