"""How a live source is opened."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Literal, get_args

from ..errors import InputError

RawFormat = Literal["mjpeg", "bgr24", "rgb24", "gray8", "yuv420p", "nv12"]
RAW_FORMATS: tuple[RawFormat, ...] = get_args(RawFormat)


OPTIONS = {
    "rtsp_transport": "--rtsp-transport",
    "camera_size": "--camera-size",
    "camera_fps": "--camera-fps",
    "raw_format": "--stdin-format",
    "raw_size": "--stdin-size",
    "raw_fps": "--stdin-fps",
}
"""What each field is called on the command line."""
_WHAT = {
    "camera_size": "the size asked of a camera",
    "camera_fps": "frames per second of a camera",
    "raw_size": "the size of raw frames on standard input",
    "raw_fps": "frames per second of standard input",
}
_FAMILIES = {
    "camera": "cameras (a number, or /dev/video0)",
    "raw": "standard input (-)",
    "rtsp": "RTSP (rtsp://, rtsps://)",
}


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
            raise InputError(
                "RTSP comes over tcp or udp (rtsp_transport, or --rtsp-transport); got "
                f"{self.rtsp_transport!r}. Give one of the two"
            )
        if self.raw_format not in RAW_FORMATS:
            raise InputError(
                f"frames on standard input are {', '.join(RAW_FORMATS)} (raw_format, or --stdin-format); got "
                f"{self.raw_format!r}. Give one of these"
            )
        for name in ("camera_size", "raw_size"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise InputError(
                    f"{_WHAT[name]} is two sides of 1 pixel or more; got {size}. Give {name}=(height, "
                    f"width), or {OPTIONS[name]} HxW"
                )
        for name in ("camera_fps", "raw_fps"):
            fps = getattr(self, name)
            if fps is not None and not (math.isfinite(fps) and fps > 0):
                raise InputError(
                    f"{_WHAT[name]} are more than 0; got {fps}. Give {name} ({OPTIONS[name]}) another value, "
                    "or leave it out"
                )
        self._check_raw()

    def _check_raw(self) -> None:
        size = self.raw_size
        if size is None:
            if self.raw_format != "mjpeg":
                raise InputError(
                    f"raw frames ({self.raw_format}) on standard input need their size, and none is given: "
                    "raw_size=(height, width), or --stdin-size HxW"
                )
            return
        given = f"{size[0]}x{size[1]}"
        if self.raw_format == "mjpeg":
            raise InputError(
                f"JPEG images on standard input (mjpeg) say their size themselves; got the size {given}. "
                "Leave it out (raw_size, or --stdin-size), or name the format of raw frames: "
                "raw_format='bgr24', or --stdin-format bgr24"
            )
        if self.raw_format in ("yuv420p", "nv12") and any(side % 2 for side in size):
            raise InputError(
                f"{self.raw_format} frames have even sides; got {given} (height x width). Give their true "
                "size: raw_size=(height, width), or --stdin-size HxW"
            )

    def check_used(self, kinds: Collection[str], schemes: Collection[str]) -> None:
        """That no option is given which none of the sources can use.

        ``kinds``: of the sources, as in `SourceReference.kind`. ``schemes``: of the network streams.
        Raises InputError: an option that does nothing is a mistake, of the option or of the source.
        """
        used = {
            "camera": "camera" in kinds,
            "raw": "stdin" in kinds,
            "rtsp": "rtsp" in schemes or "rtsps" in schemes,
        }
        for option in fields(self):
            value = getattr(self, option.name)
            family = option.name.partition("_")[0]
            if value != option.default and not used[family]:
                raise InputError(
                    f"{option.name} ({OPTIONS[option.name]}) is for {_FAMILIES[family]}, and no source is "
                    f"that; got {value!r}. Leave it out, or check the source"
                )
