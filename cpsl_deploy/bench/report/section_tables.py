"""Tables of a record's optional sections. Every function takes a section that was measured."""

from __future__ import annotations

from typing import Any

from ..notes import RELIABLE_P99
from ..record import Record, measured
from .formats import frame_size, milliseconds, number, percent, plain, scaled, size_in_bytes
from .tables import Table, table

SHOWN_OUTLIERS = 12
SHOWN_LAYERS = 12
_COLD_PARTS = {
    "process_ms": "start the interpreter",
    "import_ms": "import",
    "load_ms": "load the model",
    "first_frame_ms": "first frame",
    "to_first_labels_ms": "to the first labels, in all",
}


def outlier_table(latency: dict[str, Any]) -> Table:
    """The slowest of the frames that are outliers."""
    found = sorted(latency["outliers"]["frames"], key=lambda frame: -frame["total_ms"])
    hidden = len(found) - SHOWN_OUTLIERS
    return table(
        ("outlier", "place in the run", "total ms"),
        [(f["frame"], str(f["index"]), milliseconds(f["total_ms"])) for f in found[:SHOWN_OUTLIERS]],
        legend=f"And {hidden} faster ones." if hidden > 0 else "",
    )


def throughput_table(found: dict[str, Any]) -> Table:
    """Frames per second with and without overlapping stages."""
    rates = found.get("fps_quartiles")
    quartiles = f"quartiles of parts of it {', '.join(number(r, 2) for r in rates)} frames/s" if rates else ""
    return table(
        ("how frames are handled", "frames/s"),
        [
            ("one after the other", number(found["single_fps"], 2)),
            ("stages overlapped", number(found["fps"], 2)),
            (f"limit: the slowest stage without a pause ({found['slowest_stage']})",
             number(found["slowest_stage_fps"], 2)),
        ],
        legend=f"{found['frames']} frames in {found['seconds']:.1f} s{', ' if rates else ''}"
        f"{quartiles}; the slowest stage was busy {percent(found['share_of_slowest'])} % of the run, "
        f"{found['cpu_cores_used']:.2f} processor cores were.",
    )  # fmt: skip


def cold_start_table(found: dict[str, Any]) -> Table:
    """Milliseconds of each fresh process."""
    runs = range(found["runs"])
    return table(
        ("ms", *(f"process {i + 1}" for i in runs)),
        [(words, *(milliseconds(found[key][i]) for i in runs)) for key, words in _COLD_PARTS.items()],
    )


def sweep_table(cells: list[dict[str, Any]]) -> Table:
    """One row per frame size and batch."""
    rows: list[tuple[str, ...]] = []
    for cell in cells:
        place = (frame_size(cell["frame_size"]), str(cell["batch"]))
        if "unavailable" in cell:
            rows.append((*place, cell["unavailable"], "n/a", "n/a", "n/a", "n/a"))
            continue
        stages = cell["stages_ms"]
        total = stages["total"]
        figures = (stages["inference"]["p50"], total["p50"], total["p99"])
        rows.append((*place, frame_size(cell["input_size"]), *map(milliseconds, figures),
                     number(cell["fps"], 2)))  # fmt: skip
    return table(
        ("frame", "batch", "model's input", "inference p50 ms", "total p50 ms", "total p99 ms", "frames/s"),
        rows,
        text_columns=3,
        legend="Milliseconds per frame, not per batch. Sizes are height x width.",
    )


def variant_table(found: dict[str, Any]) -> Table:
    """Every library and precision that ran, the fastest first."""
    rows = [
        (
            row["name"],
            row["precision"],
            size_in_bytes(row["bytes"]),
            *(milliseconds(row[key]) for key in ("p50_ms", "p90_ms", "p99_ms")),
            number(row["ratio"], 2),
            f"{number(row['ratio_low'], 2)}–{number(row['ratio_high'], 2)}",
            percent(row["agreement"], 2),
            percent(row["miou"]),
            percent(row["roofline_fraction"]),
        )
        for row in sorted(found["rows"], key=lambda row: row["p50_ms"])
    ]
    return table(
        ("variant", "precision", "file", "p50 ms", "p90 ms", "p99 ms", "times as fast", "interval",
         "agreement %", "mIoU %", "of roofline %"),
        rows,
        text_columns=2,
        legend=f"{found['rounds']} rounds, the variants taking turns, frames of {frame_size(found['size'])}. "
        f"Times as fast as {found['yardstick']}; agreement: share of the pixels that get its label.",
    )  # fmt: skip


def unavailable_variant_table(found: dict[str, Any]) -> Table:
    """What did not run, and why."""
    rows = [(row["name"], row["reason"]) for row in found["unavailable"]]
    return table(("not available", "reason"), rows, text_columns=2)


def roofline_table(found: dict[str, Any]) -> Table:
    """The model's work, the machine's rates, and the time that follows."""
    rates = found["rates"]
    origin = "stated" if rates["stated"] else "measured"
    origin += " on a busy machine, too low" if rates.get("disturbed") else ""
    rows = [
        ("parameters", scaled(found["parameters"], ""), size_in_bytes(found["parameter_bytes"])),
        ("work per frame", scaled(found["flops"], "FLOP"), f"of {found['graph']}"),
        ("bytes moved per frame", size_in_bytes(found["bytes"]), "every layer reads and writes its tensors"),
        (f"matrix products, {rates['matrix_precision']}", scaled(rates["matrix_flops"], "FLOP/s"),
         f"{origin}: {rates['matrix_how']}"),
        ("memory", scaled(rates["copy_bytes"], "B/s"), f"{origin}: {rates['copy_how']}"),
        ("limit, layer by layer", f"{milliseconds(found['layer_limit_ms'])} ms",
         f"{percent(found['fraction'])} % of it reached"),
        ("limit, whole graph at once", f"{milliseconds(found['compulsory_limit_ms'])} ms",
         f"only input, output and parameters move; {percent(found['compulsory_fraction'])} % reached"),
        ("measured inference", f"{milliseconds(found['measured_ms'])} ms", ""),
    ]  # fmt: skip
    return table(("roofline", "value", "how"), rows, text_columns=3)


def slowest_layer_table(found: dict[str, Any]) -> Table:
    """The layers that took longest in the profile."""
    rows = [
        (
            layer["name"],
            layer["operator"],
            frame_size(layer["output_shape"]),
            milliseconds(layer["ms"]),
            percent(layer["share"]),
        )
        for layer in found["slowest"][:SHOWN_LAYERS]
    ]
    profile = found["profile_ms"]
    return table(
        ("slowest layer", "operator", "output", "ms", "share %"),
        rows,
        text_columns=3,
        legend="" if profile is None else f"Of a profile of {milliseconds(profile)} ms per frame.",
    )


def sustained_table(found: dict[str, Any]) -> Table:
    """What went on over time, by its first, least and greatest value."""
    rows = []
    for title, unit, values in sustained_series(found):
        known = [value for value in values if value is not None]
        if not known:
            continue
        show = size_in_bytes if unit == "bytes" else lambda value: number(value, 1)
        words = title if unit == "bytes" else f"{title}, {unit}"
        rows.append((words, *(show(value) for value in (known[0], min(known), max(known), known[-1]))))
    return table(("over time", "first", "least", "greatest", "last"), rows)


def sustained_series(found: dict[str, Any]) -> list[tuple[str, str, list[float | None]]]:
    """(title, unit, values) of everything recorded over time, sensors by their name."""
    series = found["series"]
    lines = [("latency p50", "ms", series["p50_ms"]), ("latency p99", "ms", series["p99_ms"]),
             ("frames", "frames/s", series["fps"])]  # fmt: skip
    groups = (
        ("clock_mhz", "clock", "MHz"),
        ("temperature_c", "temperature", "°C"),
        ("power_w", "power", "W"),
    )
    for key, title, unit in groups:
        lines += [(f"{title}: {name}", unit, values) for name, values in series[key].items()]
    lines.append(("memory: process", "bytes", series["process_bytes"]))
    if series["device_bytes"] is not None:
        lines.append(("memory: device", "bytes", series["device_bytes"]))
    return lines


def energy_table(found: dict[str, Any]) -> Table:
    """Joules per frame by rail."""
    energy = found["energy_per_frame_j"] or {}
    return table(("energy per frame", "J"), [(rail, f"{value:.3g}") for rail, value in energy.items()])


def unavailable_sensor_table(found: dict[str, Any]) -> Table:
    """Sensors that could not be read, and why."""
    rows = [(row["sensor"], row["reason"]) for row in found["unavailable_sensors"]]
    return table(("sensor not read", "reason"), rows, text_columns=2)


def stream_table(found: dict[str, Any]) -> Table:
    """Ages at delivery of one live stream."""
    keys = ("mean", "p50", "p90", "p99", "max")
    rows = [
        (words, *(milliseconds(found[key][statistic]) for statistic in keys))
        for words, key in (("age at delivery", "age_ms"), ("age just before the next result", "peak_age_ms"))
    ]
    return table(
        ("one live stream, ms", *keys),
        rows,
        legend=f"A source of {found['source_fps']:g} frames/s for {found['seconds']:g} s, the newest frame "
        f"always next: {found['delivered']} of {found['frames']} frames delivered, {found['dropped']} "
        "dropped." + _few_results(found["age_ms"]["count"]),
    )


def _few_results(fewest: int) -> str:
    """What is to be known of a 99th percentile of so many."""
    if fewest >= RELIABLE_P99:
        return ""
    return f" p99 of fewer than {RELIABLE_P99} results (here {fewest}) says little more than their maximum."


def load_table(found: dict[str, Any]) -> Table:
    """Every trial of the search, by its number of streams."""
    rows = [
        (
            str(trial["streams"]),
            milliseconds(trial["age_p99_ms"]),
            milliseconds(trial["peak_age_p99_ms"]),
            number(trial["delivered_fps"], 1),
            percent(trial["dropped_share"]),
            str(trial.get("results", "n/a")),
            "yes" if trial["within"] else "no",
        )
        for trial in sorted(found["trials"], key=lambda trial: trial["streams"])
    ]
    percentile = f"p{found['percentile']:g}"
    counts = [trial["results"] for trial in found["trials"] if "results" in trial]
    return table(
        ("streams", f"age {percentile} ms", f"peak age {percentile} ms", "delivered frames/s", "dropped %",
         "results", "within the limit"),
        rows,
        legend=f"Each of {found['source_fps']:g} frames/s, {found['seconds_per_trial']:g} s per trial."
        + (_few_results(min(counts)) if counts else ""),
    )  # fmt: skip


def machine_table(record: Record) -> Table:
    """The machine, and what ran the model on it."""
    machine = record["machine"]
    memory = machine["memory_gib"]
    rows = [
        ("CPU", f"{machine['cpu']}, {machine['cores']} cores, {machine['usable_cores']:g} usable"),
        ("memory", "n/a" if memory is None else f"{memory} GiB"),
        ("GPU", "; ".join(machine["gpus"]) or "none"),
        ("system", machine["os"]),
        ("load average before", plain(machine["load_average"])),
    ]
    rows += [(f"Jetson: {key}", plain(value)) for key, value in (machine.get("jetson") or {}).items()]
    rows += [(f"runtime: {key}", plain(value)) for key, value in record["runtime"].items()]
    if clock := measured(record, "clock"):
        rows.append(
            ("clock", f"{clock['name']}, resolution {clock['resolution_ns']:g} ns, a reading costs "
             f"{clock['overhead_ns']:.3g} ns")
        )  # fmt: skip
    if synchronised := measured(record, "synchronisation"):
        rows.append(
            ("synchronisation", f"after a call returned, {synchronised['left_after_return_ms']:.3g} ms of "
             f"its work were left, at most, in {synchronised['checked_frames']} frames")
        )  # fmt: skip
    return table(("machine", "value"), rows, text_columns=2)


def origin_table(record: Record) -> Table:
    """What model, what data, when and how: what it takes to run the same again."""
    model, data = record["model"], measured(record, "data")
    rows = [
        ("model", f"{model['name']}, {size_in_bytes(model['bytes'])}"),
        ("SHA-256 of the model", model["sha256"]),
    ]
    rows += [(f"contract: {key}", plain(value)) for key, value in (model.get("contract") or {}).items()]
    if data:
        rows += [
            ("data", f"{data['name']}, split {data['split']}, {data['images']} images ({data['reference']})"),
            ("SHA-256 of the data", data["sha256"]),
        ]
    if record.get("command"):
        rows.append(("command", record["command"]))
    return table(("run", "value"), [*rows, ("measured", record["created"])], text_columns=2)


def versions_table(record: Record) -> Table:
    """Versions of all that a latency depends on."""
    rows = [(name, version) for name, version in record["versions"].items() if version]
    return table(("package", "version"), rows, text_columns=2)


def settings_table(record: Record) -> Table:
    """Every setting."""
    rows = [
        (name, "not given" if value is None else plain(value)) for name, value in record["settings"].items()
    ]
    return table(("setting", "value"), rows, text_columns=2)
