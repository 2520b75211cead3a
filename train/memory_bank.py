"""The memory bank of pixels that the assignment is balanced over (CPSL section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MemoryBank(nn.Module):
    """A ring of the last ``capacity`` pixels: a feature, class scores and a label each, of one pixel.

    Nothing is moved when pixels are added: the oldest ones are overwritten at a ring pointer. That is kept on
    the host, so that a GPU is not waited for, and in ``state`` for checkpoints.
    """

    features: Tensor
    """(capacity, D), of length one each."""
    scores: Tensor
    """(C, capacity): the assignment runs over pixels, class by class."""
    labels: Tensor
    """(capacity,) int64."""
    state: Tensor
    """(2,) int64: next row, rows filled."""

    def __init__(self, capacity: int, feature_channels: int, num_classes: int) -> None:
        super().__init__()
        self.capacity, self.num_classes = capacity, num_classes
        self.register_buffer("features", torch.zeros(capacity, feature_channels))
        self.register_buffer("scores", torch.zeros(num_classes, capacity))
        self.register_buffer("labels", torch.zeros(capacity, dtype=torch.long))
        self.register_buffer("state", torch.zeros(2, dtype=torch.long))
        self._next = self._filled = 0
        self.register_load_state_dict_post_hook(MemoryBank._read_state)

    def _read_state(self, _: object) -> None:
        self._next, self._filled = self.state.tolist()

    def __len__(self) -> int:
        return self._filled

    @torch.no_grad()
    def push(self, features: Tensor, scores: Tensor, labels: Tensor) -> None:
        """Add n pixels, keeping the last ``capacity``. features: (n, D), L2-normalised. scores: (n, C).
        labels: (n,)."""
        features, scores, labels = (rows[-self.capacity :] for rows in (features, scores, labels))
        n, given = len(labels), 0
        while given < n:  # once, or twice across the ring's end
            part = slice(self._next, min(self._next + n - given, self.capacity))
            some = slice(given, given + part.stop - part.start)
            self.features[part] = features[some]
            self.scores[:, part] = scores[some].T
            self.labels[part] = labels[some]
            self._next, given = part.stop % self.capacity, some.stop
        self._filled = min(self._filled + n, self.capacity)
        self.state.copy_(torch.tensor([self._next, self._filled]))

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Filled rows as views, in no particular order: features (M, D), scores (M, C), labels (M,)."""
        filled = self._filled
        return self.features[:filled], self.scores[:, :filled].T, self.labels[:filled]

    def newest(self, count: int) -> Tensor:
        """Indices (n,) of the rows of the last push of ``count`` pixels, in the order they were given."""
        return (self._next - count + torch.arange(count, device=self.labels.device)) % self.capacity
