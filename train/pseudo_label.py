"""Pseudo labels: soft ones fixed at the warm-up model, rectified online by the prototype assignment.

CPSL section 3.1, after ProDA section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cpsl_deploy.classes import IGNORE


def rectified_pseudo_label(
    soft_labels: Tensor, assignment: Tensor, valid: Tensor, threshold: float = 0.0
) -> tuple[Tensor, Tensor]:
    """argmax over classes of p_SL * p_ST, and its confidence.

    soft_labels: p_ST (N, C, h, w), the warm-up model's softmax. assignment: p_SL (N, C, h, w). valid:
    (N, h, w) bool, false outside the image. Pixels that are not valid, or less confident than ``threshold``,
    are IGNORE.

    Returns labels (N, h, w) int64 and confidence (N, h, w), the maximum of the renormalised product.
    """
    product = soft_labels * assignment
    product = product / product.sum(dim=1, keepdim=True).clamp(min=1e-12)
    confidence, labels = product.max(dim=1)
    return labels.masked_fill(~valid | (confidence < threshold), IGNORE), confidence


def hard_pseudo_label(probabilities: Tensor, threshold: float, valid: Tensor | None = None) -> Tensor:
    """The most likely class where its probability reaches ``threshold``, else IGNORE (distillation).

    probabilities: (N, C, h, w). Returns (N, h, w) int64.
    """
    confidence, labels = probabilities.max(dim=1)
    rejected = confidence < threshold
    if valid is not None:
        rejected = rejected | ~valid
    return labels.masked_fill(rejected, IGNORE)


def mirrored_average(probabilities: Tensor, mirrored: Tensor) -> Tensor:
    """Mean class probabilities over an image and its mirror image. Both (N, C, h, w), the second as predicted
    of the mirror image."""
    return 0.5 * (probabilities + torch.flip(mirrored, dims=(3,)))
