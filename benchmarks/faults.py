"""What faults of cameras and networks cost: frames lost and the time to recover, each fault several times.

    python benchmarks/faults.py [--tries 5] [--record FILE.json] [--only WORDS]

Cameras are real servers (the tests' rig): H.264 by RTSP from GStreamer's rtsp-server, MJPEG by HTTP; network
faults come from a relay between. Every delivered frame is compared with the picture that the camera sent. The
stream runs as it comes, with default `ReconnectOptions`. The last line of standard output is one JSON
document; before it comes the table.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from camera_faults import (
    DAMAGED,
    FAULTS,
    NO_RTSP,
    RTSP,
    Clip,
    Fault,
    Site,
    Watch,
    Way,
    rtsp_python,
    site,
    write_clip,
    write_tiny_onnx,
)

import cpsl_deploy
from cpsl_deploy.machine import describe_machine, package_versions
from cpsl_deploy.segmenter import Segmenter
from cpsl_deploy.sources.backoff import ReconnectOptions
from cpsl_deploy.sources.live_options import LiveOptions

STEADY_S = 7.0
"""Between two tries: longer than `ReconnectOptions.healthy_after_s`, so that waits begin anew."""
AFTER_S = 2.0
"""Watched after the recovery, for damage that comes late."""
GIVE_UP_S = 90.0
WORDS = {
    "rtsp-tcp": "RTSP, H.264, TCP",
    "rtsp-udp": "RTSP, H.264, UDP",
    "http": "HTTP, MJPEG",
}


@dataclass(frozen=True, kw_only=True)
class Try:
    recovered: bool
    lost: int
    """Frames that the camera sent, or would have sent had it not been away, and that were not delivered."""
    recovery_s: float
    """From the end of the fault to the first whole frame sent after it."""
    damaged: int
    """Frames delivered that were not as the camera sent them."""
    oldest_ms: float
    """True age of the oldest frame delivered."""
    understated_ms: float
    """By how much the age that was told was too small, at most."""
    reconnects: int


@click.command()
@click.option("--tries", default=5, show_default=True)
@click.option("--only", default="", help="Faults whose name contains this.")
@click.option("--ways", "chosen", default=",".join(WORDS), show_default=True)
@click.option("--record", "path", type=click.Path(path_type=Path), help="The JSON document, indented.")
def main(tries: int, only: str, chosen: str, path: Path | None) -> None:
    """What faults of cameras and networks cost: frames, seconds, connections."""
    ways: list[Way] = [way for way in WORDS if way in chosen.split(",")]  # type: ignore[misc]
    if rtsp_python() is None and (skipped := [way for way in ways if way in RTSP]):
        print(f"left out: {', '.join(skipped)}, which {NO_RTSP}", file=sys.stderr)
        ways = [way for way in ways if way not in RTSP]
    rows: list[dict[str, Any]] = []
    software: set[str] = set()
    with tempfile.TemporaryDirectory() as folder, _segmenter(Path(folder)) as segmenter:
        clips = {codec: _clips(Path(folder), codec) for codec in ("h264", "mjpeg")}
        for way in ways:
            pair = clips["mjpeg" if way == "http" else "h264"]
            faults = [fault for fault in FAULTS if way in fault.ways and only in fault.name]
            for fault in faults:
                with _watched(way, pair, segmenter) as (place, watch):
                    found = [_try(fault, place, watch) for _ in _counted(tries, way, fault)]
                    software.add(place.camera.software)
                rows.append({"stream": way, "fault": fault.name, "tries": [asdict(one) for one in found]})
    record = {
        "machine": asdict(describe_machine()),
        "versions": package_versions() | {"av": __import__("av").__version__},
        "cameras": sorted(software),
        "clips": [clip.describe() for pair in clips.values() for clip in pair],
        "model": "tests/tiny_onnx.py",
        "reconnect": asdict(ReconnectOptions()),
        "rows": rows,
    }
    print("\n".join(table(rows)))
    if path is not None:
        path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))


def _counted(tries: int, way: Way, fault: Fault) -> Iterator[int]:
    for at in range(tries):
        print(f"{WORDS[way]}: {fault.name}, {at + 1} of {tries}", file=sys.stderr, flush=True)
        yield at


def _segmenter(folder: Path) -> Segmenter:
    return cpsl_deploy.load(write_tiny_onnx(folder / "tiny.onnx"), backend="onnxruntime", threads=1)


def _clips(folder: Path, codec: str) -> tuple[Clip, Clip]:
    return (
        write_clip(folder / f"{codec}-1", codec=codec, size=(640, 360), count=250),
        write_clip(folder / f"{codec}-2", codec=codec, size=(480, 272), count=250),
    )


@contextlib.contextmanager
def _watched(way: Way, clips: tuple[Clip, Clip], segmenter: Segmenter) -> Iterator[tuple[Site, Watch]]:
    with site(way, clips) as place:
        live = LiveOptions(rtsp_transport="udp" if way == "rtsp-udp" else "tcp")
        stream = cpsl_deploy.stream(place.url, segmenter, live=live)
        with Watch(stream, place.camera) as watch:
            yield place, watch


def _try(fault: Fault, place: Site, watch: Watch) -> Try:
    watch.wait_for_frames(5, 60)
    time.sleep(STEADY_S)
    watch.wait_for_frames(1, 60)
    first = len(watch.seen) - 1
    before = watch.status["reconnects"]
    fault.begin(place)
    time.sleep(fault.hold_s)
    fault.end(place)
    over_s = time.monotonic()

    def fresh() -> int | None:
        for at in range(first + 1, len(watch.seen)):
            seen = watch.seen[at]
            if seen.sent_s is not None and seen.sent_s > over_s and seen.damage <= DAMAGED:
                return at
        return None

    recovered = True
    try:
        watch.wait(lambda: fresh() is not None, GIVE_UP_S, f"recovery from: {fault.name}")
    except AssertionError as error:
        recovered = False
        print(error, file=sys.stderr)
    last = fresh() or len(watch.seen) - 1
    time.sleep(AFTER_S)
    start, end = watch.seen[first], watch.seen[last]
    sent = place.camera.clip.fps * ((end.sent_s or end.at_s) - (start.sent_s or start.at_s))
    aftermath = watch.seen[first + 1 :]
    return Try(
        recovered=recovered,
        lost=max(0, round(sent) - (last - first)),
        recovery_s=round(end.at_s - over_s, 3),
        damaged=sum(seen.damage > DAMAGED for seen in aftermath),
        oldest_ms=round(max(seen.true_age_ms or 0.0 for seen in aftermath), 1),
        understated_ms=round(max((seen.true_age_ms or 0.0) - seen.age_ms for seen in aftermath), 1),
        reconnects=watch.status["reconnects"] - before,
    )


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown: a row for every fault and stream; median and maximum over the tries."""
    titles = "stream, fault, recovered, frames lost, recovery (s), reconnects, damaged, oldest frame (s)"
    yield f"| {titles.replace(', ', ' | ')} |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        tries = row["tries"]

        def both(name: str, form: str, scale: float = 1.0, tries: list[Any] = tries) -> str:
            values = [one[name] * scale for one in tries]
            return f"{statistics.median(values):{form}} / {max(values):{form}}"

        cells = [
            WORDS[row["stream"]],
            row["fault"],
            f"{sum(one['recovered'] for one in tries)} of {len(tries)}",
            both("lost", ".0f"),
            both("recovery_s", ".2f"),
            both("reconnects", ".0f"),
            str(sum(one["damaged"] for one in tries)),
            both("oldest_ms", ".1f", 1e-3),
        ]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
