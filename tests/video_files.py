"""Small video files of every kind, written with FFmpeg's libraries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

MILLISECONDS = Fraction(1, 1000)


def quarters(index: int, size: tuple[int, int] = (96, 160)) -> np.ndarray:
    """uint8 (H, W, 3) BGR: a green and a red quarter on blue, and a white bar that moves 8 pixels a frame."""
    height, width = size
    image = np.empty((height, width, 3), np.uint8)
    image[:] = (200, 60, 30)
    image[: height // 2, : width // 2] = (20, 220, 60)
    image[height // 2 :, width // 2 :] = (40, 30, 230)
    at = 8 * index % width
    image[:, at : at + 8] = 255
    return image


def write_video(
    path: Path,
    frames: int = 10,
    *,
    size: tuple[int, int] = (96, 160),
    rate: int = 10,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times_ms: Sequence[int] | None = None,
    places: Sequence[int] | None = None,
    colours: tuple[int, int] | None = None,
    rotation: int | None = None,
    options: dict[str, str] | None = None,
    container: str | None = None,
    picture: Callable[[int, tuple[int, int]], np.ndarray] = quarters,
) -> Path:
    """``times_ms``, or ``places`` at the rate, are of each frame. ``colours``: FFmpeg's colour space and
    range, as numbers."""
    space, extent = colours or (None, None)
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        stream.options = options or {}
        if space is not None:
            stream.codec_context.colorspace, stream.codec_context.color_range = space, extent
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if times_ms is not None:
            stream.codec_context.time_base = MILLISECONDS
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index, size), format="bgr24")
            frame = frame.reformat(format=pixels, dst_colorspace=space, dst_color_range=extent)
            frame.time_base = Fraction(1, rate) if times_ms is None else MILLISECONDS
            frame.pts = (times_ms or places or range(frames))[index]
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path
