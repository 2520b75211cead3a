"""The pictures of an ablation: bars of means, a dot per seed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsl_deploy.train.reporting.figures import FONT, new_figure, open_frame, plain, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = tuple[str, dict[str, Any] | None]
"""A text at the left and what is drawn beside it, by metric; None: a heading."""
_COLOURS = {"bounds": "#9a9a9a", "paper": "#3182bd", "recipe": "#08519c"}
_OTHER, _LOSS = "#3182bd", "#d94801"
_DOT = "#222222"
_SIGNS = {"ladder": "", "add": "+ ", "remove": "− "}


def write_plots(summary: dict[str, Any], folder: Path) -> list[str]:
    """Draw ``ladders.png`` and, where options are measured, ``options.png``. Returns their names."""
    written = []
    pictures = (("ladders.png", False, _draw_scores), ("options.png", True, _draw_differences))
    for name, options, draw in pictures:
        rows = _rows(summary, options=options)
        if any(found is not None for _, found in rows):
            draw(summary, rows, folder / name)
            written.append(name)
    return written


def _rows(summary: dict[str, Any], *, options: bool) -> list[Row]:
    """Headings and measured arms, scores of the ladders or differences that the options make."""
    rows: list[Row] = []
    for group in summary["groups"]:
        if (group["kind"] != "ladder") != options:
            continue
        found: list[Row] = []
        for name in group["arms"]:
            arm = summary["arms"][name]
            values = arm.get("difference") if options else arm["scores"]
            if values and values["all"]["mean"] is not None:
                found.append((_SIGNS[group["kind"]] + arm["title"], {**values, "group": group["name"]}))
        rows += [(group["title"], None), *found] if found else []
    return rows


def _panels(summary: dict[str, Any]) -> dict[str, str]:
    """Title of each panel by metric."""
    panels = {"all": f"all {len(summary['classes'])} classes"}
    if summary["large"]:
        panels["large"] = f"the {len(summary['large'])} large ones"
    limit = f"{100 * summary['tail_share']:.0f} %"
    return panels | {"head": f"head: {limit} of pixels or more", "tail": f"tail: under {limit}"}


def _draw_scores(summary: dict[str, Any], rows: list[Row], path: Path) -> None:
    title = f"{summary['pair']}: mean IoU, %, after each term"
    _draw(summary, rows, path, title, lambda found: _COLOURS.get(found["group"], _OTHER))


def _draw_differences(summary: dict[str, Any], rows: list[Row], path: Path) -> None:
    title = f"{summary['pair']}: what adding or removing one option changes, points of mean IoU"
    _draw(summary, rows, path, title, None)


def _draw(summary: dict[str, Any], rows: list[Row], path: Path, title: str, colour: Any) -> None:
    """A panel for each metric, a row for each arm; without ``colour`` bars are coloured by their sign."""
    panels = _panels(summary)
    left, height = 3.9, 0.3 * len(rows) + 1.55
    width = left + 2.35 * len(panels) + 0.2
    figure = new_figure(width, height)
    grid = figure.add_gridspec(1, len(panels), wspace=0.12)
    grid.update(left=left / width, right=1 - 0.2 / width, top=1 - 0.95 / height, bottom=0.6 / height)
    for column, (metric, heading) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[column])
        axes.set_title(heading, fontsize=FONT)
        _draw_panel(axes, rows, metric, colour)
        _label_rows(axes, rows if column == 0 else [("", found) for _, found in rows])
    seeds = len(summary["seeds"])
    state = "" if not summary["missing"] else ", PARTIAL"
    figure.suptitle(plain(title + state), fontsize=FONT + 2, y=1 - 0.18 / height)
    note = f"bars: mean over up to {seeds} seeds; dots: the seeds"
    figure.text(1 - 0.2 / width, 0.1 / height, note, fontsize=FONT - 1, color="#666666", ha="right")
    save(figure, path)


def _draw_panel(axes: Axes, rows: list[Row], metric: str, colour: Any) -> None:
    ends = [0.0]
    for place, (_, found) in enumerate(rows):
        if found is None or found[metric]["mean"] is None:
            continue
        mean = found[metric]["mean"]
        seeds = list(found[metric]["seeds"].values())
        fill = colour(found) if colour else (_OTHER if mean >= 0 else _LOSS)
        axes.barh(place, mean, height=0.72, color=fill, alpha=0.75)
        axes.plot([min(seeds), max(seeds)], [place, place], color=_DOT, linewidth=1)
        axes.plot(seeds, [place] * len(seeds), "o", color=_DOT, markersize=3.5)
        ends += seeds
        text = f"{mean:.1f}" if colour else f"{mean:+.1f}"
        beyond = max(0.0, *seeds) if mean >= 0 else min(0.0, *seeds)
        axes.annotate(
            text,
            (beyond, place),
            xytext=(4 if mean >= 0 else -4, 0),
            textcoords="offset points",
            va="center",
            ha="left" if mean >= 0 else "right",
            fontsize=FONT - 1,
        )
    room = 0.25 * max(max(ends) - min(ends), 1e-6)
    axes.set_xlim(min(ends) - (room if min(ends) < 0 else 0), max(ends) + room)
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.locator_params(axis="x", nbins=4)
    open_frame(axes, grid="x")
    axes.spines["left"].set_visible(False)


def _label_rows(axes: Axes, rows: list[Row]) -> None:
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(np.arange(len(rows)), [plain(text) for text, _ in rows], fontsize=FONT - 0.5)
    axes.tick_params(axis="y", length=0)
    for label, (_, found) in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if found is None else "normal")
