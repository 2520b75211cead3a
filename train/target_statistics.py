"""One pass over the target: soft pseudo labels, prototypes and class prior (what stage 1 starts from)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .class_prior import ClassPrior
from .engine.memory import keep_freed_memory
from .engine.prefetch import InBackground, prefetched
from .engine.processes import Processes, summed
from .models import Segmenter
from .prototypes import PrototypeEstimator, prototype_assignment
from .pseudo_label import mirrored_average
from .samples import WorkingImages
from .soft_labels import SoftLabels
from .stage import predict

Progress = Callable[[int, int], None]
"""Called with what is done and what there is."""
WORKERS = 2
"""Threads that read images ahead of a pass."""
PROTOTYPE_IMAGES = 100
"""Of the source: enough for a mean per class, also of those that the target's predictions never have."""


@dataclass(frozen=True)
class TargetSummary:
    """What the whole target says about its classes."""

    prototypes: Tensor
    """(C, D)."""
    prior: Tensor
    """(C,), which share of the target's pixels each class is believed to have; sums to one."""
    predicted: Tensor
    """(C,), the network's mean class probability over the target; sums to one."""


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
    workers: int = WORKERS,
) -> TargetSummary:
    """Write every target image's soft labels; estimate prototypes and prior on the way, in one pass.

    ``mirrored`` averages the probabilities over the image and its mirror image (distillation).
    ``prior_smoothing``, ``soft_prior``: see ``ClassPrior``. ``fallback``: prototypes (C, D) for classes that
    are never predicted. ``processes`` share out the images and get the same summary. ``workers``: threads
    that read images ahead; another one writes.
    """
    network.eval()
    estimator = PrototypeEstimator(network.num_classes, network.feature_channels).to(device)
    prior = ClassPrior(network.num_classes, prior_smoothing, soft=soft_prior).to(device)
    predicted = ClassPrior(network.num_classes, soft=True).to(device)
    indices = processes.share(len(images)) if processes is not None else range(len(images))
    if device.type == "cpu":
        keep_freed_memory()

    def see(image: Tensor) -> Tensor:
        """The image's soft labels (C, h, w) float16. What is made on the way is given back at the end: the
        next image's forward pass has the same memory again, which is still in the caches."""
        output = predict(network, image)
        probabilities = output.logits.softmax(dim=1)
        shares = probabilities.sum(dim=(0, 2, 3))
        pixels = estimator.see(output.features, output.logits.argmax(dim=1))
        prior.add(shares if soft_prior else pixels)
        predicted.add(shares)
        if mirrored:
            mirror = predict(network, image.flip(3)).logits
            probabilities = mirrored_average(probabilities, mirror.softmax(dim=1))
        return probabilities[0].half()

    shown = loaded(images, indices, device, workers)
    with contextlib.closing(shown), InBackground() as background, torch.inference_mode():
        for done, (index, image) in enumerate(shown, start=1):
            background.run(soft_labels.write, index, see(image))
            if progress is not None:
                progress(round(done / len(indices) * len(images)), len(images))
    if processes is not None and processes.world > 1:
        _merge(estimator)
        for counted in (prior, predicted):
            counted.pixels = summed(counted.pixels)
    return TargetSummary(estimator.prototypes(fallback), prior.shares(), predicted.shares())


def prototype_shares(
    network: Segmenter,
    images: WorkingImages,
    prototypes: Tensor,
    device: torch.device,
    *,
    prior_smoothing: float = 0.0,
    processes: Processes | None = None,
    workers: int = WORKERS,
) -> Tensor:
    """The class prior (C,) as the mean prototype assignment p_SL over all target pixels."""
    network.eval()
    prior = ClassPrior(network.num_classes, prior_smoothing, soft=True).to(device)
    indices = processes.share(len(images)) if processes is not None else range(len(images))
    prototypes = prototypes.to(device)
    shown = loaded(images, indices, device, workers)
    with contextlib.closing(shown), torch.inference_mode():
        for _, image in shown:
            prior.see(prototype_assignment(predict(network, image).features, prototypes))
    if processes is not None and processes.world > 1:
        prior.pixels = summed(prior.pixels)
    return prior.shares()


def _merge(estimator: PrototypeEstimator) -> None:
    """What all processes saw together: running means weighted by their counts."""
    sums = summed(estimator.mean * estimator.counts[:, None])
    estimator.counts = summed(estimator.counts)
    estimator.mean = sums / estimator.counts.clamp(min=1)[:, None]


def source_prototypes(
    network: Segmenter,
    images: WorkingImages,
    device: torch.device,
    *,
    most: int = PROTOTYPE_IMAGES,
    workers: int = WORKERS,
) -> Tensor:
    """Prototypes (C, D) of labelled source images, at most so many: the fallback for unseen classes."""
    network.eval()
    estimator = PrototypeEstimator(network.num_classes, network.feature_channels).to(device)
    indices = range(0, len(images), max(1, len(images) // most))
    shown = loaded(images, indices, device, workers)
    with contextlib.closing(shown), torch.inference_mode():
        for index, image in shown:
            features = predict(network, image).features
            label = torch.from_numpy(images.label(index))[None, None].to(device).float()
            label = F.interpolate(label, size=features.shape[2:], mode="nearest")[:, 0].long()
            estimator.see(features, label)
    return estimator.prototypes()


def loaded(
    images: WorkingImages, indices: range, device: torch.device, workers: int
) -> Generator[tuple[int, Tensor], None, None]:
    """Each index and its image (1, 3, h, w) uint8 RGB on the device, read ahead in threads."""

    def read(position: int) -> Tensor:
        image = torch.from_numpy(images.image(indices[position])).permute(2, 0, 1)[None]
        return image.pin_memory() if device.type == "cuda" else image

    with contextlib.closing(prefetched(read, 0, len(indices), workers)) as read_ahead:
        for index, image in zip(indices, read_ahead, strict=True):
            yield index, image.to(device, non_blocking=True)
