"""Where the authors' code computes something else than this project, and a switch back to it.

Two sets of formulas: ``OURS``, which is the default, and ``REFERENCE``, which a recipe asks for with
``reference_arithmetic = true``, to compare with figures that were made with the authors' code. What both
compute alike is not here. Each function of the reference's says in its first line what is at fault with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .assignment import EPSILON, ITERATIONS, sinkhorn
from .ema_teacher import MOMENTUM, EmaTeacher
from .kl_divergence import kl_divergence
from .models import Segmenter
from .prototypes import cosine_scores, cosines_of_unit_features


class Arithmetic(NamedTuple):
    """The formulas of stages 1 to 3 in which this project and the reference differ."""

    features_after_dropout: bool
    """Whether networks give the features that their classifier gets, or those before its dropout."""
    first_prototypes: Callable[[Tensor], Tensor]
    """Estimated prototypes (C, D) -> those that stage 1 starts from."""
    teacher: Callable[[Segmenter, Tensor, float], EmaTeacher]
    """Student, prototypes (C, D) and momentum -> momentum teacher."""
    label_positions: Callable[[Tensor], Tensor]
    """Positions (N, n) of the pixels whose features go into the bank -> those of the labels beside them."""
    bank_scores: Callable[[Tensor, Tensor, Tensor], Tensor]
    """Bank features (M, D), prototypes (K, D) and the rows (n,) of the newest pixels -> scores (M, K)."""
    assign: Callable[..., Tensor]
    """Scores (B, K), class prior (K,), epsilon, iterations, ``largest`` and ``rows``: as ``sinkhorn``."""
    consistency: Callable[[Tensor, Tensor, Tensor], Tensor]
    """Student's log-probabilities (N, C, h, w), teacher's probabilities, valid: as ``kl_divergence``."""
    distillation: Callable[[Tensor, Tensor, Tensor], Tensor]
    """As ``consistency``."""


def reference_first_prototypes(prototypes: Tensor) -> Tensor:
    """Of length one, (C, D): the bank's scores, which are not normalised, are cosines at the start alone."""
    return F.normalize(prototypes, dim=1)


class ReferenceTeacher(EmaTeacher):
    """In training mode for good: dropout and the batch's own statistics; prototypes alias the student's.

    The alias lasts until the first update, which makes a tensor of its own: the optimiser's first step has
    moved both by then, and averaging them moves nothing.
    """

    separate: Tensor

    def __init__(self, student: Segmenter, prototypes: Tensor, momentum: float = MOMENTUM) -> None:
        super().__init__(student, prototypes, momentum)
        self.register_buffer("separate", torch.zeros((), dtype=torch.bool))
        self.train()

    def train(self, mode: bool = True) -> ReferenceTeacher:
        """This teacher stays in training mode whatever is asked."""
        return nn.Module.train(self, True)

    @torch.no_grad()
    def update(self, student: Segmenter, prototypes: Tensor) -> None:
        if not self.separate:
            self.prototypes.copy_(prototypes)
            self.separate.fill_(True)
        super().update(student, prototypes)


def reference_label_positions(drawn: Tensor) -> Tensor:
    """Features are drawn at random, labels are the image's first ones, row by row. (N, n) -> (N, n)."""
    return torch.arange(drawn.shape[1], device=drawn.device).expand_as(drawn)


def reference_bank_scores(bank: Tensor, prototypes: Tensor, newest: Tensor) -> Tensor:
    """The batch's rows are cosines, all others inner products with prototypes of any length.

    bank: (M, D), L2-normalised. prototypes: (K, D). newest: (n,) rows. Returns (M, K).
    """
    with torch.autocast(bank.device.type, enabled=False):
        scores = bank.float() @ prototypes.float().T
    scores[newest] = cosine_scores(bank[newest], prototypes)
    return scores


@torch.no_grad()
def reference_sinkhorn(
    scores: Tensor,
    class_prior: Tensor,
    epsilon: float = EPSILON,
    iterations: int = ITERATIONS,
    *,
    largest: float | None = None,
    rows: Tensor | slice = slice(None),
) -> Tensor:
    """Sinkhorn on exponentials: scores above 88 epsilon overflow float32, a class without mass gives NaN.

    Shapes as in ``sinkhorn``, with which it agrees where it is finite.
    """
    del largest  # it takes the exponentials whatever they are
    mass = (scores.float() / epsilon).exp()
    mass = mass / mass.sum()
    for _ in range(iterations):
        mass = mass / mass.sum(dim=0) * class_prior.to(mass)
        mass = mass / mass.sum(dim=1, keepdim=True) / len(mass)
    return (mass * len(mass))[rows]


def reference_consistency(student_log_probs: Tensor, teacher_probs: Tensor, valid: Tensor) -> Tensor:
    """KL over all pixels, padding or not. Shapes as in ``kl_divergence``.

    The authors divide by N * C * h * w and weigh with 5. Here it is N * h * w, so that
    ``self_labelling.consistency_weight``, 5 / C, means the same with either arithmetic.
    """
    del valid
    return F.kl_div(student_log_probs, teacher_probs, reduction="none").sum(dim=1).mean()


def reference_distillation(student_log_probs: Tensor, teacher_probs: Tensor, valid: Tensor) -> Tensor:
    """The student's probabilities where a KL has their logarithms: not 0 when both agree, and negative.

    Over all pixels, divided by N * C * h * w. Shapes as in ``kl_divergence``.
    """
    del valid
    return F.kl_div(student_log_probs.exp(), teacher_probs, reduction="none").mean()


OURS = Arithmetic(
    features_after_dropout=False,
    first_prototypes=torch.clone,
    teacher=EmaTeacher,
    label_positions=lambda drawn: drawn,
    bank_scores=lambda bank, prototypes, newest: cosines_of_unit_features(bank, prototypes),
    assign=sinkhorn,
    consistency=kl_divergence,
    distillation=kl_divergence,
)
REFERENCE = Arithmetic(
    features_after_dropout=True,
    first_prototypes=reference_first_prototypes,
    teacher=ReferenceTeacher,
    label_positions=reference_label_positions,
    bank_scores=reference_bank_scores,
    assign=reference_sinkhorn,
    consistency=reference_consistency,
    distillation=reference_distillation,
)
