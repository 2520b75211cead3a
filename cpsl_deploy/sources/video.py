"""Frames of a video file, each with the time that the file says it is shown at.

Decoded with FFmpeg's libraries (PyAV), whose time stamps are exact where the frame rate varies. Pixels are
those of OpenCV's `VideoCapture`, bit for bit where both are built on the same FFmpeg: same conversion, same
colour matrix (the one that the file names), same rotation.

Files are hostile. Only containers are opened, never playlists, and only as local files: a list of other files
or addresses under the name ``drive.mp4`` is refused, and nothing that it names is touched.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import stat
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..data.video_file import ends_early
from ..errors import DataError
from .base import FILE_LIMITS, Frame, InputLimits
from .names import safe_name, shown
from .video_stamps import VideoStamps

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)

_CONTAINERS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,gif,apng,mjpeg,h264,hevc,m4v,ivf,obu,av1,vc1,dv,mxf"
)
"""FFmpeg's names of what is opened: not hls, dash, concat, sdp, image2 and others that name files to read."""
_CUT_ANYWHERE = ("mpegts", "mpeg", "h264", "hevc", "m4v", "mpegvideo")
"""Formats that are recorded by cutting a stream: what comes before the first key frame is no damage."""
_STATES_ITS_LENGTH = ("matroska,webm", "asf", "flv")
"""Formats whose header says how long they are, but not how many frames that is."""
_LENGTH = re.compile(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d+)?)$")
_THREADS = 2
"""For decoding. More gain little for one stream and take the model's cores."""
_DEFAULT_FPS = 25.0
_MOST_FPS = 1000.0
"""A header that announces more states a time base, not a frame rate."""
_MOST_READ_ERRORS = 20
"""In a row, after which the rest of a file is given up."""
_TURNS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}
_BICUBIC = 4
"""How FFmpeg fits colours to pixels where they are stored more coarsely: as OpenCV does."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video file's header says, its size apart, which is the first frame's."""

    path: Path
    size: tuple[int, int]
    """(height, width) in pixels, upright."""
    fps: float
    """Frames per second; the mean for a file with a variable rate."""
    frame_count: int | None
    """None if the header does not say. It is a promise: files that were cut off hold fewer."""


class VideoSource:
    """A video file. What cannot be decoded in it is a `Frame` without image, and the rest is still read.

    Opening decodes the first frame. Raises DataError if the file is missing, no regular file, no video that
    can be decoded, without a single frame, or of frames that break ``limits``.
    """

    def __init__(self, path: str | os.PathLike[str], *, limits: InputLimits | None = None) -> None:
        self.path = Path(path)
        self.limits = limits or FILE_LIMITS
        self.name = safe_name(self.path.stem)
        self.info = self._look()
        self.count = self.info.frame_count
        self.fps = self.info.fps

    def frames(self) -> Generator[Frame, None, None]:
        """The frames in order, each decoded when asked for, its image the receiver's to keep.

        Times are the file's time stamps, from the first frame on; for one that goes back, or far ahead, the
        mean frame rate stands in. A file that ends before its header promised has a last `Frame` without
        image that says so.
        """
        with _opened(self.path, self.limits) as video:
            clock = VideoStamps(1 / self.fps)
            index = given = 0
            for item in video.decoded():
                if isinstance(item, str):
                    yield self._frame(index, None, None, f"frame {index} of {self._shown()} {item}")
                else:
                    image, time_s = item
                    yield self._frame(index, image, clock.time_s(time_s))
                    given += 1
                index += 1
            if problem := video.shortfall(given, index, clock.end_s):
                cut = "The file may be cut off; what is there was used"
                yield self._frame(index, None, None, f"{self._shown()} ends early: {problem}. {cut}")

    def _look(self) -> VideoInfo:
        with _opened(self.path, self.limits) as video:
            first, problem = None, ""
            for item in video.decoded():
                if not isinstance(item, str):
                    first = item
                    break
                problem = problem or f" The first {item}."
            if first is None:
                raise DataError(
                    f"{self._shown()} opens as a video and has no frame in it that can be used.{problem} "
                    "Copy or record it again"
                )
            height, width = first[0].shape[:2]
            return VideoInfo(path=self.path, size=(height, width), fps=video.fps, frame_count=video.count)

    def _frame(self, index: int, image: np.ndarray | None, time_s: float | None, problem: str = "") -> Frame:
        return Frame(
            source=self.name,
            index=index,
            name=f"{self.name}-{index:06d}",
            image=image,
            captured_s=time.monotonic(),
            time_s=time_s,
            problem=problem,
        )

    def _shown(self) -> str:
        return shown(str(self.path))


@contextlib.contextmanager
def _opened(path: Path, limits: InputLimits) -> Iterator[_Video]:
    _check_regular(path)
    import av
    import av.error

    name = shown(str(path))
    try:
        container = av.open(
            f"file:{path.absolute()}",  # so that no part of the name is taken for a protocol
            options={
                "protocol_whitelist": "file",
                "format_whitelist": _CONTAINERS,
                **_guard(limits),
            },
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        refused = isinstance(error, av.error.ArgumentError)  # of what is not in `_CONTAINERS`, among others
        listed = "; playlists and other lists of files are not followed" if refused else ""
        raise DataError(
            f"{name} is neither an image nor a video that can be decoded ({path.stat().st_size} bytes; "
            f"{_reason(error)}{listed}). Copy it again, or convert it, for example: "
            "ffmpeg -i INPUT output.mp4"
        ) from error
    with container:
        yield _Video(container, name, limits)


def _guard(limits: InputLimits) -> dict[str, str]:
    """FFmpeg's own limit, which counts rows that are rounded up to 64 pixels."""
    return {"max_pixels": str(limits.max_pixels + 64 * limits.max_side)}


def _check_regular(path: Path) -> None:
    try:
        found = path.stat()
        if stat.S_ISREG(found.st_mode):
            open(path, "rb").close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"cannot read {shown(str(path))}: {reason}. Check the path and its permissions"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{shown(str(path))} is no regular file, and a video is. Name a file")


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class _Video:
    """An open video file."""

    def __init__(self, container: InputContainer, name: str, limits: InputLimits) -> None:
        from av.video.reformatter import VideoReformatter

        self._container, self._name, self._limits = container, name, limits
        self._stream = self._video_stream()
        self.fps = self._rate()
        self.count = self._announced()
        self._reformatter = VideoReformatter()
        context = self._stream.codec_context
        context.thread_type = "AUTO"
        context.thread_count = _THREADS
        # FFmpeg's own guard, for frames that turn out larger than the header says.
        context.options = _guard(limits)

    def _video_stream(self) -> VideoStream:
        from av.stream import Disposition

        streams = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            others = ", ".join(sorted({s.type for s in self._container.streams})) or "nothing"
            raise DataError(f"{self._name} has no video in it (only {others}). Name a video file")
        stream = streams[0]
        if stream.codec_context is None:
            raise DataError(
                f"{self._name} is a video that this FFmpeg has no decoder for. Convert it, for example: "
                "ffmpeg -i INPUT output.mp4"
            )
        height, width = stream.codec_context.height, stream.codec_context.width
        if height and width and (broken := self._limits.broken_by(height, width)):
            raise DataError(
                f"{self._name} announces frames of {broken}. {self._limits.remedy(height, width)}"
            )
        return stream

    def _rate(self) -> float:
        for rate in (self._stream.average_rate, self._stream.guessed_rate):
            if rate and math.isfinite(rate) and 0 < rate <= _MOST_FPS:
                return float(rate)
        log.warning("%s does not say its frame rate; %g per second are assumed", self._name, _DEFAULT_FPS)
        return _DEFAULT_FPS

    def _promised_s(self) -> float:
        """When the header says that the picture ends, or else everything; 0 if it says nothing."""
        if self._container.format.name not in _STATES_ITS_LENGTH:
            return 0.0
        stated = _LENGTH.match(self._stream.metadata.get("DURATION", ""))
        if stated:
            hours, minutes, seconds = (float(part) for part in stated.groups())
            return 3600 * hours + 60 * minutes + seconds
        return max(0, self._container.duration or 0) / 1e6

    def _announced(self) -> int | None:
        begin_s = (self._container.start_time or 0) / 1e6
        count = self._stream.frames or (self._promised_s() - begin_s) * self.fps
        return round(count) if 0.5 < count < 1e9 else None

    def shortfall(self, given: int, read: int, seconds: float) -> str:
        """What the header promised and the file does not hold; empty if it holds it."""
        if 0 < (promised := self._stream.frames) < 1e9:
            if self._container.format.name == "avi":
                # It counts moments without a new picture as frames; they cannot be seen but in the time.
                read = max(read, round(seconds * self.fps))
            short = ends_early(announced=promised, read=read)
            return f"its header promises {promised} frames and {given} can be read" if short else ""
        promised_s = self._promised_s()
        # Sound may last a little longer than the picture.
        if seconds >= promised_s - max(0.5, 0.02 * promised_s):
            return ""
        return f"its header promises {promised_s:.1f} s and {seconds:.1f} s can be read"

    def decoded(self) -> Iterator[tuple[np.ndarray, float | None] | str]:
        """Images, uint8 (H, W, 3) BGR, with their time stamps in seconds; or what is wrong with a frame."""
        waiting = self._container.format.name in _CUT_ANYWHERE
        before = 0
        for item in self._frames():
            result = item if isinstance(item, str) else self._image(item)
            if waiting and isinstance(result, str):
                before += 1
                continue
            if waiting and before:
                log.info(
                    "%s begins within a stream: the first whole frame comes after %d", self._name, before
                )
            waiting = False
            yield result

    def _frames(self) -> Iterator[VideoFrame | str]:
        from av.error import EOFError as EndError
        from av.error import FFmpegError

        context = self._stream.codec_context
        for packet in self._packets():
            if isinstance(packet, str):
                yield packet
                continue
            try:
                frames = context.decode(packet)
            except EndError:
                return
            except (FFmpegError, MemoryError) as error:
                yield f"cannot be decoded ({_reason(error)})"
                continue
            yield from frames

    def _packets(self) -> Iterator[Packet | str | None]:
        """Compressed frames, and None at the end, for the frames that the decoder still holds."""
        from av.error import FFmpegError

        errors = 0
        while errors < _MOST_READ_ERRORS:
            try:
                for packet in self._container.demux(self._stream):
                    if packet.size:  # an empty one would tell the decoder that the end has come
                        errors = 0
                        yield packet
                break
            except IndexError:
                break  # PyAV's, at the end of a file in which a stream appeared that its header does not have
            except (FFmpegError, MemoryError) as error:
                errors += 1
                problem = f"cannot be read ({_reason(error)})"
            yield problem
        yield None

    def _image(self, frame: VideoFrame) -> tuple[np.ndarray, float | None] | str:
        from av.error import FFmpegError

        if frame.is_corrupt:
            return "is damaged"
        if broken := self._limits.broken_by(frame.height, frame.width):
            return f"has {broken}"
        try:
            image = self._bgr(frame)
        except (FFmpegError, ValueError, MemoryError) as error:
            return f"cannot be converted ({_reason(error)})"
        base: Any = frame.time_base or self._stream.time_base
        return image, None if frame.pts is None or not base else float(frame.pts * base)

    def _bgr(self, frame: VideoFrame) -> np.ndarray:
        """uint8 (H, W, 3), upright, in memory of its own, not copied if the converted rows have no gaps."""
        # What is converted already would be given as it is: the decoder's own memory, perhaps upside down.
        is_bgr = frame.format.name == "bgr24"
        converted = self._reformatter.reformat(
            frame, format="rgb24" if is_bgr else "bgr24", interpolation=_BICUBIC, threads=1
        )
        plane: Any = converted.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(converted.height, plane.line_size)
        pixels = np.ascontiguousarray(rows[:, : 3 * converted.width]).reshape(converted.height, -1, 3)
        image = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if is_bgr else pixels
        turn = 90 * round(frame.rotation / 90) % 360
        return cv2.rotate(image, _TURNS[turn]) if turn else image
