"""Prototypes: one feature vector per class, and how pixels are scored against them.

ProDA section 3.2 (arXiv 2101.10979) and CPSL section 3.1 (arXiv 2203.09744).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 0.08
MIN_PIXELS = 10
"""An image with fewer pixels of a class than this says nothing about the class's prototype."""


def cosine_scores(features: Tensor, prototypes: Tensor) -> Tensor:
    """Cosine of every pixel's feature with every prototype, both L2-normalised here.

    features: (N, D, h, w) or (B, D). prototypes: (K, D). Returns (N, K, h, w) or (B, K), float32 under
    autocast too: a cosine rounded to bfloat16 and divided by a temperature of 0.08 is off by several per cent
    of a probability.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = F.normalize(features.float(), dim=1)
        prototypes = F.normalize(prototypes.float(), dim=1)
        if features.dim() == 2:
            return features @ prototypes.T
        return F.conv2d(features, prototypes[:, :, None, None])


def cosines_of_unit_features(features: Tensor, prototypes: Tensor) -> Tensor:
    """``cosine_scores`` of features (B, D) whose length is one already, (B, K) float32: nothing as large as
    the features is made.
    """
    with torch.autocast(features.device.type, enabled=False):
        prototypes = F.normalize(prototypes.float(), dim=1)
        if features.device.type != "cpu":
            return features.float() @ prototypes.T
        # As a convolution of one row of B pixels, channels last: half the time of a matrix product, which is
        # made for more columns than there are classes.
        row = features.float()[None, None].permute(0, 3, 1, 2)
        return F.conv2d(row, prototypes[:, :, None, None])[0, :, 0].T


def prototype_assignment(features: Tensor, prototypes: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """p_SL: softmax over classes of cosine / temperature. Shapes as in ``cosine_scores``."""
    return (cosine_scores(features, prototypes) / temperature).softmax(dim=1)


class PrototypeEstimator(nn.Module):
    """Running mean over images of each class's mean feature (the start of stage 1)."""

    mean: Tensor
    counts: Tensor

    def __init__(self, num_classes: int, feature_channels: int, min_pixels: int = MIN_PIXELS) -> None:
        super().__init__()
        self.min_pixels = min_pixels
        self.register_buffer("mean", torch.zeros(num_classes, feature_channels))
        self.register_buffer("counts", torch.zeros(num_classes))

    def update(self, features: Tensor, logits: Tensor) -> None:
        """Add images. features: (N, D, h, w); logits: (N, C, h, w), at the same size."""
        self.see(features, logits.argmax(dim=1))

    @torch.no_grad()
    def see(self, features: Tensor, labels: Tensor) -> Tensor:
        """Add images by their labels (N, h, w); values outside 0..C-1 do not count.

        Returns (C,) float32: how many pixels of each class there were.
        """
        classes = torch.arange(len(self.counts), device=labels.device)[:, None]
        seen_pixels = torch.zeros_like(self.counts)
        with torch.autocast(features.device.type, enabled=False):
            for feature, label in zip(features.float(), labels, strict=True):
                members = (label.flatten() == classes).float()  # (C, h w): a matrix product sums the features
                sums = members @ feature.permute(1, 2, 0).flatten(0, 1)
                pixels = members.sum(dim=1)
                seen = pixels >= self.min_pixels
                self.counts += seen
                step = (sums / pixels.clamp(min=1)[:, None] - self.mean) / self.counts.clamp(min=1)[:, None]
                self.mean += torch.where(seen[:, None], step, torch.zeros_like(step))
                seen_pixels += pixels
        return seen_pixels

    def prototypes(self, fallback: Tensor | None = None) -> Tensor:
        """(C, D). A class never seen takes its row of ``fallback`` (C, D), or stays zero without one."""
        if fallback is None:
            return self.mean.clone()
        return torch.where(self.counts[:, None] > 0, self.mean, fallback.to(self.mean))
