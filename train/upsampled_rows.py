"""Bilinear upsampling of class maps, some rows at a time: they never lie in memory whole.

Bilinear interpolation is a product with one matrix per axis. Columns are interpolated first, then rows as
they are wanted, so that a block of them stays in a cache while a loss or an argmax is made of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_BYTES = 2 << 20
"""Of the rows made at a time on a CPU; a GPU, which wants much at once, makes all rows of an image."""


class UpsampledRows:
    """Maps (C, h, w) seen at ``size`` (H, W), as ``F.interpolate`` has them up to rounding.

    Use without autograd and outside of autocast, which would round coordinates. ``gradient`` takes what a
    loss's gradient is for each block, and ``of_maps`` tells what it is for the maps.
    """

    def __init__(self, maps: Tensor, size: tuple[int, int], align_corners: bool) -> None:
        self.channels, self.height, self.width = maps.shape
        self.size, self.align_corners = size, align_corners
        self.columns = _matrix(self.width, size[1], align_corners, maps.dtype, maps.device)
        self.row_matrix = _matrix(self.height, size[0], align_corners, maps.dtype, maps.device)
        self.wide = (maps.transpose(0, 1) @ self.columns).flatten(1)  # (h, C * W)
        self.wide_gradient = torch.zeros(())

    def blocks(self, *, with_gradient: bool = False) -> Iterator[tuple[slice, Tensor]]:
        """Which rows, and these, (rows, C, W), one block after another. With a gradient: what a block holds
        when the next one is asked for is taken for the gradient of its rows.
        """
        rows = self.size[0]
        if self.wide.device.type == "cpu":
            row_bytes = self.channels * self.size[1] * self.wide.element_size()
            rows = min(rows, max(8, BLOCK_BYTES // row_bytes))
        buffer = self.wide.new_empty(rows, self.channels * self.size[1])
        if with_gradient:
            self.wide_gradient = torch.zeros_like(self.wide)
        for first in range(0, self.size[0], rows):
            made = slice(first, min(first + rows, self.size[0]))
            needed = self._needed(made)
            weights = self.row_matrix[needed, made]
            block = buffer[: made.stop - first]
            torch.mm(weights.T, self.wide[needed], out=block)
            yield made, block.unflatten(1, (self.channels, self.size[1]))
            if with_gradient:
                self.wide_gradient[needed].addmm_(weights, block)

    def gradient(self) -> Tensor:
        """(C, h, w): what the blocks' gradients come to for the maps, once all blocks are through."""
        wide = self.wide_gradient.unflatten(1, (self.channels, self.size[1]))
        return (wide @ self.columns.T).transpose(0, 1)

    def _needed(self, rows: slice) -> slice:
        """The maps' rows that some of the upsampled ones are made of; one more on both sides, whatever
        rounding does."""
        if self.align_corners:
            step, shift = (self.height - 1) / max(1, self.size[0] - 1), 0.0
        else:
            step = self.height / self.size[0]
            shift = 0.5 * step - 0.5
        first, last = int(rows.start * step + shift), int((rows.stop - 1) * step + shift)
        return slice(max(0, first - 1), min(self.height, last + 3))


@lru_cache(maxsize=16)
def _matrix(small: int, large: int, align_corners: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(small, large): a row of values times this is the row interpolated."""
    unit = torch.eye(small, dtype=dtype, device=device)[None]
    return F.interpolate(unit, size=large, mode="linear", align_corners=align_corners)[0]
