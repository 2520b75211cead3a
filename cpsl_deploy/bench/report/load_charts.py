"""Charts of what happens over minutes, and with more and more streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    minutes = np.asarray(found["series"]["t_s"]) / 60
    figure = new_figure(0.8 + 1.15 * len(panels))
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, lines) in zip(rows, panels.items(), strict=True):
        divisor = 2**20 if title.endswith("MiB") else 1
        for i, (name, values) in enumerate(lines):
            drawn = np.array([np.nan if value is None else value / divisor for value in values])
            axes.plot(minutes, drawn, color=_LINES[i % len(_LINES)], linewidth=1.5,
                      linestyle=_DASHES[i // len(_LINES) % len(_DASHES)], label=name or None)  # fmt: skip
        axes.set_title(title, fontweight="normal")
        axes.grid(axis="y")
        axes.margins(x=0.01, y=0.2)
        axes.ticklabel_format(useOffset=False)
        if any(name for name, _ in lines):
            axes.legend(ncols=1 + (len(lines) - 1) // 4, loc="center left", bbox_to_anchor=(1.0, 0.5),
                        labelspacing=0.25, handlelength=1.4)  # fmt: skip
    rows[-1].set_xlabel("minutes")
    if found["throttled"]:
        figure.suptitle("The machine throttled", color=VERMILLION, fontweight="bold", x=0.01, ha="left")
    return figure


def load(record: Record) -> Figure | None:
    """Age against the number of streams with the limit, and what was delivered."""
    found = measured(record, "load")
    if not found or not found["trials"]:
        return None
    trials = sorted(found["trials"], key=lambda trial: trial["streams"])
    figure = new_figure(3.0)
    ages, rates = figure.subplots(1, 2, width_ratios=(1.4, 1))
    for key, name, colour, mark in (
        ("peak_age_p99_ms", "peak age", BLUE, "o"),
        ("age_p99_ms", "age at delivery", GREY, "s"),
    ):
        points = [(t["streams"], t[key], t["within"]) for t in trials if t[key] is not None]
        ages.plot([p[0] for p in points], [p[1] for p in points], color=colour, marker=mark, label=name)
        broken = [p for p in points if not p[2]]
        if key == "peak_age_p99_ms" and broken:
            ages.plot([p[0] for p in broken], [p[1] for p in broken], "X", color=VERMILLION, markersize=10,
                      linestyle="none", label="beyond the limit", zorder=4)  # fmt: skip
    ages.axhline(found["max_age_ms"], color=VERMILLION, linewidth=1.2, linestyle="--",
                 label=f"limit {found['max_age_ms']:g} ms")  # fmt: skip
    ages.set(xlabel="streams", ylabel="ms", title=f"Age, p{found['percentile']:g}")
    ages.set_ylim(bottom=0)
    streams = [t["streams"] for t in trials]
    offered = [found["source_fps"] * count for count in streams]
    rates.plot(streams, offered, color=MUTED, linestyle=":", label="sent by the sources")
    rates.plot(streams, [t["delivered_fps"] for t in trials], color=GREEN, marker="o", label="delivered")
    rates.set(xlabel="streams", ylabel="frames/s", title="Rate of all streams")
    rates.set_ylim(bottom=0)
    for axes in (ages, rates):
        axes.grid(axis="both")
        whole_numbers(axes.xaxis)
        axes.margins(x=0.06)
        axes.legend(loc="upper left")
        axes.axvline(found["streams"], color=INK, linewidth=0.8, linestyle="-", alpha=0.35)
    return figure
