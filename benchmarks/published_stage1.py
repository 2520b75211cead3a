"""One step of stage 1 as it is published (CPSL section 3, arXiv 2203.09744), written down straightforwardly:
what ours is held against by `stage1_step.py`.

Float32, channels first; a forward pass for each set of images; the momentum teacher on whole target images,
its maps cut to the views afterwards; soft labels of full size read from disk; every loss on logits of full
size; one backward pass of their sum; SGD and the moving average parameter by parameter.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from published_assignment import PublishedBank, published_self_labelling
from stage1_setting import Material, Setting
from torch import Tensor

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.train.models import Segmenter
from cpsl_deploy.train.samples import TargetBatch

TEMPERATURE, MOMENTUM = 0.08, 0.999


class PublishedStage1:
    """Student, teacher, prototypes, bank and optimiser, and their step."""

    def __init__(self, setting: Setting) -> None:
        self.settings, self.pixels = setting.settings, setting.pixels
        summary = setting.summary()
        self.network = setting.segmenter().train()
        self.teacher = copy.deepcopy(self.network).eval()
        self.prototypes = torch.nn.Parameter(summary.prototypes.clone())
        self.ema_prototypes = summary.prototypes.clone()
        self.prior = summary.prior
        classes, channels = summary.prototypes.shape
        generator = torch.Generator().manual_seed(0)
        self.bank = PublishedBank(
            F.normalize(torch.randn(setting.bank, channels, generator=generator), dim=1),
            F.normalize(torch.randn(setting.bank, classes, generator=generator), dim=1),
        )
        optimiser = self.settings.optimiser
        self.optimiser = torch.optim.SGD(
            [
                {"params": self.network.backbone_parameters(), "lr": optimiser.lr},
                {
                    "params": [*self.network.head_parameters(), self.prototypes],
                    "lr": optimiser.lr * optimiser.head_factor,
                },
            ],
            momentum=optimiser.momentum,
            weight_decay=optimiser.weight_decay,
            foreach=False,
        )

    def step(self, material: Material, generator: torch.Generator, mark: Callable[[str], None]) -> Tensor:
        """Returns the loss. ``mark`` is called with the name of each part that is done."""
        source, target = material.batch.source, material.batch.target
        assert source is not None and target is not None
        crop = target.strong.shape[2:]
        with torch.no_grad():
            whole = self.teacher(scaled(material.whole, self.teacher))
            size = (
                whole.features.shape[2] * crop[0] // target.sizes[0][0],
                (whole.features.shape[3] * crop[1] // target.sizes[0][1]),
            )
            features = cut(whole.features, target.weak_to_image, target.sizes[0], crop, size)
            logits = cut(whole.logits, target.weak_to_image, target.sizes[0], crop, size)
            mark("teacher")
            soft = torch.stack([torch.from_numpy(np.load(path)) for path in material.full_labels])
            soft = cut(soft, target.weak_to_image, target.sizes[0], crop, tuple(crop))
            mark("soft labels")
            labels, taught = self.labels(features, soft, target)
            images, labels, pasted = mixed(source.images, source.labels, target.strong, labels, generator)
            mark("pseudo labels")
        source_logits = self.network(scaled(source.images, self.network)).logits
        student = self.network(scaled(images, self.network))
        mark("student, forward")
        loss = F.cross_entropy(upsampled(source_logits, crop), source.labels, ignore_index=IGNORE)
        loss = loss + symmetric(upsampled(student.logits, crop), labels)
        mark("losses on labels")
        loss = loss + self.settings.self_labelling_weight * self.on_pixels(features, logits, generator)
        mark("self-labelling")
        if self.settings.consistency_weight:
            log_probs = F.log_softmax(self.cosines(student.features) / TEMPERATURE, dim=1)
            valid = (target.valid & ~pasted)[:, None].float()
            valid = F.interpolate(valid, size=log_probs.shape[2:], mode="nearest")
            kl = (F.kl_div(log_probs, taught, reduction="none") * valid).sum() / valid.sum()
            loss = loss + self.settings.consistency_weight * kl
        mark("consistency")
        loss.backward()
        mark("backward")
        self.optimiser.step()
        self.optimiser.zero_grad()
        mark("optimiser")
        self.follow()
        mark("moving average")
        return loss.detach()

    def labels(self, features: Tensor, soft: Tensor, target: TargetBatch) -> tuple[Tensor, Tensor]:
        """Pseudo labels of the strong views (N, H, W), and the teacher's assignment in them at the stride."""
        crop = target.strong.shape[2:]
        assignment = F.softmax(self.cosines(features) / TEMPERATURE, dim=1)
        rectified = soft * upsampled(assignment, crop)
        rectified = rectified / rectified.sum(dim=1, keepdim=True)
        rectified = cut(rectified, target.strong_to_weak, tuple(crop), crop, tuple(crop))
        labels = rectified.argmax(dim=1)
        labels[~target.valid] = IGNORE
        in_strong = cut(features, target.strong_to_weak, tuple(crop), crop, tuple(features.shape[2:]))
        return labels, F.softmax(self.cosines(in_strong) / TEMPERATURE, dim=1)

    def on_pixels(self, features: Tensor, logits: Tensor, generator: torch.Generator) -> Tensor:
        """The self-labelling loss of pixels drawn from each image."""
        drawn_features, drawn_logits = [], []
        for of_image, of_logits in zip(features, logits, strict=True):
            drawn = torch.randperm(of_image[0].numel(), generator=generator)[: self.pixels]
            drawn_features.append(of_image.flatten(1)[:, drawn].t())
            drawn_logits.append(of_logits.flatten(1)[:, drawn].t())
        return published_self_labelling(drawn_features, drawn_logits, self.prototypes, self.bank, self.prior)

    def cosines(self, features: Tensor) -> Tensor:
        normalised = F.normalize(self.ema_prototypes, dim=1)
        return torch.einsum("ndhw,kd->nkhw", F.normalize(features, dim=1), normalised)

    @torch.no_grad()
    def follow(self) -> None:
        pairs = zip(self.teacher.parameters(), self.network.parameters(), strict=True)
        for ema, online in [*pairs, (self.ema_prototypes, self.prototypes)]:
            ema.data = MOMENTUM * ema.data + (1 - MOMENTUM) * online.data
        for ema, online in zip(self.teacher.buffers(), self.network.buffers(), strict=True):
            ema.data = online.data.clone()

    def state_bytes(self) -> int:
        """Of networks, prototypes, bank and the optimiser's moments."""
        tensors = [
            *self.network.state_dict().values(),
            *self.teacher.state_dict().values(),
            *(self.prototypes, self.ema_prototypes, self.bank.features, self.bank.scores),
            *(
                value
                for each in self.optimiser.state.values()
                for value in each.values()
                if value is not None
            ),
        ]
        return sum(tensor.nbytes for tensor in tensors)


def scaled(images: Tensor, network: Segmenter) -> Tensor:
    """uint8 (N, 3, H, W) -> float32, channels first."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (network.mean, network.std))
    return ((images.float() / 255 - mean) / std).contiguous()


def upsampled(maps: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


def cut(
    maps: Tensor, matrices: Tensor, full: tuple[int, ...], view: torch.Size, out: tuple[int, ...]
) -> Tensor:
    """Views of maps (N, C, h, w) of what is ``full`` pixels large, by matrices (N, 3, 3) to its pixels."""
    # affine_grid has the edges of both at -1 and 1.
    to_unit = torch.tensor([[2 / full[1], 0, 1 / full[1] - 1], [0, 2 / full[0], 1 / full[0] - 1], [0, 0, 1]])
    from_unit = torch.tensor(
        [[view[1] / 2, 0, (view[1] - 1) / 2], [0, view[0] / 2, (view[0] - 1) / 2], [0, 0, 1]]
    )
    theta = (to_unit.double() @ matrices @ from_unit.double())[:, :2].float()
    grid = F.affine_grid(theta, [len(maps), 1, *out], align_corners=False)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)


def mixed(
    source: Tensor, source_labels: Tensor, images: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """CutMix with probability 0.5: images, labels and where (N, H, W) they are the source's."""
    pasted = torch.zeros_like(labels, dtype=torch.bool)
    if float(torch.rand((), generator=generator)) < 0.5:
        height, width = labels.shape[1:]
        for mask in pasted:
            share = 0.5 + 0.5 * float(torch.rand((), generator=generator))
            rows, cols = round(height * share), round(width * 0.5 / share)
            top = int(torch.randint(height - rows + 1, (), generator=generator))
            left = int(torch.randint(width - cols + 1, (), generator=generator))
            mask[top : top + rows, left : left + cols] = True
    return torch.where(pasted[:, None], source, images), torch.where(pasted, source_labels, labels), pasted


def symmetric(logits: Tensor, labels: Tensor) -> Tensor:
    """0.1 * cross entropy + reverse cross entropy, on logits (N, C, H, W)."""
    ce = F.cross_entropy(logits, labels, ignore_index=IGNORE)
    valid = labels != IGNORE
    probs = F.softmax(logits, dim=1).clamp(1e-7, 1.0)
    one_hot = F.one_hot(labels.masked_fill(~valid, 0), logits.shape[1]).float().clamp(1e-4, 1.0)
    rce = -(probs * one_hot.permute(0, 3, 1, 2).log()).sum(dim=1)
    return 0.1 * ce + (rce * valid).sum() / valid.sum()
