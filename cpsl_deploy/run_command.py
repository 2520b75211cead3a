"""cpsl-run: segment images, videos and live streams with an exported model."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from .backend_names import BACKENDS, DEVICES, OPENVINO_PRECISIONS
from .command_line import Command, HungUp, Terminated, parse_size

_INTERRUPTS: dict[int, type[KeyboardInterrupt]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
    signal.SIGHUP: HungUp,
}
_STATUS_EVERY_S = 60.0
_log = logging.getLogger("cpsl_deploy.streams")


class RunCommand(Command):
    """With the time before each line of the log: runs last days."""

    log_format = "%(asctime)s %(levelname)s: %(message)s"


@click.command(cls=RunCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("input", type=str, nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder. Default: INPUT-segmented.")
@click.option("--overlay/--no-overlay", default=True, show_default=True, help="Colours over the frames.")
@click.option("--labels", is_flag=True, help="Palette PNG files whose pixel values are the labels.")
@click.option("--areas/--no-areas", default=True, show_default=True, help="Share of each class: areas.jsonl.")
@click.option("--raw", is_flag=True, help="Labels as bytes, frame after frame, on standard output.")
@click.option(
    "--preview", metavar="[HOST:]PORT", help="Web page, /health and /metrics; host: this one alone."
)
@click.option("--show", is_flag=True, help="A window, or a preview where OpenCV has none.")
@click.option("--drift", is_flag=True, help="Watch whether the model still fits the road: drift.jsonl.")
@click.option(
    "--drift-reference", type=click.Path(path_type=Path), help="With --drift: of cpsl-drift --calibrate."
)
@click.option("--keep", type=click.Path(path_type=Path), help="With --drift: frames it does not fit.")
@click.option("--opacity", type=float, default=0.5, show_default=True, help="Of the colours, 0 to 1.")
@click.option("--legend/--no-legend", default=True, show_default=True, help="Names of the classes present.")
@click.option("--codec", help="Of the overlay video. Default: h264.")
@click.option("--piece", type=float, default=600.0, show_default=True, help="Seconds per file, live sources.")
@click.option(
    "--policy",
    type=click.Choice(["lossless", "latest"]),
    help="Every frame, or the newest. Default: latest for cameras and network streams.",
)
@click.option("--every", type=int, default=1, show_default=True, help="Segment every n-th frame.")
@click.option("--roi", metavar="X,Y,W,H", help="Part of the frame, in pixels or in parts of it (0 to 1).")
@click.option("--tile", metavar="OVERLAP", help="Large frames in tiles; a part (0.25) or pixels (64).")
@click.option("--smooth", metavar="KIND:VALUE", help="logits:0.6 or majority:5; docs/streams.md.")
@click.option("--batch", type=int, help="Most frames in one inference. Default: measured.")
@click.option("--max-frames", type=int, help="End after so many frames.")
@click.option("--max-seconds", type=float, help="End after so many seconds.")
@click.option("--rtsp-transport", type=click.Choice(["tcp", "udp"]), default="tcp", show_default=True)
@click.option("--camera-size", metavar="HxW", help="Asked of a camera.")
@click.option("--camera-fps", type=float, help="Asked of a camera.")
@click.option("--stdin-format", default="mjpeg", show_default=True, help="mjpeg, bgr24, rgb24, gray8, ...")
@click.option("--stdin-size", metavar="HxW", help="Of raw frames on standard input.")
@click.option("--stdin-fps", type=float, help="Of standard input. Default: as they come.")
@click.option("--wait", is_flag=True, help="For a live source that is not there yet.")
@click.option("--stall-after", type=float, help="Seconds without a frame: stalled. Default: 5.")
@click.option("--give-up-after", type=float, help="Seconds; 0: never. Default: 3600.")
@click.option("--max-pixels", type=int, help="Larger frames are refused. Default: 2^27; live 8K.")
@click.option(
    "--backend",
    type=click.Choice(["auto", *BACKENDS]),
    default="auto",
    show_default=True,
    help="auto: for .onnx the fastest here of what passed at export, measured once; tensorrt for .engine.",
)
@click.option("--device", type=click.Choice(DEVICES), help="Default: cpu; cuda where TensorRT runs.")
@click.option("--threads", type=int, help="CPU threads of one inference.")
@click.option(
    "--precision",
    type=click.Choice(OPENVINO_PRECISIONS),
    help="In which openvino computes, by default f32; the other backends: as the file says.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace files of the same name in a folder that is not empty."
)
@click.pass_context
def main(ctx: click.Context, model: Path, input: tuple[str, ...], raw: bool, **values: Any) -> None:
    """Segment INPUT with MODEL.

    MODEL is an .onnx or .engine file, or the run folder that holds model.onnx. INPUT, one or several, is an
    image, a folder of images, a glob in quotes, a video file, a camera (0, /dev/video0), a stream
    (rtsp://, http://), a GStreamer pipeline, or - for frames on standard input.

    Without --policy, files give every frame, cameras and streams the newest. docs/streams.md has the rest.

    Exit code 2 if anything could not be read, the end of a cut-off video too; the rest is done all the same.
    Ctrl-C, SIGTERM and SIGHUP finish the files first: exit codes 130, 143 and 129.
    """
    from .run import run
    from .sources.reference import classify

    logging.getLogger("cpsl_deploy.backends.fastest").setLevel(logging.INFO)  # what auto picked, and why
    options = _stream_options(values)
    if raw or any(classify(reference).live for reference in input):
        logging.getLogger("cpsl_deploy").setLevel(logging.INFO)  # each change of state is worth a line then
    text = sys.stderr if raw else sys.stdout
    with _terminate_as_interrupt(), _Shown(asked_for_preview=values["preview"] is not None) as shown:
        summary = run(
            model,
            input,
            options=options,
            raw=sys.stdout.buffer if raw else None,
            progress=shown.progress,
            started=shown.started,
            **values,
        )
    click.echo(
        f"{summary.frames} frames in {summary.seconds:.1f} s ({summary.frames_per_second:.1f} frames/s); "
        f"mean latency of the model {summary.mean_latency_ms:.1f} ms",
        file=text,
    )
    for source in summary.health["sources"]:
        if line := _losses(source):
            click.echo(line, file=text)
    if summary.unreadable:
        click.secho(f"{len(summary.unreadable)} could not be read:", fg="red", err=True)
        for problem in summary.unreadable:
            click.echo(f"  {problem}", err=True)
    if summary.output is not None:
        click.echo(f"results: {summary.output}", file=text)
    lost = [sink for sink in summary.health["sinks"] if sink["lost"]]
    for sink in lost:
        click.secho(f"{sink['name']}: {sink['lost']} results lost: {sink['reason']}", fg="red", err=True)
    if lost or not summary.complete:
        ctx.exit(2)


def _stream_options(values: dict[str, Any]) -> Any:
    """The stream's options, taken out of the command's. Raises InputError if one breaks its rule."""
    from .sources.backoff import ReconnectOptions
    from .sources.base import InputLimits
    from .sources.live_options import LiveOptions
    from .streams.options import StreamOptions

    def take(name: str) -> Any:
        return values.pop(name)

    def given(**pairs: Any) -> dict[str, Any]:
        return {name: value for name, value in pairs.items() if value is not None}

    sizes = {name: take(name) for name in ("camera_size", "stdin_size")}
    camera_size, stdin_size = (None if size is None else parse_size(size) for size in sizes.values())
    values["piece_s"] = take("piece")
    return StreamOptions(
        policy=take("policy"),
        every=take("every"),
        roi=take("roi"),
        tile=take("tile"),
        smooth=take("smooth"),
        batch=take("batch"),
        max_frames=take("max_frames"),
        max_seconds=take("max_seconds"),
        limits=None if (pixels := take("max_pixels")) is None else InputLimits(max_pixels=pixels),
        reconnect=ReconnectOptions(
            wait=take("wait"),
            **given(stall_after_s=take("stall_after"), give_up_after_s=take("give_up_after")),
        ),
        live=LiveOptions(
            rtsp_transport=take("rtsp_transport"),
            camera_size=camera_size,
            camera_fps=take("camera_fps"),
            raw_format=take("stdin_format"),
            raw_size=stdin_size,
            raw_fps=take("stdin_fps"),
        ),
    )


def _losses(source: dict[str, Any]) -> str:
    """What a source's frames became that were not segmented; empty if all were."""
    parts = [
        f"{source[name]} {word}"
        for name, word in (
            ("dropped", "dropped for newer ones"),
            ("skipped", "left out"),
            ("corrupt", "not readable"),
            ("reconnects", "reconnections"),
        )
        if source[name]
    ]
    return f"{source['name']}: {', '.join(parts)}" if parts else ""


@contextlib.contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does: files are finished, and no second signal ends that."""

    def end(number: int, _: object) -> None:
        for each in _INTERRUPTS:
            signal.signal(each, signal.SIG_IGN)
        raise _INTERRUPTS[number](signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.signal(number, end) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class _Shown:
    """What is to be seen of a run: a progress bar for what ends, one line a minute for what does not."""

    def __init__(self, *, asked_for_preview: bool) -> None:
        self._asked_for_preview = asked_for_preview
        self._bar: Any = None
        self._task: Any = None
        self._stream: Any = None
        self._status: threading.Thread | None = None
        self._end = threading.Event()

    def started(self, stream: Any, folder: Path | None, preview: str | None) -> None:
        self._stream = stream
        if preview is not None:
            why = (
                ""
                if self._asked_for_preview
                else " (there is no window: OpenCV has none, or there is no screen)"
            )
            click.echo(f"preview: {preview}{why}", err=True)
        if stream.ends:
            self._begin_bar()
            return
        self._status = threading.Thread(target=self._tell, name="cpsl-status", daemon=True)
        self._status.start()

    def _begin_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._bar.start()
        self._task = self._bar.add_task("segmenting", total=None, rate="")

    def progress(self, done: int, total: int | None) -> None:
        if self._bar is not None:
            speed = self._bar.tasks[0].speed
            rate = f"{speed:.1f} frames/s" if speed else ""
            self._bar.update(self._task, completed=done, total=total, rate=rate)

    def _tell(self) -> None:
        earlier: dict[str, int] = {}
        began = time.monotonic()
        while not self._end.wait(_STATUS_EVERY_S):
            now = time.monotonic()
            for source in self._stream.health()["sources"]:
                name, delivered = source["name"], source["delivered"]
                rate = (delivered - earlier.get(name, 0)) / (now - began)
                age = source["age_ms"]["p99"]
                _log.info(
                    "%s: %s, %.1f frames/s, age p99 %s, %s",
                    name,
                    source["state"],
                    rate,
                    "-" if age is None else f"{age:.0f} ms",
                    _losses(source).partition(": ")[2] or "nothing lost",
                )
                earlier[name] = delivered
            began = now

    def __enter__(self) -> _Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._status is not None:
            self._status.join()
        if self._bar is not None:
            self._bar.stop()
