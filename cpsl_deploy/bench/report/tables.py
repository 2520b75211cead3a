"""Tables of stages and classes: what the terminal, the Markdown and the HTML document have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..record import Record, measured
from .formats import milliseconds, number, percent

STAGES = (
    "read", "decode", "pre", "host_to_device", "inference", "device_to_host", "post", "encode", "total",
)  # fmt: skip
"""In the order in which a frame goes through them; a record holds those that there were."""
STAGE_COLUMNS = ("stage", "mean", "p50", "p90", "p99", "max")
SHORT_CLASS_COLUMNS = ("class", "IoU %", "labelled %", "frames", "p50 ms", "p99 ms", "extract ms")
"""For terminals of 80 columns."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under columns; the first ``text_columns`` of them are words, the others figures."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    caption: str = ""
    legend: str = ""
    swatches: tuple[tuple[int, int, int], ...] = ()
    """An RGB colour, 0..255, before each row; none without."""


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    text_columns: int = 1,
    caption: str = "",
    legend: str = "",
) -> Table:
    """A table of any sequences of text."""
    return Table(
        columns=tuple(columns),
        rows=tuple(tuple(row) for row in rows),
        text_columns=text_columns,
        caption=caption,
        legend=legend,
    )


def measured_stages(stages_ms: dict[str, Any]) -> list[str]:
    """The stages that there were, in the order of STAGES, any others after them and the total last."""
    known = [stage for stage in STAGES if stage in stages_ms and stage != "total"]
    others = [stage for stage in stages_ms if stage not in STAGES]
    return known + others + (["total"] if "total" in stages_ms else [])


def stage_rows(record: Record) -> list[tuple[str, ...]]:
    """One row of text per stage, milliseconds, in the columns of STAGE_COLUMNS."""
    stages = record["latency"]["stages_ms"]
    return [
        (stage, *(milliseconds(stages[stage][key]) for key in STAGE_COLUMNS[1:]))
        for stage in measured_stages(stages)
    ]


def stage_table(record: Record) -> Table:
    """Latency by stage."""
    return table(STAGE_COLUMNS, stage_rows(record), legend="Milliseconds per frame.")


def extraction_ms(result: dict[str, Any]) -> float | None:
    """What taking a class's mask, area and contours costs in all; None if that was not measured."""
    cost = result.get("extraction")
    return None if not cost else cost["mask_ms"] + cost["area_ms"] + cost["contours_ms"]


def short_class_row(result: dict[str, Any]) -> tuple[str, ...]:
    """One row of text for a class of a record, in the columns of SHORT_CLASS_COLUMNS."""
    latency = result["latency"]
    return (
        result["name"],
        percent(result["iou"]),
        percent(result["label_share"], 2),
        str(latency["frames"]),
        milliseconds(latency["p50_ms"]),
        milliseconds(latency["p99_ms"]),
        number(extraction_ms(result), 3),
    )


def class_scores_table(record: Record) -> Table:
    """How right each class is."""
    pixels = (measured(record, "accuracy") or {}).get("boundary_pixels")
    rows = [
        (
            result["name"],
            percent(result["iou"]),
            _interval(result.get("iou_interval")),
            percent(result.get("precision")),
            percent(result.get("recall")),
            percent(result.get("boundary_iou")),
            percent(result.get("boundary_f_score")),
            percent(result["label_share"], 2),
            percent(result["predicted_share"], 2),
        )
        for result in record["classes"]
    ]
    near = f" Boundary scores count pixels within {pixels} of an outline." if pixels else ""
    made = table(
        ("class", "IoU %", "interval", "precision", "recall", "boundary IoU", "boundary F",
         "labelled %", "predicted %"),
        rows,
        legend="All in percent. Interval: of the IoU, by resampling the images. Labelled, predicted: share "
        f"of the pixels.{near} n/a: no such figure.",
    )  # fmt: skip
    return _with_swatches(made, record)


def class_cost_table(record: Record) -> Table:
    """What each class costs."""
    rows = []
    for result in record["classes"]:
        latency, cost, age = result["latency"], result.get("extraction") or {}, result.get("stream_age") or {}
        rows.append(
            (
                result["name"],
                str(latency["frames"]),
                milliseconds(latency["p50_ms"]),
                milliseconds(latency["p99_ms"]),
                *(number(cost.get(key), 3) for key in ("mask_ms", "area_ms", "contours_ms")),
                milliseconds(age.get("p50_ms")),
                milliseconds(age.get("p99_ms")),
            )
        )
    made = table(
        ("class", "frames", "p50 ms", "p99 ms", "mask ms", "area ms", "contours ms", "age p50 ms",
         "age p99 ms"),
        rows,
        legend="p50 and p99: total latency over the measured frames in which 0.1 % of the pixels or more "
        "are predicted as the class (their number under frames). Mask, area, contours: "
        "median cost of taking the class out of a label map. "
        "Age: of the results of a live stream that show the class, at delivery. n/a: no such figure.",
    )  # fmt: skip
    return _with_swatches(made, record)


def _with_swatches(made: Table, record: Record) -> Table:
    colours = tuple((r, g, b) for r, g, b in (result["colour"] for result in record["classes"]))
    return Table(columns=made.columns, rows=made.rows, legend=made.legend, swatches=colours)


def _interval(low_high: dict[str, Any] | None) -> str:
    return "n/a" if low_high is None else f"{percent(low_high['low'])}–{percent(low_high['high'])}"
