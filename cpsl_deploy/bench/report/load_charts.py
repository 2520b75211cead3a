"""Charts of what happens over minutes, and with more and more streams."""

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
    VERMILLION,
    YELLOW,
    new_figure,
    whole_numbers,
)
from .section_tables import sustained_series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION, YELLOW, GREY)
_DASHES = ("-", "--", "-.", ":")


def sustained(record: Record) -> Figure | None:
    """Latency, rate, clocks, temperature, power and memory over time, a panel each."""
    found = measured(record, "sustained")
    if not found or not found["series"]["t_s"]:
        return None
    panels: dict[str, list[tuple[str, list[float | None]]]] = {}
    for title, unit, values in sustained_series(found):
        what, _, name = title.partition(": ")
        if what.startswith("latency"):
            what, _, name = title.partition(" ")
        if any(value is not None for value in values):
            scale = "MiB" if unit == "bytes" else unit
            panels.setdefault(f"{what}, {scale}", []).append((name, values))
    seconds = np.asarray(found["series"]["t_s"])
    times = seconds / 60 if seconds[-1] > 180 else seconds
    figure = new_figure(0.8 + 1.15 * len(panels))
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, lines) in zip(rows, panels.items(), strict=True):
        divisor = 2**20 if title.endswith("MiB") else 1
        for i, (name, values) in enumerate(lines):
            drawn = np.array([np.nan if value is None else value / divisor for value in values])
            axes.plot(times, drawn, color=_LINES[i % len(_LINES)], linewidth=1.5,
                      linestyle=_DASHES[i // len(_LINES) % len(_DASHES)], label=name or None)  # fmt: skip
        axes.set_title(title, fontweight="normal")
        axes.grid(axis="y")
        axes.margins(x=0.01, y=0.2)
        axes.ticklabel_format(useOffset=False)
        low, high = axes.get_ylim()
        if high - low < 0.1 * high:  # a hundredth more is not to look like a mountain
            axes.set_ylim((low + high) / 2 - 0.05 * high, (low + high) / 2 + 0.05 * high)
        if any(name for name, _ in lines):
            axes.legend(ncols=1 + (len(lines) - 1) // 4, loc="center left", bbox_to_anchor=(1.0, 0.5),
                        labelspacing=0.25, handlelength=1.4)  # fmt: skip
    rows[-1].set_xlabel("minutes" if seconds[-1] > 180 else "seconds")
    if found["throttled"]:
        figure.suptitle("The machine throttled", color=VERMILLION, fontweight="bold", x=0.01, ha="left")
    return figure


def load(record: Record) -> Figure | None:
    """Age against the number of streams with the limit, and what was delivered: a mark for each trial, lines
    through the medians of those with as many streams."""
    found = measured(record, "load")
    if not found or not found["trials"]:
        return None
    trials = sorted(found["trials"], key=lambda trial: trial["streams"])
    figure = new_figure(3.2)
    ages, rates = figure.subplots(1, 2, width_ratios=(1.4, 1))
    peaks = _draw_trials(ages, trials, "peak_age_p99_ms", "peak age", BLUE, "o")
    _draw_trials(ages, trials, "age_p99_ms", "age at delivery", GREY, "s")
    broken = [(x, age) for x, age, within in peaks if not within]
    if broken:
        look: dict[str, Any] = {"color": VERMILLION, "markersize": 9, "linestyle": "none", "zorder": 4}
        ages.plot(*zip(*broken, strict=True), "X", label="beyond the limit", **look)
    limit = found["max_age_ms"]
    ages.axhline(limit, color=VERMILLION, linewidth=1.2, linestyle="--", label=f"limit {limit:g} ms")
    ages.set(ylabel="ms", title=f"Age, p{found['percentile']:g}")
    streams = sorted({trial["streams"] for trial in trials})
    offered = [found["source_fps"] * count for count in streams]
    rates.plot(streams, offered, color=MUTED, linestyle=":", label="sent by the sources")
    _draw_trials(rates, trials, "delivered_fps", "delivered", GREEN, "o")
    rates.set(ylabel="frames/s", title="Rate of all streams")
    for axes in (ages, rates):
        axes.grid(axis="both")
        axes.margins(x=0.06)
        axes.set(xlabel="streams", ylim=(0, 1.4 * axes.get_ylim()[1]))
        whole_numbers(axes.xaxis)
        axes.legend(loc="upper left", ncols=2)
        axes.axvline(found["streams"], color=INK, linewidth=0.8, alpha=0.35)
    return figure


def _draw_trials(
    axes: Axes, trials: list[dict[str, Any]], key: str, name: str, colour: str, mark: str
) -> list[tuple[int, float, bool]]:
    """(streams, value, whether within the limit) of the trials that have the value."""
    points = [(t["streams"], t[key], t["within"]) for t in trials if t[key] is not None]
    medians = {x: float(np.median([p[1] for p in points if p[0] == x])) for x, _, _ in points}
    axes.plot(list(medians), list(medians.values()), color=colour, marker=mark, markersize=0)
    axes.plot([p[0] for p in points], [p[1] for p in points], mark, color=colour, markersize=5.5, label=name)
    return points
