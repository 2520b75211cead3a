"""The self-labelling loss: pixels learn their class-balanced assignment over bank and batch (section 3.2)."""

from __future__ import annotations

from torch import Tensor


def self_labelling_loss(log_probs: Tensor, assignment: Tensor) -> Tensor:
    """Mean cross entropy, (), between the assignment of a batch's pixels and their class probabilities.

    log_probs: (n, K), log softmax(cos(z, c) / tau): what the gradient flows into. assignment: (n, K), without
    gradient: the batch's rows of the assignment over bank and batch together (``assignment.sinkhorn``).
    """
    return -(assignment * log_probs).sum(dim=1).mean()
