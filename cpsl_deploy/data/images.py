"""Reading images and masks from files, exactly and with errors instead of half a picture.

OpenCV decodes, but three of its habits are dangerous: it returns a truncated JPEG with its lower part grey
and no error, it expands palette PNGs to colours, losing the ids, and it reserves gigabytes because a small
file announces them. All are dealt with here.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from ..errors import DataError
from ..sources.base import InputLimits
from .image_header import JPEG, PNG, image_header, jpeg_segments, png_chunks

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
DATASET_LIMITS = InputLimits(max_pixels=1 << 28, max_side=1 << 16, min_side=1)
"""For images and masks that someone chose to train on: photos of any camera, and masks of any size."""
_BYTES_PER_PIXEL = 8
"""Of the largest pixel that is read: four channels of 16 bits, stored without compression."""
_BYTES_BESIDE = 64 << 20
"""What a file may hold besides its pixels."""
_GREY, _RGB, _PALETTE, _RGBA = 0, 2, 3, 6  # PNG colour types


def read_image(path: Path, *, upright: bool = False, limits: InputLimits = DATASET_LIMITS) -> np.ndarray:
    """Read an image as uint8 (H, W, 3) RGB; `read_image_bgr` says what becomes of other kinds of pixels.

    ``upright``: turn the picture as its EXIF orientation says. Labelled images are read as stored, because
    their masks are drawn on a pixel grid that has no such tag; photos are read upright.

    Raises DataError as `read_image_bgr` does.
    """
    return cv2.cvtColor(read_image_bgr(path, upright=upright, limits=limits), cv2.COLOR_BGR2RGB)


def read_image_bgr(path: Path, *, upright: bool = False, limits: InputLimits = DATASET_LIMITS) -> np.ndarray:
    """Read an image as uint8 (H, W, 3) BGR, the order that OpenCV and the model files work in.

    Grey is repeated, a palette is looked up, CMYK is converted, alpha is dropped (the colour under it stays,
    however transparent). 16-bit values are scaled to 8 bits, so that full white stays white; they are not
    stretched to the range that is used. Of several pictures in one file (GIF, WebP, APNG, TIFF) the first is
    read. The kind is told from the content, not from the suffix.

    Raises DataError, with the path, if the file is missing, no regular file, empty, truncated or no image, or
    breaks ``limits``, which is seen before anything is decoded.
    """
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return _decode(_read(path, limits), path, flags)


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
    header = image_header(head)
    if header is not None and header.kind == "JPEG":
        turned = upright and orientation(path) >= 5
        return (header.width, header.height) if turned else (header.height, header.width)
    if header is not None and header.kind == "PNG" and not (upright and b"eXIf" in head):
        return header.height, header.width
    return read_image(path, upright=upright).shape[:2]


def orientation(path: Path) -> int:
    """EXIF orientation of a JPEG, 1 (as stored) to 8; 1 where the file has none."""
    with _open(path) as file:
        head = file.read(1 << 18)
    if not head.startswith(JPEG):
        return 1
    for marker, start, end in jpeg_segments(head):
        if marker == 0xE1 and head[start : start + 6] == b"Exif\0\0":
            return _exif_orientation(head[start + 6 : end])
    return 1


def is_colour_png(path: Path) -> bool:
    """Whether a file is a PNG of colours: not grey, not of palette indices."""
    with _open(path) as file:
        return _png_header(file.read(26))[1] in (_RGB, _RGBA)


def is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG ends before its end marker. Some cameras add bytes after it; those are fine."""
    if data.startswith(JPEG):
        scan = next((end for marker, _, end in jpeg_segments(data) if marker == 0xDA), None)
        return scan is None or data.rfind(b"\xff\xd9") < scan  # it is near the end, if it is there
    if data.startswith(PNG):
        return not any(kind == b"IEND" for kind, _, _ in png_chunks(data))
    return False


def _open(path: Path) -> BinaryIO:
    """Open a regular file. A FIFO would have the caller wait until someone writes to it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {path}: {reason}. Check the path and its permissions.") from error
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise DataError(f"{path} is no regular file, and images are. Name a file, or leave it out.")
    return file


def _read(path: Path, limits: InputLimits = DATASET_LIMITS) -> bytes:
    """The content of an image file that may be decoded."""
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        most = _BYTES_BESIDE + _BYTES_PER_PIXEL * limits.max_pixels
        if size > most:
            raise DataError(
                f"{path} has {size} bytes; an image of {limits.max_pixels} pixels (limit max_pixels) has at "
                f"most {most}. Make it smaller, or raise the limit."
            )
        data = file.read(size)  # a larger number would have as much memory reserved
    if not data:
        raise DataError(f"{path} is empty. Copy or download the file again.")
    if is_truncated(data):
        raise DataError(
            f"{path} is truncated: its {len(data)} bytes end before the image does. "
            "Copy or download it again."
        )
    _check_header(data, path, limits)
    return data


def _check_header(data: bytes, path: Path, limits: InputLimits) -> None:
    header = image_header(data)
    if header is None:
        raise _no_image(data, path)
    remedy = "Save it anew" if header.problem else limits.remedy(header.height, header.width)
    problem = header.problem or limits.broken_by(header.height, header.width)
    if not problem and header.tile is not None and header.tile[0] * header.tile[1] > limits.max_pixels:
        problem = f"tiles of {header.tile[1]}x{header.tile[0]} pixels (limit max_pixels)"
    if problem:
        raise DataError(f"{path} announces {problem}. It was not decoded. {remedy}.")


def _decode(data: bytes, path: Path, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DataError(f"{path} cannot be decoded ({error.err}). Copy or download it again.") from error
    if image is None:
        raise _no_image(data, path)
    return image


def _no_image(data: bytes, path: Path) -> DataError:
    return DataError(
        f"{path} is not a readable image ({len(data)} bytes). Images are "
        f"{', '.join(s[1:] for s in IMAGE_SUFFIXES)} files of 8 or 16 bits; copy or download it again."
    )


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
    return (data[24], data[25]) if data.startswith(PNG) and len(data) >= 26 else (8, _GREY)


def _palette_depth(path: Path) -> int:
    with _open(path) as file:
        depth, colour_type = _png_header(file.read(26))
    return depth if colour_type == _PALETTE else 8


def _without_palette(data: bytes) -> bytes:
    """A palette PNG as the grey PNG of its indices: same pixel data, other header, no palette."""
    if _png_header(data)[1] != _PALETTE:
        return data
    parts = [PNG]
    for kind, start, end in png_chunks(data):
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
