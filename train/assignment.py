"""Class-balanced assignment of pixels to prototypes by optimal transport.

CPSL section 3.2 (arXiv 2203.09744), after SwAV (arXiv 2006.09882) and self-labelling (arXiv 1911.05371).
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 0.05
ITERATIONS = 3


def sinkhorn(
    scores: Tensor, class_prior: Tensor, epsilon: float = EPSILON, iterations: int = ITERATIONS
) -> Tensor:
    """Assign B pixels to K clusters so that cluster k receives the share ``class_prior[k]``.

    Maximises <Q, S> + epsilon H(Q) over Q >= 0 whose rows each sum to one and whose column k sums to
    B * class_prior[k], by alternately scaling columns and rows (Sinkhorn-Knopp). Runs in the log domain
    and in float32 or wider, so that large scores and half-precision input stay finite. A cluster of zero
    prior receives nothing. Rows are scaled last: they always sum to one, columns approach the prior as
    ``iterations`` grows (see ``marginal_error``).

    scores: (B, K), any float type. class_prior: (K,), not negative, sums to one. Returns (B, K) float32, or
    float64 for float64 scores, without gradient.
    """
    with torch.no_grad():
        dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
        log_prior = class_prior.to(scores.device, dtype).log()
        log_q = scores.to(dtype) / epsilon
        empty = torch.isneginf(log_prior)
        log_q = log_q.masked_fill(empty, -torch.inf)
        for _ in range(iterations):
            column_shift = log_prior - log_q.logsumexp(dim=0)
            log_q = log_q + torch.where(empty, torch.zeros_like(column_shift), column_shift)
            log_q = log_q - log_q.logsumexp(dim=1, keepdim=True)
        return log_q.exp()


def marginal_error(assignment: Tensor, class_prior: Tensor) -> float:
    """Total variation, 0 (exact) to 1, between an assignment's class shares (B, K) and the prior (K,)."""
    return 0.5 * float((assignment.mean(dim=0) - class_prior.to(assignment)).abs().sum())


def assignment_entropy(assignment: Tensor) -> float:
    """Mean entropy of the rows of an assignment (B, K), in nats."""
    return float(torch.special.entr(assignment).sum(dim=1).mean())
