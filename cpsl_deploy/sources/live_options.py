"""How a live source is opened."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import InputError

RawFormat = Literal["mjpeg", "bgr24", "rgb24", "gray8", "yuv420p", "nv12"]
RAW_FORMATS: tuple[RawFormat, ...] = get_args(RawFormat)


@dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """What only some kinds of source need. Raises InputError if a value breaks its rule."""

    rtsp_transport: Literal["tcp", "udp"] = "tcp"
    """``tcp`` loses nothing on the way; ``udp`` is a little sooner and loses packets."""
    camera_size: tuple[int, int] | None = None
    """(height, width) asked of a camera, which gives the nearest it has; None is the camera's own choice."""
    camera_fps: float | None = None
    """Frames per second asked of a camera."""
    raw_format: RawFormat = "mjpeg"
    """Of standard input: JPEG images one after another, or raw frames, one byte a sample, rows not padded."""
    raw_size: tuple[int, int] | None = None
    """(height, width) of raw frames on standard input."""
    raw_fps: float | None = None
    """Of standard input: gives frames their times; without it the time is that of arrival."""

    def __post_init__(self) -> None:
        if self.rtsp_transport not in ("tcp", "udp"):
            raise InputError(f"rtsp_transport is tcp or udp; got {self.rtsp_transport!r}")
        if self.raw_format not in RAW_FORMATS:
            raise InputError(f"raw_format is one of {', '.join(RAW_FORMATS)}; got {self.raw_format!r}")
        for name in ("camera_size", "raw_size"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise InputError(f"{name} is (height, width) in pixels; got {size}")
        for name in ("camera_fps", "raw_fps"):
            fps = getattr(self, name)
            if fps is not None and not (math.isfinite(fps) and fps > 0):
                raise InputError(f"{name} is more than 0; got {fps}")
        if (self.raw_size is None) != (self.raw_format == "mjpeg"):
            raise InputError(
                f"raw_size = (height, width) belongs to raw frames and not to mjpeg; got raw_format = "
                f"{self.raw_format!r} and raw_size = {self.raw_size}"
            )
        if self.raw_format in ("yuv420p", "nv12") and self.raw_size and any(n % 2 for n in self.raw_size):
            raise InputError(f"{self.raw_format} frames have even sides; got raw_size = {self.raw_size}")
