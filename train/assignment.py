"""Class-balanced assignment of pixels to prototypes by optimal transport.

CPSL section 3.2 (arXiv 2203.09744), after SwAV (arXiv 2006.09882) and self-labelling (arXiv 1911.05371).
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 0.05
ITERATIONS = 3
LARGEST_EXPONENT = 25.0
"""Of scores / epsilon up to which float32 has room for their exponentials, for sums of those over millions of
rows, and for the factors that the iterations scale them by, which can be as small as all these are large."""


def sinkhorn(
    scores: Tensor,
    class_prior: Tensor,
    epsilon: float = EPSILON,
    iterations: int = ITERATIONS,
    *,
    largest: float | None = None,
    rows: Tensor | slice = slice(None),
) -> Tensor:
    """Assign B pixels to K clusters so that cluster k receives the share ``class_prior[k]``.

    Maximises <Q, S> + epsilon H(Q) over Q >= 0 whose rows each sum to one and whose column k sums to
    B * class_prior[k], by alternately scaling columns and rows (Sinkhorn-Knopp). Runs in the log domain
    and in float32 or wider, so that large scores and half-precision input stay finite. A cluster of zero
    prior receives nothing. Rows are scaled last: they always sum to one, columns approach the prior as
    ``iterations`` grows (see ``marginal_error``).

    Where the caller knows that no score is beyond +-``largest`` (cosines: 1) and float32 has room for their
    exponentials, these are taken once, and an iteration is two products of their matrix with a vector: the
    same assignment up to rounding, in a tenth of the time.

    scores: (B, K), any float type. class_prior: (K,), not negative, sums to one. ``rows``: those of the
    assignment that are wanted, (n,) int64; all of them decide it. Returns (n, K) float32, or float64 for
    float64 scores, without gradient.
    """
    with torch.no_grad(), torch.autocast(scores.device.type, enabled=False):
        dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
        scores, prior = scores.to(dtype), class_prior.to(scores.device, dtype)
        if largest is not None and largest / epsilon <= LARGEST_EXPONENT:
            return _by_scaling(scores, prior, epsilon, iterations, rows)
        return _in_log_domain(scores, prior, epsilon, iterations)[rows]


def _by_scaling(
    scores: Tensor, prior: Tensor, epsilon: float, iterations: int, rows: Tensor | slice
) -> Tensor:
    """Q = diag(u) exp(S / epsilon) diag(v), of which vectors u (B,) and v (K,) alone change."""
    # Classes first: the loops of both products run over many pixels, not over a few classes.
    kernel = torch.div(scores.T, epsilon, out=scores.new_empty(scores.shape[::-1])).exp_()
    u, v = scores.new_ones(len(scores)), torch.ones_like(prior)
    for _ in range(iterations):
        v = len(scores) * prior / (kernel @ u)  # pixels, not shares: else v shrinks with every iteration
        u = (v @ kernel).reciprocal()
    return (kernel[:, rows] * u[rows] * v[:, None]).T


def _in_log_domain(scores: Tensor, prior: Tensor, epsilon: float, iterations: int) -> Tensor:
    """As the definition has it, (B, K): scores of any size."""
    log_prior = prior.log()
    empty = torch.isneginf(log_prior)
    log_q = (scores / epsilon).masked_fill(empty, -torch.inf)
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
