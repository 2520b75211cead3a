"""A run as curves: loss terms of every stage, and IoU per class over the iterations of the whole run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import FONT, label_line_ends, legible, new_figure, open_frame, plain, save
from .run_summary import STAGE_TITLES, Line, RunSummary, group_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TERM_COLOURS = {
    "source": "#1f77b4",
    "target": "#d62728",
    "self_labelling": "#2ca02c",
    "consistency": "#9467bd",
    "contrast": "#8c564b",
    "adversarial": "#ff7f0e",
    "discriminator": "#17becf",
    "kl": "#bc8f00",
}
_OTHER_COLOURS = ("#7f7f7f", "#393b79", "#637939", "#8c6d31", "#843c39")
_DIAGNOSTICS = {
    "assignment off the class prior\n(total variation: 0 exact, 1 worst)": {
        "marginal_error_features": "features",
        "marginal_error_logits": "logits",
        "marginal_error_features_before": "features, before",
        "marginal_error_logits_before": "logits, before",
    },
    "entropy of the assignment, nats": {
        "assignment_entropy_features": "features",
        "assignment_entropy_logits": "logits",
    },
    "confidence of the pseudo labels, %": {"confidence": ""},
}
"""Panel -> what self-labelling logs for it -> how its line is named."""
_IN_PERCENT = {"confidence"}
_DIAGNOSTIC_COLOURS = {"features": "#1f77b4", "logits": "#d62728"}
_DIAGNOSTIC_COLOUR = "#2ca02c"
_STAGE_NAME_WIDTH = 0.085
"""Of the axes: shorter stages have no room for their name."""
_MARKERS = "os^Dv<>Pp*hX"

Curve = tuple[np.ndarray, np.ndarray]
"""Iterations of the run and percent, (n,) both; NaN breaks the line."""


def write_curves(summary: RunSummary, path: Path) -> None:
    """Draw the loss terms of every stage over its iterations, and what self-labelling logs beside them."""
    stages = [key for key in STAGE_TITLES if summary.losses(key)]
    diagnostics = summary.diagnostics("self_labelling")
    panels = len(stages) + bool(diagnostics)
    columns = min(3, panels)
    rows = -(-panels // columns)
    width, height = 5.3 * columns, 3.7 * rows + 0.7
    figure = new_figure(width, height)
    grid = figure.add_gridspec(rows, columns, wspace=0.66, hspace=0.38)
    grid.update(left=0.75 / width, right=1 - 1.55 / width, top=1 - 0.95 / height, bottom=0.6 / height)
    colours = _term_colours(summary, stages)
    for place, stage in enumerate(stages):
        axes = figure.add_subplot(grid[place // columns, place % columns])
        _draw_losses(axes, summary.losses(stage), colours)
        axes.set_title(f"{STAGE_TITLES[stage]} ({plain(summary.architecture(stage))})", fontsize=FONT + 1)
    if diagnostics:
        cell = grid[(panels - 1) // columns, (panels - 1) % columns]
        found = _diagnostic_panels(diagnostics)
        cells = cell.subgridspec(len(found), 1, hspace=0.75)
        for row, (name, lines) in enumerate(found.items()):
            axes = figure.add_subplot(cells[row])
            _draw_diagnostic(axes, name, lines, last=row == len(found) - 1)
    title = f"{plain(summary.name)}: weighted loss terms of each stage"
    note = "\npale: as logged; strong: running mean, with its last value"
    figure.suptitle(title + note, fontsize=FONT + 2, y=1 - 0.15 / height)
    save(figure, path)


def _term_colours(summary: RunSummary, stages: Sequence[str]) -> dict[str, str]:
    """A term has one colour in all panels."""
    terms = dict.fromkeys(term for stage in stages for term in summary.losses(stage))
    others = [term for term in terms if term not in _TERM_COLOURS]
    return _TERM_COLOURS | {term: _OTHER_COLOURS[i % len(_OTHER_COLOURS)] for i, term in enumerate(others)}


def running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over a centred window of about a tenth of the points, shorter at both ends. (n,) -> (n,)."""
    window = np.ones(2 * (len(values) // 20) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _draw_losses(axes: Axes, lines: Mapping[str, Line], colours: Mapping[str, str]) -> None:
    ends, drawn = [], []
    for name, (iterations, values) in lines.items():
        smooth = running_mean(values)
        axes.plot(iterations, values, color=colours[name], alpha=0.3, linewidth=0.8)
        axes.plot(iterations, smooth, color=colours[name], linewidth=1.8, **_point(values))
        ends.append((float(smooth[-1]), f"{name.replace('_', ' ')} {smooth[-1]:.2g}", colours[name]))
        drawn.append(smooth)
    lowest, highest = float(np.concatenate(drawn).min()), float(np.concatenate(drawn).max())
    logarithmic = lowest > 0 and highest > 5 * lowest
    if logarithmic:
        _log_scale(axes)
    else:
        axes.set_ylim(bottom=min(0.0, 1.1 * lowest))
    last = max(int(iterations[-1]) for iterations, _ in lines.values())
    axes.set(xlim=(0, last), xlabel="iteration", ylabel="loss (log scale)" if logarithmic else "loss")
    open_frame(axes)
    label_line_ends(axes, ends)


def _point(values: np.ndarray) -> dict[str, Any]:
    """How a line of a single value is made visible."""
    return {"marker": "o", "clip_on": False} if len(values) == 1 else {}


def _log_scale(axes: Axes) -> None:
    """A logarithmic axis whose ticks are ordinary numbers."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()


def _diagnostic_panels(diagnostics: Mapping[str, Line]) -> dict[str, dict[str, Line]]:
    """Panel -> name of a line, empty if it is the only one -> the line. Unknown figures get a panel each."""
    panels: dict[str, dict[str, Line]] = {}
    for title, names in _DIAGNOSTICS.items():
        lines = {name: diagnostics[key] for key, name in names.items() if key in diagnostics}
        factor = 100 if _IN_PERCENT & names.keys() else 1
        if lines:
            panels[title] = {name: (line[0], factor * line[1]) for name, line in lines.items()}
    known = {key for names in _DIAGNOSTICS.values() for key in names}
    others = {key.replace("_", " "): {"": line} for key, line in diagnostics.items() if key not in known}
    return panels | others


def _draw_diagnostic(axes: Axes, title: str, lines: Mapping[str, Line], *, last: bool) -> None:
    ends = []
    for name, (iterations, values) in lines.items():
        colour = _DIAGNOSTIC_COLOURS.get(name.partition(",")[0], _DIAGNOSTIC_COLOUR)
        smooth, style = running_mean(values), "--" if name.endswith("before") else "-"
        axes.plot(iterations, values, color=colour, alpha=0.35, linewidth=0.8)
        axes.plot(iterations, smooth, color=colour, linestyle=style, linewidth=1.6, **_point(values))
        ends.append((float(smooth[-1]), name, colour))
        axes.set_xlim(0, int(iterations[-1]))
    axes.set_title(title, fontsize=FONT - 1)
    axes.tick_params(labelsize=FONT - 2, labelbottom=last)
    if last:
        axes.set_xlabel("iteration of self-labelling")
    open_frame(axes)
    if len(ends) > 1:
        label_line_ends(axes, ends, FONT - 2)


def write_iou_curves(summary: RunSummary, path: Path) -> None:
    """Draw every class's IoU over the run's iterations: head and tail classes apart, stages marked."""
    groups = summary.groups
    heights = [0.24 * max(len(classes) + 1, 9) for classes in groups.values()]
    width, height = 11.5, sum(heights) + 0.75 * len(groups) + 1.2
    figure = new_figure(width, height)
    grid = figure.add_gridspec(
        len(groups), 1, height_ratios=heights, hspace=0.75 * len(heights) / sum(heights)
    )
    grid.update(left=0.7 / width, right=1 - 2.2 / width, top=1 - 1.25 / height, bottom=0.6 / height)
    for row, (group, classes) in enumerate(groups.items()):
        axes = figure.add_subplot(grid[row])
        _draw_iou_group(axes, summary, group, classes)
        axes.set_title(group_title(group), fontsize=FONT + 1, loc="left", pad=6 if row else 20)
        if row == 0:
            _name_stages(axes, summary)
    axes.set_xlabel("iteration of the whole run")
    title = f"{plain(summary.name)}: IoU per class on {plain(summary.scored_on)}"
    figure.suptitle(title, fontsize=FONT + 3, y=1 - 0.15 / height)
    figure.text(
        0.7 / width,
        1 - 0.58 / height,
        "On the vertical lines, where stages end: all labelled images; between them: a sample. "
        "Lines are broken where a stage trains a new network.",
        fontsize=FONT - 1,
        color="#555555",
        va="center",
    )
    save(figure, path)


def _draw_iou_group(axes: Axes, summary: RunSummary, group: str, classes: list[int]) -> None:
    ends: list[tuple[float, str, object]] = []
    highest = 10.0
    mean_of_group = run_curve(summary, classes)
    curves = [(summary.classes.names[k], run_curve(summary, [k]), k) for k in classes]
    for rank, (name, (x, y), k) in enumerate([*curves, (f"mean of {group}", mean_of_group, None)]):
        known = y[~np.isnan(y)]
        if not len(known):
            continue
        if k is None:
            colour: object = "black"
            axes.plot(x, y, color="black", linewidth=2.6, zorder=4)
        else:
            colour = legible(summary.classes.palette[k])
            dashes = "--" if group == "tail" else "-"
            marker = _MARKERS[rank % len(_MARKERS)]
            axes.plot(
                x, y, color=colour, linestyle=dashes, marker=marker, markersize=4.5, clip_on=False, zorder=3
            )
        ends.append((float(known[-1]), f"{name} {known[-1]:.1f}", colour))
        highest = max(highest, float(known.max()))
    last = max(mean_of_group[0], default=1.0)
    for edge in [*list(summary.starts().values())[1:], last]:
        axes.axvline(edge, color="#999999", linewidth=0.9, zorder=1, clip_on=False)
    axes.set(xlim=(0, last), ylim=(0, min(100.0, 1.08 * highest)), ylabel="IoU, %")
    open_frame(axes)
    label_line_ends(axes, ends)


def run_curve(summary: RunSummary, members: Sequence[int]) -> Curve:
    """Mean IoU of some classes over the run; broken before a stage that trains a new network."""
    x: list[float] = []
    y: list[float] = []
    for stage, start in summary.starts().items():
        if x and not summary.recipe.goes_on(stage):
            x.append(start)
            y.append(np.nan)
        for iteration, iou in summary.iou_on_the_way(stage):
            known = [value for k in members if (value := iou[k]) is not None]
            x.append(start + iteration)
            y.append(100 * sum(known) / len(known) if known else np.nan)
    return np.array(x), np.array(y)


def _name_stages(axes: Axes, summary: RunSummary) -> None:
    starts = summary.starts()
    last = axes.get_xlim()[1]
    spans = zip(starts.items(), [*list(starts.values())[1:], last], strict=True)
    for (stage, left), end in spans:
        if end - left >= _STAGE_NAME_WIDTH * last:
            axes.annotate(
                STAGE_TITLES[stage],
                ((left + end) / 2, 1.0),
                xytext=(0, 4),
                xycoords=axes.get_xaxis_transform(),
                textcoords="offset points",
                ha="center",
                fontsize=FONT - 1,
                color="#555555",
            )
