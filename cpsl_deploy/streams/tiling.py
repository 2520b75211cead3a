"""Tiling: a frame larger than the model sees is segmented in overlapping tiles at its own resolution.

The tiles' logits are added up on one canvas at the network's stride, each times a weight that falls linearly
to its borders where a neighbour's rises; at every place the weights sum to 1 (a partition of unity). Labels
are those of the whole canvas, so no seam is one of labels.

Tiles begin at multiples of the network's stride, so that their logits fall on the same places. A network
whose answer depends on nothing farther away than the overlap would say the same of the whole frame.

It pays where things are as large in the frame, in pixels, as they were in training: a wider view, distant
things. It costs where the frame merely shows the same view with more pixels, because a tile knows less of its
surroundings and sees everything too large. SqueezeNet-FPN adapted to CamVid at 480x360, mIoU on CamVid's
validation images, whole and tiled: four images side by side 41.5 and 45.0 % (cars 35.9 and 52.4), the images
enlarged twice 46.5 and 41.2 % (sidewalk 53.7 and 30.3), in nine tiles and ten times the time. A model trained
at the larger size is the better answer to the second.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from ..contract import CONFIDENCE, LOGITS
from ..dense_argmax import labels_from_logits
from ..errors import InputError, ModelFileError, UnavailableError
from ..segmenter import PIXEL_TOLERANCE, Inferred, Prediction, Prepared, Segmenter

MOST_OVERLAP = 0.5
"""Part of a tile's side. With more, pixels are segmented in more than two tiles on each axis."""
_GPU_BATCH = 8
_RULE = (
    "an overlap of tiles is a part of a tile's side from 0 to 0.5, for example 0.25, or whole pixels, for "
    "example 64"
)


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How frames are cut. Raises InputError if a value breaks its rule."""

    overlap: float = 0.25
    """Least overlap of neighbouring tiles: a part of the tile's side from 0 to 0.5, or above 1 whole pixels,
    up to half of the tile's side. Rounded to the network's stride; more where tiles do not fit evenly."""

    def __post_init__(self) -> None:
        value = self.overlap
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and (0 <= value <= MOST_OVERLAP or (value > 1 and float(value).is_integer()))):
            raise InputError(f"{_RULE}; got {value!r}")

    @classmethod
    def parse(cls, text: str) -> Tiling:
        """From text: the overlap. Raises InputError if that is not what it is."""
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{0,6})?|\.[0-9]{1,6}", text.strip()):
            raise InputError(f"{_RULE}; got {text[:80]!r}")
        return cls(overlap=float(text))


@dataclass(frozen=True, eq=False)
class Axis:
    """Where the tiles lie on one axis, counted in cells: pixels of the network's logits."""

    pixels: int
    """Of the frame."""
    step: int
    """Pixels per cell."""
    starts: tuple[int, ...]
    """First cell of each tile."""
    weights: np.ndarray
    """float32 (tiles, cells of a tile): at each cell, the weights of all tiles there sum to 1."""

    @property
    def cells(self) -> int:
        """Of the canvas: as many as cover the frame."""
        return -(-self.pixels // self.step)

    @classmethod
    def of(cls, pixels: int, tile: int, step: int, overlap: int) -> Axis:
        """As few tiles as overlap by ``overlap`` pixels or more, evenly spread; one if it covers the axis."""
        cells, size = -(-pixels // step), max(1, tile // step)
        if cells <= size:
            return cls(pixels, step, (0,), np.ones((1, size), np.float32))
        shared = min(round(overlap / step), size // 2)
        count = math.ceil((cells - shared) / (size - shared))
        # Rounding never takes two neighbours farther apart than size - shared, which is a whole number.
        starts = tuple(round(i * (cells - size) / (count - 1)) for i in range(count))
        return cls(pixels, step, starts, _weights(starts, size, cells))


def _weights(starts: Sequence[int], size: int, cells: int) -> np.ndarray:
    """Linear ramps over what two neighbours share; normalised, because three tiles may meet."""
    at = np.arange(size) + 0.5
    raw = np.ones((len(starts), size))
    for before, (first, second) in enumerate(pairwise(starts)):
        shared = first + size - second
        if shared:
            raw[before] = np.minimum(raw[before], (size - at) / shared)
            raw[before + 1] = np.minimum(raw[before + 1], at / shared)
    total = np.zeros(cells)
    for start, ramp in zip(starts, raw, strict=True):
        total[start : start + size] += ramp
    return np.stack([r / total[s : s + size] for s, r in zip(starts, raw, strict=True)]).astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedTiles:
    """A frame as the file takes it: in tiles, row by row, or whole."""

    frame: np.ndarray
    """As it was given."""
    colour_order: str
    """Of ``frame``."""
    tiles: list[Prepared]
    axes: tuple[Axis, Axis] | None
    """Where they lie, vertically and horizontally; None if the one tile is the whole frame."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InferredTiles:
    """What the file gave for a frame."""

    prepared: PreparedTiles
    whole: Inferred | None
    """Of a frame that was not cut."""
    canvas: np.ndarray
    """float32 (classes, cells, cells): blended logits; empty for a frame that was not cut."""
    pre_s: float
    inference_s: float
    blend_s: float


class Tiler:
    """Segments frames with a model, those larger than it sees in tiles of its own size.

    That size is a static file's, else the one to which the file resizes, else the one it was trained at. A
    frame that the network would see at its own resolution, or within `PIXEL_TOLERANCE` of it on both sides,
    is not cut. One narrower than a tile on one axis is mirrored at its border to fill the tile.

    ``batch``: tiles of one inference, where the file leaves that free; None: 8 on a GPU, one on a CPU.
    `prepare`, `infer` and `finish` may each have a thread of its own.

    Raises UnavailableError if the file gives no logits, InputError if the overlap does not fit the tile.
    """

    def __init__(self, segmenter: Segmenter, tiling: Tiling, *, batch: int | None = None) -> None:
        if LOGITS not in segmenter.contract.outputs:
            raise UnavailableError(
                f"tiling blends logits, and {segmenter.origin} gives {', '.join(segmenter.contract.outputs)} "
                "alone. Export the model with them: cpsl-export RUN --outputs logits"
            )
        self._segmenter = segmenter
        network = segmenter.contract.network_size
        self.tile_size: tuple[int, int] = segmenter.input_size(*(network or segmenter.spec.size))
        self._steps = tuple(
            max(1, min(side, round(segmenter.spec.stride * side / seen)))
            for side, seen in zip(self.tile_size, network or self.tile_size, strict=True)
        )
        most = MOST_OVERLAP * min(self.tile_size)
        if tiling.overlap > 1 and tiling.overlap > most:
            raise InputError(
                f"tiles overlap by half of a side at most: {most:.0f} pixels for tiles of "
                f"{self.tile_size[0]}x{self.tile_size[1]} (height x width); got {tiling.overlap:g}"
            )
        self._overlaps = tuple(
            round(tiling.overlap if tiling.overlap > 1 else tiling.overlap * side) for side in self.tile_size
        )
        backend = segmenter.backend
        wanted = batch or (_GPU_BATCH if backend.device == "cuda" else 1)
        self._batch = backend.batch or max(backend.least_batch, min(wanted, backend.most_batch or wanted))

    def axes(self, height: int, width: int) -> tuple[Axis, Axis] | None:
        """Where the tiles of a frame of this size lie, vertically and horizontally; None if it is not cut."""
        given = self._segmenter.input_size(height, width)
        seen = self._segmenter.contract.network_size or given
        if all(s >= side * (1 - PIXEL_TOLERANCE) for s, side in zip(seen, (height, width), strict=True)):
            return None
        rows, columns = (
            Axis.of(side, tile, step, overlap)
            for side, tile, step, overlap in zip(
                (height, width), self.tile_size, self._steps, self._overlaps, strict=True
            )
        )
        return (rows, columns) if len(rows.starts) * len(columns.starts) > 1 else None

    def predict(self, frame: np.ndarray, *, colour_order: str = "BGR") -> Prediction:
        """Segment one frame; arguments and errors are those of `Segmenter.predict`.

        Of frames that were cut, labels are computed at every pixel, whatever the file's output stride, and so
        is the confidence of the blended logits if the file gives one (a slow part: leave it out of the
        ``--outputs`` if nobody needs it). Their ``timings_ms`` have ``blend``, too.
        """
        return self.finish(self.infer(self.prepare(frame, colour_order=colour_order)))

    def prepare(self, frame: np.ndarray, *, colour_order: str = "BGR") -> PreparedTiles:
        """The first of the three steps of `predict`: the tiles as the file takes them."""
        whole = self._segmenter.prepare
        axes = self.axes(*frame.shape[:2]) if isinstance(frame, np.ndarray) and frame.ndim == 3 else None
        if axes is None:
            tiles = [whole(frame, colour_order=colour_order)]
        else:
            tiles = [
                whole(self._tile(frame, top * axes[0].step, left * axes[1].step), colour_order=colour_order)
                for top in axes[0].starts
                for left in axes[1].starts
            ]
        return PreparedTiles(frame=frame, colour_order=colour_order, tiles=tiles, axes=axes)

    def _tile(self, frame: np.ndarray, top: int, left: int) -> np.ndarray:
        """A view, or a mirrored copy where the frame ends before the tile does."""
        height, width = self.tile_size
        tile = frame[top : top + height, left : left + width]
        below, right = height - tile.shape[0], width - tile.shape[1]
        if below or right:
            tile = cv2.copyMakeBorder(tile, 0, below, 0, right, cv2.BORDER_REFLECT_101)
        return tile

    def infer(self, prepared: PreparedTiles) -> InferredTiles:
        """The second step: the tiles' logits, blended as they come."""
        if prepared.axes is None:
            whole = next(self._infer_tiles(prepared.tiles))
            empty = np.empty((0, 0, 0), np.float32)
            return InferredTiles(
                prepared=prepared, whole=whole, canvas=empty, pre_s=0.0, inference_s=0.0, blend_s=0.0
            )
        rows, columns = prepared.axes
        shape = (len(self._segmenter.classes), rows.cells, columns.cells)
        canvas = np.zeros(shape, np.float32)
        pre_s = inference_s = blend_s = 0.0
        for number, inferred in enumerate(self._infer_tiles(prepared.tiles)):
            started = time.perf_counter()
            row, column = divmod(number, len(columns.starts))
            self._add(canvas, inferred.outputs[LOGITS], rows, row, columns, column)
            pre_s += inferred.pre_s
            inference_s += inferred.inference_s
            blend_s += time.perf_counter() - started
        return InferredTiles(
            prepared=prepared,
            whole=None,
            canvas=canvas,
            pre_s=pre_s,
            inference_s=inference_s,
            blend_s=blend_s,
        )

    def _infer_tiles(self, tiles: list[Prepared]) -> Iterator[Inferred]:
        """One after the other what the file gives; a batch is filled up with its last tile."""
        for first in range(0, len(tiles), self._batch):
            some = tiles[first : first + self._batch]
            least = self._segmenter.backend.batch or self._segmenter.backend.least_batch
            filled = [*some, *[some[-1]] * (least - len(some))]
            yield from self._segmenter.infer(filled)[: len(some)]

    def _add(
        self, canvas: np.ndarray, logits: np.ndarray, rows: Axis, row: int, columns: Axis, column: int
    ) -> None:
        for axis, of_tile in ((1, rows), (2, columns)):
            side, cells = self.tile_size[axis - 1], of_tile.weights.shape[1]
            to = (np.arange(cells) + 0.5) * of_tile.step - 0.5
            at = _places(logits.shape[axis], side, self._segmenter.spec.align_corners)
            logits = _resampled(logits, axis, at, to)
        top, left = rows.starts[row], columns.starts[column]
        part = canvas[:, top : top + logits.shape[1], left : left + logits.shape[2]]
        weights = rows.weights[row][:, None] * columns.weights[column]
        # A tile that was filled up by mirroring has more cells than the canvas.
        height, width = part.shape[1:]
        part += logits[:, :height, :width] * weights[:height, :width]

    def finish(self, inferred: InferredTiles) -> Prediction:
        """The last step: labels at the frame's size."""
        if inferred.whole is not None:
            return self._segmenter.finish(inferred.whole)
        started = time.perf_counter()
        prepared, canvas = inferred.prepared, inferred.canvas
        assert prepared.axes is not None
        height, width = prepared.frame.shape[:2]
        rows, columns = prepared.axes
        covered = rows.cells * rows.step, columns.cells * columns.step
        confidence = None
        try:
            if CONFIDENCE in self._segmenter.contract.outputs:
                labels, confidence = labels_from_logits(canvas, covered, confidence=True)
                confidence = np.ascontiguousarray(confidence[:height, :width])
            else:
                labels = labels_from_logits(canvas, covered)
        except InputError as error:
            raise ModelFileError(
                f"{self._segmenter.origin}: {error}. Export it again: cpsl-export RUN"
            ) from error
        logits = canvas
        for number, axis in enumerate((rows, columns), 1):
            at = (np.arange(axis.cells) + 0.5) * axis.step - 0.5
            to = _places(axis.cells, axis.pixels, self._segmenter.spec.align_corners)
            logits = _resampled(logits, number, at, to)
        return Prediction(
            labels=np.ascontiguousarray(labels[:height, :width]),
            classes=self._segmenter.classes,
            timings_ms={
                "pre": 1e3 * inferred.pre_s,
                "inference": 1e3 * inferred.inference_s,
                "blend": 1e3 * inferred.blend_s,
                "post": 1e3 * (time.perf_counter() - started),
            },
            frame=prepared.frame,
            colour_order=prepared.colour_order,
            confidence=confidence,
            logits=logits,
        )


def _places(few: int, side: int, align_corners: bool) -> np.ndarray:
    """float64 (few,): pixels, along a side, on which ``few`` logits lie."""
    if align_corners and few > 1:
        return np.arange(few) * ((side - 1) / (few - 1))
    return (np.arange(few) + 0.5) * (side / few) - 0.5


def _resampled(logits: np.ndarray, axis: int, at: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Logits that lie on the pixels ``at`` along an axis, linearly interpolated at ``to``; beyond the first
    and the last they stay as they are. Nothing is computed where the places are the same."""
    if len(at) == len(to) and np.allclose(at, to, rtol=0, atol=1e-6):
        return logits
    high = np.clip(np.searchsorted(at, to), 1, max(len(at) - 1, 1))
    low = high - 1
    high = np.minimum(high, len(at) - 1)
    apart = np.maximum(at[high] - at[low], 1e-12)
    shape = [1] * logits.ndim
    shape[axis] = len(to)
    share = np.clip((to - at[low]) / apart, 0, 1).astype(np.float32).reshape(shape)
    below = np.take(logits, low, axis)
    return below + (np.take(logits, high, axis) - below) * share
