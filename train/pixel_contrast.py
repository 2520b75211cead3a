"""Pixel contrast against the memory bank with label-wise positives (the reference's optional term)."""

from __future__ import annotations

import torch
from torch import Tensor

from .engine.processes import mean_of_all
from .prototypes import TEMPERATURE


def pixel_contrast(
    features: Tensor, labels: Tensor, bank: Tensor, bank_labels: Tensor, temperature: float = TEMPERATURE
) -> Tensor:
    """Supervised contrast of n pixels with M bank rows; a positive is a row of the same label.

    features: (n, D) and bank: (M, D), L2-normalised. labels: (n,), bank_labels: (M,). A pair's loss is
    -log(exp(s) / (exp(s) + sum over the negatives of exp)), s = cosine / temperature; its mean over a pixel's
    positives, then over the pixels that have one.
    """
    with torch.autocast(features.device.type, enabled=False):
        similarity = features.float() @ bank.float().T / temperature
    positive = labels[:, None] == bank_labels[None, :]
    negatives = similarity.masked_fill(positive, -torch.inf).logsumexp(dim=1, keepdim=True)
    loss = (torch.logaddexp(similarity, negatives) - similarity) * positive
    positives = positive.sum(dim=1)
    per_pixel = loss.sum(dim=1) / positives.clamp(min=1)
    return mean_of_all(per_pixel.sum(), (positives > 0).sum())
