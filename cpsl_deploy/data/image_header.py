"""What an image file announces before any of it is decoded.

A file of a few hundred bytes can announce a picture of many gigabytes (a decompression bomb), and a decoder
reserves what is announced. So what every kind of image announces is looked at first, here, by reading bytes
and reserving nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"
_TIFF = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
"""Byte order, and whether it is BigTIFF."""
_TIFF_SIZES = {"width": 256, "height": 257, "tile width": 322, "tile height": 323}
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MOST_TIFF_TAGS = 4096
_MOST_JPEG_SCANS = 100
"""Progressive JPEGs have about 10. Each is a pass over the whole picture and costs as few as ten bytes: one
small file could keep a decoder busy for hours."""


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """What the first bytes of an image say."""

    kind: str
    """"JPEG", "PNG", "BMP", "GIF", "TIFF" or "WebP", by content: the suffix is not asked."""
    height: int
    """As stored, before any rotation."""
    width: int
    tile: tuple[int, int] | None = None
    """(height, width) of the tiles of a TIFF, each of which is decoded whole."""
    problem: str = ""
    """Something else that is reason not to decode it."""


def image_header(data: bytes) -> ImageHeader | None:
    """The header of an image file's content, or None if it is no image of a kind that is read.

    ``data``: the whole file, or its beginning where only the size is wanted.
    """
    try:
        if data.startswith(PNG) and data[12:16] == b"IHDR":
            width, height = struct.unpack_from(">II", data, 16)
            return ImageHeader(kind="PNG", height=height, width=width)
        if data.startswith(JPEG):
            return _jpeg(data)
        if data[:4] in _TIFF:
            return _tiff(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if data[:6] in (b"GIF87a", b"GIF89a"):
            width, height = struct.unpack_from("<HH", data, 6)
            return ImageHeader(kind="GIF", height=height, width=width)
        if data[:2] == b"BM":
            return _bmp(data)
    except (struct.error, OverflowError):
        pass  # the header ends early, or points beyond what a file can hold
    return None


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of every whole chunk's content."""
    at = len(PNG)
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        end = at + 8 + length
        if end + 4 > len(data):
            return
        yield data[at + 4 : at + 8], at + 8, end
        at = end + 4


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of every header segment's content up to and with the first scan's."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, at + 4, end
        if marker == 0xDA:
            return
        at = end


def _jpeg(data: bytes) -> ImageHeader | None:
    for marker, start, _ in jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, start + 1)
            # In compressed data 0xFF is followed by 0 or a restart marker, so these two bytes begin a scan.
            scans = data.count(b"\xff\xda", start)
            many = f"{scans} scans; a JPEG has up to {_MOST_JPEG_SCANS}" if scans > _MOST_JPEG_SCANS else ""
            return ImageHeader(kind="JPEG", height=height, width=width, problem=many)
    return None


def _bmp(data: bytes) -> ImageHeader:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return ImageHeader(kind="BMP", height=abs(height), width=abs(width))


def _webp(data: bytes) -> ImageHeader | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        if len(data) < 30:
            return None
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    else:
        return None
    return ImageHeader(kind="WebP", height=height, width=width)


def _tiff(data: bytes) -> ImageHeader:
    """Of the first picture in the file, which is the one that is read."""
    order, big = _TIFF[data[:4]]
    found: dict[int, int] = {}
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    at += 8 if big else 2
    for _ in range(min(count, _MOST_TIFF_TAGS)):
        tag, kind = struct.unpack_from(order + "HH", data, at)
        if tag in _TIFF_SIZES.values() and kind in _TIFF_TYPES:
            (value,) = struct.unpack_from(order + _TIFF_TYPES[kind], data, at + (12 if big else 8))
            found[tag] = max(value, found.get(tag, 0))  # a tag that comes twice is read either way
        at += 20 if big else 12
    width, height, *tile = (found.get(tag, 0) for tag in _TIFF_SIZES.values())
    tiles = (tile[1], tile[0]) if any(tile) else None
    return ImageHeader(kind="TIFF", height=height, width=width, tile=tiles)
