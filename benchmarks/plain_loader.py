"""Stage 1's batches as one writes them at first: each image decoded, each change applied, then stacked.

The same samples as the project's, from the same random numbers, to a level of colour.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.data import Dataset
from cpsl_deploy.train.samples import Batch, SourceBatch, SourceViews, TargetBatch, TargetViews
from cpsl_deploy.train.views import Photometric, Size, crop_matrix, jitter_matrix, warp_image, warp_labels


def read_image(dataset: Dataset, index: int) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(dataset.items[index].image)), cv2.COLOR_BGR2RGB)


def read_label(dataset: Dataset, index: int, table: np.ndarray) -> np.ndarray:
    """``table``: label of each raw value."""
    return table[cv2.imread(str(dataset.items[index].label), cv2.IMREAD_UNCHANGED)]


def resized(image: np.ndarray, size: Size) -> np.ndarray:
    way = cv2.INTER_AREA if image.ndim == 3 else cv2.INTER_NEAREST
    return cv2.resize(image, size[::-1], interpolation=way)


def colours(rng: np.random.Generator, image: np.ndarray, strength: Photometric) -> np.ndarray:
    """A change after the other, on floats."""
    out = image.astype(np.float32)
    out *= 1 + rng.uniform(-1, 1) * strength.brightness
    mean = out.mean()
    out = (out - mean) * (1 + rng.uniform(-1, 1) * strength.contrast) + mean
    if strength.saturation or strength.hue:
        angle = rng.uniform(-1, 1) * strength.hue * 2 * np.pi
        stretch = 1 + rng.uniform(-1, 1) * strength.saturation
        grey = np.full((3, 3), 1 / 3)
        cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
        turn = np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * cross
        out = cv2.transform(out, (grey + stretch * turn).astype(np.float32))
    if rng.random() < strength.blur:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.1, 1.5))
    if strength.noise:
        out = out + rng.standard_normal(out.shape, np.float32) * np.float32(rng.uniform(0, strength.noise))
    for _ in range(strength.cutout):
        height, width = (rng.integers(1, max(2, side // 5)) for side in out.shape[:2])
        top, left = rng.integers(0, out.shape[0] - height + 1), rng.integers(0, out.shape[1] - width + 1)
        out[top : top + height, left : left + width] = 127
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def valid(to_image: np.ndarray, to_weak: np.ndarray, crop: Size, size: Size) -> np.ndarray:
    in_image = warp_labels(np.zeros(size, np.uint8), to_image @ to_weak, crop) != IGNORE
    return in_image & (warp_labels(np.zeros(crop, np.uint8), to_weak, crop) != IGNORE)


def stacked(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def source_batch(views: SourceViews, table: np.ndarray, seed: list[int], positions: range) -> SourceBatch:
    images, labels = [], []
    for position in positions:
        rng = np.random.default_rng([*seed, position, 0])
        index = views.sampler.index(position)
        image = resized(read_image(views.images.dataset, index), views.images.size)
        label = resized(read_label(views.images.dataset, index, table), views.images.size)
        matrix = crop_matrix(rng, image.shape[:2], views.crop, views.geometric)
        images.append(colours(rng, warp_image(image, matrix, views.crop), views.photometric))
        labels.append(warp_labels(label, matrix, views.crop))
    return SourceBatch(stacked(images), torch.from_numpy(np.stack(labels)).long())


def soft_label(folder: Path, index: int) -> torch.Tensor:
    return torch.from_numpy(np.load(folder / f"{index:06d}.npy").astype(np.float32))


def target_batch(views: TargetViews, seed: list[int], positions: range) -> TargetBatch:
    weak, strong, inside, to_image, to_weak, indices, sizes = [], [], [], [], [], [], []
    for position in positions:
        rng = np.random.default_rng([*seed, position, 1])
        indices.append(views.sampler.index(position))
        image = resized(read_image(views.images.dataset, indices[-1]), views.images.size)
        sizes.append(image.shape[:2])
        to_image.append(crop_matrix(rng, image.shape[:2], views.crop, views.weak))
        to_weak.append(jitter_matrix(rng, views.crop, views.strong_geometric))
        weak.append(warp_image(image, to_image[-1], views.crop))
        geometric = warp_image(image, to_image[-1] @ to_weak[-1], views.crop)
        strong.append(colours(rng, geometric, views.strong_photometric))
        inside.append(valid(to_image[-1], to_weak[-1], views.crop, image.shape[:2]))
        assert views.soft_labels is not None
        soft_label(views.soft_labels.folder, indices[-1])
    return TargetBatch(
        weak=stacked(weak),
        strong=stacked(strong),
        valid=torch.from_numpy(np.stack(inside)),
        weak_to_image=torch.from_numpy(np.stack(to_image)),
        strong_to_weak=torch.from_numpy(np.stack(to_weak)),
        indices=torch.tensor(indices),
        sizes=tuple(sizes),
    )


def batch(source: SourceViews, target: TargetViews, table: np.ndarray, seed: list[int], at: range) -> Batch:
    """What ``Batches`` makes of the same views at the same positions."""
    return Batch(source_batch(source, table, seed, at), target_batch(target, seed, at))
