"""Label maps made visible: colours over the image, a legend, contact sheets, palette PNG files."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence

import cv2
import numpy as np

from .buffers import empty
from .classes import ClassSpace
from .errors import InputError
from .files import write_bytes

MIN_LEGEND_SHARE = 0.0005
"""A class on a smaller share of the pixels is left out of the legend, which would flicker on video."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_HEIGHT = 22
"""Pixels of a capital letter of the font at scale 1."""


_DARKENED = (np.arange(256) * np.float32(0.3)).astype(np.uint8)
"""Every brightness as it is behind the legend."""


def colourise(labels: np.ndarray, classes: ClassSpace, *, out: np.ndarray | None = None) -> np.ndarray:
    """Labels uint8 (H, W) as a BGR image uint8 (H, W, 3), ``out`` or a new one; values without a class are
    black."""
    colours = np.ascontiguousarray(classes.colour_table[:, None, ::-1])
    return cv2.applyColorMap(labels, colours, dst=empty((*labels.shape, 3)) if out is None else out)


def blend(
    image: np.ndarray,
    labels: np.ndarray,
    classes: ClassSpace,
    opacity: float = 0.5,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """A BGR image uint8 (H, W, 3) under the colours of its labels uint8 (H, W).

    It is drawn into ``out``, uint8 of the image's shape and not the image itself, or a new one.
    ``opacity``: 0 shows the image alone, 1 the colours alone. Pixels whose label has no class (IGNORE) keep
    the image. Raises InputError for another opacity, or labels or an ``out`` that do not fit.
    """
    if not 0 <= opacity <= 1:
        raise InputError(f"an opacity is from 0 to 1; got {opacity}")
    if labels.shape != image.shape[:2]:
        raise InputError(f"labels have the image's size {image.shape[:2]}; got {labels.shape}")
    blended = empty(image.shape) if out is None else _fitting(out, image)
    colourise(labels, classes, out=blended)
    cv2.addWeighted(image, 1 - opacity, blended, opacity, 0, dst=blended)
    if cv2.minMaxLoc(labels)[1] >= len(classes):
        without_class = empty(labels.shape)
        cv2.threshold(labels, len(classes) - 1, 255, cv2.THRESH_BINARY, dst=without_class)
        cv2.copyTo(image, without_class, dst=blended)
    return blended


def _fitting(out: np.ndarray, image: np.ndarray) -> np.ndarray:
    fits = out.dtype == np.uint8 and out.shape == image.shape and out.flags.c_contiguous
    if not fits or np.may_share_memory(out, image):
        raise InputError(
            f"an overlay is drawn into a contiguous image uint8 {image.shape} that is not the frame itself; "
            f"got {out.dtype} {out.shape}. Give numpy.empty_like(frame)"
        )
    return out


def shares(labels: np.ndarray, classes: ClassSpace) -> np.ndarray:
    """Share of all pixels per class, float64 (C,), of labels uint8 (H, W). Sums to 1 less what is ignored."""
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel()
    return counts[: len(classes)].astype(np.float64) / labels.size


def draw_legend(image: np.ndarray, labels: np.ndarray, classes: ClassSpace) -> None:
    """Draw the names and colours of the classes present into the top left corner of a BGR image.

    The text grows with the image and is never smaller than can be read. Classes keep the order of the
    class space; where not all fit, those with the most pixels stay and the last line counts the rest.
    """
    share = shares(labels, classes)
    present = [int(k) for k in np.flatnonzero(share >= MIN_LEGEND_SHARE)]
    height, width = image.shape[:2]
    letter = max(8, round(min(height, width) / 50))
    line, margin = 2 * letter, letter
    fitting = max((height - 3 * margin) // line, 0)
    entries = _legend_entries(present, share, classes, fitting)
    if not entries:
        return
    scale, thickness = letter / _FONT_HEIGHT, max(1, round(letter / 9))
    text_width = max(cv2.getTextSize(text, _FONT, scale, thickness)[0][0] for text, _ in entries)
    right = min(width, margin + letter + 2 * letter + text_width + letter)
    bottom = margin + letter + line * len(entries)
    panel = image[margin // 2 : bottom, margin // 2 : right]
    if panel.size:
        cv2.LUT(panel, _DARKENED, dst=panel)
    for row, (text, colour) in enumerate(entries):
        base = margin + letter // 2 + line * row + letter
        if colour is not None:
            corner, opposite = (margin, base - letter), (margin + round(1.5 * letter), base)
            cv2.rectangle(image, corner, opposite, colour, cv2.FILLED)
            cv2.rectangle(image, corner, opposite, (255, 255, 255), 1)
        where = (margin + round(2.3 * letter), base)
        cv2.putText(image, text, where, _FONT, scale, (255, 255, 255), thickness, cv2.LINE_AA)


def _legend_entries(
    present: list[int], share: np.ndarray, classes: ClassSpace, fitting: int
) -> list[tuple[str, tuple[int, int, int] | None]]:
    """(text, BGR colour) per line; the line that counts what did not fit has no colour."""
    kept = present
    if len(present) > fitting:
        largest = sorted(present, key=lambda k: -share[k])[: max(fitting - 1, 0)]
        kept = [k for k in present if k in largest]
    entries: list[tuple[str, tuple[int, int, int] | None]] = []
    for k in kept:
        red, green, blue = classes.palette[k]
        entries.append((classes.names[k], (blue, green, red)))
    if len(kept) < len(present) and fitting > 0:
        entries.append((f"+{len(present) - len(kept)} more", None))
    return entries


def contact_sheet(
    images: Sequence[np.ndarray],
    *,
    titles: Sequence[str] = (),
    columns: int = 3,
    cell_width: int = 480,
) -> np.ndarray:
    """BGR images uint8 (h, w, 3) of any sizes side by side as one BGR image, each under its title.

    Every image is brought to ``cell_width`` pixels; rows are as high as their highest image. Raises
    InputError without images or with another number of titles.
    """
    if not images or (titles and len(titles) != len(images)):
        raise InputError(f"a contact sheet needs images and as many titles; got {len(images)}, {len(titles)}")
    bar, gap = (26 if titles else 0), 6
    columns = min(columns, len(images))
    cells = []
    for image in images:
        height = max(1, round(image.shape[0] * cell_width / image.shape[1]))
        shrinks = image.shape[1] > cell_width
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        cells.append(cv2.resize(image, (cell_width, height), interpolation=method))
    rows = [range(start, min(start + columns, len(cells))) for start in range(0, len(cells), columns)]
    row_heights = [max(cells[i].shape[0] for i in row) + bar + gap for row in rows]
    sheet = np.full((sum(row_heights) + gap, columns * (cell_width + gap) + gap, 3), 32, np.uint8)
    top = gap
    for row, row_height in zip(rows, row_heights, strict=True):
        for column, i in enumerate(row):
            left = gap + column * (cell_width + gap)
            if titles:
                cv2.putText(
                    sheet, titles[i], (left + 2, top + 18), _FONT, 0.5, (235, 235, 235), 1, cv2.LINE_AA
                )
            sheet[top + bar : top + bar + cells[i].shape[0], left : left + cell_width] = cells[i]
        top += row_height
    return sheet


def write_image(path: str | os.PathLike[str], image: np.ndarray, *, quality: int = 95) -> None:
    """Write a BGR image uint8 (H, W, 3) whole or not at all, in the format its suffix names.

    ``quality``: of JPEG files, 1 to 100. Raises InputError for a suffix OpenCV cannot write, OutputError
    if the place is not writable or the disk is full.
    """
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix in (".jpg", ".jpeg") else []
    try:
        written, data = cv2.imencode(suffix, image, options)
    except cv2.error as error:
        raise InputError(f"{path}: OpenCV cannot write {suffix!r} files here; use .jpg or .png") from error
    if not written:
        raise InputError(f"{path}: OpenCV could not encode an image of shape {image.shape} as {suffix}")
    write_bytes(path, data.tobytes())


def encode_label_png(labels: np.ndarray, classes: ClassSpace) -> bytes:
    """Labels uint8 (H, W) as an 8-bit palette PNG: the pixel values are the labels, shown in their colours.

    OpenCV writes no palette PNGs, hence this encoder (PNG specification, third edition, sections 5, 7, 9
    and 11): one IHDR, PLTE, IDAT and IEND chunk, every row with the filter "up", which suits label maps.
    """
    if labels.dtype != np.uint8 or labels.ndim != 2 or labels.size == 0:
        raise InputError(f"a label map is uint8 (H, W) and not empty; got {labels.dtype} {labels.shape}")
    height, width = labels.shape
    rows = np.empty((height, width + 1), np.uint8)
    rows[:, 0] = 2  # filter type "up": each byte less the one above it
    rows[0, 1:] = labels[0]
    np.subtract(labels[1:], labels[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits, palette, no interlace
    return (
        b"\x89PNG\r\n\x1a\n"
        + _png_chunk(b"IHDR", header)
        + _png_chunk(b"PLTE", classes.colour_table.tobytes())
        + _png_chunk(b"IDAT", zlib.compress(rows.tobytes(), 6))
        + _png_chunk(b"IEND", b"")
    )


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_label_png(path: str | os.PathLike[str], labels: np.ndarray, classes: ClassSpace) -> None:
    """Write `encode_label_png` whole or not at all."""
    write_bytes(path, encode_label_png(labels, classes))
