"""Stage 1: online self-labelling with class-balanced assignment (CPSL section 3, arXiv 2203.09744)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.errors import RecipeError

from . import recipe
from .class_prior import kept_above
from .engine.processes import gathered, own_part, sample_generators, summed
from .evaluation.diagnostics import PseudoLabelTally, SeenAssignment
from .memory_bank import MemoryBank
from .mixing import paste_mask
from .models import Segmenter, SegmenterOutput
from .pixel_contrast import pixel_contrast
from .prototypes import cosine_scores
from .reference_arithmetic import OURS, Arithmetic
from .samples import Batch, SourceBatch, TargetBatch
from .self_labelling_loss import self_labelling_loss
from .stage import (
    Losses,
    TrainingStage,
    in_eval_mode,
    kept_statistics,
    network_optimiser,
    predict,
    together,
)
from .symmetric_cross_entropy import symmetric_cross_entropy
from .target_statistics import SoftLabels, TargetSummary
from .upsampled_rows import UpsampledRows
from .views import warp_maps

ALIGNMENT_MOMENTUM = 0.97
"""Of the running mean that pseudo labels are aligned by: about thirty batches."""
LARGEST_SHIFT = 2.0
"""Of a bias of the classifier, in logits, when it is aligned with the prior."""
LARGEST_SCALE = 10.0
"""A class that pseudo labels hardly know is raised this many times at most."""


class TeacherView(NamedTuple):
    """What the momentum teacher says of the weak views, at the network's stride."""

    output: SegmenterOutput
    assignment: Tensor
    """p_SL (N, C, h, w)."""
    rectified: Tensor
    """p_SL * p_ST, renormalised (N, C, h, w): the soft form of the pseudo label."""


class SelfLabelling(TrainingStage):
    """The step of stage 1 and its state: student, teacher, prototypes, memory bank, class prior."""

    settings: recipe.SelfLabelling
    prior: Tensor
    first_prior: Tensor
    given: Tensor
    """Running mean of the share that pseudo labels give each class before they are aligned."""

    def __init__(
        self,
        settings: recipe.SelfLabelling,
        network: Segmenter,
        summary: TargetSummary,
        soft_labels: SoftLabels,
        *,
        target_statistics: bool,
        arithmetic: Arithmetic = OURS,
    ) -> None:
        super().__init__("self_labelling", settings, network)
        self.arithmetic = arithmetic
        network.features_after_dropout = arithmetic.features_after_dropout
        if settings.align_classifier:
            align_classifier(network, summary.prior, summary.predicted)
        self.soft_labels, self.target_statistics = soft_labels, target_statistics
        self.prototypes = nn.Parameter(
            arithmetic.first_prototypes(summary.prototypes), requires_grad=settings.self_labelling_weight > 0
        )
        self.teacher = arithmetic.teacher(network, self.prototypes, settings.momentum)
        self.bank = MemoryBank(settings.bank, network.feature_channels, network.num_classes)
        self.register_buffer("prior", summary.prior.clone())
        self.register_buffer("first_prior", summary.prior.clone())
        self.register_buffer("given", summary.prior.clone())
        self.tally = PseudoLabelTally(network.num_classes)
        self._assignments: dict[str, SeenAssignment] = {}

    def optimisers(self) -> list[torch.optim.Optimizer]:
        return [network_optimiser(self.network, self.settings.optimiser, [self.prototypes])]

    def after_step(self) -> None:
        self.teacher.update(self.network, self.prototypes)

    def diagnostics(self) -> dict[str, Any]:
        found = self.tally.read() | {"prior": self.prior.tolist()}
        for kind, seen in self._assignments.items():
            found |= seen.read(kind)
        return found

    def result(self) -> Segmenter:
        return self.teacher.network

    def forward(self, batch: Batch, generator: torch.Generator) -> Losses:
        return together(self.parts(batch, generator))

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Losses]:
        """Those of the source first."""
        source, target = batch.source, batch.target
        assert source is not None and target is not None
        seen = self.teach(target)
        labels, warped = self.strong_labels(target, seen)
        images, labels, pasted = self.mix(source, target.strong, labels, generator)

        with kept_statistics(self.network) if self.target_statistics else contextlib.nullcontext():
            source_logits = predict(self.network, source.images).logits
        yield {"source": self.on_labels(source_logits, source.labels)}
        del source_logits
        student = predict(self.network, images)
        s = self.settings
        on_target = symmetric_cross_entropy(
            student.logits,
            labels,
            s.symmetric_alpha,
            s.symmetric_beta,
            align_corners=self.network.align_corners,
        )
        losses: Losses = {"target": s.target_weight * on_target}
        if s.self_labelling_weight or s.contrast_weight:
            losses |= self.pixel_losses(target, seen, generator)
        if warped is not None:
            valid = _at(target.valid & ~pasted, student.features)
            log_probs = self.prototype_log_probs(student.features, self.teacher.prototypes)
            losses["consistency"] = s.consistency_weight * self.arithmetic.consistency(
                log_probs, warped, valid
            )
        yield losses

    @torch.no_grad()
    def teach(self, target: TargetBatch) -> TeacherView:
        """Teacher's features, prototype assignment and rectified probabilities of the weak views."""
        output = predict(self.teacher.network, target.weak)
        stride_size = (output.logits.shape[2], output.logits.shape[3])
        fixed = None
        if not self.settings.online_soft_labels:
            fixed = self.soft_labels.views(target, target.weak_to_image, stride_size)
        seen = self.rectify(output, fixed)
        if self.settings.align_pseudo_labels:
            inside = target.weak_inside(stride_size)
            seen = seen._replace(rectified=self.aligned(seen.rectified, inside))
        return seen

    @torch.no_grad()
    def label_image(self, image: Tensor, size: tuple[int, int], warm_up: Segmenter | None) -> Tensor:
        """Pseudo labels (1, *size) that a whole image (1, 3, h, w) would get now: for evaluation, and nothing
        of the stage changes. ``warm_up`` gives the fixed soft label; None: the teacher, as online ones are.
        """
        with in_eval_mode(self.teacher.network):
            output = predict(self.teacher.network, image)
        fixed = None if warm_up is None else predict(warm_up, image).logits.softmax(dim=1)
        rectified = self.rectify(output, fixed).rectified
        if self.settings.align_pseudo_labels:
            rectified = self.scaled(rectified)
        return self.hard_labels(rectified, torch.ones(1, *size, dtype=torch.bool, device=image.device))[0]

    def rectify(self, output: SegmenterOutput, fixed: Tensor | None) -> TeacherView:
        """What the teacher's output says by the soft labels ``fixed`` (N, C, h, w); None: its own."""
        s = self.settings
        soft = output.logits.softmax(dim=1) if fixed is None else fixed
        assignment = (cosine_scores(output.features, self.teacher.prototypes) / s.temperature).softmax(dim=1)
        return TeacherView(output, assignment, _normalised(soft * assignment if s.rectify else soft))

    def hard_labels(self, rectified: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Pseudo labels at the size of ``valid`` (N, H, W) bool and their confidence, both (N, H, W)."""
        confidence = torch.empty(valid.shape, device=valid.device)
        labels = torch.empty(valid.shape, dtype=torch.long, device=valid.device)
        with torch.autocast(valid.device.type, enabled=False):
            for i, maps in enumerate(rectified):
                for rows, full in UpsampledRows(maps, (valid.shape[1], valid.shape[2]), False).blocks():
                    torch.max(full, dim=1, out=(confidence[i, rows], labels[i, rows]))
        mass = F.interpolate(
            rectified.sum(dim=1, keepdim=True), size=valid.shape[1:], mode="bilinear", align_corners=False
        )
        confidence /= mass[:, 0].clamp(min=1e-12)  # 1, but where products of probabilities underflow
        return labels.masked_fill_(~valid | (confidence < self.settings.threshold), IGNORE), confidence

    def aligned(self, probabilities: Tensor, inside: Tensor) -> Tensor:
        """Probabilities (N, C, h, w) whose running mean over pixels ``inside`` (N, h, w) is the prior's."""
        mass = summed((probabilities * inside[:, None]).sum(dim=(0, 2, 3)))
        self.given.lerp_(mass / mass.sum().clamp(min=1), 1 - ALIGNMENT_MOMENTUM)
        return self.scaled(probabilities)

    def scaled(self, probabilities: Tensor) -> Tensor:
        """Probabilities (N, C, h, w) times the prior over the running mean of what classes were given."""
        scale = (self.prior / self.given.clamp(min=1e-6)).clamp(max=LARGEST_SCALE)
        return _normalised(probabilities * scale[:, None, None])

    @torch.no_grad()
    def strong_labels(self, target: TargetBatch, seen: TeacherView) -> tuple[Tensor, Tensor | None]:
        """Pseudo labels of the strong views (N, H, W) and, for consistency, the assignment warped to them
        (N, C, h, w)."""
        crop = (target.strong.shape[2], target.strong.shape[3])
        is_consistent = self.settings.consistency_weight > 0
        maps = torch.cat([seen.rectified, seen.assignment], dim=1) if is_consistent else seen.rectified
        maps, _ = warp_maps(maps, target.strong_to_weak, crop, crop)
        rectified, assignment = maps.chunk(2, dim=1) if is_consistent else (maps, None)
        labels, confidence = self.hard_labels(rectified, target.valid)
        if self.settings.prior_momentum:
            self.follow(labels)
        self.tally.see(labels, confidence)
        return labels, assignment

    def follow(self, labels: Tensor) -> None:
        """Move the prior towards the class shares of a batch of pseudo labels (N, H, W), of all processes."""
        rows = labels.masked_fill(labels == IGNORE, len(self.prior)).flatten()
        counted = self.prior.new_zeros(len(self.prior) + 1).index_add_(0, rows, torch.ones_like(rows).float())
        counted = summed(counted[:-1])
        moved = self.prior.lerp(counted / counted.sum().clamp(min=1), 1 - self.settings.prior_momentum)
        moved = kept_above(moved, self.first_prior, self.settings.prior_floor)
        self.prior.copy_(torch.where(counted.sum() > 0, moved, self.prior))

    def mix(
        self, source: SourceBatch, images: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Source pixels pasted into the strong views with their labels. Third: where (N, H, W) bool."""
        pasted = torch.zeros_like(labels, dtype=torch.bool)
        s = self.settings
        if s.mixing == "none" or float(torch.rand((), generator=generator)) >= s.mixing_probability:
            return images, labels, pasted
        pasted = paste_mask(s.mixing, source.labels, generator)
        return (
            torch.where(pasted[:, None], source.images, images),
            torch.where(pasted, source.labels, labels),
            pasted,
        )

    def prototype_log_probs(self, features: Tensor, prototypes: Tensor) -> Tensor:
        return (cosine_scores(features, prototypes) / self.settings.temperature).log_softmax(dim=1)

    def pixel_losses(self, target: TargetBatch, seen: TeacherView, generator: torch.Generator) -> Losses:
        """Self-labelling loss (section 3.2) and pixel contrast on pixels drawn from the weak views.

        The contrast is of the student's features: the teacher's, which fill the bank, have no gradient.
        """
        s = self.settings
        drawn = self.draw_pixels(seen.output.features.shape, target, generator)
        features = F.normalize(_gather(seen.output.features, drawn), dim=1)
        scores = F.normalize(_gather(seen.output.logits, drawn), dim=1)
        labels = _gather(seen.rectified, drawn).argmax(dim=1)
        online = features
        if s.student_features or s.contrast_weight:
            online = F.normalize(_gather(predict(self.network, target.weak).features, drawn), dim=1)
        losses: Losses = {}
        if s.contrast_weight and len(self.bank):
            bank, _, bank_labels = self.bank.rows()
            bank = bank.clone()  # the push below must not change what the backward pass needs
            losses["contrast"] = s.contrast_weight * pixel_contrast(online, labels, bank, bank_labels)
        beside = _gather(seen.rectified, self.arithmetic.label_positions(drawn)).argmax(dim=1)
        everywhere = [gathered(rows) for rows in (features, scores, beside)]
        self.bank.push(*everywhere)

        bank, bank_scores, _ = self.bank.rows()
        newest = self.bank.newest(len(everywhere[2]))
        rows = own_part(newest)
        log_probs = self.prototype_log_probs(online if s.student_features else features, self.prototypes)
        loss = log_probs.new_zeros(())
        marginal = self.prior if s.align_distribution else torch.full_like(self.prior, 1 / len(self.prior))
        feature_scores = self.arithmetic.bank_scores(bank, self.prototypes.detach(), newest)
        assign = partial(
            self.arithmetic.assign,
            class_prior=marginal,
            epsilon=s.epsilon,
            iterations=s.sinkhorn_iterations,
            largest=1.0,  # of features and logits whose length is one
        )
        for kind, of_kind in {"features": feature_scores, "logits": bank_scores}.items():
            loss = loss + self_labelling_loss(log_probs, assign(of_kind, rows=rows))
            self._assignments[kind] = SeenAssignment(of_kind, partial(assign, of_kind), marginal, s.epsilon)
        losses["self_labelling"] = s.self_labelling_weight * loss
        return losses

    def draw_pixels(self, shape: torch.Size, target: TargetBatch, generator: torch.Generator) -> Tensor:
        """(N, n) positions in the weak views' feature maps, inside the images; some repeat if few are."""
        positions = shape[2] * shape[3]
        places = torch.arange(min(self.settings.pixels_per_image, positions))
        drawn = []
        insides = target.weak_inside((shape[2], shape[3])).flatten(1).cpu()
        for inside, own in zip(insides, sample_generators(len(insides), generator), strict=True):
            order = torch.randperm(positions, generator=own)
            order = order[inside[order]] if inside.any() else order
            drawn.append(order[places % len(order)])
        return torch.stack(drawn).to(target.weak.device)


def require_classifier_bias(network: Segmenter) -> Tensor:
    """The bias of a network's last layer. Raises RecipeError if it has none."""
    bias = network.classifier_bias()
    if bias is None:
        raise RecipeError(
            "self_labelling.align_classifier shifts the bias of the teacher's last layer, and "
            f"{type(network).__name__} has none. Set it to false."
        )
    return bias


@torch.no_grad()
def align_classifier(network: Segmenter, prior: Tensor, predicted: Tensor) -> None:
    """Shift the classifier's bias by log(prior / predicted), so that mean predictions (C,) move towards the
    prior (C,); by ``LARGEST_SHIFT`` at most. Raises RecipeError if the network has no such bias.
    """
    shift = (prior.clamp(min=1e-6) / predicted.clamp(min=1e-6)).log()
    bias = require_classifier_bias(network)
    bias.add_(shift.clamp(-LARGEST_SHIFT, LARGEST_SHIFT).to(bias))


def _normalised(probabilities: Tensor) -> Tensor:
    return probabilities / probabilities.sum(dim=1, keepdim=True).clamp(min=1e-12)


def _gather(maps: Tensor, drawn: Tensor) -> Tensor:
    """(N, C, h, w) maps at positions (N, n) -> (N n, C)."""
    picked = maps.flatten(2).gather(2, drawn[:, None].expand(-1, maps.shape[1], -1))
    return picked.transpose(1, 2).flatten(0, 1)


def _at(mask: Tensor, maps: Tensor) -> Tensor:
    """A mask (N, H, W) at the size of maps (N, C, h, w), nearest neighbour."""
    return F.interpolate(mask[:, None].float(), size=maps.shape[2:], mode="nearest")[:, 0] > 0
