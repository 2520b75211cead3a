"""Reading images and masks from files, exactly and with errors instead of half a picture.

OpenCV decodes, but two of its habits are dangerous for datasets: it returns a truncated JPEG with its lower
part grey and no error, and it expands palette PNGs to colours, losing the ids. Both are dealt with here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ..errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_GREY, _RGB, _PALETTE, _RGBA = 0, 2, 3, 6  # PNG colour types


def read_image(path: Path, *, upright: bool = False) -> np.ndarray:
    """Read an image as uint8 (H, W, 3) RGB; grey images are repeated, alpha is dropped.

    ``upright``: turn the picture as its EXIF orientation says. Labelled images are read as stored, because
    their masks are drawn on a pixel grid that has no such tag; photos are read upright.

    Raises DataError, with the path, if the file is missing, empty, truncated or not an image.
    """
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.cvtColor(_decode(_read(path), path, flags), cv2.COLOR_BGR2RGB)


def read_mask(path: Path, *, channel: int | None = None) -> np.ndarray:
    """Read a mask of ids, uint8 or uint16 (H, W). Palette PNGs give their indices.

    ``channel``: which channel, in the file's own order (0 is red), holds the ids of a mask of several
    channels. Without it the channels must be equal.

    Raises DataError if the file is unreadable or the mask has colours where ids are expected.
    """
    mask = _decode(_without_palette(_read(path)), path, cv2.IMREAD_UNCHANGED)
    depth = _palette_depth(path)
    if depth < 8 and mask.ndim == 2:
        mask = mask // (255 // (2**depth - 1))
    if mask.ndim == 3:
        if channel is not None:
            mask = mask[:, :, {0: 2, 1: 1, 2: 0}[channel]]
        elif (mask[:, :, :3] == mask[:, :, :1]).all():
            mask = mask[:, :, 0]
        else:
            raise DataError(
                f"a mask of ids has one channel, and {path} has colours. Describe it with 'colours:' instead "
                "of 'ids:' in the dataset file, or name the mask files that hold ids."
            )
    if mask.dtype not in (np.uint8, np.uint16):
        raise DataError(f"a mask holds 8 or 16 bit ids, and {path} holds {mask.dtype}. Save it as a PNG.")
    return np.ascontiguousarray(mask)


def read_colour_mask(path: Path) -> np.ndarray:
    """Read a mask drawn in colours as uint32 (H, W), red * 65536 + green * 256 + blue.

    Raises DataError if the file is unreadable.
    """
    colours = _decode(_read(path), path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION).astype(np.uint32)
    return (colours[:, :, 2] << 16) | (colours[:, :, 1] << 8) | colours[:, :, 0]


def image_size(path: Path, *, upright: bool = False) -> tuple[int, int]:
    """(height, width) in pixels, from the header alone for PNG and JPEG. Raises DataError as reading does."""
    with _open(path) as file:
        head = file.read(1 << 18)
    size = None
    if head.startswith(_PNG) and len(head) >= 24:
        width, height = struct.unpack(">II", head[16:24])
        size = (height, width)
    elif head.startswith(_JPEG):
        size = _jpeg_size(head)
        if upright and orientation(path) >= 5:
            size = size and (size[1], size[0])
    if size is None:
        return read_image(path, upright=upright).shape[:2]
    return size


def orientation(path: Path) -> int:
    """EXIF orientation of a JPEG, 1 (as stored) to 8; 1 where the file has none."""
    with _open(path) as file:
        head = file.read(1 << 18)
    if not head.startswith(_JPEG):
        return 1
    for marker, start, end in _jpeg_segments(head):
        if marker == 0xE1 and head[start : start + 6] == b"Exif\0\0":
            return _exif_orientation(head[start + 6 : end])
    return 1


def is_colour_png(path: Path) -> bool:
    """Whether a file is a PNG of colours: not grey, not of palette indices."""
    with _open(path) as file:
        return _png_header(file.read(26))[1] in (_RGB, _RGBA)


def is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG ends before its end marker. Some cameras add bytes after it; those are fine."""
    if data.startswith(_JPEG):
        scan = next((end for marker, _, end in _jpeg_segments(data) if marker == 0xDA), None)
        return scan is None or data.find(b"\xff\xd9", scan) < 0
    if data.startswith(_PNG):
        return not any(kind == b"IEND" for kind, _, _ in _png_chunks(data))
    return False


def _open(path: Path):
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}. Check the path and its permissions."
        ) from error


def _read(path: Path) -> bytes:
    with _open(path) as file:
        data = file.read()
    if not data:
        raise DataError(f"{path} is empty. Copy or download the file again.")
    if is_truncated(data):
        raise DataError(
            f"{path} is truncated: its {len(data)} bytes end before the image does. "
            "Copy or download it again."
        )
    return data


def _decode(data: bytes, path: Path, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DataError(f"{path} cannot be decoded ({error.err}). Copy or download it again.") from error
    if image is None:
        raise DataError(
            f"{path} is not a readable image ({len(data)} bytes). Images are "
            f"{', '.join(s[1:] for s in IMAGE_SUFFIXES)} files; copy or download it again."
        )
    return image


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of every whole chunk's content."""
    at = len(_PNG)
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        end = at + 8 + length
        if end + 4 > len(data):
            return
        yield data[at + 4 : at + 8], at + 8, end
        at = end + 4


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
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


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    for marker, start, _ in _jpeg_segments(head):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and start + 5 <= len(head):
            return struct.unpack(">HH", head[start + 1 : start + 5])
    return None


def _exif_orientation(tiff: bytes) -> int:
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for i in range(count):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, directory + 2 + 12 * i)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass  # a damaged EXIF block has no orientation; the picture itself may be fine
    return 1


def _png_header(data: bytes) -> tuple[int, int]:
    """(bits per sample, colour type) of a PNG; (8, grey) for any other file."""
    return (data[24], data[25]) if data.startswith(_PNG) and len(data) >= 26 else (8, _GREY)


def _palette_depth(path: Path) -> int:
    with _open(path) as file:
        depth, colour_type = _png_header(file.read(26))
    return depth if colour_type == _PALETTE else 8


def _without_palette(data: bytes) -> bytes:
    """A palette PNG as the grey PNG of its indices: same pixel data, other header, no palette."""
    if _png_header(data)[1] != _PALETTE:
        return data
    parts = [_PNG]
    for kind, start, end in _png_chunks(data):
        if kind in (b"PLTE", b"tRNS", b"bKGD", b"hIST", b"sPLT"):
            continue
        content = data[start:end]
        if kind == b"IHDR":
            content = content[:9] + bytes([_GREY]) + content[10:]
        parts += [
            struct.pack(">I", len(content)),
            kind,
            content,
            struct.pack(">I", zlib.crc32(kind + content)),
        ]
    return b"".join(parts)
