"""Labels of the upsampled logits, without upsampling what cannot change them.

Between four neighbouring pixels of the logits, a cell, bilinear interpolation gives every class a convex
combination of its four corner values. So where one class wins at all four corners it wins in the whole cell,
and a class that a mean of the corners' winners outdoes at all four corners wins nowhere inside. What is left
to interpolate are a few classes in the cells along the borders between regions.

The positions are those of ``torch.nn.functional.interpolate(mode="bilinear")``, in float32 as there. The
answer equals the argmax of all upsampled logits but where two classes differ by less than rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

import numpy as np

from .classes import IGNORE
from .errors import InputError

_CHUNK_VALUES = 1 << 18
"""Values interpolated at a time: 1 MB of float32 stays in a core's cache, and bounds the memory."""
_LARGEST = 1e30
"""Beyond, differences of logits could leave float32."""


@overload
def labels_from_logits(
    logits: np.ndarray,
    size: tuple[int, int],
    *,
    align_corners: bool = False,
    confidence: Literal[False] = False,
) -> np.ndarray: ...


@overload
def labels_from_logits(
    logits: np.ndarray, size: tuple[int, int], *, align_corners: bool = False, confidence: Literal[True]
) -> tuple[np.ndarray, np.ndarray]: ...


def labels_from_logits(
    logits: np.ndarray, size: tuple[int, int], *, align_corners: bool = False, confidence: bool = False
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Argmax over the classes of logits upsampled bilinearly to ``size``: labels uint8 (H, W).

    ``logits``: float32 (classes, h, w), 1 to 255 classes, finite values. ``size``: (H, W) in pixels, of any
    ratio to (h, w). ``align_corners``: as torch's ``interpolate`` has it. Of equal classes the first wins.
    ``confidence``: give (labels, confidence), too, uint8 (H, W) each: softmax probability of the label, 255
    for 1. That interpolates every class everywhere and takes many times as long.

    Memory beside the results is a few times that of the logits, whatever the size. Raises InputError for
    logits or a size that break these rules.
    """
    _check(logits, size)
    rows = _Axis.of(logits.shape[1], size[0], align_corners)
    columns = _Axis.of(logits.shape[2], size[1], align_corners)
    labels = _labels(np.ascontiguousarray(logits), rows, columns)
    return (labels, _confidence(logits, rows, columns)) if confidence else labels


def _check(logits: np.ndarray, size: tuple[int, int]) -> None:
    if logits.dtype != np.float32 or logits.ndim != 3 or not logits.size or len(logits) > IGNORE:
        raise InputError(
            f"logits are float32 (classes, h, w), 1 to {IGNORE} classes, not empty; got {logits.dtype} "
            f"{logits.shape}"
        )
    # NaN fails both comparisons.
    if not (logits.max() <= _LARGEST and logits.min() >= -_LARGEST):
        raise InputError(
            f"logits are finite, {_LARGEST:.0e} at most; got values from {logits.min()} to {logits.max()}"
        )
    if len(size) != 2 or min(size) < 1:
        raise InputError(f"a size is (height, width) in pixels, 1 or more each; got {size}")


@dataclass(frozen=True)
class _Axis:
    """One axis, cut into cells. Cell c lies between the logits' pixels ``low[c]`` and ``high[c]``; those
    before the first and after the last pixel have the same one on both sides.

    The canvas on which labels are drawn has ``width`` pixels for every cell; ``source`` picks from it.
    """

    low: np.ndarray
    """int64 (cells,)."""
    high: np.ndarray
    """int64 (cells,)."""
    weights: np.ndarray
    """float32 (cells, width): share of ``high`` at each of a cell's pixels of the canvas."""
    cell: np.ndarray
    """int64 (pixels,): in which cell each pixel of the result lies."""
    weight: np.ndarray
    """float32 (pixels,): share of ``high`` there."""
    source: slice | np.ndarray
    """Where on the canvas each pixel of the result lies: a slice if that is one stretch."""

    @property
    def cells(self) -> int:
        return len(self.low)

    @property
    def width(self) -> int:
        return self.weights.shape[1]

    @classmethod
    def of(cls, few: int, many: int, align_corners: bool) -> _Axis:
        """From ``few`` pixels of logits to ``many`` of the result."""
        position = np.arange(many, dtype=np.float32)
        if align_corners:
            at = position * np.float32((few - 1) / (many - 1) if many > 1 else 0)
        else:
            at = (position + np.float32(0.5)) * np.float32(few / many) - np.float32(0.5)
        floor = np.floor(at)
        used, cell, counts = np.unique(floor.astype(np.int64), return_inverse=True, return_counts=True)
        weight = at - floor
        within = np.arange(many) - np.repeat(np.cumsum(counts) - counts, counts)
        width = int(counts.max())
        if len(used) > 1 and counts[0] < width:
            within[: counts[0]] += width - counts[0]  # before the first pixel of logits: at the cell's end
        weights = np.zeros((len(used), width), np.float32)
        weights[cell, within] = weight
        source = cell * width + within
        one_stretch = bool((np.diff(source) == 1).all())
        return cls(
            low=np.maximum(used, 0),
            high=np.minimum(used + 1, few - 1),
            weights=weights,
            cell=cell,
            weight=weight,
            source=slice(int(source[0]), int(source[0]) + many) if one_stretch else source,
        )


def _labels(logits: np.ndarray, rows: _Axis, columns: _Axis) -> np.ndarray:
    winners = _winners(logits)
    corners = [
        winners[line][:, column] for line in (rows.low, rows.high) for column in (columns.low, columns.high)
    ]
    top_left, top_right, bottom_left, bottom_right = corners
    mixed = (top_left != top_right) | (top_left != bottom_left) | (top_left != bottom_right)
    # Each cell's stretch of a row of the canvas is one item, so that cells are copied and not their pixels.
    item = np.dtype((np.void, columns.width))
    stretches = np.repeat(top_left[..., None], columns.width, axis=2).view(item)[..., 0]
    canvas = np.repeat(stretches, rows.width, axis=0)
    where = np.nonzero(mixed)
    for part in _parts(len(where[0]), 4 * len(logits)):
        _draw_mixed(canvas, logits, rows, columns, where[0][part], where[1][part], corners)
    pixels = canvas.view(np.uint8)[rows.source]
    if isinstance(columns.source, slice):
        return np.ascontiguousarray(pixels[:, columns.source])
    return np.take(pixels, columns.source, axis=1)


def _winners(logits: np.ndarray) -> np.ndarray:
    """uint8 (h, w). A running maximum: NumPy's argmax over the first axis takes ten times as long."""
    best, winners = logits[0].copy(), np.zeros(logits.shape[1:], np.uint8)
    for k in range(1, len(logits)):
        np.copyto(winners, np.uint8(k), where=logits[k] > best)
        np.maximum(best, logits[k], out=best)
    return winners


def _draw_mixed(
    canvas: np.ndarray,
    logits: np.ndarray,
    rows: _Axis,
    columns: _Axis,
    line: np.ndarray,
    column: np.ndarray,
    corners: list[np.ndarray],
) -> None:
    """Draw the cells at (line, column), (M,) each, with different winners at their ``corners``."""
    flat = logits.reshape(len(logits), -1)
    values = np.empty((4, len(logits), len(line)), np.float32)
    sides = [(row, side) for row in (rows.low, rows.high) for side in (columns.low, columns.high)]
    for corner, (row, side) in zip(values, sides, strict=True):
        np.take(flat, row[line] * logits.shape[2] + side[column], axis=1, out=corner)
    winners = np.stack([corner[line, column] for corner in corners])
    can_win = _candidates(values, winners)
    counts = can_win.sum(0)
    for count in np.nonzero(np.bincount(counts))[0]:
        cells = np.nonzero(counts == count)[0]
        # Ascending class numbers, (count, M): of equal classes the first wins.
        if count == 2:
            classes = np.stack([winners[:, cells].min(0), winners[:, cells].max(0)])
        else:
            classes = np.nonzero(can_win[:, cells].T)[1].reshape(-1, count).T
        for part in _parts(len(cells), columns.width * rows.width):
            chosen = cells[part]
            below, beside = line[chosen], column[chosen]
            down, across = rows.weights.T[:, below], columns.weights.T[:, beside]
            drawn = _interpolated_argmax(values, chosen, classes[:, part], down, across)
            at = below[:, None] * rows.width + np.arange(rows.width)
            canvas[at, beside[:, None]] = drawn.view(canvas.dtype)[..., 0]


def _candidates(values: np.ndarray, winners: np.ndarray) -> np.ndarray:
    """Which classes can win somewhere in a cell: bool (classes, M), of corners' ``values`` (4, classes, M)
    and ``winners`` (4, M). The four winners, and any class that their mean does not outdo at every corner."""
    cells = np.arange(values.shape[2])
    mean = np.zeros((4, len(cells)), np.float32)
    for winner in winners:
        mean += values[:, winner, cells]
    mean *= 0.25
    can_win: np.ndarray = np.any(values > mean[:, None], axis=0)
    can_win[winners, cells] = True
    return can_win


def _interpolated_argmax(
    values: np.ndarray, cells: np.ndarray, classes: np.ndarray, down: np.ndarray, across: np.ndarray
) -> np.ndarray:
    """Labels uint8 (M, height, width) of cells, of corners' ``values`` (4, all classes, all cells), candidate
    ``classes`` (count, M), and the weights ``down`` (height, M) and ``across`` (width, M).

    Inside, cells come last: NumPy's loops are long then, and those over a cell's few pixels are not.
    """
    numbers = classes.astype(np.uint8)
    if len(classes) == 2:
        difference = values[:, classes[1], cells] - values[:, classes[0], cells]
        labels = np.where(_interpolate(difference, down, across) > 0, numbers[1], numbers[0])
    else:
        best = _interpolate(values[:, classes[0], cells], down, across)
        labels = np.broadcast_to(numbers[0], best.shape).copy()
        for candidate, number in zip(classes[1:], numbers[1:], strict=True):
            value = _interpolate(values[:, candidate, cells], down, across)
            np.copyto(labels, number, where=value > best)
            np.maximum(best, value, out=best)
    return np.ascontiguousarray(labels.transpose(2, 0, 1))


def _interpolate(corners: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """float32 (height, width, M) of the corners' values (4, M): top left, top right, bottom left, right."""
    top_left, top_right, bottom_left, bottom_right = corners
    left = top_left + (bottom_left - top_left) * down
    right = top_right + (bottom_right - top_right) * down
    result = (right - left)[:, None] * across
    result += left[:, None]
    return result


def _confidence(logits: np.ndarray, rows: _Axis, columns: _Axis) -> np.ndarray:
    """uint8 (H, W): the largest softmax probability, times 255 and rounded."""
    height, width = len(rows.cell), len(columns.cell)
    result = np.empty((height, width), np.uint8)
    for part in _parts(height, len(logits) * width):
        cell, weight = rows.cell[part], rows.weight[part][:, None]
        low, high = logits[:, rows.low[cell]], logits[:, rows.high[cell]]
        strip = low + (high - low) * weight
        left, right = strip[..., columns.low[columns.cell]], strip[..., columns.high[columns.cell]]
        values = left + (right - left) * columns.weight
        values -= values.max(0)
        np.exp(values, out=values)
        result[part] = np.rint(255 / values.sum(0))
    return result


def _parts(count: int, values_each: int) -> list[slice]:
    step = max(1, _CHUNK_VALUES // values_each)
    return [slice(start, start + step) for start in range(0, count, step)]
