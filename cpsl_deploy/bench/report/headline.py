"""What a report begins with: what was measured on what, and the figures to see first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..record import Record, measured
from .formats import frame_size, interval, milliseconds, number, percent, plain, plural


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of the headline."""

    value: str
    unit: str
    title: str
    detail: str = ""


def subject(record: Record) -> list[tuple[str, str]]:
    """What was measured on what, as (term, words)."""
    model, runtime, machine = record["model"], record["runtime"], record["machine"]
    spec, data = model["spec"], measured(record, "data")
    architecture = spec.get("architecture") or "model"
    device = "; ".join(machine["gpus"]) if runtime["device"] not in ("cpu", None) else machine["cpu"]
    jetson = machine.get("jetson") or {}
    place = jetson.get("board") or device or machine["cpu"]
    images = f"{data['name']}, {data['split']}, " if data else "synthetic frames, "
    threads = runtime.get("threads")
    return [
        ("model", f"{architecture}, {len(record['classes'])} classes, SHA-256 {model['sha256'][:12]}"),
        ("frames", f"{images}{plural(len(record['samples']['frames']), 'frame')} of {sizes_text(record)}"),
        ("machine", f"{place}, {machine['usable_cores']:g} of {machine['cores']} cores usable"),
        ("runtime", f"{runtime['backend']} {plain(runtime['version'])} on {runtime['device']}, "
         f"precision {plain(runtime['precision'])}" + (f", {plural(threads, 'thread')}" if threads else "")),
        ("measured", record["created"]),
    ]  # fmt: skip


def sizes_text(record: Record) -> str:
    """The frame size, or the range of sizes, as HxW."""
    sizes = sorted({tuple(size) for size in record["samples"]["sizes"]})
    if len(sizes) == 1:
        return frame_size(sizes[0])
    return f"{len(sizes)} sizes from {frame_size(sizes[0])} to {frame_size(sizes[-1])}"


def headline(record: Record) -> list[Figure]:
    """The figures to see first."""
    latency = record["latency"]
    total = latency["stages_ms"]["total"]
    figures = [
        Figure(value=milliseconds(total["p50"]), unit="ms", title="latency p50",
               detail="end to end" + latency_interval(latency)),
        Figure(value=milliseconds(total["p99"]), unit="ms", title="latency p99",
               detail=f"max {milliseconds(total['max'])} ms of {plural(total['count'], 'frame')}"),
        Figure(value=number(latency["fps"]), unit="frames/s", title="in sequence"),
    ]  # fmt: skip
    if throughput := measured(record, "throughput"):
        figures.append(
            Figure(value=number(throughput["fps"]), unit="frames/s", title="overlapped",
                   detail=f"{throughput['slowest_stage']} "
                   f"busy {percent(throughput['share_of_slowest'], 0)} %")
        )  # fmt: skip
    if accuracy := measured(record, "accuracy"):
        figures.append(
            Figure(value=percent(accuracy["miou"]), unit="%", title="mIoU", detail=miou_interval(accuracy))
        )
    roofline = measured(record, "roofline")
    if roofline and not roofline["rates"].get("disturbed"):
        figures.append(
            Figure(value=percent(roofline["fraction"], 0), unit="%", title="of the roofline",
                   detail=f"limit {milliseconds(roofline['layer_limit_ms'])} ms per frame")
        )  # fmt: skip
    if load := measured(record, "load"):
        figures.append(
            Figure(value=str(load["streams"]), unit="streams", title="at once",
                   detail=f"of {load['source_fps']:g} frames/s, peak age within {load['max_age_ms']:g} ms")
        )  # fmt: skip
    return figures


def latency_interval(latency: dict[str, Any]) -> str:
    """The interval of the median latency in words; empty without one."""
    found = latency.get("intervals")
    if not found:
        return ""
    low, high = (milliseconds(found["p50"][end]) for end in ("low", "high"))
    return f", {100 * found['level']:g} % interval {low} to {high} ms"


def miou_interval(accuracy: dict[str, Any]) -> str:
    """The interval of the mIoU in words; empty without one."""
    found = accuracy.get("miou_interval")
    if not found:
        return ""
    return f"{100 * found['level']:g} % interval {interval(found)} %"
