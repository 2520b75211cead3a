"""Cross entropy on labels, and symmetric cross entropy for noisy ones (arXiv 1908.06112), as CPSL uses it on
pseudo labels.

Logits at the network's stride are upsampled to the labels here, some rows at a time, and value and gradient
are found together. Autograd would keep several tensors of all logits at full size until the backward pass.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cpsl_deploy.classes import IGNORE

from .engine.processes import mean_of_all
from .upsampled_rows import UpsampledRows

ALPHA, BETA = 0.1, 1.0
MIN_PREDICTION, MIN_ONE_HOT = 1e-7, 1e-4


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = IGNORE,
    class_weights: Tensor | None = None,
    *,
    align_corners: bool = False,
) -> Tensor:
    """Mean cross entropy over pixels that are not ignored; 0 if there are none.

    logits: (N, C, H, W), or smaller maps that are upsampled bilinearly. labels: (N, H, W) int64.
    class_weights: (C,), by which a pixel's loss is multiplied and the number of pixels is not: their mean
    over the pixels is to be 1 (``class_weights.class_weights``).
    """
    return _mean_loss(logits, labels, (1.0, 0.0), ignore_index, class_weights, align_corners)


def reverse_cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int = IGNORE, *, align_corners: bool = False
) -> Tensor:
    """Cross entropy with prediction and label exchanged, mean over pixels that are not ignored; 0 if none.

    Predictions are clamped to [1e-7, 1] and one-hot labels to [1e-4, 1], so that the logarithm is finite.
    A pixel of label y then costs -log(1e-4) * (the predictions' sum without y's), which is computed directly.
    Shapes as in ``cross_entropy``.
    """
    return _mean_loss(logits, labels, (0.0, 1.0), ignore_index, None, align_corners)


def symmetric_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    alpha: float = ALPHA,
    beta: float = BETA,
    ignore_index: int = IGNORE,
    *,
    align_corners: bool = False,
) -> Tensor:
    """alpha * cross entropy + beta * reverse cross entropy. Shapes as in ``cross_entropy``."""
    return _mean_loss(logits, labels, (alpha, beta), ignore_index, None, align_corners)


def _mean_loss(
    logits: Tensor,
    labels: Tensor,
    weights: tuple[float, float],
    ignore_index: int,
    class_weights: Tensor | None,
    align_corners: bool,
) -> Tensor:
    logits = logits if logits.dtype == torch.float64 else logits.float()
    total: Tensor = _LabelLoss.apply(logits, labels, class_weights, weights, ignore_index, align_corners)
    return mean_of_all(total, (labels != ignore_index).sum())


class _LabelLoss(torch.autograd.Function):
    """The sum over pixels of weights[0] * cross entropy + weights[1] * reverse cross entropy.

    With p the softmax and y the label, the gradient of either is a multiple of p - onehot(y): 1 of cross
    entropy, -log(1e-4) * p_y of the reverse. The clamp of predictions would take terms below 1e-7 from the
    latter; they are left in.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        class_weights: Tensor | None,
        weights: tuple[float, float],
        ignore_index: int,
        align_corners: bool,
    ) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if wants_gradient else None
        total = logits.new_zeros(())
        with torch.autocast(logits.device.type, enabled=False):
            for i in range(len(logits)):
                upsampled = UpsampledRows(logits[i], (labels.shape[1], labels.shape[2]), align_corners)
                for rows, block in upsampled.blocks(with_gradient=wants_gradient):
                    here = labels[i, rows, None]
                    valid = here != ignore_index
                    place = here.masked_fill(~valid, 0)
                    weight = valid.to(block) if class_weights is None else valid * class_weights[place]
                    total += _loss(block, place, weight, weights)
                if gradient is not None:
                    gradient[i] = upsampled.gradient()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None, None, None, None


def _loss(logits: Tensor, place: Tensor, weight: Tensor, weights: tuple[float, float]) -> Tensor:
    """The summed loss of pixels, whose gradient is written over their logits (n, C, W).

    place: the labels, (n, 1, W). weight: by which a pixel counts, (n, 1, W).
    """
    alpha, beta = weights[0], -math.log(MIN_ONE_HOT) * weights[1]
    logits -= logits.amax(dim=1, keepdim=True)
    of_label = logits.gather(1, place)
    probs = logits.exp_()
    mass = probs.sum(dim=1, keepdim=True)
    probs /= mass
    loss = alpha * (mass.log_() - of_label)
    pull = torch.full_like(loss, alpha)
    if beta:
        clamped = probs.clamp(MIN_PREDICTION, 1.0)
        loss += beta * (clamped.sum(dim=1, keepdim=True) - clamped.gather(1, place))
        pull += beta * probs.gather(1, place)
    probs.scatter_add_(1, place, torch.full_like(loss, -1.0))
    probs *= pull.mul_(weight)
    return (loss * weight).sum()
