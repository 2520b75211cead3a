"""Segment images, videos and live streams into files, onto standard output, a web page or a window."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .errors import DataError, InputError
from .files import new_output_folder
from .segmenter import Segmenter, load
from .sinks.base import Sink
from .sinks.video_codec import check_codec
from .sources.base import Feed
from .sources.names import shown
from .sources.open import Reference, as_references, open_feeds
from .streams.options import StreamOptions
from .streams.side_by_side import side_by_side
from .streams.stream import Stream

log = logging.getLogger(__name__)

PREVIEW_ADDRESS = "127.0.0.1:0"
"""On this machine alone, on a port that is free."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is made of each result. Raises InputError if that is nothing, or a value breaks its rule."""

    overlay: bool = True
    """The frame under the classes' colours: ``NAME.overlay.mp4`` for a video, else ``NAME.overlay.jpg``
    (``.png`` for images that were stored without loss)."""
    labels: bool = False
    """Palette PNG files whose pixel values are the labels: ``NAME.labels.png``, or ``labels/NAME-FRAME.png``
    for a video."""
    areas: bool = True
    """``areas.jsonl``: one JSON object per frame with the share of every class, latency and age."""
    raw: BinaryIO | None = None
    """Labels, uint8 H*W bytes per frame one after the other, into this file: standard output, for example."""
    preview: str | None = None
    """``HOST:PORT`` of a web page with the overlays, ``/health`` and ``/metrics``."""
    show: bool = False
    """A window with the overlays; where the installed OpenCV has none, a preview."""
    drift: bool = False
    """Whether the model still fits the road, against the statistics in its file: ``drift.jsonl``."""
    drift_reference: Path | None = None
    """Statistics of ``cpsl-drift --calibrate``, for a file that has none."""
    keep: Path | None = None
    """Folder for frames of a road that the model no longer fits: consent to keep them."""
    opacity: float = 0.5
    """Of the colours in the overlay, 0..1."""
    legend: bool = True
    """Names of the classes present, in the overlay."""
    codec: str | None = None
    """Of the overlay video; None is H.264, where it can be written."""
    piece_s: float = 600.0
    """Seconds of one file of a live source's overlay and areas."""

    def __post_init__(self) -> None:
        if not (self.needs_folder or self.raw or self.preview or self.show):
            raise InputError(
                "nothing is asked for: ask for at least one of overlay, labels, areas, raw, preview, show "
                "and drift"
            )
        if (self.keep or self.drift_reference) and not self.drift:
            raise InputError("keep and drift_reference belong to drift: ask for it, too (--drift)")
        if not 0 <= self.opacity <= 1:
            raise InputError(f"an opacity is from 0 to 1; got {self.opacity}")
        if not self.piece_s >= 1:
            raise InputError(f"a piece of a recording is 1 second long or more; got {self.piece_s}")

    @property
    def needs_folder(self) -> bool:
        """Whether something is written into the output folder."""
        return self.overlay or self.labels or self.areas or self.drift


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a run did."""

    output: Path | None
    """The folder with the results; None if nothing was to be stored."""
    frames: int
    """Frames segmented."""
    unreadable: tuple[str, ...]
    """One line for each image that could not be read, and for a video that ends early."""
    seconds: float
    """Wall-clock time of reading, inference and writing together."""
    mean_latency_ms: float
    """Of pre-processing, inference and post-processing."""
    files: tuple[Path, ...]
    """Overlay videos and areas files, where written."""
    health: dict[str, Any]
    """States, counters and ages at the end: `Stream.health`."""

    @property
    def complete(self) -> bool:
        """Whether everything that was to be read was: a camera's losses are no failure, its end is."""
        sources = self.health["sources"]
        failed = any(source["state"] == "failed" for source in sources)
        return not (self.unreadable or failed or any(s["corrupt"] for s in sources if not s["live"]))

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.seconds if self.seconds > 0 else 0.0


def run(
    model: str | os.PathLike[str] | Segmenter,
    input: Reference | Sequence[Reference],
    output: str | os.PathLike[str] | None = None,
    *,
    overlay: bool = True,
    labels: bool = False,
    areas: bool = True,
    raw: BinaryIO | None = None,
    preview: str | None = None,
    show: bool = False,
    drift: bool = False,
    drift_reference: str | os.PathLike[str] | None = None,
    keep: str | os.PathLike[str] | None = None,
    opacity: float = 0.5,
    legend: bool = True,
    codec: str | None = None,
    piece_s: float = 600.0,
    options: StreamOptions | None = None,
    sinks: Sequence[Sink] = (),
    backend: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
    started: Callable[[Stream, Path | None, str | None], None] | None = None,
) -> RunSummary:
    """Segment one or several sources until they end.

    ``model``: see `cpsl_deploy.load`, which also takes ``backend``, ``device``, ``threads`` and
    ``precision``; or an opened Segmenter, which stays open. ``input``: see `cpsl_deploy.stream`. ``output``:
    a folder, by default ``NAME-segmented`` in the current one. What is made of the results: see `RunOptions`;
    ``sinks`` are more of your own. ``options``: how the frames run.

    ``progress`` is called after each frame with the frames done and their number, None if not known.
    ``started`` is called when the sources are connected, with the stream (its `Stream.health` may be asked
    from any thread), the output folder and the preview's address.

    A KeyboardInterrupt ends the files with what is done so far and is raised again, saying where they are.
    One unreadable image among others is counted in the summary, and so is the missing rest of a video that
    ends before its header promised.

    Raises ModelFileError, UnavailableError, InputError as `load` does, DataError if nothing can be read or a
    live source is lost for good, OutputError if the output folder is not empty (without ``overwrite``; live
    sources add to it) or cannot be written.
    """
    wanted = RunOptions(
        overlay=overlay, labels=labels, areas=areas, raw=raw, preview=preview, show=show, drift=drift,
        drift_reference=None if drift_reference is None else Path(drift_reference),
        keep=None if keep is None else Path(keep), opacity=opacity, legend=legend, codec=codec,
        piece_s=piece_s,
    )  # fmt: skip
    options = options or StreamOptions()
    if wanted.drift and (options.roi or options.tile):
        raise InputError(
            "drift is measured against what the model saw of whole frames. Leave out the region and the "
            "tiles, or the drift"
        )
    references = as_references(input)
    if raw is not None and len(references) > 1:
        raise InputError(f"raw labels are of one source, for nothing tells them apart; got {len(references)}")
    with contextlib.ExitStack() as stack:
        feeds = open_feeds(references, options)
        if overlay and any(feed.is_video for feed in feeds):
            check_codec(codec, ".mp4")
        beside: list[Segmenter] = []
        if isinstance(model, Segmenter):
            segmenter = model
        else:
            opened = load(model, backend=backend, device=device, threads=threads, precision=precision)
            segmenter, *beside = side_by_side(opened, feeds, options, threads=threads)
            for one in (segmenter, *beside):
                stack.enter_context(one)
        folder = _folder(wanted, feeds, references, output, overwrite)
        results = _Results(segmenter, feeds, folder, wanted)
        stream = Stream(feeds, segmenter, options, sinks=[*results.sinks, *sinks], beside=beside)
        results.health, results.quit = stream.health, stream.stop
        return _consume(stream, results, progress, started)


def default_output(feeds: Sequence[Feed]) -> Path:
    """Where results go if nothing else is said: ``NAME-segmented`` in the current folder."""
    return Path(f"{'+'.join(feed.name for feed in feeds)[:100]}-segmented")


def _folder(
    wanted: RunOptions,
    feeds: Sequence[Feed],
    references: Sequence[Reference],
    output: str | os.PathLike[str] | None,
    overwrite: bool,
) -> Path | None:
    if not wanted.needs_folder:
        return None
    folder = default_output(feeds) if output is None else Path(output)
    for reference in references:
        if isinstance(reference, str | os.PathLike) and folder.resolve() == Path(reference).resolve():
            raise InputError(
                f"results go into a folder of their own, not into the input {shown(str(reference))}"
            )
    if all(feed.live for feed in feeds):
        # Pieces of a recording are named by their time: a service that starts again adds to them. The sinks
        # make the folder once the source is there.
        return folder
    return new_output_folder(folder, overwrite=overwrite)


class _Rates(Mapping[str, float | None]):
    """Frames per second by source, asked when they are needed: a camera's are known when it is connected."""

    def __init__(self, feeds: dict[str, Feed]) -> None:
        self._feeds = feeds

    def __getitem__(self, name: str) -> float | None:
        return self._feeds[name].fps

    def __iter__(self) -> Iterator[str]:
        return iter(self._feeds)

    def __len__(self) -> int:
        return len(self._feeds)


class _Results:
    """The sinks that `RunOptions` ask for."""

    def __init__(
        self, segmenter: Segmenter, feeds: Sequence[Feed], folder: Path | None, wanted: RunOptions
    ) -> None:
        self.folder = folder
        self.sinks: list[Sink] = []
        self.health: Callable[[], dict[str, Any]] = dict
        self.quit: Callable[[], object] = dict
        """Both the stream's, once there is one."""
        self._storing: list[Any] = []
        self._preview: Any = None
        several = len(feeds) > 1
        if folder is not None:
            self._add_stored(feeds, folder, wanted, several)
        if wanted.drift:
            from .drift.sink import DriftSink

            drift = DriftSink.for_model(
                segmenter, reference=wanted.drift_reference, log=folder, keep=wanted.keep
            )
            self.sinks.append(drift)
        if wanted.raw is not None:
            from .sinks.raw_labels import RawLabelsSink

            self.sinks.append(RawLabelsSink(wanted.raw))
        self._add_seen(wanted)

    def _add_stored(self, feeds: Sequence[Feed], folder: Path, wanted: RunOptions, several: bool) -> None:
        pieces = {feed.name: wanted.piece_s if feed.live else None for feed in feeds}
        if wanted.overlay:
            from .sinks.overlay_video import OverlaySink

            overlay = OverlaySink(
                folder,
                opacity=wanted.opacity,
                legend=wanted.legend,
                codec=wanted.codec,
                piece_s=pieces,
                fps=_Rates({feed.name: feed for feed in feeds}),
                several_sources=several,
            )
            self._storing.append(overlay)
        if wanted.areas:
            from .sinks.json_lines import AreasSink

            live = any(feed.live for feed in feeds)
            areas = AreasSink(folder, several_sources=several, piece_s=wanted.piece_s if live else None)
            self._storing.append(areas)
        self.sinks += self._storing
        if wanted.labels:
            from .sinks.label_png import LabelSink

            self.sinks.append(LabelSink(folder, several_sources=several, piece_s=pieces))

    def _add_seen(self, wanted: RunOptions) -> None:
        from .sinks.window import WindowSink, window_available

        address = wanted.preview
        if wanted.show:
            if window_available():
                self.sinks.append(
                    WindowSink(opacity=wanted.opacity, legend=wanted.legend, on_quit=lambda: self.quit())
                )
            else:
                address = address or PREVIEW_ADDRESS
        if address is not None:
            from .sinks.preview import PreviewSink

            self._preview = PreviewSink(
                address, health=lambda: self.health(), opacity=wanted.opacity, legend=wanted.legend
            )
            self.sinks.append(self._preview)

    @property
    def preview_address(self) -> str | None:
        """Where the preview can be seen, once the stream has started."""
        return None if self._preview is None else self._preview.address

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(path for sink in self._storing for path in sink.files)


def _consume(
    stream: Stream,
    results: _Results,
    progress: Callable[[int, int | None], None] | None,
    started: Callable[[Stream, Path | None, str | None], None] | None,
) -> RunSummary:
    done, latency_ms, count = 0, 0.0, stream.count
    begin = time.perf_counter()
    try:
        with stream:
            stream.start()
            if started is not None:
                started(stream, results.folder, results.preview_address)
            for result in stream:
                done += 1
                latency_ms += result.latency_ms
                if progress is not None:
                    progress(done + stream.unreadable, count)
            problems = stream.problems
            if not done and problems:
                raise DataError(problems[0] if len(problems) == 1 else _none_readable(problems))
    except KeyboardInterrupt as interrupt:
        of = f" of {count}" if count is not None else ""
        where = "" if results.folder is None or not done else f" and can be used: {results.folder}"
        raise type(interrupt)(f"{done}{of} frames are finished{where}") from None
    return RunSummary(
        output=results.folder,
        frames=done,
        unreadable=problems,
        seconds=time.perf_counter() - begin,
        mean_latency_ms=latency_ms / max(done, 1),
        files=results.files,
        health=stream.health(),
    )


def _none_readable(problems: Sequence[str]) -> str:
    return f"none of the {len(problems)} images can be read; the first: {problems[0]}"
