"""The pass over a recording that samples it.

Every frame is decoded once, in order; the sharpest of each short window is kept as JPEG. Memory holds one
frame, and a thumbnail per window, however long the recording is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import DataError
from ..files import as_output_error
from .frame_choice import Moment, measures
from .video_file import VideoReader

Progress = Callable[[int, int], None]
"""Told (frames decoded, frames announced) now and then; the second is 0 if nothing is announced."""

_LEAST_PITCH_S = 0.2
"""Seconds from one window to the next, or more: closer frames teach the same."""
_OVERSAMPLING = 2
"""Windows per frame asked for, because a town drive stands for up to half of its time."""
_LOOKED_AT = 5
"""Frames at the beginning of each window that are measured."""
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


class SamplingPass:
    """The pass over a recording: windows in, moments and their JPEG files out.

    ``frames``: how many are asked for; about twice as many moments are kept. Raises DataError if a file is no
    video or none of its frames can be read, OutputError if a frame cannot be written.
    """

    def __init__(self, videos: Sequence[Path], frames: int, folder: Path, progress: Progress | None) -> None:
        self.moments: list[Moment] = []
        """In order; ``jpeg`` has the picture of each that is not dark."""
        self.seconds = 0.0
        """Of the whole recording."""
        self.videos: list[dict[str, Any]] = []
        """What the manifest says of each video."""
        self._paths, self._folder, self._progress = videos, folder, progress
        headers = []
        for path in videos:
            with VideoReader(path) as reader:
                headers.append(reader.header)
        self._announced = sum(header.frames for header in headers)
        expected_s = sum(header.frames / header.fps for header in headers)
        wanted = _OVERSAMPLING * frames
        self._pitch = max(expected_s / wanted, _LEAST_PITCH_S)
        self._most = 2 * wanted
        """Headers err: a recording that gives more moments than this goes on with windows twice as long."""
        self._read = 0
        self._best: tuple[Moment, np.ndarray] | None = None

    def run(self) -> None:
        """Decode all of it."""
        for number, path in enumerate(self._paths):
            with VideoReader(path) as reader:
                self._read_video(reader, number)
        self._tell(done=True)

    def jpeg(self, moment: Moment) -> Path:
        """Where the picture of a moment is."""
        return self._folder / f"{moment.video}-{moment.frame}.jpg"

    def _read_video(self, reader: VideoReader, number: int) -> None:
        window, seen = -1, 0
        while reader.grab():
            current = int(reader.time_s / self._pitch)
            if current != window:
                self._keep()
                current = int(reader.time_s / self._pitch)  # keeping may have made windows longer
                window, seen = current, 0
            if seen < _LOOKED_AT:
                self._look(reader, number)
            seen += 1
            self._read += 1
            self._tell()
        self._keep()
        read, header = reader.index + 1, reader.header
        if read == 0:
            raise DataError(
                f"no frame of {reader.path} could be read. Play the file, or convert it to MP4 (H.264) first."
            )
        # The last frame is shown for as long as the mean frame.
        seconds = reader.time_s + (reader.time_s / (read - 1) if read > 1 else 1 / header.fps)
        self.seconds += seconds
        status = reader.path.stat()
        self.videos.append(
            {
                "file": str(reader.path.resolve()),
                "bytes": status.st_size,
                "mtime_ns": status.st_mtime_ns,
                "announced": header.frames,
                "read": read,
                "seconds": round(seconds, 4),
            }
        )

    def _look(self, reader: VideoReader, number: int) -> None:
        frame = reader.image()
        if frame is None:
            return
        sharpness, thumbnail = measures(frame)
        if self._best is not None and sharpness <= self._best[0].sharpness:
            return
        moment = Moment(
            video=number,
            frame=reader.index,
            time_s=reader.time_s,
            at_s=self.seconds + reader.time_s,
            sharpness=sharpness,
            thumbnail=thumbnail,
        )
        self._best = (moment, frame.copy())

    def _keep(self) -> None:
        if self._best is None:
            return
        moment, frame = self._best
        self._best = None
        self.moments.append(moment)
        if not moment.is_dark:
            # Plain: the folder gets its name when all of it is written.
            try:
                self.jpeg(moment).write_bytes(cv2.imencode(".jpg", frame, _JPEG)[1].tobytes())
            except OSError as error:
                raise as_output_error(error, self.jpeg(moment)) from error
        if len(self.moments) >= self._most:
            for dropped in self.moments[1::2]:
                self.jpeg(dropped).unlink(missing_ok=True)
            self.moments, self._pitch = self.moments[::2], 2 * self._pitch

    def _tell(self, *, done: bool = False) -> None:
        if self._progress is not None and (done or self._read % 25 == 0):
            self._progress(self._read, self._read if done else self._announced)
