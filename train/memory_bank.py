"""The memory bank of pixels that the assignment is balanced over (CPSL section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MemoryBank(nn.Module):
    """A ring of the last ``capacity`` pixels. A row keeps a pixel's feature, class scores and label together.

    Nothing is moved when pixels are added: the oldest rows are overwritten at a ring pointer.
    """

    features: Tensor
    scores: Tensor
    labels: Tensor
    state: Tensor

    def __init__(self, capacity: int, feature_channels: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(capacity, feature_channels))
        self.register_buffer("scores", torch.zeros(capacity, num_classes))
        self.register_buffer("labels", torch.zeros(capacity, dtype=torch.long))
        self.register_buffer("state", torch.zeros(2, dtype=torch.long))  # next row, rows filled

    @property
    def capacity(self) -> int:
        return len(self.labels)

    def __len__(self) -> int:
        return int(self.state[1])

    @torch.no_grad()
    def push(self, features: Tensor, scores: Tensor, labels: Tensor) -> None:
        """Add n pixels, keeping the last ``capacity``. features: (n, D), scores: (n, C), labels: (n,)."""
        features, scores, labels = (rows[-self.capacity :] for rows in (features, scores, labels))
        n = len(labels)
        rows = (int(self.state[0]) + torch.arange(n, device=self.labels.device)) % self.capacity
        self.features[rows] = features.to(self.features)
        self.scores[rows] = scores.to(self.scores)
        self.labels[rows] = labels.to(self.labels)
        self.state[0] = (self.state[0] + n) % self.capacity
        self.state[1] = min(len(self) + n, self.capacity)

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Filled rows as views, in no particular order: features (M, D), scores (M, C), labels (M,)."""
        filled = len(self)
        return self.features[:filled], self.scores[:filled], self.labels[:filled]

    def newest(self, count: int) -> Tensor:
        """Indices (n,) of the rows of the last push of ``count`` pixels, in the order they were given."""
        device = self.labels.device
        return (int(self.state[0]) - count + torch.arange(count, device=device)) % self.capacity
