"""What a stage is shown: the recipe's crops and views, and this process's part of every batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cpsl_deploy.errors import RecipeError

from .engine.processes import Processes
from .recipe import Recipe, Stage
from .sampler import Sampler
from .samples import Batch, SourceViews, TargetViews, WorkingImages
from .soft_labels import SoftLabels
from .style import restyler
from .views import UNCHANGED, Geometric, Photometric


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Makes the batch of each micro step; accumulated micro steps and the processes share one batch."""

    source: SourceViews
    target: TargetViews | None
    seed: list[int]
    """Of the run and the stage: with a position it gives every random choice of a sample."""
    processes: Processes
    share: int
    """Crops of each domain per process and micro step."""

    def __call__(self, micro: int) -> Batch:
        first = (micro * self.processes.world + self.processes.rank) * self.share
        positions = range(first, first + self.share)
        batch = Batch(
            self.source.batch(self.seed, positions),
            None if self.target is None else self.target.batch(self.seed, positions),
        )
        # Here, in the thread that makes the batch, and not in the step.
        return batch.pinned() if self.processes.device.type == "cuda" else batch


def own_share(batch: int, processes: Processes, accumulate: int) -> int:
    """Crops of each domain per process and micro step. Raises RecipeError if a batch is not divisible so."""
    parts = processes.world * accumulate
    if batch % parts:
        raise RecipeError(
            "a batch is divided evenly over processes and accumulation steps; "
            f"{batch} is not divisible by {parts}"
        )
    return batch // parts


def source_views(
    labelled: WorkingImages,
    recipe: Recipe,
    settings: Stage,
    *,
    pixels: np.ndarray | None = None,
    styles: WorkingImages,
) -> SourceViews:
    """Labelled crops. ``pixels`` (n, C) of each class in each image: rare classes are drawn more often.
    ``styles``: images whose colours crops take on if the stage asks for it.
    """
    data = recipe.data
    return SourceViews(
        images=labelled,
        sampler=Sampler(len(labelled), recipe.seed, pixels=pixels, temperature=data.rare_class_temperature),
        crop=data.crop,
        geometric=settings.weak,
        photometric=settings.photometric,
        restyle=restyler(styles) if settings.style == "reinhard" else None,
    )


def target_views(
    images: WorkingImages,
    recipe: Recipe,
    settings: Stage,
    strong_geometric: Geometric | None = None,
    strong_photometric: Photometric | None = None,
    soft_labels: SoftLabels | None = None,
) -> TargetViews:
    """Weak and strong views of unlabelled crops; without settings of its own the strong view is the weak.
    ``soft_labels``: of the images, to come with the views.
    """
    return TargetViews(
        images=images,
        sampler=Sampler(len(images), recipe.seed + 1),
        crop=recipe.data.crop,
        weak=settings.weak,
        strong_geometric=strong_geometric or UNCHANGED,
        strong_photometric=strong_photometric or Photometric(),
        soft_labels=soft_labels,
    )


def plain_crops(images: WorkingImages, recipe: Recipe, count: int) -> Tensor:
    """(count, 3, H, W) uint8 RGB: crops of labelled images as they are."""
    views = SourceViews(
        images=images,
        sampler=Sampler(len(images), recipe.seed),
        crop=recipe.data.crop,
        geometric=UNCHANGED,
        photometric=Photometric(),
    )
    return views.batch([recipe.seed], range(count)).images
