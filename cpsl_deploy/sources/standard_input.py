"""Frames on standard input: JPEG images one after another, or raw frames (in the reader process)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import numpy as np

from .base import InputLimits
from .decoded import Damaged, Decoded, Decoding, Opened, SourceLost
from .jpeg_stream import Broken, Jpeg, JpegStream

_CHUNK = 1 << 18


def decode_standard_input(
    *,
    raw_format: str,
    raw_size: tuple[int, int] | None,
    fps: float | None,
    limits: InputLimits,
    descriptor: int = 0,
) -> Decoding:
    """``raw_format``, ``raw_size``: as in `LiveOptions`. Ends at the end of the input."""
    if raw_size is not None and (broken := limits.broken_by(*raw_size)):
        raise SourceLost(
            f"its frames have {broken}, as raw_size (--stdin-size) says. {limits.remedy(*raw_size)}",
            "refused",
        )
    size = f", {raw_size[1]}x{raw_size[0]}" if raw_size else ""
    yield Opened(what=f"{raw_format}{size}", fps=fps, finite=True)
    if raw_size is None:
        yield from _decode_jpegs(descriptor, limits, fps)
    else:
        yield from _decode_raw(descriptor, raw_format, raw_size, fps)


def _decode_jpegs(descriptor: int, limits: InputLimits, fps: float | None) -> Iterator[Decoded | Damaged]:
    stream = JpegStream()
    place = 0
    while True:
        data = os.read(descriptor, _CHUNK)
        for found in stream.feed(data) if data else stream.end():
            if isinstance(found, Broken):
                yield Damaged(reason=found.reason)
            else:
                yield _decode_jpeg(found, limits, None if fps is None else place / fps)
            place += 1
        if not data:
            return


def _decode_jpeg(jpeg: Jpeg, limits: InputLimits, time_s: float | None) -> Decoded | Damaged:
    import av
    import av.error

    from .network import write_bgr

    if broken := limits.broken_by(jpeg.height, jpeg.width):
        return Damaged(reason=f"it has {broken}")
    decoder = av.CodecContext.create("mjpeg", "r")
    # OpenCV gives a damaged image with a grey rest; this decoder can be told to refuse it.
    decoder.options = {"err_detect": "explode", "max_pixels": str(limits.max_pixels)}
    decoder.thread_count = 1
    try:
        frames = decoder.decode(av.Packet(jpeg.data))  # type: ignore[attr-defined]
    except av.error.FFmpegError:
        frames = []
    if not frames or (frames[0].height, frames[0].width) != (jpeg.height, jpeg.width):
        return Damaged(reason="an image that cannot be decoded")
    frame = frames[0]
    return Decoded(
        height=frame.height,
        width=frame.width,
        captured_s=time.monotonic(),
        time_s=time_s,
        write=lambda into: write_bgr(frame, into),
    )


def _decode_raw(
    descriptor: int, raw_format: str, size: tuple[int, int], fps: float | None
) -> Iterator[Decoded | Damaged]:
    height, width = size
    rows, write = _writers(height, width)[raw_format]
    buffer = np.empty(rows * width, np.uint8)
    index = 0
    while True:
        filled = _fill(descriptor, memoryview(buffer))  # type: ignore[arg-type]
        if filled < len(buffer):
            if filled:
                yield Damaged(
                    reason=f"the input ends within a frame: {filled} of {len(buffer)} bytes are there"
                )
            return
        yield Decoded(
            height=height,
            width=width,
            captured_s=time.monotonic(),
            time_s=None if fps is None else index / fps,
            write=lambda into: write(buffer, into),
        )
        index += 1


def _fill(descriptor: int, into: memoryview) -> int:
    """Read until all is filled or the input ends: number of bytes."""
    filled = 0
    while filled < len(into):
        read = os.readv(descriptor, [into[filled:]])
        if not read:
            break
        filled += read
    return filled


def _writers(height: int, width: int) -> dict[str, tuple[int, Callable[[np.ndarray, np.ndarray], None]]]:
    """Per format: bytes of a frame / width, and what writes a frame as BGR."""
    import cv2

    def bgr24(flat: np.ndarray, into: np.ndarray) -> None:
        into[:] = flat.reshape(height, width, 3)

    def rgb24(flat: np.ndarray, into: np.ndarray) -> None:
        cv2.cvtColor(flat.reshape(height, width, 3), cv2.COLOR_RGB2BGR, dst=into)

    def gray8(flat: np.ndarray, into: np.ndarray) -> None:
        cv2.cvtColor(flat.reshape(height, width), cv2.COLOR_GRAY2BGR, dst=into)

    def yuv420p(flat: np.ndarray, into: np.ndarray) -> None:
        cv2.cvtColor(flat.reshape(height * 3 // 2, width), cv2.COLOR_YUV2BGR_I420, dst=into)

    def nv12(flat: np.ndarray, into: np.ndarray) -> None:
        cv2.cvtColor(flat.reshape(height * 3 // 2, width), cv2.COLOR_YUV2BGR_NV12, dst=into)

    return {
        "bgr24": (height * 3, bgr24),
        "rgb24": (height * 3, rgb24),
        "gray8": (height, gray8),
        "yuv420p": (height * 3 // 2, yuv420p),
        "nv12": (height * 3 // 2, nv12),
    }
