"""Which video codecs can be written, under which names, and how each is set up for speed.

The settings were chosen on overlays of a 960x540 drive so that encoding stays small beside the inference:
H.264 `ultrafast` at crf 23 gives the size and the error that OpenCV's mp4v gave, for 3 to 3.6 ms of CPU time
a frame instead of 2.2 to 2.9; the preset `superfast` halves the file and doubles the time.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UnavailableError


@dataclass(frozen=True, kw_only=True)
class VideoCodec:
    """A codec as FFmpeg's libraries write it."""

    name: str
    encoder: str
    """FFmpeg's name of the encoder."""
    options: dict[str, str] = field(default_factory=dict)
    """Of the encoder."""
    pixels: str = "yuv420p"
    """FFmpeg's name of the pixel format."""
    bit_rate_per_pixel: float = 0
    """Bits per pixel of a frame; 0 where the options set the quality."""
    ticks_per_s: int = 90_000
    """Of the time stamps."""


_ULTRAFAST = {"preset": "ultrafast", "crf": "23"}
_REALTIME = {"deadline": "realtime", "cpu-used": "8"}

CODECS: dict[str, VideoCodec] = {
    codec.name: codec
    for codec in (
        VideoCodec(name="h264", encoder="libx264", options=_ULTRAFAST),
        VideoCodec(
            name="hevc",
            encoder="libx265",
            # No B-frames: they would need the frames after them, which a live stream does not have yet.
            options={"preset": "ultrafast", "crf": "26", "x265-params": "log-level=none:bframes=0"},
        ),
        # MPEG-4 part 2 stores at most 65535 ticks a second.
        VideoCodec(name="mpeg4", encoder="mpeg4", options={"qmin": "3", "qmax": "3"}, ticks_per_s=60_000),
        VideoCodec(
            name="mjpeg",
            encoder="mjpeg",
            options={"qmin": "3", "qmax": "3", "color_range": "pc"},
            pixels="yuvj420p",
        ),
        VideoCodec(name="vp8", encoder="libvpx", options={**_REALTIME, "crf": "12"}, bit_rate_per_pixel=0.5),
        VideoCodec(name="vp9", encoder="libvpx-vp9", options={**_REALTIME, "crf": "28", "row-mt": "1"}),
        VideoCodec(name="ffv1", encoder="ffv1", pixels="bgr0"),
    )
}
"""By name. Constant quality throughout; `ffv1` is lossless."""

ALIASES = {
    "avc1": "h264",
    "x264": "h264",
    "h265": "hevc",
    "hvc1": "hevc",
    "hev1": "hevc",
    "mp4v": "mpeg4",
    "xvid": "mpeg4",
    "mjpg": "mjpeg",
    "vp80": "vp8",
    "vp90": "vp9",
}
"""Other names of the codecs, the four letters of video files among them."""

CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
}
"""FFmpeg's name of the file format for each suffix. An .avi file has one constant frame rate."""

_PREFERRED = {".avi": ("mjpeg", "mpeg4"), ".webm": ("vp9", "vp8")}
_PREFERRED_ELSEWHERE = ("h264", "mpeg4", "mjpeg")

_BT601, _LIMITED_RANGE = 6, 1
"""FFmpeg's numbers of a colour space and of a range."""


def find_codec(name: str | None, suffix: str) -> VideoCodec:
    """The codec of this name or alias, in any case; without a name the one preferred for the suffix.

    Raises UnavailableError if there is none, naming those that work.
    """
    suffix = suffix.lower()
    if name is not None:
        known = CODECS.get(ALIASES.get(name.lower(), name.lower()))
        if known is None or not _has_encoder(known):
            raise _unavailable(name, suffix)
        return known
    for preferred in _PREFERRED.get(suffix, _PREFERRED_ELSEWHERE):
        if _has_encoder(CODECS[preferred]):
            return CODECS[preferred]
    raise _unavailable("default", suffix)


def check_codec(codec: str | None, suffix: str) -> None:
    """Raise UnavailableError, naming those that work, unless ``codec`` can be written to ``suffix`` files.

    ``codec``: see `find_codec`. A short clip is encoded, for no library knows beforehand.
    """
    chosen = find_codec(codec, suffix)
    if not _works(chosen, suffix):
        raise _unavailable(codec or chosen.name, suffix)


def _has_encoder(codec: VideoCodec) -> bool:
    import av

    try:
        av.codec.Codec(codec.encoder, "w")
    except ValueError:  # UnknownCodecError
        return False
    return True


def _works(codec: VideoCodec, suffix: str) -> bool:
    import av

    if suffix.lower() not in CONTAINERS or not _has_encoder(codec):
        return False
    frame = np.zeros((64, 64, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(av.FFmpegError, ValueError):
        path = Path(folder, f"probe{suffix.lower()}")
        container, stream = open_output(path, path.suffix, codec, (64, 64), Fraction(25))
        with container:
            for ticks in range(2):
                packed = av.VideoFrame.from_ndarray(frame, format="bgr24")
                packed.pts = ticks * stream.codec_context.time_base.denominator // 25
                container.mux(stream.encode(packed))
            container.mux(stream.encode())
        with av.open(str(path)) as probe:  # some are written so that nobody can read them
            return bool(probe.streams.video) and next(probe.decode(video=0), None) is not None
    return False


def _unavailable(name: str, suffix: str) -> UnavailableError:
    working = [codec.name for codec in CODECS.values() if _works(codec, suffix)]
    if working:
        remedy = f"These work for {suffix} files: {', '.join(working)}"
    else:
        remedy = f"No codec works for {suffix} files; write one of {', '.join(CONTAINERS)}"
    return UnavailableError(f"the video codec {name!r} cannot be written into {suffix} files. {remedy}")


def open_output(path: Path, suffix: str, codec: VideoCodec, size: tuple[int, int], fps: Fraction) -> Any:
    """(container, stream) of PyAV for a new file: nothing is written yet.

    ``size``: (height, width), even. ``fps``: the rate announced; the stamps are finer, but for .avi files.
    """
    import av

    # On two cores more threads than that only cost; encoding shares them with the inference.
    threads = min(2, os.cpu_count() or 1)
    container = av.open(str(path), "w", format=CONTAINERS[suffix.lower()])
    try:
        stream: Any = container.add_stream(codec.encoder, rate=fps, options=dict(codec.options))
        stream.height, stream.width = size
        stream.pix_fmt = codec.pixels
        context = stream.codec_context
        context.thread_count = threads
        if codec.bit_rate_per_pixel:
            context.bit_rate = round(codec.bit_rate_per_pixel * size[0] * size[1] * float(fps))
        context.time_base = 1 / fps if suffix.lower() == ".avi" else Fraction(1, codec.ticks_per_s)
        stream.time_base = context.time_base
        if codec.pixels == "yuv420p":
            # What the conversion from BGR gives; untagged, players take high frames for BT.709.
            context.colorspace, context.color_range = _BT601, _LIMITED_RANGE
        if codec.name == "hevc" and CONTAINERS[suffix.lower()] in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # the other one is not played by Apple's players
    except BaseException:
        container.close()
        raise
    return container, stream
