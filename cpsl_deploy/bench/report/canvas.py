"""What the charts share: figures without global state, colours that follow the reader's light or dark theme,
pictures as inline SVG or PNG."""

from __future__ import annotations

import contextlib
import html
import importlib.util
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import MissingExtraError
from ...files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 10.4
"""Inches of a chart as wide as the page."""
FONT = 9.0
"""Points."""

INK, MUTED, GRID, PAPER = "#1c2127", "#5c6672", "#dde1e6", "#ffffff"
BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE, YELLOW, GREY, PALE = (
    "#0072b2", "#e69f01", "#009e73", "#d55e01", "#56b4e9", "#cc79a7", "#b8a800", "#8a939d", "#c3c9d0",
)  # fmt: skip
"""After Okabe and Ito (2008), told apart by colour-blind readers; the yellow darkened for white paper."""
DARK = {
    INK: "#e8eaed", MUTED: "#a3adb8", GRID: "#343b44", PAPER: "#171b21",
    BLUE: "#4ba3e3", ORANGE: "#f0b23a", GREEN: "#30c193", VERMILLION: "#ff8347", SKY: "#8fd0f7",
    PURPLE: "#e29cc2", YELLOW: "#d9cc4a", GREY: "#8f99a4", PALE: "#4c5661",
}  # fmt: skip
"""The same colours on dark paper."""
STAGE_COLOURS = {
    "read": GREY, "decode": SKY, "pre": GREEN, "host_to_device": YELLOW, "inference": BLUE,
    "device_to_host": ORANGE, "post": PURPLE, "encode": VERMILLION, "other": PALE, "total": INK,
}  # fmt: skip


def require_matplotlib() -> None:
    """Raises MissingExtraError if matplotlib is not installed; imports nothing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError(
            "matplotlib", "plot", "The charts of a benchmark (leave them out with --no-plot)"
        )


def theme_variables(*, dark: bool) -> str:
    """The colours as CSS custom properties, which `inline_svg` refers to."""
    return " ".join(f"{_variable(light)}: {DARK[light] if dark else light};" for light in DARK)


def _variable(colour: str) -> str:
    return f"--c{colour.lstrip('#')}"


@contextlib.contextmanager
def chart_style() -> Iterator[None]:
    """Settings under which figures are made and saved; whatever the process had set is back afterwards."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # Class names may be in a script that the bundled font lacks; the browser's own font has it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "text.parse_math": False,  # a dollar sign in a name starts no formula
                "font.size": FONT,
                "axes.titlesize": FONT + 1,
                "axes.titleweight": "bold",
                "axes.titlelocation": "left",
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.axisbelow": True,
                "axes.edgecolor": MUTED,
                "axes.labelcolor": MUTED,
                "axes.facecolor": "none",
                "figure.facecolor": "none",
                "grid.color": GRID,
                "grid.linewidth": 0.8,
                "legend.frameon": False,
                "legend.fontsize": FONT,
                "text.color": INK,
                "xtick.color": MUTED,
                "ytick.color": MUTED,
                "ytick.labelcolor": INK,
                "xtick.labelsize": FONT - 0.5,
                "ytick.labelsize": FONT,
                "hatch.color": GREY,
                "hatch.linewidth": 0.6,
                "svg.fonttype": "none",
            }
        )
        yield


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of so many inches, known to no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG on white paper, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=PAPER, dpi=120)


def inline_svg(figure: Figure, key: str, title: str, description: str) -> str:
    """A figure as an SVG element to stand in an HTML document: no address, no id that another chart has,
    colours by name of the theme. Call it within `chart_style`."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = key
    target = io.StringIO()
    nothing: Any = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(target, format="svg", metadata=nothing)
    text = target.getvalue()
    opening = re.search(r"<svg\b[^>]*>", text)
    box = re.search(r'viewBox="([^"]*)"', text)
    if opening is None or box is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    body = re.sub(r"<metadata>.*?</metadata>", "", text[opening.end() :], flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body).replace("xlink:href=", "href=")
    for colour in DARK:
        body = re.sub(f"((?:fill|stroke): ?){colour}\\b", rf"\1var({_variable(colour)})", body)
    pixels = float(box[1].split()[2]) * 96 / 72
    words = (
        f'<title id="{key}-title">{html.escape(title)}</title>'
        f'<desc id="{key}-desc">{html.escape(description)}</desc>'
    )
    return (
        f'<svg viewBox="{box[1]}" role="img" aria-labelledby="{key}-title {key}-desc" '
        f'style="max-width: {pixels:.0f}px; min-width: {min(pixels, 680):.0f}px">{words}{body.strip()}'
    )


def shorten(text: str, longest: int = 26) -> str:
    """A name for an axis: its beginning, if it is longer."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Rows of a horizontal chart, the first at the top."""
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.45, -0.55))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def beside(axes: Axes, value: float, row: float, text: str, **how: Any) -> None:
    """Text a little to the right of a value in a row, whatever the scale."""
    axes.annotate(
        text,
        (value, row),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
        **how,
    )


def at_right(axes: Axes, row: float, text: str, **how: Any) -> None:
    """Text in a column at the right of the axes, in a row."""
    axes.annotate(
        text, (1.0, row), xycoords=axes.get_yaxis_transform(), xytext=(8, 0), textcoords="offset points",
        va="center", annotation_clip=False, **how,
    )  # fmt: skip


def draw_cell(axes: Axes, column: int, row: int, **look: Any) -> None:
    """A cell of a heat table."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, linewidth=0, **look))


def whole_numbers(axis: Any) -> None:
    """Ticks of an axis on which nothing is counted in halves."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))


def along_rows(count: int, columns: int) -> list[int]:
    """The order in which to give entries to a legend, which fills columns, for them to be read along rows."""
    columns = min(columns, count)
    return [i for column in range(columns) for i in range(column, count, columns)]


def place_labels(axes: Axes, points: Iterable[tuple[float, float, str]]) -> None:
    """Write texts beside points so that none covers another, the most important first; one for which there
    is no room is left out. Call it when everything else is drawn."""
    figure: Any = axes.figure
    figure.draw_without_rendering()
    inside = axes.get_window_extent()
    points = list(points)
    taken = [_around(axes.transData.transform((x, y)), 4) for x, y, _ in points]
    for x, y, text in points:
        for dx, dy, ha in _OFFSETS:
            label = axes.annotate(
                text,
                (x, y),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=ha,
                va="center",
                fontsize=FONT - 0.5,
            )
            label.set_in_layout(False)
            box = np.asarray(label.get_window_extent().extents)
            room = inside.x0 <= box[0] and box[2] <= inside.x1 and inside.y0 <= box[1] <= inside.y1
            if room and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                break
            label.remove()


_OFFSETS = tuple(
    (dx * far, dy * far, ha)
    for far in (1.0, 1.7, 2.6)
    for dx, dy, ha in (
        (7, 0, "left"), (7, 8, "left"), (7, -8, "left"), (-7, 0, "right"), (-7, 8, "right"),
        (-7, -8, "right"),
        (0, 11, "center"), (0, -11, "center"),
    )
)  # fmt: skip


def _around(centre: Any, radius: float) -> np.ndarray:
    return np.array([centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius])


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])
