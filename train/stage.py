"""What the training stages share: a module with named losses, its optimisers, and how images enter it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import recipe
from .models import Segmenter, SegmenterOutput
from .samples import Batch
from .symmetric_cross_entropy import cross_entropy

Losses = dict[str, Tensor]
"""Weighted loss terms by name; their sum is what is minimised."""


class TrainingStage(nn.Module):
    """One stage of the method. All that must survive an interruption is in its ``state_dict``."""

    network: Segmenter
    """What learns."""
    needs_target: bool = True
    class_weights: Tensor | None
    """(C,), of the cross entropy on labels; None: all classes alike."""

    def __init__(self, name: str, settings: recipe.Stage, network: Segmenter) -> None:
        super().__init__()
        self.name, self.settings, self.network = name, settings, network
        self.register_buffer("class_weights", None, persistent=False)

    def forward(self, batch: Batch, generator: torch.Generator) -> Losses:
        """The step's losses. ``generator`` (CPU) is the source of the step's random choices."""
        raise NotImplementedError

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Losses]:
        """The losses of ``forward`` in parts that follow one another: once the gradients of one are found,
        what it took is free before the next begins. A step then holds the activations of one forward pass.
        """
        yield self(batch, generator)

    def on_labels(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of logits (N, C, h, w) at the network's stride with true labels (N, H, W)."""
        return cross_entropy(
            logits, labels, class_weights=self.class_weights, align_corners=self.network.align_corners
        )

    def optimisers(self) -> list[torch.optim.Optimizer]:
        return [network_optimiser(self.network, self.settings.optimiser)]

    def after_step(self) -> None:
        """What follows the optimiser's step."""

    def diagnostics(self) -> dict[str, Any]:
        """Figures worth logging beside the losses, since they were last asked for: all processes ask at once.

        A list has a value per class.
        """
        return {}

    def result(self) -> Segmenter:
        """The network this stage was run for."""
        return self.network


def together(parts: Iterator[Losses]) -> Losses:
    """All losses of a step, for a stage whose ``forward`` is its ``parts`` at once."""
    return {term: loss for losses in parts for term, loss in losses.items()}


def network_optimiser(
    network: Segmenter, settings: recipe.Optimiser, extra: list[nn.Parameter] | None = None
) -> torch.optim.Optimizer:
    """Backbone at ``lr``, head and ``extra`` parameters at ``lr * head_factor``."""
    groups = [
        {"params": network.backbone_parameters(), "lr": settings.lr},
        {"params": network.head_parameters() + (extra or []), "lr": settings.lr * settings.head_factor},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    return torch.optim.SGD(groups, momentum=settings.momentum, weight_decay=settings.weight_decay)


def learning_rate_factor(iteration: int, total: int, settings: recipe.Optimiser) -> float:
    """Linear rise, then (1 - i/n) ** power; stays at 0 past the end."""
    rise = min(1.0, (iteration + 1) / (settings.warm_up_iterations + 1))
    return rise * max(0.0, 1 - iteration / max(1, total)) ** settings.poly_power


def normalised(images: Tensor, network: Segmenter) -> Tensor:
    """(N, 3, H, W) uint8 RGB -> float, scaled as the network wants it, channels last."""
    scale, shift = _scale_and_shift(tuple(network.mean), tuple(network.std), images.device)
    scaled = images.to(torch.float32, memory_format=torch.channels_last, copy=True)
    return scaled.mul_(scale).add_(shift)


@lru_cache(maxsize=16)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """(1, 3, 1, 1) each: (x / 255 - mean) / std as x * scale + shift. Kept: a GPU is not waited for twice."""
    of_mean, of_std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (mean, std))
    return (1 / (255 * of_std)).float().to(device), (-of_mean / of_std).float().to(device)


def predict(network: Segmenter, images: Tensor) -> SegmenterOutput:
    """Features and logits in float32 for uint8 RGB images (N, 3, H, W)."""
    output = network(normalised(images, network))
    return SegmenterOutput(output.features.float(), output.logits.float())


def upsampled(maps: Tensor, size: torch.Size | tuple[int, int], network: Segmenter) -> Tensor:
    """(N, C, h, w) maps at the network's stride, bilinearly at ``size``."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=network.align_corners or None)


@contextlib.contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """In the block the network is in eval mode, afterwards in the mode it was in."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


@contextlib.contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """In the block, batch norms normalise by their batch and leave their running statistics as they are."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
