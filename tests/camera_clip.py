"""Clips whose pictures say which they are: for telling late, repeated, lost and damaged frames apart.

Every picture carries its place in the clip as two rows of black and white squares, the second the opposite of
the first, so that a damaged one is not mistaken for another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

DRIVE = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "video" / "highway.mp4"
BITS, SQUARE = 8, 16
"""The squares take 128 x 32 pixels in the upper left corner."""
ENCODERS = {"h264": "libx264", "hevc": "libx265", "mjpeg": "mjpeg"}


@dataclass(frozen=True, kw_only=True)
class Clip:
    path: Path
    codec: str
    width: int
    height: int
    fps: int
    sizes: tuple[int, ...] = field(repr=False)
    """Bytes of every picture."""

    @property
    def count(self) -> int:
        return len(self.sizes)

    @property
    def bytes_per_s(self) -> float:
        return sum(self.sizes) / self.count * self.fps

    def describe(self) -> str:
        rate = 8e-6 * self.bytes_per_s
        return f"{self.codec}, {self.width}x{self.height}, {self.fps} frames/s, {rate:.2f} Mbit/s"

    @cached_property
    def references(self) -> list[np.ndarray]:
        """Every picture as a decoder gives it, BGR uint8 (H, W, 3)."""
        import av

        data = self.path.read_bytes()
        data = data[data.index(b"\n") + 1 :]
        context = av.CodecContext.create(self.codec, "r")
        starts = np.cumsum([0, *self.sizes])
        packets = [av.Packet(data[start:end]) for start, end in pairwise(starts)]
        frames = [frame for packet in [*packets, None] for frame in context.decode(packet)]
        assert len(frames) == self.count
        return [frame.to_ndarray(format="bgr24") for frame in frames]

    def damage(self, image: np.ndarray, place: int) -> float:
        """Largest difference of any block of 8x8 pixels, mean over it, to the picture that it should be."""
        height, width = self.height // 8 * 8, self.width // 8 * 8
        if image.shape != (self.height, self.width, 3):
            return 255.0
        difference = image[:height, :width].astype(np.int16) - self.references[place][:height, :width]
        return float(np.abs(difference).reshape(height // 8, 8, width // 8, 24).mean((1, 3)).max())


def write_clip(
    path: Path, *, codec: str = "h264", size: tuple[int, int] = (320, 192), fps: int = 25, count: int = 200
) -> Clip:
    """Encode the shared drive, or generated pictures where it is absent, at ``size`` (width, height).

    RTP carries MJPEG in sides of whole blocks of 8 pixels.
    """
    import av

    context = av.CodecContext.create(ENCODERS[codec], "w")
    context.width, context.height = size
    context.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    context.time_base, context.framerate = Fraction(1, fps), Fraction(fps)
    if codec == "mjpeg":
        context.qmin, context.qmax = 3, 8
    else:
        context.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(fps)}
        context.thread_count = (
            1  # else a picture is several slices, which the RTP payloader takes for pictures
        )
    pictures = []
    for place, image in zip(range(count), _images(size), strict=False):
        frame = av.VideoFrame.from_ndarray(_marked(image, place), format="bgr24")
        frame.pts, frame.time_base = place, context.time_base
        pictures += [bytes(packet) for packet in context.encode(frame)]
    pictures += [bytes(packet) for packet in context.encode(None)]
    head = {"codec": codec, "width": size[0], "height": size[1], "fps": fps}
    sizes = tuple(map(len, pictures))
    path.write_bytes(json.dumps({**head, "sizes": sizes}).encode() + b"\n" + b"".join(pictures))
    return Clip(path=path, sizes=sizes, **head)


def read_place(image: np.ndarray) -> int | None:
    """Which picture of the clip this is; None if its squares are damaged."""
    corner = image[: 2 * SQUARE, : BITS * SQUARE]
    if corner.shape[:2] != (2 * SQUARE, BITS * SQUARE):
        return None
    light = corner.reshape(2, SQUARE, BITS, SQUARE, 3)[:, 4:-4, :, 4:-4].mean((1, 3, 4))
    if np.any(np.abs(light[0] - light[1]) < 100):
        return None
    return int((light[0] > light[1]) @ (1 << np.arange(BITS)))


def _marked(image: np.ndarray, place: int) -> np.ndarray:
    bits = (place >> np.arange(BITS)) & 1
    squares = np.stack([bits, 1 - bits]).repeat(SQUARE, 0).repeat(SQUARE, 1)
    image = image.copy()
    image[: 2 * SQUARE, : BITS * SQUARE] = 16 + 219 * squares[..., None]
    return image


def _images(size: tuple[int, int]) -> Iterator[np.ndarray]:
    """BGR uint8 (H, W, 3) without end."""
    width, height = size
    if DRIVE.is_file():
        import av

        while True:
            with av.open(str(DRIVE)) as video:
                for frame in video.decode(video=0):
                    yield frame.reformat(width, height, "bgr24").to_ndarray()
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    step = 0
    while True:  # a moving pattern over a gradient: not the same twice, and not free for an encoder
        pattern = 40 * (((across + 3 * step) // 24 + down // 24) % 2)
        yield np.stack([down % 160 + pattern, across % 160 + pattern, pattern + 60], -1).astype(np.uint8)
        step += 1
