"""Video files from frames."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .errors import DataError, OutputError, UnavailableError
from .files import atomic_path

log = logging.getLogger(__name__)

CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v", ".webm": "VP80"}
"""The codec taken for each kind of video file: one that OpenCV's own packages can write."""
_KNOWN_CODECS = ("mp4v", "avc1", "MJPG", "XVID", "VP80", "VP90", "FFV1")
_DEFAULT_FPS = 25.0
_DISK_CHECK_EVERY = 50
"""Frames between two looks at the free disk space, because OpenCV's writer reports no error."""
_LEAST_FREE = 1 << 20
"""Bytes below which a disk counts as full."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video file's header says."""

    path: Path
    size: tuple[int, int]
    """(height, width) in pixels."""
    fps: float
    """Frames per second; the mean for a file with a variable rate."""
    frame_count: int | None
    """None if the header does not say. It is a promise: files that were cut off hold fewer."""


def video_info(path: str | os.PathLike[str]) -> VideoInfo:
    """What a video file's header says. Raises DataError if it is missing, or no video that can be decoded."""
    path = Path(path)
    with _capture(path) as capture:
        fps = capture.get(cv2.CAP_PROP_FPS)
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        read, frame = capture.read()
    if not read:
        raise DataError(f"{path} opens as a video and has no frame in it. Copy or record it again")
    if not (math.isfinite(fps) and fps > 0):
        log.warning("%s does not say its frame rate; %g frames per second are assumed", path, _DEFAULT_FPS)
        fps = _DEFAULT_FPS
    known = math.isfinite(count) and 0 < count < 1e9
    # The size comes from a frame: the header's is the one before the camera's rotation is applied.
    return VideoInfo(path=path, size=frame.shape[:2], fps=fps, frame_count=int(count) if known else None)


def read_video(info: VideoInfo) -> Generator[np.ndarray, None, None]:
    """The frames of a video, uint8 (H, W, 3) BGR, in order, as far as it goes."""
    with _capture(info.path) as capture:
        while True:
            read, frame = capture.read()
            if not read:
                break
            yield frame


@contextlib.contextmanager
def _capture(path: Path) -> Iterator[cv2.VideoCapture]:
    if not path.is_file():
        raise DataError(f"there is no video file {path}. Check the path")
    try:
        open(path, "rb").close()
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}. Check the path and its permissions"
        ) from error
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise DataError(
                f"{path} is neither an image nor a video that can be decoded ({path.stat().st_size} bytes). "
                "Copy it again, or convert it, for example: ffmpeg -i INPUT output.mp4"
            )
        yield capture
    finally:
        capture.release()


def check_codec(codec: str, suffix: str) -> None:
    """Raise UnavailableError, naming those that work, unless ``codec`` can be written to ``suffix`` files."""
    with tempfile.TemporaryDirectory() as folder:

        def works(candidate: str) -> bool:
            with contextlib.suppress(cv2.error):
                writer = cv2.VideoWriter(f"{folder}/probe{suffix}", _fourcc(candidate), 25.0, (64, 64))
                opened = writer.isOpened()
                writer.release()
                return opened
            return False

        if len(codec) == 4 and works(codec):
            return
        working = [candidate for candidate in _KNOWN_CODECS if works(candidate)]
    if working:
        remedy = f"These work for {suffix} files: {', '.join(working)}"
    else:
        remedy = f"None of {', '.join(_KNOWN_CODECS)} works for {suffix} files; write an .mp4 or .avi file"
    raise UnavailableError(
        f"the video codec {codec!r} cannot be written by this OpenCV into {suffix} files. {remedy}"
    )


def _fourcc(codec: str) -> int:
    return cv2.VideoWriter.fourcc(*codec)


@contextlib.contextmanager
def video_writer(
    path: str | os.PathLike[str], *, size: tuple[int, int], fps: float, codec: str | None = None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Give a function that appends one BGR frame uint8 (H, W, 3) of ``size`` (height, width) to a video.

    The file is written under a temporary name and put in place, readable, when the block ends without an
    error; otherwise nothing is left. ``codec``: four letters, by default the one in `CODECS` for the suffix.
    An odd height or width loses its last row or column, which these codecs cannot store.

    Raises UnavailableError if the codec does not work, OutputError if the file cannot be written whole.
    """
    path = Path(path)
    codec = codec or CODECS.get(path.suffix.lower(), "mp4v")
    written = 0
    with atomic_path(path) as temporary:
        writer = cv2.VideoWriter(str(temporary), _fourcc(codec), fps, size[::-1])
        if not writer.isOpened():
            check_codec(codec, path.suffix)
            raise OutputError(f"cannot write the video {path}. Choose a writable place")

        def append(frame: np.ndarray) -> None:
            nonlocal written
            if frame.shape != (*size, 3):
                raise DataError(f"frames of this video are {(*size, 3)}; frame {written} is {frame.shape}")
            if written % _DISK_CHECK_EVERY == 0 and shutil.disk_usage(temporary.parent).free < _LEAST_FREE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            writer.write(frame)
            written += 1

        try:
            yield append
        finally:
            writer.release()
        _check_written(temporary, path, written)


def _check_written(temporary: Path, path: Path, written: int) -> None:
    """Whatever went wrong while writing, OpenCV reported nothing: look at what is there."""
    try:
        readable = video_info(temporary).frame_count
    except DataError:
        readable = 0
    if readable is not None and readable < written:
        raise OutputError(
            f"only {readable} of {written} frames are in the video that was to become {path}: the disk is "
            "probably full. Free some space or choose another output folder, then run the command again"
        )
