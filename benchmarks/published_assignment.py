"""The published self-labelling of a batch, as one writes it down at first: what ours is held against by
`self_labelling_step.py` and `stage1_step.py`.

For every image the assignment over bank and batch is solved anew, and then the bank is moved on by copying it
whole (CPSL section 3.2, arXiv 2203.09744, with the queue and the iterations of SwAV, arXiv 2006.09882).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class PublishedBank:
    """Queues of features (B, D) and of class scores (B, K), of length one each, the newest pixels first."""

    def __init__(self, features: Tensor, scores: Tensor) -> None:
        self.features, self.scores = features, scores

    def push(self, features: Tensor, scores: Tensor) -> None:
        """Add n pixels: features (n, D), scores (n, K)."""
        n = len(features)
        for queue, new in ((self.features, features), (self.scores, scores)):
            queue[n:] = queue[:-n].clone()
            queue[:n] = new


@torch.no_grad()
def published_sinkhorn(scores: Tensor, class_prior: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Scores (B, K) -> assignment (B, K), on exponentials."""
    q = torch.exp(scores / epsilon).t()
    q /= torch.sum(q)
    for _ in range(iterations):
        q *= (class_prior / torch.sum(q, dim=1)).unsqueeze(1)
        q /= torch.sum(q, dim=0, keepdim=True) * q.shape[1]
    return (q / torch.sum(q, dim=0, keepdim=True)).t()


def published_self_labelling(
    features: list[Tensor],
    logits: list[Tensor],
    prototypes: Tensor,
    bank: PublishedBank,
    class_prior: Tensor,
    *,
    temperature: float = 0.08,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Tensor:
    """The loss of a batch, (), of each image's features (n, D) and logits (n, K) of the drawn pixels.

    prototypes: (K, D), which the gradient flows into; bank and batch are both scored with them normalised,
    the bank as it is stored.
    """
    loss = prototypes.new_zeros(())
    for of_image, of_logits in zip(features, logits, strict=True):
        pixels, scores = F.normalize(of_image, dim=1), F.normalize(of_logits, dim=1)
        normalised = F.normalize(prototypes, dim=1)
        log_probs = F.log_softmax(pixels @ normalised.t() / temperature, dim=1)
        with torch.no_grad():
            of_bank = bank.features @ normalised.t()
            by_features = torch.cat([of_bank, pixels @ normalised.t()])
            by_logits = torch.cat([bank.scores, scores])
        for of_kind in (by_features, by_logits):
            assignment = published_sinkhorn(of_kind, class_prior, epsilon, iterations)[-len(pixels) :]
            loss = loss - torch.mean(torch.sum(assignment * log_probs, dim=1))
        bank.push(pixels, scores)
    return loss / len(features)
