"""Video files from frames, each at its own time."""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import DataError, InputError, OutputError
from ..files import as_output_error, atomic_path, put_unused
from .video_codec import CONTAINERS, check_codec, find_codec, open_output

__all__ = ["VideoWriter", "check_codec", "video_writer"]

_OF_THE_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.ENOENT)
"""Errors that no codec makes."""


class _Abandoned(Exception):
    """Tells `atomic_path` to leave nothing."""


class VideoWriter:
    """A video file that grows frame by frame and appears, whole and playable, when it is closed.

    Until then it has a hidden temporary name beside ``path``: a killed process leaves nothing under the
    final name. Leaving a ``with`` block with an error removes it.

    ``size``: (height, width) of the frames; an odd one loses its last row or column, which most codecs
    cannot store. ``fps``: frames per second, for frames that are appended without a time and as the rate that
    the file announces. ``codec``: see `find_codec`. Without ``replace`` an earlier file stays: the new one
    becomes NAME-2, NAME-3, ..., and ``path`` says so when it is closed.

    Time stamps are kept to 1/90000 s (1/60000 s with mpeg4, 1/1000 s in .mkv and .webm); an .avi file has one
    constant rate, and its stamps are rounded to that grid. A stamp that is not after the one before it, or
    before zero, is moved to the next tick that is free.

    Raises UnavailableError if the codec does not work, OutputError if the file cannot be written: the disk is
    full, and nothing is left.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        size: tuple[int, int],
        fps: float,
        codec: str | None = None,
        replace: bool = True,
    ) -> None:
        self.path = Path(path)
        self.size = size
        self.frames = 0
        """Appended so far."""
        self._rate = _checked_rate(fps)
        self._even = (size[0] // 2 * 2, size[1] // 2 * 2)
        if min(self._even) < 2:
            raise InputError(f"a video has at least 2x2 pixels; got {size[1]}x{size[0]}. Write images")
        suffix = self.path.suffix.lower()
        chosen = find_codec(codec, suffix)
        if suffix not in CONTAINERS:
            check_codec(chosen.name, suffix)  # raises
        self._place = contextlib.ExitStack()
        put = None if replace else self._put_unused
        temporary = self._place.enter_context(atomic_path(self.path, put=put))
        self._container: Any = None
        with self._errors():
            try:
                self._container, self._stream = open_output(temporary, suffix, chosen, self._even, self._rate)
                self._container.start_encoding()
            except (ValueError, OSError) as error:  # FFmpeg's errors are among them
                if getattr(error, "errno", None) not in _OF_THE_PLACE:
                    check_codec(chosen.name, suffix)  # raises if it is the codec
                raise
        self._time_base: Fraction = self._stream.codec_context.time_base
        self._last = -1
        self._step = max(1, round(1 / (self._rate * self._time_base)))

    def append(self, image: np.ndarray, time_s: float | None = None) -> None:
        """Add a frame, BGR uint8 (H, W, 3) of the writer's size.

        ``time_s``: seconds since the start of the video; without it the frame's number / ``fps``. Raises
        DataError for a frame of another shape, OutputError as said above: the writer is then closed.
        """
        if self._container is None:
            raise InputError(f"the video {self.path} is closed; open another writer")
        if image.shape != (*self.size, 3) or image.dtype != np.uint8:
            raise DataError(
                f"frames of this video are uint8 {(*self.size, 3)}; frame {self.frames} is {image.dtype} "
                f"{image.shape}"
            )
        import av

        height, width = self._even
        when = Fraction(self.frames) / self._rate if time_s is None else Fraction(time_s)
        ticks = max(round(when / self._time_base), self._last + 1)
        with self._errors():
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="bgr24")
            frame.pts, frame.time_base = ticks, self._time_base
            if self.frames:
                self._step = ticks - self._last
            self._mux(self._stream.encode(frame))
        self._last = ticks
        self.frames += 1

    def _put_unused(self, new: Path, path: Path) -> None:
        self.path = put_unused(new, path)

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            # The last frame is shown as long as the one before it; else the file would end with its start.
            packet.duration = packet.duration or self._step
            self._container.mux(packet)

    def close(self) -> None:
        """Finish the file and put it in place; without a frame nothing is written. Closing twice is fine."""
        if self._container is None:
            return
        if not self.frames:
            self.abort()
            return
        with self._errors():
            self._mux(self._stream.encode())
            container, self._container, self._stream = self._container, None, None
            container.close()
            del container
        self._place.close()

    def abort(self) -> None:
        """Leave nothing. Never raises; does nothing to a file that was finished."""
        container, self._container, self._stream = self._container, None, None
        if container is not None:
            with contextlib.suppress(Exception):  # a full disk is told again here
                container.close()
        abandoned = _Abandoned()
        with contextlib.suppress(Exception):
            self._place.__exit__(_Abandoned, abandoned, None)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """On an error leave nothing, and say what it means."""
        try:
            yield
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError):
                # PyAV's errors are OSErrors too; their numbers above those of the system are FFmpeg's own.
                number = error.errno if error.errno in errno.errorcode else errno.EIO
                told = OSError(number, error.strerror or str(error))
                raise as_output_error(told, self.path) from error
            import av

            if isinstance(error, av.FFmpegError):
                raise OutputError(f"cannot write the video {self.path}: {error}") from error
            raise

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def _checked_rate(fps: float) -> Fraction:
    if not (math.isfinite(fps) and fps > 0):
        raise InputError(f"a frame rate is a number above 0; got {fps}")
    # 29.97 stands for 30000/1001, which the denominator lets through; codecs store no larger ones.
    return Fraction(fps).limit_denominator(1001)


@contextlib.contextmanager
def video_writer(
    path: str | os.PathLike[str], *, size: tuple[int, int], fps: float, codec: str | None = None
) -> Iterator[Callable[..., None]]:
    """Give `VideoWriter.append` of a new file; put the file in place if the block ends without an error."""
    with VideoWriter(path, size=size, fps=fps, codec=codec) as writer:
        yield writer.append
