"""What shows why a class was lost: counts of pseudo labels, and how far an assignment is from the prior.

Counted on the device; nothing is read from it before a report.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cpsl_deploy.classes import IGNORE

from ..assignment import assignment_entropy, marginal_error
from ..engine.processes import summed


class PseudoLabelTally(nn.Module):
    """Pixels and confidence of pseudo labels per class since the last report. In no checkpoint."""

    pixels: Tensor
    confidence: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        # The row behind the classes is of pixels without a pseudo label.
        for name in ("pixels", "confidence"):
            zeros = torch.zeros(num_classes + 1, dtype=torch.float64)
            self.register_buffer(name, zeros, persistent=False)

    @torch.no_grad()
    def see(self, labels: Tensor, confidence: Tensor) -> None:
        """Count pseudo labels (N, H, W), IGNORE where there is none, and their confidence (N, H, W)."""
        rows = labels.masked_fill(labels == IGNORE, len(self.pixels) - 1).flatten()
        weights = confidence.flatten().double()
        self.pixels.index_add_(0, rows, torch.ones_like(weights))
        self.confidence.index_add_(0, rows, weights)

    def read(self) -> dict[str, Any]:
        """Share and mean confidence per class, (C,) lists in the order of classes, and begin anew.

        Of all processes, each of which must call it. None for the confidence of a class that no pixel got.
        """
        pixels, confidence = summed(torch.stack([self.pixels, self.confidence])).cpu()[:, :-1]
        self.pixels.zero_()
        self.confidence.zero_()
        total = float(pixels.sum())
        if total == 0:
            return {}
        means = (confidence / pixels.clamp(min=1)).tolist()
        return {
            "confidence": float(confidence.sum()) / total,
            "pseudo_label_share": (pixels / total).tolist(),
            "pseudo_label_confidence": [
                mean if count else None for mean, count in zip(means, pixels.tolist(), strict=True)
            ],
        }


class SeenAssignment(NamedTuple):
    """The last assignment of a kind, made as a whole when somebody asks for its figures."""

    scores: Tensor
    """(B, K)."""
    assign: Callable[[], Tensor]
    """All rows, (B, K)."""
    marginal: Tensor
    """(K,), the class shares that were asked for."""
    epsilon: float

    def read(self, kind: str) -> dict[str, float]:
        """Marginal error after the iterations and before the first, and entropy, named after its ``kind``.

        Before: rows that sum to one, softmax(scores / epsilon), and columns as they come.
        """
        assignment = self.assign()
        before = (self.scores.float() / self.epsilon).softmax(dim=1)
        return {
            f"marginal_error_{kind}": marginal_error(assignment, self.marginal),
            f"marginal_error_{kind}_before": marginal_error(before, self.marginal),
            f"assignment_entropy_{kind}": assignment_entropy(assignment),
        }
