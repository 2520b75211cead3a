"""Runs streams of cameras for minutes or days while faults are injected at random, and says what came of it.

    python benchmarks/soak.py --minutes 10 [--seed 0] [--every 30] [--model MODEL] [--ways rtsp-tcp,http]
                              [--record FILE.json]

Cameras are the tests' rig: H.264 by RTSP where GStreamer's rtsp-server is installed, MJPEG by HTTP else. They
share one model; overlays and areas are written in pieces, checked and deleted, and the preview is polled. The
one line on standard output, a JSON document, has frames in, out, dropped and corrupt, reconnections, ages,
memory slopes, and what was left behind. Ctrl-C ends the run with the document of what was done. Exit code 1
if the stream failed, a source did not come back, a frame came damaged, twice or out of order, or a piece
cannot be read.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from camera_faults import (
    FAULTS,
    RTSP,
    Fault,
    Held,
    Site,
    Way,
    held,
    rtsp_python,
    site,
    write_clip,
    write_tiny_onnx,
)
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from soak_measures import Memory, Pieces, Poller, Tally

import cpsl_deploy
from cpsl_deploy.machine import describe_machine, package_versions
from cpsl_deploy.sinks.json_lines import AreasSink
from cpsl_deploy.sinks.overlay_video import OverlaySink
from cpsl_deploy.sinks.preview import PreviewSink
from cpsl_deploy.sources.live_options import LiveOptions
from cpsl_deploy.streams.stream import Stream

SILENT_S = 60.0
"""A source that gave nothing for so long at the end did not come back: no fault takes so long."""
CLIPS = {"h264": ((640, 360), (480, 272)), "mjpeg": ((480, 272), (320, 192))}
"""(width, height) of what the cameras send, and after a change."""


class Chaos:
    """Injects faults, one at a time, in a thread; the same ones for the same seed."""

    def __init__(self, sites: list[Site], every_s: float, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.error: BaseException | None = None
        self._sites, self._every_s, self._random = sites, every_s, random.Random(seed)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos")

    def _run(self) -> None:
        try:
            while not self._end.wait(self._random.expovariate(1 / self._every_s)):
                place = self._random.choice(self._sites)
                fault: Fault = self._random.choice([one for one in FAULTS if place.way in one.ways])
                self.counts[f"{place.way}: {fault.name}"] += 1
                fault.begin(place)
                self._end.wait(fault.hold_s)
                fault.end(place)
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Chaos:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


@click.command()
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--every", default=30.0, show_default=True, help="Seconds between two faults, on average.")
@click.option("--model", help="An exported file; a tiny network if not given.")
@click.option("--ways", help="rtsp-tcp, rtsp-udp, http: one camera for each that is named.")
@click.option("--record", "path", type=click.Path(path_type=Path), help="The JSON document, indented.")
def main(
    minutes: float, seed: int, every: float, model: str | None, ways: str | None, path: Path | None
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    record = soak(minutes, seed, every, model, _ways(ways))
    if path is not None:
        path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record), flush=True)
    wrong = record["damaged"] or record["not_newer"] or record["pieces"]["unreadable"] or record["silent"]
    sys.exit(1 if record["failed"] or wrong else 130 if record["interrupted"] else 0)


def _ways(asked: str | None) -> list[Way]:
    """Raises SystemExit for a way that is not known or not there."""
    there = rtsp_python() is not None
    if asked is None:
        return ["rtsp-tcp", "http"] if there else ["http", "http"]
    ways = asked.split(",")
    for way in ways:
        if way not in (*RTSP, "http") or (way in RTSP and not there):
            sys.exit(f"a way is {', '.join((*RTSP, 'http'))}, rtsp with GStreamer's rtsp-server; got {way}")
    return ways  # type: ignore[return-value]


def soak(minutes: float, seed: int, every: float, model: str | None, ways: list[Way]) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sites = _sites(stack, folder, ways)
        used = model or str(write_tiny_onnx(folder / "tiny.onnx"))
        # Before the count of what is held: onnxruntime keeps files of its own open from now on.
        segmenter = stack.enter_context(cpsl_deploy.load(used, threads=1))
        before = held()
        live = LiveOptions(rtsp_transport="udp" if "rtsp-udp" in ways else "tcp")
        preview = PreviewSink("127.0.0.1:0", health=lambda: stream.health())
        pieces = Pieces(folder / "results")
        sinks = [
            OverlaySink(pieces.folder, piece_s=20, several_sources=True),
            AreasSink(pieces.folder, piece_s=20, several_sources=True),
            preview,
        ]
        stream = cpsl_deploy.stream(
            [place.url for place in sites],
            segmenter,
            sinks=sinks,
            live=live,
            max_seconds=60 * minutes,
        )
        tally = Tally(sites)
        memory, poller = Memory(), Poller(preview)
        chaos = Chaos(sites, every, seed)
        began_s = time.monotonic()
        ended = _run(stream, minutes, tally, [memory, poller, pieces, chaos])
        minutes = (time.monotonic() - began_s) / 60
        after = _settled(before)
        return {
            "minutes": round(minutes, 2),
            **ended,
            "seed": seed,
            "cameras": [f"{place.way}: {place.camera.software}" for place in sites],
            "clips": [clip.describe() for place in sites for clip in place.clips],
            "model": model or "tests/tiny_onnx.py",
            "faults": dict(sorted(chaos.counts.items())),
            **_counters(stream),
            **tally.figures(),
            **memory.figures(),
            "preview": poller.figures(),
            "pieces": pieces.figures(),
            "sinks": stream.health()["sinks"],
            "sources": stream.health()["sources"],
            "held": _held(before, after),
            "machine": asdict(describe_machine()),
            "versions": package_versions(),
        }


def _sites(stack: ExitStack, folder: Path, ways: list[Way]) -> list[Site]:
    codecs = ["mjpeg" if way == "http" else "h264" for way in ways]
    clips = {
        codec: [
            write_clip(folder / f"{codec}-{size[0]}", codec=codec, size=size, count=250)
            for size in CLIPS[codec]
        ]
        for codec in dict.fromkeys(codecs)
    }
    pairs = [clips[codec] for codec in codecs]
    for pair in pairs:
        for clip in pair:
            assert clip.references  # decoded now: memory is measured later
    return [stack.enter_context(site(way, (pair[0], pair[1]))) for way, pair in zip(ways, pairs, strict=True)]


def _run(stream: Stream, minutes: float, tally: Tally, helpers: list[Any]) -> dict[str, Any]:
    """Iterate the stream. How it ended."""
    failed, interrupted = "", False
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    try:
        with ExitStack() as stack, stream as results, Progress(*columns, console=console) as progress:
            task = progress.add_task("soak", total=60 * minutes)
            stream.start()
            for helper in helpers:
                stack.enter_context(helper)
            began_s = time.monotonic()
            for result in results:
                tally.count(result)
                past_s = time.monotonic() - began_s
                progress.update(task, completed=past_s, description=f"soak: {tally.frames} frames")
    except KeyboardInterrupt:
        interrupted = True
    except Exception as error:
        failed = f"{type(error).__name__}: {error}"
    for helper in helpers:
        if getattr(helper, "error", None) is not None:
            failed = failed or f"{type(helper).__name__}: {helper.error!r}"
    return {"interrupted": interrupted, "failed": failed}


def _counters(stream: Stream) -> dict[str, Any]:
    sources = stream.health()["sources"]
    total = Counter[str]()
    for source in sources:
        for name in ("received", "delivered", "dropped", "corrupt", "reconnects"):
            total[name] += source[name]
    return {
        "frames": {
            "in": total["received"],
            "out": total["delivered"],
            "dropped": total["dropped"],
            "corrupt": total["corrupt"],
        },
        "reconnects": total["reconnects"],
        "silent": [source["name"] for source in sources if (source["last_frame_s_ago"] or 0) > SILENT_S],
    }


def _settled(before: Held) -> Held:
    """What is held once the relays have noticed that their clients are gone."""
    end_s = time.monotonic() + 10
    while (now := held()).descriptors > before.descriptors and time.monotonic() < end_s:
        time.sleep(0.1)
    return now


def _held(before: Held, after: Held) -> dict[str, Any]:
    return {
        "threads": {"start": len(before.threads), "end": len(after.threads)},
        "descriptors": {"start": before.descriptors, "end": after.descriptors},
        "readers": {"start": before.readers, "end": after.readers},
    }


if __name__ == "__main__":
    main()
