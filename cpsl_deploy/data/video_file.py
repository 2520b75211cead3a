"""Reading a video file frame by frame, each with the time that the file says it is shown at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..errors import DataError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".ts", ".wmv")

_DEFAULT_FPS = 25.0
_MOST_FPS = 1000.0
"""A header that announces more states a time base, not a frame rate."""
_LEAD_S = 1.0
"""A search for a time begins so much before it, because containers find key frames and round."""


@dataclass(frozen=True, kw_only=True)
class VideoHeader:
    """What a container says of itself. Only a hint: files are cut off, and frame rates vary."""

    frames: int
    """0 where it states none."""
    fps: float


class VideoReader:
    """The frames of a video in order: ``grab`` steps to the next one, ``image`` converts it.

    Times come from the file's time stamps, so that a variable frame rate is no error; where a file has none,
    they are counted at the rate of its header. Use as a context manager.

    Raises DataError if the file is missing, empty or no video that OpenCV can open.
    """

    def __init__(self, path: Path) -> None:
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(f"cannot read the video {path}: {error.strerror}. Check the path.") from error
        if size == 0:
            raise DataError(f"the video {path} is empty (0 bytes). Copy it again, or leave it out.")
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise DataError(
                f"{path} is not a video that OpenCV can open. Play the file, or convert it to MP4 (H.264)."
            )
        self.header = self._read_header()
        self.index = -1
        """Of the latest frame, from 0; counted from the start of the file, or of the search."""
        self.time_s = 0.0
        """Of the latest frame."""

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def grab(self) -> bool:
        """Step to the next frame; False at the end, or where the file is damaged."""
        if not self._capture.grab():
            return False
        self.index += 1
        stamp = self._stamp()
        step = 1 / self.header.fps
        if self.index == 0:
            self.time_s = max(stamp, 0.0)
        else:
            self.time_s = stamp if stamp > self.time_s else self.time_s + step
        return True

    def image(self) -> np.ndarray | None:
        """The latest frame, uint8 (H, W, 3) BGR, upright; None if it cannot be decoded. Copy to keep."""
        decoded, frame = self._capture.retrieve()
        return frame if decoded else None

    def search(self, time_s: float) -> None:
        """Make the next ``grab`` give a frame somewhat before ``time_s``, or the first one."""
        start = time_s - _LEAD_S
        sought = start > 0 and self._capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * start) and self.grab()
        if sought and 0 < self.time_s <= time_s:
            return
        # Not found: the file has no time stamps, or its index is of no use. From the start it is certain.
        self._capture.release()
        self._capture = cv2.VideoCapture(str(self.path))
        self.index, self.time_s = -1, 0.0

    def _read_header(self) -> VideoHeader:
        frames, fps = (self._capture.get(key) for key in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        return VideoHeader(
            frames=int(frames) if math.isfinite(frames) and 0 < frames < 1e9 else 0,
            fps=fps if math.isfinite(fps) and 0 < fps <= _MOST_FPS else _DEFAULT_FPS,
        )

    def _stamp(self) -> float:
        stamp = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        return stamp if math.isfinite(stamp) else 0.0


def frames_at(path: Path, times_s: Iterable[float]) -> Iterator[np.ndarray]:
    """Frames of a video at ascending times: for each the first one not before it, (H, W, 3) BGR uint8.

    Ends early where the video does. Raises DataError as ``VideoReader`` does.
    """
    wanted = iter(times_s)
    time_s = next(wanted, None)
    if time_s is None:
        return
    with VideoReader(path) as reader:
        reader.search(time_s)
        tolerance = 0.1 / reader.header.fps
        while reader.grab():
            image = None
            while reader.time_s >= time_s - tolerance:
                image = reader.image() if image is None else image
                if image is None:
                    break  # a damaged frame: the next one stands in for it
                yield image
                time_s = next(wanted, None)
                if time_s is None:
                    return


def ends_early(*, announced: int, read: int) -> bool:
    """Whether a video held fewer frames than its header announced, by more than headers usually err."""
    return read < announced - max(2, announced // 100)


def list_videos(folder: Path) -> list[Path]:
    """Every video file below a folder, sorted; hidden files and folders are left out."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))
