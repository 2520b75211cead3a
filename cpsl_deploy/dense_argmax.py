"""Labels of the upsampled logits, without upsampling what cannot change them.

Between four neighbouring pixels of the logits, a cell, bilinear interpolation gives every class a convex
combination of its four corner values. So where one class wins at all four corners it wins in the whole cell,
and a class that a mean of the corners' winners outdoes at all four corners wins nowhere inside. What is left
to interpolate are a few classes in the cells along the borders between regions.

The positions are those of ``torch.nn.functional.interpolate(mode="bilinear")``, in float32 as there. The
answer equals the argmax of all upsampled logits but where two classes differ by less than rounding.
"""

from __future__ import annotations

from typing import Literal, overload

import numpy as np

from .bilinear_cells import Axis
from .buffers import empty
from .classes import IGNORE
from .errors import InputError

_CORNER_VALUES = 1 << 18
"""Logits at the corners of cells that are looked at at a time: 1 MB of float32 stays in a core's cache."""
_PIXEL_VALUES = 1 << 16
"""Values interpolated at a time. A matrix product of so many stays on one core in NumPy's OpenBLAS, whose
own threads would be in the way of the runtime's."""
_WHOLE_NUMBERS = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}
"""Types of so many bytes: NumPy moves those faster than as many bytes of no type."""
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
    rows = Axis.of(logits.shape[1], size[0], align_corners)
    columns = Axis.of(logits.shape[2], size[1], align_corners)
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


def _labels(logits: np.ndarray, rows: Axis, columns: Axis) -> np.ndarray:
    winners = _winners(logits)
    left, right = (winners.take(side, axis=1) for side in (columns.low, columns.high))
    top_left = left[rows.low]
    mixed = top_left != right[rows.low]
    mixed |= top_left != left[rows.high]
    mixed |= top_left != right[rows.high]
    # Each cell's stretch of a row of the canvas is one item, so that cells are copied and not their pixels.
    item = np.dtype(_WHOLE_NUMBERS.get(columns.width, (np.void, columns.width)))
    stretches = np.repeat(top_left[..., None], columns.width, axis=2).view(item)[..., 0]
    canvas = empty((rows.cells, rows.width, columns.cells), item)
    canvas[:] = stretches[:, None]
    line, column = np.nonzero(mixed)
    if len(line):
        drawing = _Drawing(canvas, logits, winners, rows, columns)
        for part in _parts(len(line), drawing.cells):
            drawing.draw(line[part], column[part])
    pixels = canvas.view(np.uint8).reshape(rows.cells * rows.width, -1)[rows.source]
    result = empty((len(rows.cell), len(columns.cell)))
    if isinstance(columns.source, slice):
        np.copyto(result, pixels[:, columns.source])
    else:
        np.take(pixels, columns.source, axis=1, out=result, mode="clip")
    return result


def _winners(logits: np.ndarray) -> np.ndarray:
    """uint8 (h, w). A running maximum: NumPy's argmax over the first axis takes ten times as long."""
    best, winners = logits[0].copy(), np.zeros(logits.shape[1:], np.uint8)
    better = np.empty(best.shape, np.uint8)
    for number in range(1, len(logits)):
        np.greater(logits[number], best, out=better.view(bool))
        _take_over(winners, better, np.uint8(number))
        np.maximum(best, logits[number], out=best)
    return winners


def _take_over(labels: np.ndarray, better: np.ndarray, number: np.ndarray | np.uint8) -> None:
    """``labels`` become ``number`` where ``better`` is 1, and ``better`` is used up: uint8 all. A choice by
    arithmetic: numbers ascend, and NumPy's masked copy takes many times as long as both of these."""
    np.multiply(better, number, out=better)
    np.maximum(labels, better, out=labels)


class _Drawing:
    """Draws cells with different winners at their corners onto ``canvas`` (cells, height, cells of a row),
    whose items are a cell's stretches of a row. Memory is asked for once: fresh pages would cost as much as
    the arithmetic. Inside, cells come last: NumPy's loops are long then, and those over a cell's few pixels
    are not."""

    def __init__(
        self, canvas: np.ndarray, logits: np.ndarray, winners: np.ndarray, rows: Axis, columns: Axis
    ) -> None:
        self.canvas, self.rows, self.columns = canvas, rows, columns
        self.logits, self.winners = logits.reshape(len(logits), -1), winners.ravel()
        self.line_length = logits.shape[2]
        pixels = rows.width * columns.width
        self.cells = min(rows.cells * columns.cells, max(1, _CORNER_VALUES // (4 * len(logits))))
        """Most cells of one call of `draw`."""
        self.cells_at_once = min(self.cells, max(1, _PIXEL_VALUES // pixels))
        self.matrix: np.ndarray | None = None
        """float32 (pixels of a cell, 4): the corners' shares in each pixel, where all cells have the same."""
        if rows.repeated is not None and columns.repeated is not None:
            down, across = (np.stack([1 - axis.repeated, axis.repeated]) for axis in (rows, columns))  # type: ignore[operator,list-item]
            self.matrix = np.einsum("ay,bx->yxab", down, across).reshape(pixels, 4)
        corners, values = len(logits) * self.cells, pixels * self.cells_at_once
        sizes = np.cumsum([16 * corners, 8 * values, 2 * corners, 2 * values])
        memory = np.split(empty((sizes[-1],)), sizes[:-1])
        self.corners = memory[0].view(np.float32)
        self.values = memory[1].view(np.float32).reshape(2, values)
        self.flags = memory[2].reshape(2, corners)
        self.labels = memory[3].reshape(2, values)

    def draw(self, line: np.ndarray, column: np.ndarray) -> None:
        """The cells at (line, column), (M,) each, `cells` of them at most."""
        classes, count = len(self.logits), len(line)
        values = self.corners[: 4 * classes * count].reshape(4, classes, count)
        winners = np.empty((4, count), np.uint8)
        for corner, (row, side) in enumerate(
            (row, side)
            for row in (self.rows.low, self.rows.high)
            for side in (self.columns.low, self.columns.high)
        ):
            at = row[line] * self.line_length + side[column]
            # Without a mode, what is taken goes through another array.
            np.take(self.logits, at, axis=1, out=values[corner], mode="clip")
            np.take(self.winners, at, out=winners[corner], mode="clip")
        can_win = self._candidates(values, winners)
        counts = np.add.reduce(can_win.view(np.uint8), axis=0, dtype=np.uint8)  # 255 classes at most
        for number in np.nonzero(np.bincount(counts))[0]:
            cells = np.nonzero(counts == number)[0]
            # Ascending class numbers, (number, M): of equal classes the first wins.
            if number == 2:
                candidates = np.stack([winners[:, cells].min(0), winners[:, cells].max(0)])
            else:
                candidates = np.nonzero(can_win[:, cells].T)[1].reshape(-1, number).T
            for part in _parts(len(cells), self.cells_at_once):
                chosen = cells[part]
                at = candidates[:, part] * np.intp(count) + chosen
                self._draw_some(values, at, candidates[:, part], line[chosen], column[chosen])

    def _candidates(self, values: np.ndarray, winners: np.ndarray) -> np.ndarray:
        """Which classes can win somewhere in a cell: bool (classes, M), of corners' ``values``
        (4, classes, M) and ``winners`` (4, M). The four winners, and any class that their mean does not outdo
        at every corner."""
        _, classes, count = values.shape
        can_win, more = (flags[: classes * count].reshape(classes, count) for flags in self.flags.view(bool))
        at = winners * np.intp(count) + np.arange(count)
        flat = values.reshape(4, -1)
        mean = flat.take(at[0], axis=1)
        for winner in at[1:]:
            mean += flat.take(winner, axis=1)
        mean *= 0.25
        np.greater(values[0], mean[0], out=can_win)
        for corner in (1, 2, 3):
            np.greater(values[corner], mean[corner], out=more)
            np.logical_or(can_win, more, out=can_win)
        can_win.ravel()[at] = True
        return can_win

    def _draw_some(
        self, values: np.ndarray, at: np.ndarray, candidates: np.ndarray, line: np.ndarray, column: np.ndarray
    ) -> None:
        """Cells at (line, column), (M,) each, that have equally many ``candidates`` (number, M), whose values
        are ``at`` these places of ``values`` (4, classes times cells)."""
        count, flat = len(line), values.reshape(4, -1)
        shape = self.rows.width, self.columns.width, count
        size = shape[0] * shape[1] * count
        value, best = (memory[:size].reshape(shape) for memory in self.values)
        labels, better = (memory[:size].reshape(shape) for memory in self.labels)
        numbers = candidates.astype(np.uint8)
        labels[:] = numbers[0]
        first = flat.take(at[0], axis=1)
        for index in range(1, len(at)):
            self._interpolate(flat.take(at[index], axis=1) - first, line, column, value)
            np.greater(value, best if index > 1 else 0, out=better.view(bool))
            _take_over(labels, better, numbers[index])
            if index + 1 < len(at):
                np.maximum(value, best if index > 1 else 0, out=best)
        drawn = better.reshape(count, *shape[:2])
        np.copyto(drawn, labels.transpose(2, 0, 1))
        items = drawn.view(self.canvas.dtype)[..., 0]
        row = line[:, None] * self.rows.width + np.arange(self.rows.width)
        self.canvas.reshape(-1)[row * self.columns.cells + column[:, None]] = items

    def _interpolate(
        self, corners: np.ndarray, line: np.ndarray, column: np.ndarray, out: np.ndarray
    ) -> None:
        """``out`` float32 (height, width, M) of corners' values (4, M): top left, top right, bottom left,
        right."""
        if self.matrix is not None:
            np.matmul(self.matrix, corners, out=out.reshape(len(self.matrix), -1))
            return
        top_left, top_right, bottom_left, bottom_right = corners
        down, across = self.rows.weights.T[:, line], self.columns.weights.T[:, column]
        left = top_left + (bottom_left - top_left) * down
        right = top_right + (bottom_right - top_right) * down
        np.multiply((right - left)[:, None], across, out=out)
        out += left[:, None]


def _confidence(logits: np.ndarray, rows: Axis, columns: Axis) -> np.ndarray:
    """uint8 (H, W): the largest softmax probability, times 255 and rounded."""
    height, width = len(rows.cell), len(columns.cell)
    result = empty((height, width))
    low, high = columns.low[columns.cell], columns.high[columns.cell]
    at_once = max(1, _CORNER_VALUES // (len(logits) * width))
    memory = empty((len(logits), at_once, width), np.float32)
    for part in _parts(height, at_once):
        cell, weight = rows.cell[part], rows.weight[part][:, None]
        first, end = rows.low[cell[0]], rows.high[cell[-1]] + 1
        wide = logits[:, first:end].take(high, axis=2)
        left = logits[:, first:end].take(low, axis=2)
        wide -= left
        wide *= columns.weight
        wide += left
        values = memory[:, : len(cell)]
        for plane, value in zip(wide, values, strict=True):
            np.take(plane, rows.high[cell] - first, axis=0, out=value, mode="clip")
            top = plane[rows.low[cell] - first]
            value -= top
            value *= weight
            value += top
        values -= values.max(0)
        np.exp(values, out=values)
        result[part] = np.rint(255 / values.sum(0))
    return result


def _parts(count: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, count, step)]
