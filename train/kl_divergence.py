"""KL(teacher || student) over valid pixels: consistency (stage 1) and distillation (stages 2 and 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from .engine.processes import mean_of_all


def kl_divergence(student_log_probs: Tensor, teacher_probs: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over valid pixels of KL(teacher || student), in nats; 0 when they agree, never negative.

    student_log_probs: (N, C, h, w), log-probabilities. teacher_probs: (N, C, h, w), probabilities. valid:
    (N, h, w) bool. The reference divides by N*C*h*w instead and feeds probabilities where logarithms
    belong: a weight of its scale is to be divided by C here (see ``SelfLabelling.consistency_weight``).
    """
    per_pixel = (torch.xlogy(teacher_probs, teacher_probs) - teacher_probs * student_log_probs).sum(dim=1)
    if valid is None:
        return per_pixel.mean()
    return mean_of_all((per_pixel * valid).sum(), valid.sum())
