"""One pass over the target: soft pseudo labels, prototypes and class prior (what stage 1 starts from)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.files import atomic_path

from .class_prior import ClassPrior
from .engine.processes import Processes, summed
from .models import Segmenter
from .prototypes import PrototypeEstimator, prototype_assignment
from .pseudo_label import mirrored_average
from .samples import TargetBatch, WorkingImages
from .stage import predict
from .views import Size, warp_maps

Progress = Callable[[int, int], None]
"""Called with what is done and what there is."""


PROTOTYPE_IMAGES = 100
"""Of the source: enough for a mean per class, also of those that the target's predictions never have."""


class SoftLabels:
    """Class probabilities of every target image at the network's stride, float16, memory-mapped files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, index: int, probabilities: Tensor) -> None:
        """probabilities: (C, h, w)."""
        with atomic_path(self.folder / f"{index:06d}.npy") as path, open(path, "wb") as file:
            np.save(file, probabilities.cpu().numpy().astype(np.float16))

    def read(self, index: int) -> Tensor:
        """(C, h, w) float32."""
        stored = np.load(self.folder / f"{index:06d}.npy", mmap_mode="r", allow_pickle=False)
        return torch.from_numpy(np.asarray(stored, np.float32))

    def views(self, target: TargetBatch, matrices: Tensor, out: Size) -> Tensor:
        """Soft labels cut out by maps (N, 3, 3) from crop pixels to image pixels, (N, C, *out)."""
        crop = (target.weak.shape[2], target.weak.shape[3])
        cut = [
            warp_maps(self.read(int(index))[None].to(matrices.device), matrix[None], size, crop, out)[0]
            for index, matrix, size in zip(target.indices, matrices, target.sizes, strict=True)
        ]
        return torch.cat(cut)


@dataclass(frozen=True)
class TargetSummary:
    """What the whole target says about its classes."""

    prototypes: Tensor
    """(C, D)."""
    prior: Tensor
    """(C,), which share of the target's pixels each class is believed to have; sums to one."""
    predicted: Tensor
    """(C,), the network's mean class probability over the target; sums to one."""


@torch.no_grad()
def summarise_target(
    network: Segmenter,
    images: WorkingImages,
    soft_labels: SoftLabels,
    device: torch.device,
    *,
    mirrored: bool = False,
    prior_smoothing: float = 0.0,
    soft_prior: bool = False,
    fallback: Tensor | None = None,
    progress: Progress | None = None,
    processes: Processes | None = None,
) -> TargetSummary:
    """Write every target image's soft labels; estimate prototypes and prior on the way, in one pass.

    ``mirrored`` averages the probabilities over the image and its mirror image (distillation).
    ``prior_smoothing``, ``soft_prior``: see ``ClassPrior``. ``fallback``: prototypes (C, D) for classes that
    are never predicted. ``processes`` share out the images and get the same summary.
    """
    network.eval()
    estimator = PrototypeEstimator(network.num_classes, network.feature_channels).to(device)
    prior = ClassPrior(network.num_classes, prior_smoothing, soft=soft_prior).to(device)
    predicted = ClassPrior(network.num_classes, soft=True).to(device)
    indices = processes.share(len(images)) if processes is not None else range(len(images))
    for done, index in enumerate(indices, start=1):
        image = torch.from_numpy(images.image(index)).permute(2, 0, 1)[None].to(device)
        output = predict(network, image)
        probabilities = output.logits.softmax(dim=1)
        if mirrored:
            probabilities = mirrored_average(output.logits, predict(network, image.flip(3)).logits)
        soft_labels.write(index, probabilities[0])
        estimator.update(output.features, output.logits)
        prior.see(output.logits.softmax(dim=1))
        predicted.see(output.logits.softmax(dim=1))
        if progress is not None:
            progress(round(done / len(indices) * len(images)), len(images))
    if processes is not None and processes.world > 1:
        _merge(estimator)
        for counted in (prior, predicted):
            counted.pixels = summed(counted.pixels)
    return TargetSummary(estimator.prototypes(fallback), prior.shares(), predicted.shares())


@torch.no_grad()
def prototype_shares(
    network: Segmenter,
    images: WorkingImages,
    prototypes: Tensor,
    device: torch.device,
    *,
    prior_smoothing: float = 0.0,
    processes: Processes | None = None,
) -> Tensor:
    """The class prior (C,) as the mean prototype assignment p_SL over all target pixels."""
    network.eval()
    prior = ClassPrior(network.num_classes, prior_smoothing, soft=True).to(device)
    for index in processes.share(len(images)) if processes is not None else range(len(images)):
        image = torch.from_numpy(images.image(index)).permute(2, 0, 1)[None].to(device)
        prior.see(prototype_assignment(predict(network, image).features, prototypes.to(device)))
    if processes is not None and processes.world > 1:
        prior.pixels = summed(prior.pixels)
    return prior.shares()


def _merge(estimator: PrototypeEstimator) -> None:
    """What all processes saw together: running means weighted by their counts."""
    sums = summed(estimator.mean * estimator.counts[:, None])
    estimator.counts = summed(estimator.counts)
    estimator.mean = sums / estimator.counts.clamp(min=1)[:, None]


@torch.no_grad()
def source_prototypes(
    network: Segmenter, images: WorkingImages, device: torch.device, *, most: int = PROTOTYPE_IMAGES
) -> Tensor:
    """Prototypes (C, D) of labelled source images, at most so many: the fallback for unseen classes."""
    network.eval()
    estimator = PrototypeEstimator(network.num_classes, network.feature_channels).to(device)
    for index in range(0, len(images), max(1, len(images) // most)):
        features = predict(
            network, torch.from_numpy(images.image(index)).permute(2, 0, 1)[None].to(device)
        ).features
        label = torch.from_numpy(images.label(index)).to(device)[None, None].float()
        label = torch.nn.functional.interpolate(label, size=features.shape[2:], mode="nearest")[0, 0].long()
        inside = label != IGNORE
        one_hot = torch.nn.functional.one_hot(label[inside], network.num_classes).T.float()
        estimator.update(features[0][:, inside][None, :, None], one_hot[None, :, None])
    return estimator.prototypes()


def remove_soft_labels(folder: Path) -> None:
    """Delete a folder of soft labels; they are large and can be made again."""
    for path in folder.glob("*.npy"):
        os.remove(path)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
