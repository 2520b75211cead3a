"""Segment images, folders and videos into files."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from .errors import DataError, InputError
from .files import atomic_path, new_output_folder
from .media import CODECS, Frame, ImageSource, VideoSource, check_codec, open_source, video_writer
from .overlay import write_image, write_label_png
from .pipeline import Prefetch, Sink
from .segmenter import Prediction, Segmenter, load

log = logging.getLogger(__name__)

_LOSSLESS = (".png", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is written for each frame. Raises InputError if that is nothing, or a value breaks its rule."""

    overlay: bool = True
    """The frame under the classes' colours: ``NAME.overlay.mp4`` for a video, else ``NAME.overlay.jpg``
    (``.png`` for images that were stored without loss)."""
    labels: bool = False
    """Palette PNG files whose pixel values are the labels: ``NAME.labels.png``, or ``labels/NAME-FRAME.png``
    for a video."""
    areas: bool = True
    """``areas.jsonl``: one JSON object per frame with the share of every class."""
    opacity: float = 0.5
    """Of the colours in the overlay, 0..1."""
    legend: bool = True
    """Names of the classes present, in the overlay."""
    codec: str | None = None
    """Four letters; None is mp4v."""

    def __post_init__(self) -> None:
        if not (self.overlay or self.labels or self.areas):
            raise InputError("nothing is asked for: ask for at least one of overlay, labels and areas")
        if not 0 <= self.opacity <= 1:
            raise InputError(f"an opacity is from 0 to 1; got {self.opacity}")


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a run did."""

    output: Path
    """The folder with the results."""
    frames: int
    """Frames segmented."""
    unreadable: tuple[str, ...]
    """One line for each image that could not be read, and for a video that ends early."""
    seconds: float
    """Wall-clock time of reading, inference and writing together."""
    mean_latency_ms: float
    """Of `Segmenter.predict` alone."""
    files: tuple[Path, ...]
    """Overlay video and areas file, where written."""

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.seconds if self.seconds > 0 else 0.0


def default_output(source: ImageSource | VideoSource) -> Path:
    """Where results go if nothing else is said: ``NAME-segmented`` in the current folder."""
    return Path(f"{source.name}-segmented")


def run(
    model: str | os.PathLike[str] | Segmenter,
    input: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    overlay: bool = True,
    labels: bool = False,
    areas: bool = True,
    opacity: float = 0.5,
    legend: bool = True,
    codec: str | None = None,
    backend: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> RunSummary:
    """Segment an image, a folder of images, a glob or a video file into a new folder.

    ``model``: see `cpsl_deploy.load`, which also takes ``backend``, ``device``, ``threads`` and
    ``precision``; or an opened Segmenter, which stays open. ``output``: by default `default_output`. The
    others: see `RunOptions`.
    ``progress`` is called after each frame with the frames done and their number, None if not known.

    Decoding, inference and encoding overlap. A KeyboardInterrupt ends the files with what is done so far and
    is raised again, saying where they are. One unreadable image among others is counted in the summary, and
    so is the missing rest of a video that ends before its header promised.

    Raises ModelFileError, UnavailableError, InputError as `load` does, DataError if nothing can be read,
    OutputError if the output folder is not empty (without ``overwrite``) or cannot be written.
    """
    options = RunOptions(
        overlay=overlay, labels=labels, areas=areas, opacity=opacity, legend=legend, codec=codec
    )
    source = open_source(input)
    if source.fps is not None and overlay:
        check_codec(codec or CODECS[".mp4"], ".mp4")
    with contextlib.ExitStack() as stack:
        segmenter = model
        if not isinstance(segmenter, Segmenter):
            opened = load(segmenter, backend=backend, device=device, threads=threads, precision=precision)
            segmenter = stack.enter_context(opened)
        wanted = default_output(source) if output is None else Path(output)
        if wanted.resolve() == Path(input).resolve():
            raise InputError(f"results go into a folder of their own, not into the input {input}")
        folder = new_output_folder(wanted, overwrite=overwrite)
        return _segment(segmenter, source, folder, options, progress)


def _segment(
    segmenter: Segmenter,
    source: ImageSource | VideoSource,
    folder: Path,
    options: RunOptions,
    progress: Callable[[int, int | None], None] | None,
) -> RunSummary:
    unreadable: list[str] = []
    done, latency_ms, interrupted = 0, 0.0, False
    started = time.perf_counter()
    with (
        _Results(folder, source, options) as results,
        Prefetch(source.frames()) as frames,
        Sink(results.write) as sink,
    ):
        try:
            for frame in frames:
                if frame.image is None:
                    log.info("skipped: %s", frame.problem)
                    unreadable.append(frame.problem)
                else:
                    prediction = segmenter.predict(frame.image)
                    sink.put((frame, prediction))
                    done += 1
                    latency_ms += prediction.latency_ms
                if progress is not None:
                    progress(done + len(unreadable), source.count)
        except KeyboardInterrupt:
            interrupted = True
        if not done and not interrupted:
            raise DataError(unreadable[0] if len(unreadable) == 1 else _none_readable(unreadable))
    if interrupted:
        of = f" of {source.count}" if source.count is not None else ""
        raise KeyboardInterrupt(f"{done}{of} frames are finished and can be used: {folder}")
    return RunSummary(
        output=folder,
        frames=done,
        unreadable=tuple(unreadable),
        seconds=time.perf_counter() - started,
        mean_latency_ms=latency_ms / done,
        files=tuple(results.files),
    )


def _none_readable(problems: list[str]) -> str:
    return f"none of the {len(problems)} images can be read; the first: {problems[0]}"


class _Results:
    """Writes what `RunOptions` ask for. Leaving the ``with`` block with an error removes the unfinished video
    and areas file and keeps the images written so far, each of which is whole."""

    def __init__(self, folder: Path, source: ImageSource | VideoSource, options: RunOptions) -> None:
        self.files: list[Path] = []
        self._folder, self._source, self._options = folder, source, options
        self._stack = contextlib.ExitStack()
        self._video: Callable | None = None
        self._areas: TextIO | None = None

    def __enter__(self) -> _Results:
        return self

    def __exit__(self, *problem: object) -> bool | None:
        return self._stack.__exit__(*problem)  # type: ignore[arg-type]

    def write(self, result: tuple[Frame, Prediction]) -> None:
        frame, prediction = result
        if self._options.overlay:
            self._write_overlay(frame, prediction)
        if self._options.labels:
            is_video = self._source.fps is not None
            name = f"labels/{frame.name}.png" if is_video else f"{frame.name}.labels.png"
            write_label_png(self._folder / name, prediction.labels, prediction.classes)
        if self._options.areas:
            self._write_areas(frame, prediction)

    def _write_overlay(self, frame: Frame, prediction: Prediction) -> None:
        image = prediction.overlay(self._options.opacity, self._options.legend)
        if self._source.fps is None:
            suffix = ".png" if frame.suffix in _LOSSLESS else ".jpg"
            write_image(self._folder / f"{frame.name}.overlay{suffix}", image)
            return
        if self._video is None:
            path = self._folder / f"{self._source.name}.overlay.mp4"
            writer = video_writer(path, size=image.shape[:2], fps=self._source.fps, codec=self._options.codec)
            self._video = self._stack.enter_context(writer)
            self.files.append(path)
        self._video(image)

    def _write_areas(self, frame: Frame, prediction: Prediction) -> None:
        if self._areas is None:
            path = self._folder / "areas.jsonl"
            temporary = self._stack.enter_context(atomic_path(path))
            self._areas = self._stack.enter_context(temporary.open("w", encoding="utf-8"))
            self.files.append(path)
        line: dict[str, object] = {"frame": frame.index, "name": frame.name}
        if frame.time_s is not None:
            line["time_s"] = round(frame.time_s, 4)
        line["areas"] = {name: round(share, 6) for name, share in prediction.areas().items()}
        line["latency_ms"] = round(prediction.latency_ms, 3)
        self._areas.write(json.dumps(line) + "\n")
