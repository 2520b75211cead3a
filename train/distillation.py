"""Stages 2 and 3: a student learns from the frozen previous model (CPSL section 3.3, after ProDA)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from cpsl_deploy.classes import IGNORE

from . import recipe
from .evaluation.diagnostics import PseudoLabelTally
from .mixing import paste_mask
from .models import Segmenter
from .pseudo_label import hard_pseudo_label
from .reference_arithmetic import OURS, Arithmetic
from .samples import Batch
from .stage import Losses, TrainingStage, kept_statistics, predict, together, upsampled
from .symmetric_cross_entropy import cross_entropy
from .target_statistics import SoftLabels


class Distillation(TrainingStage):
    """Source and confident pseudo labels by cross entropy, and KL to the frozen model on the strong view."""

    settings: recipe.Distillation

    def __init__(
        self,
        name: str,
        settings: recipe.Distillation,
        student: Segmenter,
        frozen: Segmenter,
        soft_labels: SoftLabels,
        *,
        target_statistics: bool,
        arithmetic: Arithmetic = OURS,
    ) -> None:
        super().__init__(name, settings, student)
        self.arithmetic = arithmetic
        self.soft_labels, self.target_statistics = soft_labels, target_statistics
        self.frozen = frozen.requires_grad_(False).eval()
        self.tally = PseudoLabelTally(student.num_classes)

    def diagnostics(self) -> dict[str, Any]:
        return self.tally.read()

    def train(self, mode: bool = True) -> Distillation:
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, batch: Batch, generator: torch.Generator) -> Losses:
        return together(self.parts(batch, generator))

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Losses]:
        source, target = batch.source, batch.target
        assert source is not None and target is not None
        s = self.settings
        crop = (target.strong.shape[2], target.strong.shape[3])
        to_image = target.weak_to_image @ target.strong_to_weak
        soft = self.soft_labels.views(target, to_image, crop)
        labels = hard_pseudo_label(soft, s.threshold, target.valid)
        self.tally.see(labels, soft.amax(dim=1))
        images, valid = target.strong, target.valid
        if s.mixing != "none" and float(torch.rand((), generator=generator)) < s.mixing_probability:
            pasted = paste_mask(s.mixing, source.labels, generator)
            images = torch.where(pasted[:, None], source.images, images)
            labels = torch.where(pasted, source.labels, labels)
            valid = valid | pasted

        with kept_statistics(self.network) if self.target_statistics else contextlib.nullcontext():
            source_logits = predict(self.network, source.images).logits
        yield {"source": s.source_weight * self.on_labels(source_logits, source.labels)}
        del source_logits
        small = predict(self.network, images).logits
        logits = upsampled(small, crop, self.network)
        with torch.no_grad():
            taught = upsampled(predict(self.frozen, images).logits, crop, self.frozen).softmax(dim=1)
        kl = self.arithmetic.distillation(F.log_softmax(logits, dim=1), taught, valid)
        align = self.network.align_corners
        yield {
            "target": s.target_weight * cross_entropy(small, labels, IGNORE, align_corners=align),
            "distillation": s.kl_weight * kl,
        }
