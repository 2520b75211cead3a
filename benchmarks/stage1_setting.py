"""What both sides of `stage1_step.py` are given: scenes, their crops and soft labels, one network each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpsl_deploy.classes import CITYSCAPES_19, ClassSpace
from cpsl_deploy.data.scenes import render_scene
from cpsl_deploy.train import recipe
from cpsl_deploy.train.models import Segmenter, build
from cpsl_deploy.train.sampler import Sampler
from cpsl_deploy.train.samples import Batch, SourceViews, TargetViews, WorkingImages
from cpsl_deploy.train.self_labelling import SelfLabelling
from cpsl_deploy.train.soft_labels import SoftLabels
from cpsl_deploy.train.target_statistics import TargetSummary

SCENES = 4
"""Different images of each domain."""
SEED = 0


class Scenes:
    """Rendered scenes in memory, with what training reads of a dataset."""

    classes: ClassSpace = CITYSCAPES_19
    has_labels = True
    split = "train"

    def __init__(self, kind: str, size: tuple[int, int]) -> None:
        self.name = kind
        self._scenes = [render_scene(seed, kind, size=size) for seed in range(SCENES)]
        self.names = [f"{kind}/{seed}" for seed in range(SCENES)]

    def __len__(self) -> int:
        return len(self._scenes)

    def image(self, index: int) -> np.ndarray:
        return self._scenes[index][0]

    def label(self, index: int) -> np.ndarray:
        return self._scenes[index][1]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured."""

    network: str
    batch: int
    crop: tuple[int, int]
    """(height, width) of the crops."""
    size: tuple[int, int]
    """(height, width) of the images that they are cut from."""
    bank: int
    pixels: int
    """Of each image that go into the bank."""
    consistency: bool = True

    @property
    def settings(self) -> recipe.SelfLabelling:
        """The published hyperparameters, but for the schedule's length."""
        return recipe.SelfLabelling(
            iterations=1000,
            batch=self.batch,
            bank=self.bank,
            pixels_per_image=self.pixels,
            consistency_weight=5 / 19 if self.consistency else 0.0,
            optimiser=recipe.Optimiser(lr=1e-4, head_factor=5.0),
        )

    def segmenter(self) -> Segmenter:
        """With the same random weights every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return build(self.network, len(CITYSCAPES_19))

    def summary(self) -> TargetSummary:
        """Random prototypes and an even prior: no time depends on them."""
        channels, classes = self.segmenter().feature_channels, len(CITYSCAPES_19)
        prototypes = torch.randn(classes, channels, generator=torch.Generator().manual_seed(SEED))
        even = torch.full((classes,), 1 / classes)
        return TargetSummary(prototypes, even, even)


@dataclass(frozen=True)
class Material:
    """The batch of one step and what belongs to it, the same for both sides."""

    batch: Batch
    whole: Tensor
    """(N, 3, h, w) uint8 RGB: the target images that the crops were cut from."""
    full_labels: tuple[Path, ...]
    """Of each of these: its soft labels (C, h, w) float32 at the image's size."""
    soft_labels: SoftLabels
    """The same at the network's stride, float16."""


def random_probabilities(generator: torch.Generator, size: tuple[int, int]) -> Tensor:
    """(19, *size) float32, smooth as a network's are."""
    coarse = 3 * torch.randn(1, len(CITYSCAPES_19), 12, 16, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")[0].softmax(dim=0)


def material(setting: Setting, folder: Path) -> Material:
    """Made from the seed; soft labels are written below ``folder``."""
    stride = setting.segmenter().stride
    settings = setting.settings
    source = WorkingImages(Scenes("rendered", setting.size), setting.size, 512)  # type: ignore[arg-type]
    target = WorkingImages(Scenes("camera", setting.size), setting.size, 512)  # type: ignore[arg-type]
    generator, soft_labels = torch.Generator().manual_seed(SEED), SoftLabels(folder / "stride")
    for index in range(SCENES):
        full = random_probabilities(generator, setting.size)
        np.save(folder / f"{index}.npy", full.numpy())
        at_stride = torch.nn.functional.interpolate(full[None], scale_factor=1 / stride, mode="bilinear")
        soft_labels.write(index, at_stride[0])
    views: dict[str, Any] = {"crop": setting.crop}
    source_views = SourceViews(
        images=source,
        sampler=Sampler(SCENES, SEED),
        geometric=settings.weak,
        photometric=settings.photometric,
        **views,
    )
    target_views = TargetViews(
        images=target,
        sampler=Sampler(SCENES, SEED + 1),
        weak=settings.weak,
        strong_geometric=settings.strong_geometric,
        strong_photometric=settings.strong_photometric,
        soft_labels=None,
        **views,
    )
    positions = range(setting.batch)
    batch = Batch(source_views.batch([SEED], positions), target_views.batch([SEED], positions))
    assert batch.target is not None
    indices = batch.target.indices.tolist()
    whole = torch.stack([torch.from_numpy(target.image(i)).permute(2, 0, 1).contiguous() for i in indices])
    return Material(batch, whole, tuple(folder / f"{i}.npy" for i in indices), soft_labels)


def our_stage(setting: Setting, soft_labels: SoftLabels) -> SelfLabelling:
    return SelfLabelling(
        setting.settings, setting.segmenter(), setting.summary(), soft_labels, target_statistics=False
    )
