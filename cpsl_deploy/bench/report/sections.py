"""A record as a document: its headline and its sections, which Markdown and HTML show each in its way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..record import Record, measured, why_unavailable
from . import section_tables as of
from .formats import milliseconds, percent, plural, scaled
from .headline import miou_interval
from .tables import Table, class_cost_table, class_scores_table, stage_table


@dataclass(frozen=True, kw_only=True)
class Section:
    """Words, tables and charts under a title."""

    key: str
    title: str
    words: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[str, ...] = ()
    """Names of charts, as `charts.CHARTS` has them."""
    unavailable: str | None = None
    """Why there is nothing, if it was asked for and could not be measured."""
    alarm: str | None = None
    """What a reader must not overlook."""


def sections(record: Record) -> list[Section]:
    """Everything measured, and what could not be, in the order to read it."""
    made = [build(record) for build in _BUILDERS]
    return [part for part in made if part is not None]


def not_asked_for(record: Record) -> list[str]:
    """Sections that this record does not hold because nobody asked for them, as words."""
    return [f"{words} ({how})" for key, (words, how) in _OPTIONAL.items() if record.get(key) is None]


_OPTIONAL = {
    "accuracy": ("accuracy", "--data with labels"),
    "cold_start": ("cold start", "on by default"),
    "throughput": ("throughput", "on by default"),
    "sweep": ("sizes and batches", "--sweep-sizes, --sweep-batches"),
    "variants": ("libraries and precisions", "--variants"),
    "roofline": ("roofline", "on by default"),
    "sustained": ("sustained load", "--sustain MINUTES"),
    "stream": ("a live stream", "on by default"),
    "load": ("streams at once", "--max-age-ms MS"),
}


def _optional(
    name: str, title: str, build: Callable[[Record, Any], Section]
) -> Callable[[Record], Section | None]:
    """A section that may be missing, or unavailable for a reason."""

    def built(record: Record) -> Section | None:
        part = record.get(name)
        if part is None or part == []:
            return None
        if (reason := why_unavailable(record, name)) is not None:
            return Section(key=name, title=title, unavailable=reason)
        return build(record, part)

    return built


def _stages(record: Record) -> Section:
    words = ["Wall clock from reading a frame's file to its encoded labels, one frame after the other."]
    if warm := measured(record, "warm_up"):
        steady = {True: "steady", False: "NOT steady", None: "not checked for steadiness"}[warm["steady"]]
        words.append(
            f"Warm-up: {plural(warm['frames'], 'frame')} in {milliseconds(warm['ms'])} ms, then {steady}; "
            f"the very first frame took {milliseconds(warm['first_frame_ms'])} ms. {warm['rule']}"
        )
    return Section(
        key="latency",
        title="Latency by stage",
        words=tuple(words),
        tables=(stage_table(record),),
        charts=("stages",),
    )


def _frames(record: Record) -> Section:
    outliers = record["latency"].get("outliers")
    words, tables = [], []
    if outliers:
        count = plural(outliers["count"], "outlier") if outliers["count"] else "No outlier"
        words.append(f"{count}. {outliers['rule']}")
        if outliers["frames"]:
            tables.append(of.outlier_table(record["latency"]))
    return Section(
        key="frames",
        title="Latency frame by frame",
        words=tuple(words),
        tables=tuple(tables),
        charts=("distribution", "timeline"),
    )


def _throughput(record: Record, found: dict[str, Any]) -> Section:
    return Section(
        key="throughput",
        title="Throughput and single frames",
        words=("A stream's rate with its stages overlapped is not the inverse of a frame's latency.",),
        tables=(of.throughput_table(found),),
        charts=("throughput",),
    )


def _cold_start(record: Record, found: dict[str, Any]) -> Section:
    return Section(
        key="cold_start",
        title="Cold start",
        words=("Each in a fresh process, from its start to the first labels.",),
        tables=(of.cold_start_table(found),),
        charts=("cold_start",),
    )  # fmt: skip


def _sweep(record: Record, found: list[dict[str, Any]]) -> Section:
    return Section(
        key="sweep",
        title="Frame sizes and batches",
        tables=(of.sweep_table(found),),
        charts=("sweep",),
    )


def _classes(record: Record) -> Section:
    accuracy, reason = measured(record, "accuracy"), why_unavailable(record, "accuracy")
    words, charts, tables = [], ["classes"], [class_cost_table(record)]
    if accuracy:
        level = miou_interval(accuracy)
        words.append(
            f"mIoU {percent(accuracy['miou'])} %{f' ({level})' if level else ''}, pixel accuracy "
            f"{percent(accuracy['pixel_accuracy'])} % on {plural(accuracy['frames'], 'labelled image')}, of "
            "the very file that was timed."
        )
        if found := accuracy.get("miou_interval"):
            run = found.get("block", 1)
            alone = "one by one" if run == 1 else f"in runs of {run} that follow each other"
            words.append(f"Intervals: resampled {found['resamples']} times, images drawn {alone}.")
        for key, who in (("unknown_to_data", "The data has no"), ("unknown_to_model", "The model has no")):
            if accuracy[key]:
                words.append(f"{who} {', '.join(accuracy[key])}.")
        tables.insert(0, class_scores_table(record))
        charts += ["class_scores", "confusion"]
    elif reason:
        words.append(f"Accuracy could not be measured: {reason}")
    return Section(
        key="classes", title="Classes", words=tuple(words), tables=tuple(tables), charts=tuple(charts)
    )


def _variants(record: Record, found: dict[str, Any]) -> Section:
    tables = [of.variant_table(found)] if found["rows"] else []
    if found["unavailable"]:
        tables.append(of.unavailable_variant_table(found))
    return Section(
        key="variants",
        title="Libraries and precisions",
        words=("The same model in every library and precision, taking turns in one run.",),
        tables=tuple(tables),
        charts=("ratios", "front"),
    )


def _roofline(record: Record, found: dict[str, Any]) -> Section:
    rates = found["rates"]
    disturbed = rates.get("disturbed")
    reached = "" if disturbed else f": {percent(found['fraction'])} % of the limit is reached"
    tables = [of.roofline_table(found)]
    if found["slowest"]:
        tables.append(of.slowest_layer_table(found))
    return Section(
        key="roofline",
        title="The machine's limit",
        words=(
            f"At {scaled(rates['matrix_flops'], 'FLOP/s')} and {scaled(rates['copy_bytes'], 'B/s')} the "
            f"graph needs {milliseconds(found['layer_limit_ms'])} ms at least, layer by layer; it takes "
            f"{milliseconds(found['measured_ms'])} ms{reached}.",
        ),
        tables=tuple(tables),
        charts=("roofline", "slowest"),
        alarm="The machine was busy while its rates were measured: no share of the limit can be relied on."
        if disturbed
        else None,
    )


def _sustained(record: Record, found: dict[str, Any]) -> Section:
    words = [f"{found['minutes']:.3g} minutes without a pause, {plural(found['frames'], 'frame')}."]
    if found["slowdown"] is not None:
        words.append(f"At the end a frame took {found['slowdown']:.2f} times as long as at the start.")
    if (growth := found["memory_growth_bytes_per_hour"]) is not None:
        words.append(f"The process's memory grew by {growth / 2**20:.1f} MiB an hour.")
    tables = [of.sustained_table(found)]
    tables += [of.energy_table(found)] if found["energy_per_frame_j"] else []
    tables += [of.unavailable_sensor_table(found)] if found["unavailable_sensors"] else []
    reasons = "; ".join(found["throttle_reasons"]) or "no reason was recorded"
    return Section(
        key="sustained",
        title="Sustained load",
        words=tuple(words),
        tables=tuple(tables),
        charts=("sustained",),
        alarm=f"The machine throttled: {reasons}." if found["throttled"] else None,
    )


def _stream(record: Record, found: dict[str, Any]) -> Section:
    return Section(
        key="stream",
        title="A live stream",
        tables=(of.stream_table(found),),
    )


def _load(record: Record, found: dict[str, Any]) -> Section:
    return Section(
        key="load",
        title="Streams at once",
        words=(
            f"{plural(found['streams'], 'stream')} of {found['source_fps']:g} frames/s keep the "
            f"{found['percentile']:g}th percentile of their peak age within {found['max_age_ms']:g} ms. "
            f"{found['limit']}",
        ),
        tables=(of.load_table(found),),
        charts=("load",),
    )


def _origin(record: Record) -> Section:
    words: tuple[str, ...] = ()
    if missing := not_asked_for(record):
        words = (f"Not in this record: {', '.join(missing)}.",)
    return Section(
        key="origin",
        title="Machine, versions and settings",
        words=words,
        tables=(
            of.origin_table(record),
            of.machine_table(record),
            of.versions_table(record),
            of.settings_table(record),
        ),
    )


_BUILDERS: tuple[Callable[[Record], Section | None], ...] = (
    _stages,
    _frames,
    _optional("throughput", "Throughput and single frames", _throughput),
    _optional("cold_start", "Cold start", _cold_start),
    _classes,
    _optional("variants", "Libraries and precisions", _variants),
    _optional("roofline", "The machine's limit", _roofline),
    _optional("sweep", "Frame sizes and batches", _sweep),
    _optional("sustained", "Sustained load", _sustained),
    _optional("stream", "A live stream", _stream),
    _optional("load", "Streams at once", _load),
    _origin,
)
