"""What the networks are shown: training samples made from (seed, stage, position) alone.

Every random choice of a sample comes from its position in the run, so a resumed run, or one spread over
several processes, sees exactly the samples that an uninterrupted single process sees.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from cpsl_deploy.data import Dataset

from .sampler import Sampler
from .soft_labels import SoftLabels, SoftRegion
from .views import (
    UNCHANGED,
    Geometric,
    Photometric,
    Size,
    change_colours,
    crop_matrix,
    inside,
    jitter_matrix,
    lies_inside,
    warp_image,
    warp_labels,
    warp_maps,
)


def working_size(image: Size, wanted: Size) -> Size:
    """(height, width) with the image's shape and the number of pixels of ``wanted``."""
    zoom = (wanted[0] * wanted[1] / (image[0] * image[1])) ** 0.5
    return round(image[0] * zoom), round(image[1] * zoom)


class WorkingImages:
    """A dataset at the size the networks work at; the first decoded images that fit are kept in memory.

    The first and not the latest: every epoch shows all images in a new order, so if half of them fit, half of
    an epoch's are there; of the latest half it would be 15 %. Safe to use from several threads.
    """

    def __init__(self, dataset: Dataset, size: Size, cache_mib: int = 0) -> None:
        self.dataset, self.size = dataset, size
        self._limit = cache_mib * 2**20
        self._kept: dict[tuple[str, int], np.ndarray] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        return self.dataset.names[index]

    def image(self, index: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB at working size. Not to be written to: it may be kept."""
        return self._get("image", index)

    def label(self, index: int) -> np.ndarray:
        """(h, w) uint8 at working size, IGNORE where nothing is labelled."""
        return self._get("label", index)

    def _get(self, kind: str, index: int) -> np.ndarray:
        kept = self._kept.get((kind, index))
        if kept is not None:
            return kept
        full = self.dataset.image(index) if kind == "image" else self.dataset.label(index)
        height, width = working_size(full.shape[:2], self.size)
        if kind == "label":
            value = cv2.resize(full, (width, height), interpolation=cv2.INTER_NEAREST)
        else:
            shrinks = height < full.shape[0]
            value = cv2.resize(
                full, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            )
        with self._lock:
            is_new = (kind, index) not in self._kept  # another thread may have read it meanwhile
            if is_new and self._bytes + value.nbytes <= self._limit:
                self._kept[kind, index] = value
                self._bytes += value.nbytes
        return value


def class_shares(images: WorkingImages, num_classes: int) -> np.ndarray:
    """(n, C) float: pixels of each class in each image of a labelled set."""
    counts = np.zeros((len(images), num_classes))
    for i in range(len(images)):
        counts[i] = np.bincount(images.label(i).ravel(), minlength=256)[:num_classes]
    return counts


@dataclass(frozen=True)
class SourceBatch:
    """Labelled crops of the source."""

    images: Tensor
    """(N, 3, H, W) uint8 RGB, in memory channels last as they were decoded; so are a target's."""
    labels: Tensor
    """(N, H, W) int64, IGNORE where nothing is labelled."""
    names: tuple[str, ...] = ()
    """Of the images that the crops are of."""

    def to(self, device: torch.device) -> SourceBatch:
        return dataclasses.replace(
            self,
            images=self.images.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class TargetBatch:
    """Two views of crops of the target."""

    weak: Tensor
    """(N, 3, H, W) uint8 RGB."""
    strong: Tensor
    """(N, 3, H, W) uint8 RGB."""
    valid: Tensor
    """(N, H, W) bool: pixels of the strong view that lie inside the image and the weak view."""
    weak_to_image: Tensor
    """(N, 3, 3) float64, also on the device, so that autocast never rounds a product of maps: from pixels of
    the weak view to pixels of the image at working size."""
    strong_to_weak: Tensor
    """(N, 3, 3) float64."""
    indices: Tensor
    """(N,) int64: which target images."""
    sizes: tuple[Size, ...]
    """Working size of each image."""
    names: tuple[str, ...] = ()
    soft: tuple[SoftRegion, ...] = ()
    """What the two views need of the images' soft labels, where a stage uses them."""

    def to(self, device: torch.device) -> TargetBatch:
        def there(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return dataclasses.replace(
            self,
            weak=there(self.weak),
            strong=there(self.strong),
            valid=there(self.valid),
            weak_to_image=there(self.weak_to_image),
            strong_to_weak=there(self.strong_to_weak),
            soft=tuple(region.to(device) for region in self.soft),
        )

    def weak_inside(self, out: Size) -> Tensor:
        """(N, *out) bool: where maps of the weak views at that size lie inside the images, not mirrored."""
        crop = (self.weak.shape[2], self.weak.shape[3])
        nothing = self.weak_to_image.new_zeros(1, 1, 1, 1)
        views = zip(self.weak_to_image, self.sizes, strict=True)
        return torch.cat([warp_maps(nothing, matrix[None], size, crop, out)[1] for matrix, size in views])


@dataclass(frozen=True)
class Batch:
    """What one training step sees."""

    source: SourceBatch | None
    target: TargetBatch | None

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """The images' names by side."""
        sides = {"source": self.source, "target": self.target}
        return {side: batch.names for side, batch in sides.items() if batch is not None}

    def to(self, device: torch.device) -> Batch:
        return Batch(self.source and self.source.to(device), self.target and self.target.to(device))

    def pinned(self) -> Batch:
        """The batch in page-locked memory, from which ``to`` a GPU copies without waiting."""
        return Batch(_pinned(self.source), _pinned(self.target))


Part = TypeVar("Part", SourceBatch | None, TargetBatch | None)


def _pinned(part: Part) -> Part:
    if part is None:
        return None
    tensors = {name: value for name, value in vars(part).items() if isinstance(value, Tensor)}
    pinned: dict[str, Any] = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    if isinstance(part, TargetBatch):
        pinned["soft"] = tuple(region.pinned() for region in part.soft)
    return dataclasses.replace(part, **pinned)


def _tensor(images: np.ndarray) -> Tensor:
    """(N, H, W, 3) seen as (N, 3, H, W), channels last: the layout networks work in, and no copy."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class SourceViews:
    """Makes labelled source crops."""

    images: WorkingImages
    sampler: Sampler
    crop: Size
    geometric: Geometric
    photometric: Photometric
    restyle: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None

    def batch(self, seed: list[int], positions: range) -> SourceBatch:
        """The crops at the given positions of the run."""
        images = np.empty((len(positions), *self.crop, 3), np.uint8)
        labels, names = np.empty((len(positions), *self.crop), np.uint8), []
        for position, shown, labelled in zip(positions, images, labels, strict=True):
            rng = np.random.default_rng([*seed, position, 0])
            index = self.sampler.index(position)
            image, label = self.images.image(index), self.images.label(index)
            matrix = crop_matrix(rng, image.shape[:2], self.crop, self.geometric)
            view = warp_image(image, matrix, self.crop)
            if self.restyle is not None and rng.random() < 0.5:
                view = self.restyle(view, rng)
            change_colours(rng, view, self.photometric, out=shown)
            warp_labels(label, matrix, self.crop, out=labelled)
            names.append(self.images.name(index))
        return SourceBatch(_tensor(images), torch.from_numpy(labels).long(), tuple(names))


@dataclass(frozen=True, kw_only=True)
class TargetViews:
    """Makes weak and strong views of target crops."""

    images: WorkingImages
    sampler: Sampler
    crop: Size
    weak: Geometric
    strong_geometric: Geometric
    strong_photometric: Photometric
    soft_labels: SoftLabels | None = None
    """Of the images, to be read with the views; they must be written before the first batch."""

    def batch(self, seed: list[int], positions: range) -> TargetBatch:
        """The crops at the given positions of the run."""
        n = len(positions)
        weak, strong = np.empty((2, n, *self.crop, 3), np.uint8)
        valid, to_image, to_weak = np.empty((n, *self.crop), bool), np.empty((n, 3, 3)), np.empty((n, 3, 3))
        indices, sizes, soft = [], [], []
        for i, position in enumerate(positions):
            rng = np.random.default_rng([*seed, position, 1])
            index = self.sampler.index(position)
            image = self.images.image(index)
            size = image.shape[:2]
            to_image[i] = crop_matrix(rng, size, self.crop, self.weak)
            to_weak[i] = jitter_matrix(rng, self.crop, self.strong_geometric)
            warp_image(image, to_image[i], self.crop, out=weak[i])
            unchanged = self.strong_geometric == UNCHANGED
            view = weak[i] if unchanged else warp_image(image, to_image[i] @ to_weak[i], self.crop)
            change_colours(rng, view, self.strong_photometric, out=strong[i])
            valid[i] = inside(to_weak[i], self.crop, self.crop)
            if not lies_inside(to_image[i], self.crop, size):
                valid[i] &= inside(to_image[i] @ to_weak[i], self.crop, size)
            if self.soft_labels is not None:
                maps = [to_image[i], to_image[i] @ to_weak[i]]
                soft.append(self.soft_labels.region(index, size, self.crop, maps))
            indices.append(index)
            sizes.append(size)
        return TargetBatch(
            weak=_tensor(weak),
            strong=_tensor(strong),
            valid=torch.from_numpy(valid),
            weak_to_image=torch.from_numpy(to_image),
            strong_to_weak=torch.from_numpy(to_weak),
            indices=torch.tensor(indices),
            sizes=tuple(sizes),
            names=tuple(self.images.name(index) for index in indices),
            soft=tuple(soft),
        )
