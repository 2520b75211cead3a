"""What the report's pictures share: figures without global state, legible colours, labels at line ends."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cpsl_deploy.errors import MissingExtraError
from cpsl_deploy.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
FONT = 10
"""Points of ordinary text."""
_MIN_CONTRAST = 2.6
"""Of a line's colour against white, as WCAG 2 defines the ratio."""


def require_matplotlib() -> None:
    """Raises MissingExtraError if matplotlib is not installed; imports nothing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "train", "The report of a run")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, drawn by Agg, known to no global state. Raises MissingExtraError."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign starts no formula."""
    return text.replace("$", r"\$")


def legible(colour: Sequence[int]) -> tuple[float, float, float]:
    """A palette colour (R, G, B in 0..255) as 0..1, darkened as far as a line on white needs."""
    rgb = np.asarray(colour, np.float64) / 255
    while 1.05 / (_luminance(rgb) + 0.05) < _MIN_CONTRAST:
        rgb = rgb * 0.96
    return float(rgb[0]), float(rgb[1]), float(rgb[2])


def _luminance(rgb: np.ndarray) -> float:
    """Relative luminance of sRGB values in 0..1 (WCAG 2)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions nearest to the wanted ones, in their order, ``gap`` apart and inside [low, high].

    Least squares: without the gaps this is isotonic regression (pool adjacent violators). Where not all
    fit, they start at ``low`` and pass ``high``.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    pools: list[list[float]] = []  # [sum, count] of neighbours that share one shift
    for rank, i in enumerate(order):
        pools.append([wanted[i] - rank * gap, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, count = pools.pop()
            pools[-1][0] += total
            pools[-1][1] += count
    shifts = [total / count for total, count in pools for _ in range(int(count))]
    top = max(low, high - (len(wanted) - 1) * gap)
    placed = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        placed[i] = min(max(shifts[rank], low), top) + rank * gap
    return placed


def label_line_ends(axes: Axes, ends: Sequence[tuple[float, str, object]], size: float = FONT - 1) -> None:
    """Write (last value, text, colour) of each line at the right edge, beside its end, clear of the others.

    The axes' limits, scale and place in the figure must be final.
    """
    height = axes.bbox.height / DPI * 72
    to_axes = axes.transScale + axes.transLimits
    wanted = [float(to_axes.transform((axes.get_xlim()[1], value))[1]) for value, _, _ in ends]
    placed = spread(wanted, 1.25 * size / height, 0.0, 1.0)
    for at, label, (_, text, colour) in zip(wanted, placed, ends, strict=True):
        axes.plot(
            [1.0, 1.02], [at, label], transform=axes.transAxes, clip_on=False, color=colour, linewidth=0.7
        )
        axes.text(
            1.03, label, plain(text), transform=axes.transAxes, color=colour, fontsize=size, va="center"
        )


def open_frame(axes: Axes, grid: Literal["x", "y"] = "y") -> None:
    """Pale grid lines behind the data, and no frame at the top and right."""
    axes.grid(axis=grid, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
