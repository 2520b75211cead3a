"""Symmetric cross entropy for noisy labels (arXiv 1908.06112), as CPSL uses it on pseudo labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cpsl_deploy.classes import IGNORE

from .engine.processes import mean_of_all

ALPHA, BETA = 0.1, 1.0
MIN_PREDICTION, MIN_ONE_HOT = 1e-7, 1e-4


def cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int = IGNORE, class_weights: Tensor | None = None
) -> Tensor:
    """Mean cross entropy over pixels that are not ignored; 0 if there are none.

    logits: (N, C, H, W). labels: (N, H, W) int64. class_weights: (C,), by which a pixel's loss is multiplied
    and the number of pixels is not: their mean over the pixels is to be 1 (``class_weights.class_weights``).
    """
    total = F.cross_entropy(
        logits.float(), labels, weight=class_weights, ignore_index=ignore_index, reduction="sum"
    )
    return mean_of_all(total, (labels != ignore_index).sum())


def reverse_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = IGNORE) -> Tensor:
    """Cross entropy with prediction and label exchanged, mean over pixels that are not ignored; 0 if none.

    Predictions are clamped to [1e-7, 1] and one-hot labels to [1e-4, 1], so that the logarithm is finite.
    A pixel of label y then costs -log(1e-4) * (the predictions' sum without y's), which is computed directly.
    """
    valid = labels != ignore_index
    probs = logits.float().softmax(dim=1).clamp(MIN_PREDICTION, 1.0)
    of_label = probs.gather(1, labels.masked_fill(~valid, 0)[:, None])[:, 0]
    off_label = probs.sum(dim=1) - of_label
    per_pixel = -torch.log(torch.tensor(MIN_ONE_HOT)).to(logits.device) * off_label
    return mean_of_all((per_pixel * valid).sum(), valid.sum())


def symmetric_cross_entropy(
    logits: Tensor, labels: Tensor, alpha: float = ALPHA, beta: float = BETA, ignore_index: int = IGNORE
) -> Tensor:
    """alpha * cross entropy + beta * reverse cross entropy."""
    ce = cross_entropy(logits, labels, ignore_index)
    return alpha * ce + beta * reverse_cross_entropy(logits, labels, ignore_index)
