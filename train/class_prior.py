"""The class prior r: which share of the target's pixels each class is believed to have (CPSL section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def kept_above(shares: Tensor, first: Tensor, floor: float) -> Tensor:
    """Shares (C,) of which none is below ``floor`` (0 to 1) times its ``first`` one (C,). All sum to one.

    The floors take ``floor`` of the whole; the rest goes to classes by what they have above theirs. With a
    floor of 1 that is ``first`` itself.
    """
    above = (shares - floor * first).clamp(min=0)
    return floor * first + (1 - floor) * above / above.sum().clamp(min=torch.finfo(above.dtype).tiny)


class ClassPrior(nn.Module):
    """Counts labels and gives their shares.

    ``smoothing`` mixes in the uniform distribution: r = (1 - smoothing) * shares + smoothing / C, so that a
    class the warm-up model never predicts is not forbidden by the assignment. 0 is the paper.
    """

    pixels: Tensor

    def __init__(self, num_classes: int, smoothing: float = 0.0, *, soft: bool = False) -> None:
        super().__init__()
        self.smoothing, self.soft = smoothing, soft
        self.register_buffer("pixels", torch.zeros(num_classes, dtype=torch.float64))

    @torch.no_grad()
    def update(self, labels: Tensor) -> None:
        """Add labels of any shape; values outside 0..C-1 do not count."""
        labels = labels.flatten()
        labels = labels[(labels >= 0) & (labels < len(self.pixels))]
        self.add(torch.bincount(labels, minlength=len(self.pixels)))

    @torch.no_grad()
    def add(self, pixels: Tensor) -> None:
        """Add pixels of each class (C,), or their probabilities' sums, counted elsewhere."""
        self.pixels += pixels.to(self.pixels)

    @torch.no_grad()
    def see(self, probabilities: Tensor) -> None:
        """Add class probabilities (N, C, h, w).

        Hard: a pixel counts for its most likely class; soft: for every class by its probability.
        """
        if self.soft:
            self.add(probabilities.sum(dim=(0, 2, 3)))
        else:
            self.update(probabilities.argmax(dim=1))

    def shares(self) -> Tensor:
        """(C,) float32, sums to one; uniform before any label was seen."""
        total = self.pixels.sum()
        uniform = torch.full_like(self.pixels, 1 / len(self.pixels))
        shares = self.pixels / total if total > 0 else uniform
        return ((1 - self.smoothing) * shares + self.smoothing * uniform).float()
