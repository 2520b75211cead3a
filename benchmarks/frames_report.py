"""What `frames.py` measured, as one JSON file and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from frames_ways import BASELINE, OUR_NETWORK, STEPS, THEIR_NETWORK

from cpsl_deploy.files import write_json, write_text

LEGEND = (
    "From a JPEG file to the JPEG of its overlay, medians over the rounds, in milliseconds; CPU time is that "
    "of all threads of the process, their waiting in circles included. Ways took turns; a ratio is the "
    "baseline's time by this one's in the same round. Network: the graph without upsampling and argmax in "
    "onnxruntime's fp32, alone, in the same rounds: what is not network is told for fp32 there, of "
    "common practice with its own graph (float image to logits at the network's stride), of ours with ours "
    "(uint8 frame to logits). "
    "Limit: the network's operations by the measured rate of matrix products, and what nothing can spare of "
    "the other bytes by the measured rate of memory."
)


def write(folder: Path, records: list[dict[str, Any]]) -> None:
    """``frames.json`` and ``frames.md``."""
    write_json(folder / "frames.json", {"cells": records})
    write_text(folder / "frames.md", markdown(records))


def title(record: dict[str, Any]) -> str:
    weights = ", random weights" if record["random_weights"] else ""
    return f"{record['network']}, {record['size'][0]}x{record['size'][1]}{weights}"


def headline(records: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """(milliseconds a frame, ratio), by cell and way."""
    return {
        title(record): {
            row["name"]: [round(row["frame_wall_ms"], 2), round(row["ratio"], 3)] for row in record["rows"]
        }
        for record in records
    }


def shares(record: dict[str, Any]) -> dict[str, float]:
    """Of the CPU time of a frame, what is not the network, by way, for fp32 in onnxruntime."""
    by_name = {row["name"]: row for row in record["rows"]}
    networks = {BASELINE: THEIR_NETWORK, "fp32 onnxruntime": OUR_NETWORK}
    return {
        name: 1 - by_name[network]["frame_cpu_ms"] / by_name[name]["frame_cpu_ms"]
        for name, network in networks.items()
        if name in by_name
    }


def markdown(records: list[dict[str, Any]]) -> str:
    parts = ["# Frames: common practice and ours", LEGEND]
    for record in records:
        parts += [f"## {title(record)}", _summary(record), "CPU milliseconds by step:", _steps(record)]
        parts.append(_limits(record))
    machine = records[0]["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in records[0]["versions"].items() if v)
    parts.append(
        f"## Machine\n\n{machine['cpu']}, {machine['usable_cores']:g} cores usable; {machine['os']}. "
        f"{versions}."
    )
    return "\n\n".join(parts) + "\n"


def _summary(record: dict[str, Any]) -> str:
    not_network = shares(record)
    rows = []
    for row in record["rows"]:
        name, agreement = row["name"], row["agreement"]
        low, high = row["ratio_quartiles"]
        peak = record["peak_mb"].get(name)
        rows.append(
            [
                name,
                f"{row['frame_wall_ms']:.1f}",
                f"{1e3 / row['frame_wall_ms']:.1f}",
                f"{row['frame_cpu_ms']:.1f}",
                f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})",
                f"{100 * not_network[name]:.1f}" if name in not_network else "",
                "" if agreement is None else f"{100 * agreement['labels']:.3f}",
                "" if agreement is None else f"{agreement['same_jpegs']} of {agreement['frames']}",
                "" if peak is None else f"{peak:.0f}",
            ]
        )
    heads = ["way", "ms", "frames/s", "CPU ms", "ratio (quartiles)", "not network, % of CPU",
             "equal labels %", "same JPEGs", "peak MB"]  # fmt: skip
    return _table(heads, rows) + "".join(
        f"\n\nNot measured: {name}: {reason}" for name, reason in record["unavailable"].items()
    )


def _steps(record: dict[str, Any]) -> str:
    rows = [
        [row["name"], *(f"{ms:.2f}" for ms in row["cpu_ms"])] for row in record["rows"] if row["agreement"]
    ]
    return _table(["way", *STEPS], rows)


def _limits(record: dict[str, Any]) -> str:
    parts = []
    for precision, limit in record["limits"].items():
        if "unavailable" in limit:
            parts.append(f"{precision}: {limit['unavailable']}")
            continue
        whole = limit["network_ms"] + limit["rest_ms"]
        busy = " (the machine was busy: too low rates)" if limit["disturbed"] else ""
        parts.append(
            f"{precision}: {limit['network_ms']:.2f} ms of {limit['gflop']:.1f} GFLOP and "
            f"{limit['rest_ms']:.2f} ms of {limit['rest_mb']:.0f} MB, {whole:.2f} ms in all{busy}"
        )
    return "Limits: " + "; ".join(parts) + f". {record['rounds']} rounds."


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
