"""Where the pixels of an image lie among those of a smaller one, for bilinear interpolation of labels.

The positions are those of ``torch.nn.functional.interpolate(mode="bilinear")``, in float32 as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Axis:
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
    repeated: np.ndarray | None
    """float32 (width,): the weights of every cell between two pixels, if they are all the same: where the
    result has 2, 4, 8, ... pixels for each of the logits'. Others do not care for their weights."""

    @property
    def cells(self) -> int:
        return len(self.low)

    @property
    def width(self) -> int:
        return self.weights.shape[1]

    @classmethod
    @lru_cache(maxsize=16)
    def of(cls, few: int, many: int, align_corners: bool) -> Axis:
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
        low, high = np.maximum(used, 0), np.minimum(used + 1, few - 1)
        between = weights[low < high] if few > 1 else weights
        same = len(between) > 0 and bool((between == between[0]).all())
        return cls(
            low=low,
            high=high,
            weights=weights,
            cell=cell,
            weight=weight,
            source=slice(int(source[0]), int(source[0]) + many) if one_stretch else source,
            repeated=between[0] if same else None,
        )
