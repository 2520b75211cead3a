"""The momentum teacher: an exponential moving average of the student (CPSL section 3.1)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .models import Segmenter

MOMENTUM = 0.999


class EmaTeacher(nn.Module):
    """A copy of the student and its prototypes that follows them slowly, always in eval mode.

    Parameters and prototypes: ema = m * ema + (1 - m) * online. Buffers (batch-norm statistics) are copied.
    """

    prototypes: Tensor

    def __init__(self, student: Segmenter, prototypes: Tensor, momentum: float = MOMENTUM) -> None:
        super().__init__()
        self.momentum = momentum
        self.network: Segmenter = copy.deepcopy(student).requires_grad_(False).eval()
        self.register_buffer("prototypes", prototypes.detach().clone())

    def train(self, mode: bool = True) -> EmaTeacher:
        """A teacher stays in eval mode whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def update(self, student: Segmenter, prototypes: Tensor) -> None:
        """Follow the student by one step."""
        ema, online = list(self.network.parameters()), [p.detach() for p in student.parameters()]
        torch._foreach_lerp_([*ema, self.prototypes], [*online, prototypes.detach()], 1 - self.momentum)
        if buffers := list(self.network.buffers()):
            torch._foreach_copy_(buffers, list(student.buffers()))
