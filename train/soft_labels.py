"""Soft pseudo labels p_ST of the target's images: written once, then read crop by crop (CPSL section 3.1)."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cpsl_deploy.files import as_output_error

from .views import Size, warp_maps

if TYPE_CHECKING:
    from .samples import TargetBatch


@dataclass(frozen=True, kw_only=True)
class SoftRegion:
    """The part of an image's soft labels in which a crop's views lie."""

    values: Tensor
    """(C, h, w) float16, at the stride they are stored with."""
    from_image: Tensor
    """(3, 3) float64: from pixels of the image to pixels of the region, both at the image's resolution."""
    size: tuple[float, float]
    """(height, width) of the region in pixels of the image."""

    def to(self, device: torch.device) -> SoftRegion:
        return self._with(*(each.to(device, non_blocking=True) for each in (self.values, self.from_image)))

    def pinned(self) -> SoftRegion:
        return self._with(self.values.pin_memory(), self.from_image.pin_memory())

    def view(self, to_image: Tensor, crop: Size, out: Size) -> Tensor:
        """(1, C, *out) float32: a view of size ``crop``, cut out by its map (3, 3) to pixels of the image."""
        matrix = self.from_image @ to_image
        return warp_maps(self.values[None].float(), matrix[None], self.size, crop, out)[0]

    def _with(self, values: Tensor, from_image: Tensor) -> SoftRegion:
        return dataclasses.replace(self, values=values, from_image=from_image)


class SoftLabels:
    """Class probabilities of every target image at the network's stride, float16, a memory-mapped file each.

    Half precision and the stride make them 1/128 of full-size float32 (at stride 8). Lossless compression on
    top was measured to save 19 %, and to take twenty times as long to write; eight bits would save half or
    more, and take classes of small probability, which the prototypes may still choose, out of the race.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, index: int, probabilities: Tensor) -> None:
        """probabilities: (C, h, w). Raises OutputError if the folder is not writable or the disk is full.

        The pass that writes them is repeated after an interruption, so a file need not survive a power cut.
        """
        path = self.folder / f"{index:06d}.npy"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            np.save(path, probabilities.half().cpu().numpy())
        except OSError as error:
            raise as_output_error(error, path) from error

    def read(self, index: int) -> Tensor:
        """(C, h, w) float32."""
        return torch.from_numpy(self._open(index).astype(np.float32))

    def region(self, index: int, size: Size, crop: Size, to_image: list[np.ndarray]) -> SoftRegion:
        """What views of size ``crop`` need of an image of ``size``, by their maps (3, 3) to it; the rest of
        the file is not touched. Without views, all of it.
        """
        stored = self._open(index)
        shape = np.array(stored.shape[1:])
        stride = np.array(size) / shape
        low, high = np.zeros(2, int), shape
        if to_image:
            right, bottom = crop[1] - 1, crop[0] - 1
            corners = np.array([[0, right, 0, right], [0, 0, bottom, bottom], [1, 1, 1, 1]])
            ends = np.concatenate([(matrix @ corners)[1::-1] for matrix in to_image], axis=1)  # y, x
            ends = (ends + 0.5) / stride[:, None] - 0.5
            # One position more on both sides than interpolation needs, whatever rounding does.
            low = np.clip(np.floor(ends.min(axis=1)).astype(int) - 1, 0, shape - 1)
            high = np.clip(np.floor(ends.max(axis=1)).astype(int) + 3, low + 1, shape)
        values = stored[:, low[0] : high[0], low[1] : high[1]].copy()
        top, left = low * stride
        height, width = (high - low) * stride
        shift = torch.tensor([[1, 0, -left], [0, 1, -top], [0, 0, 1]], dtype=torch.float64)
        return SoftRegion(values=torch.from_numpy(values), from_image=shift, size=(height, width))

    def views(self, target: TargetBatch, matrices: Tensor, out: Size) -> Tensor:
        """Soft labels cut out by maps (N, 3, 3) from crop pixels to image pixels, (N, C, *out).

        The maps are those of the batch's weak or strong views if the batch brings regions of soft labels.
        """
        crop = (target.weak.shape[2], target.weak.shape[3])
        regions = target.soft or [
            self.region(int(index), size, crop, []).to(matrices.device)
            for index, size in zip(target.indices, target.sizes, strict=True)
        ]
        cut = [region.view(matrix, crop, out) for region, matrix in zip(regions, matrices, strict=True)]
        return torch.cat(cut)

    def _open(self, index: int) -> np.ndarray:
        stored: np.ndarray = np.load(self.folder / f"{index:06d}.npy", mmap_mode="r", allow_pickle=False)
        return stored


def remove_soft_labels(folder: Path) -> None:
    """Delete a folder of soft labels; they are large and can be made again."""
    for path in folder.glob("*.npy"):
        os.remove(path)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
