"""Drift scores as a picture: a panel for each source."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from ..errors import MissingExtraError
from ..files import atomic_path
from .curve import Curve

_COLOURS = {"answers": "#3182bd", "look": "#fd8d3c"}
_TITLES = {"answers": "the model's answers", "look": "the frames' look"}
MOST_PANELS = 12


def require_matplotlib() -> None:
    """Raises MissingExtraError if matplotlib is not installed; imports nothing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError(
            "matplotlib", "plot", "The plot of drift scores (leave it out with --no-plot)"
        )


def write_plot(curves: Sequence[Curve], path: Path, *, title: str) -> None:
    """Draw the first `MOST_PANELS` curves as a PNG. Raises MissingExtraError without matplotlib, OutputError
    as files do."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = list(curves)[:MOST_PANELS]
    figure = Figure(figsize=(9, 0.8 + 2.1 * len(shown)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axes, curve in zip(panels, shown, strict=True):
        times = [point.time_s for point in curve.points]
        for part, colour in _COLOURS.items():
            values = [point.parts.get(part, 0.0) for point in curve.points]
            axes.plot(times, values, color=colour, linewidth=1.4, label=_TITLES[part])
        axes.axhline(1, color="#de2d26", linewidth=1, linestyle="--", label="threshold")
        alarm = [point.alarm for point in curve.points]
        axes.fill_between(times, 0, 1, where=alarm, transform=axes.get_xaxis_transform(), color="#de2d26",
                          alpha=0.12, linewidth=0, label="alarm")  # fmt: skip
        highest = curve.highest
        words = "too short for a window" if highest is None else "no alarm"
        if highest is not None and curve.alarms:
            words = ", ".join(highest.causes)
        axes.set_title(f"{curve.name}: {words}", fontsize=10, loc="left")
        axes.set(ylabel="score", ylim=(0, max(1.5, 1.1 * (highest.score if highest else 0))))
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=8, ncols=4, loc="upper left", frameon=False)
    panels[-1].set_xlabel("seconds")
    figure.suptitle(title, fontsize=11)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
