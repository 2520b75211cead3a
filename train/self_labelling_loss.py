"""The self-labelling loss: pixels learn their class-balanced assignment over bank and batch (section 3.2)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .assignment import EPSILON, ITERATIONS, sinkhorn


def self_labelling_loss(
    log_probs: Tensor,
    scores: Tensor,
    rows: Tensor,
    class_prior: Tensor,
    epsilon: float = EPSILON,
    iterations: int = ITERATIONS,
    assign: Callable[[Tensor, Tensor, float, int], Tensor] = sinkhorn,
) -> tuple[Tensor, Tensor]:
    """Mean cross entropy between the batch's rows of the assignment and the batch's class probabilities.

    log_probs: (n, K), log softmax(cos(z, c) / tau) of the batch's pixels: what the gradient flows into.
    scores: (B, K), of bank and batch together, which the assignment is made from. rows: (n,) int64, where
    among these the batch's pixels are. class_prior: (K,). ``assign`` is called as ``sinkhorn`` is.

    Returns the loss, (), and the assignment (B, K), which has no gradient.
    """
    assignment = assign(scores, class_prior, epsilon, iterations)
    return -(assignment[rows] * log_probs).sum(dim=1).mean(), assignment
