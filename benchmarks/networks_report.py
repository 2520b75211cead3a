"""What `networks.py` measured, as one JSON file, tables and a picture."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from cpsl_deploy.files import atomic_path, write_json, write_text

COLUMNS = (
    "variant", "computes in", "MB", "p50 ms", "p90 ms", "p99 ms", "frames/s", "ratio", "quartiles",
    "agreement %", "mIoU %", "roofline %",
)  # fmt: skip
LEGEND = (
    "Milliseconds are a frame's, from a uint8 frame in memory to uint8 labels of its size; a batch's time is "
    "shared by its frames. The variants of a table took turns. Ratio: how many times as fast as the first "
    "one, the median over the rounds and its quartiles. Agreement: share of pixels with the first one's "
    "label. Roofline: share of the least time that this machine's rates allow."
)
_COLOURS = {"torch": "#c44e52", "onnxruntime": "#4c72b0", "openvino": "#55a868", "tensorrt": "#8172b3"}


def write(folder: Path, records: list[dict[str, Any]]) -> None:
    """``networks.json``, ``networks.md`` and ``networks.png``."""
    write_json(folder / "networks.json", {"cells": records})
    write_text(folder / "networks.md", markdown(records))
    draw(folder / "networks.png", records)


def title(record: dict[str, Any]) -> str:
    cell = record["cell"]
    batch = "" if cell["batch"] == 1 else f", batch {cell['batch']}"
    return f"{cell['network']}, {cell['size'][0]}x{cell['size'][1]}{batch}, {cell['device']}"


def headline(records: list[dict[str, Any]]) -> dict[str, dict[str, float] | str]:
    """Median milliseconds a frame, by cell and variant; the reason for a cell that has none."""
    return {
        title(record): record.get("unavailable")
        or {row["name"]: round(row["p50_ms"], 2) for row in record["variants"]["rows"]}
        for record in records
    }


def markdown(records: list[dict[str, Any]]) -> str:
    parts = ["# Networks", LEGEND]
    for record in records:
        parts.append(f"## {title(record)}")
        parts.append(f"Not measured: {record['unavailable']}" if "unavailable" in record else _cell(record))
    measured = [record for record in records if "unavailable" not in record]
    if measured:
        machine = measured[0]["machine"]
        gpus = "; ".join(machine["gpus"]) or "none"
        versions = ", ".join(f"{name} {v}" for name, v in measured[0]["versions"].items() if v)
        parts.append(
            f"## Machine\n\n{machine['cpu']}, {machine['usable_cores']:g} cores usable, GPU: {gpus}; "
            f"{machine['os']}. {versions}."
        )
    return "\n\n".join(parts) + "\n"


def _cell(record: dict[str, Any]) -> str:
    section = record["variants"]
    weights = (
        "random weights, with which agreement says little and labels mean nothing"
        if record["random_weights"]
        else "trained weights"
    )
    scored = f", scored on {record['images']} images" if record["images"] else ""
    million = f"{record['parameters'] / 1e6:.2f} million parameters"
    lines = [
        f"{million}, {weights}; {section['rounds']} rounds{scored}.{_busy(record['machine'])}",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"| --- | --- {'| ---: ' * (len(COLUMNS) - 2)}|",
        *(f"| {' | '.join(_row(row))} |" for row in section["rows"]),
    ]
    reasons: dict[str, list[str]] = defaultdict(list)
    for one in section["unavailable"]:
        reasons[one["reason"]].append(one["name"])
    if reasons:
        lines += ["", "Not available:", ""]
        lines += [f"- {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return "\n".join(lines)


def _busy(machine: dict[str, Any]) -> str:
    load = machine["load_average"]
    if load is None or load <= machine["usable_cores"] / 4:
        return ""
    return f" The machine was busy before the start (load average {load}): times are too long."


def _row(row: dict[str, Any]) -> list[str]:
    return [
        row["name"],
        row["precision"],
        _number(row["bytes"], 1e-6, 1),
        *(_number(row[key], 1, 1 if row["p50_ms"] >= 10 else 2) for key in ("p50_ms", "p90_ms", "p99_ms")),
        f"{1e3 / row['p50_ms']:.1f}",
        f"{row['ratio']:.2f}",
        f"{row['ratio_low']:.2f}-{row['ratio_high']:.2f}",
        _number(row["agreement"], 100, 2),
        _number(row["miou"], 100, 1),
        _number(row["roofline_fraction"], 100, 0),
    ]


def _number(value: float | None, factor: float, digits: int) -> str:
    return "n/a" if value is None else f"{factor * value:.{digits}f}"


def draw(path: Path, records: list[dict[str, Any]]) -> None:
    """Frames a second of every variant, one panel a cell; the colour is the library's."""
    from matplotlib.figure import Figure

    measured = [record for record in records if "unavailable" not in record]
    if not measured:
        return
    columns = min(len(measured), 3)
    lines = -(-len(measured) // columns)
    most = max(len(record["variants"]["rows"]) for record in measured)
    figure = Figure(figsize=(6.5 * columns, lines * (1.3 + 0.28 * most)), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(measured) :]:
        axes.remove()
    for axes, record in zip(grid.flat, measured, strict=False):
        rows = record["variants"]["rows"]
        rates = [1e3 / row["p50_ms"] for row in rows]
        colours = [_COLOURS.get(row["runtime"]["backend"].split("-")[-1], "#777777") for row in rows]
        bars = axes.barh([row["name"] for row in rows], rates, color=colours)
        texts = [f"{rate:.3g}  ({row['ratio']:.2f}x)" for rate, row in zip(rates, rows, strict=True)]
        axes.bar_label(bars, texts, padding=3, fontsize=8)
        axes.margins(x=0.22)
        axes.invert_yaxis()
        axes.set_title(title(record), fontsize=10)
        axes.set_xlabel("frames a second (median)", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
