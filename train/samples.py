"""What the networks are shown: training samples made from (seed, stage, position) alone.

Every random choice of a sample comes from its position in the run, so a resumed run, or one spread over
several processes, sees exactly the samples that an uninterrupted single process sees.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.data import Dataset

from .views import (
    Geometric,
    Photometric,
    Size,
    change_colours,
    crop_matrix,
    jitter_matrix,
    warp_image,
    warp_labels,
    warp_maps,
)


def working_size(image: Size, wanted: Size) -> Size:
    """(height, width) with the image's shape and the number of pixels of ``wanted``."""
    zoom = (wanted[0] * wanted[1] / (image[0] * image[1])) ** 0.5
    return round(image[0] * zoom), round(image[1] * zoom)


class WorkingImages:
    """A dataset at the size the networks work at; the latest decoded images are kept in memory.

    Safe to use from several threads.
    """

    def __init__(self, dataset: Dataset, size: Size, cache_mib: int = 0) -> None:
        self.dataset, self.size = dataset, size
        self._limit = cache_mib * 2**20
        self._kept: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        return self.dataset.names[index]

    def image(self, index: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB at working size."""
        return self._get("image", index)

    def label(self, index: int) -> np.ndarray:
        """(h, w) uint8 at working size, IGNORE where nothing is labelled."""
        return self._get("label", index)

    def _get(self, kind: str, index: int) -> np.ndarray:
        with self._lock:
            if (kind, index) in self._kept:
                self._kept.move_to_end((kind, index))
                return self._kept[kind, index]
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
            if (kind, index) not in self._kept:  # another thread may have read it meanwhile
                self._kept[kind, index] = value
                self._bytes += value.nbytes
            while self._bytes > self._limit and self._kept:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return value


def class_shares(images: WorkingImages, num_classes: int) -> np.ndarray:
    """(n, C) float: pixels of each class in each image of a labelled set."""
    counts = np.zeros((len(images), num_classes))
    for i in range(len(images)):
        counts[i] = np.bincount(images.label(i).ravel(), minlength=256)[:num_classes]
    return counts


class Sampler:
    """Which image is shown at a position of the run.

    Evenly: a new permutation every epoch. With ``pixels`` (n, C) and a temperature above 0, a class first
    (see ``recipe.Data.rare_class_temperature``), then one of the images that have at least 50 pixels of it.
    """

    def __init__(
        self, length: int, seed: int, *, pixels: np.ndarray | None = None, temperature: float = 0.0
    ) -> None:
        self.length, self.seed = length, seed
        self._of_class: list[np.ndarray] = []
        if pixels is not None and temperature > 0:
            share = pixels.sum(axis=0) / pixels.sum()
            members = [np.flatnonzero(column >= 50) for column in pixels.T]
            weight = np.exp((1 - share) / temperature) * [len(m) > 0 for m in members]
            self._of_class, self._probability = members, weight / weight.sum()
        self._epoch, self._order = -1, np.empty(0, int)
        self._lock = threading.Lock()

    def index(self, position: int) -> int:
        if self._of_class:
            rng = np.random.default_rng([self.seed, 7, position])
            return int(rng.choice(self._of_class[rng.choice(len(self._of_class), p=self._probability)]))
        epoch, place = divmod(position, self.length)
        with self._lock:
            if epoch != self._epoch:
                self._epoch, self._order = (
                    epoch,
                    np.random.default_rng([self.seed, 3, epoch]).permutation(self.length),
                )
            return int(self._order[place])


@dataclass(frozen=True)
class SourceBatch:
    """Labelled crops of the source."""

    images: Tensor
    """(N, 3, H, W) uint8 RGB."""
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


def _stack(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


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
        images, labels, names = [], [], []
        for position in positions:
            rng = np.random.default_rng([*seed, position, 0])
            index = self.sampler.index(position)
            image, label = self.images.image(index), self.images.label(index)
            matrix = crop_matrix(rng, image.shape[:2], self.crop, self.geometric)
            view = warp_image(image, matrix, self.crop)
            if self.restyle is not None and rng.random() < 0.5:
                view = self.restyle(view, rng)
            images.append(change_colours(rng, view, self.photometric))
            labels.append(warp_labels(label, matrix, self.crop))
            names.append(self.images.name(index))
        return SourceBatch(_stack(images), torch.from_numpy(np.stack(labels)).long(), tuple(names))


@dataclass(frozen=True, kw_only=True)
class TargetViews:
    """Makes weak and strong views of target crops."""

    images: WorkingImages
    sampler: Sampler
    crop: Size
    weak: Geometric
    strong_geometric: Geometric
    strong_photometric: Photometric

    def batch(self, seed: list[int], positions: range) -> TargetBatch:
        """The crops at the given positions of the run."""
        weak, strong, valid, to_image, to_weak, indices, sizes = [], [], [], [], [], [], []
        for position in positions:
            rng = np.random.default_rng([*seed, position, 1])
            index = self.sampler.index(position)
            image = self.images.image(index)
            size = image.shape[:2]
            weak_to_image = crop_matrix(rng, size, self.crop, self.weak)
            strong_to_weak = jitter_matrix(rng, self.crop, self.strong_geometric)
            weak.append(warp_image(image, weak_to_image, self.crop))
            geometric = warp_image(image, weak_to_image @ strong_to_weak, self.crop)
            strong.append(change_colours(rng, geometric, self.strong_photometric))
            inside = warp_labels(np.zeros(size, np.uint8), weak_to_image @ strong_to_weak, self.crop)
            in_weak = warp_labels(np.zeros(self.crop, np.uint8), strong_to_weak, self.crop)
            valid.append((inside != IGNORE) & (in_weak != IGNORE))
            to_image.append(weak_to_image)
            to_weak.append(strong_to_weak)
            indices.append(index)
            sizes.append(size)
        return TargetBatch(
            weak=_stack(weak),
            strong=_stack(strong),
            valid=torch.from_numpy(np.stack(valid)),
            weak_to_image=torch.from_numpy(np.stack(to_image)),
            strong_to_weak=torch.from_numpy(np.stack(to_weak)),
            indices=torch.tensor(indices),
            sizes=tuple(sizes),
            names=tuple(self.images.name(index) for index in indices),
        )
