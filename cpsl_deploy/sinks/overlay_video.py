"""The frames under the classes' colours: a video for each source that moves, else images."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, OutputError
from ..files import as_output_error
from ..overlay import write_image
from ..streams.result import StreamResult
from .base import Sink
from .place import check_piece_s, of_source, piece_stamp, prepare_folder, require_room, safe_name
from .video_codec import check_codec
from .video_file import VideoWriter

LOSSLESS_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
PIECE_S = 600.0
"""Seconds of a piece of a live recording, if nothing else is said."""
DEFAULT_FPS = 25.0


@dataclass
class _Recording:
    writer: VideoWriter
    size: tuple[int, int]
    began_s: float
    """Time stamp of its first frame."""
    origin_s: float
    """Time stamp that is the file's zero."""


class OverlaySink(Sink):
    """Overlays in ``folder``: ``NAME.overlay.mp4`` for a video, ``NAME.overlay.jpg`` for an image,
    ``.png`` if it was stored without loss.

    A video keeps the time stamps of its source. It appears when it is finished, and then plays: a killed
    process leaves none. With ``piece_s`` it is written in pieces of so many seconds, each named by the UTC of
    its first frame (``NAME.overlay-20261122T193000Z.mp4``), so that a live source can be looked at while it
    runs and little is lost with it. When the frame size changes another file begins
    (``NAME.overlay-2.mp4``, or a new piece). A disk that is nearly full ends a piece while it can still be
    finished.

    ``opacity``, ``legend``: see `Prediction.overlay`. ``codec``: see `find_codec`. ``piece_s`` and ``fps``
    (announced by the file, `DEFAULT_FPS` if not known): one value, or one for each source by its name.
    ``several_sources``: images go into a folder named after their source.

    Raises InputError for an opacity outside 0..1 or a length of pieces that is not positive.
    """

    name = "overlay"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        opacity: float = 0.5,
        legend: bool = True,
        codec: str | None = None,
        piece_s: float | Mapping[str, float | None] | None = None,
        fps: float | Mapping[str, float | None] | None = None,
        several_sources: bool = False,
    ) -> None:
        if not 0 <= opacity <= 1:
            raise InputError(f"an opacity is from 0 to 1; got {opacity}")
        check_piece_s(piece_s)
        self.files: list[Path] = []
        """Videos finished so far."""
        self._folder = Path(folder)
        self._opacity, self._legend, self._codec = opacity, legend, codec
        self._piece_s, self._fps, self._several = piece_s, fps, several_sources
        self._recordings: dict[str, _Recording] = {}
        self._parts: dict[str, int] = {}

    def check(self) -> None:
        """Raise UnavailableError if the codec cannot be written, OutputError if the folder cannot."""
        check_codec(self._codec, ".mp4")
        prepare_folder(self._folder)

    def write(self, result: StreamResult) -> None:
        """Add the overlay of one result. Raises OutputError; what was begun of that source is then gone."""
        if result.time_s is None:
            self._write_image(result)
            return
        size = result.image.shape[:2]
        piece_s = of_source(self._piece_s, result.source)
        recording = self._recordings.get(result.source)
        if recording is not None:
            full = piece_s is not None and result.time_s - recording.began_s >= piece_s
            if full or recording.size != size:
                self._finish(result.source)
                recording = None
        if piece_s is not None:
            self._keep_room()
        if recording is None:
            recording = self._begin(result, size, live=piece_s is not None)
        try:
            recording.writer.append(
                result.overlay(self._opacity, self._legend), result.time_s - recording.origin_s
            )
        except BaseException:
            self._drop(result.source)
            raise

    def _write_image(self, result: StreamResult) -> None:
        folder = self._folder / safe_name(result.source) if self._several else self._folder
        suffix = ".png" if result.frame.suffix in LOSSLESS_SUFFIXES else ".jpg"
        image = result.overlay(self._opacity, self._legend)
        write_image(folder / f"{safe_name(result.frame.name)}.overlay{suffix}", image)

    def _begin(self, result: StreamResult, size: tuple[int, int], *, live: bool) -> _Recording:
        source, time_s = safe_name(result.source), result.time_s or 0.0
        if live:
            path = self._folder / f"{source}.overlay-{piece_stamp(result.frame)}.mp4"
        else:
            part = self._parts.get(source, 0) + 1
            path = self._folder / f"{source}.overlay{f'-{part}' if part > 1 else ''}.mp4"
        fps = of_source(self._fps, source) or DEFAULT_FPS
        writer = VideoWriter(path, size=size, fps=fps, codec=self._codec, replace=not live)
        recording = _Recording(writer, size, began_s=time_s, origin_s=time_s if live else 0.0)
        self._recordings[source] = recording
        return recording

    def _keep_room(self) -> None:
        try:
            require_room(self._folder)
        except OSError as error:
            with contextlib.suppress(OutputError):  # the disk is full, as is told here
                self.close()  # all of them: nothing more is written for a while
            raise as_output_error(error, self._folder / "results") from error

    def _finish(self, source: str) -> None:
        writer = self._recordings[source].writer
        try:
            writer.close()
        except BaseException:
            self._drop(source)
            raise
        del self._recordings[source]
        if writer.frames:
            self.files.append(writer.path)
            self._parts[source] = self._parts.get(source, 0) + 1

    def _drop(self, source: str) -> None:
        writer = self._recordings.pop(source).writer
        writer.abort()
        self.lost += writer.frames

    def close(self) -> None:
        """Finish the videos. Raises the first OutputError, after all were tried."""
        problem: Exception | None = None
        for source in list(self._recordings):
            try:
                self._finish(source)
            except Exception as error:
                problem = problem or error
        if problem is not None:
            raise problem

    def abort(self) -> None:
        for source in list(self._recordings):
            self._drop(source)
