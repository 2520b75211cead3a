"""Mixing source pixels into target crops: CutMix as the reference does it, and class mixing.

CutMix pastes a rectangle of half the crop's area (arXiv 1905.04899). Class mixing pastes all pixels of half
of the source crop's classes (ClassMix, arXiv 2007.07936; across domains as in DACS, arXiv 2007.08702).
"""

from __future__ import annotations

import torch
from torch import Tensor

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.errors import RecipeError

from .engine.processes import sample_generators

MIXINGS = ("none", "cutmix", "classmix")


def paste_mask(kind: str, source_labels: Tensor, generator: torch.Generator) -> Tensor:
    """Which pixels of each crop come from the source. source_labels: (N, H, W). Returns (N, H, W) bool.

    Raises RecipeError for a kind that is not one of MIXINGS.
    """
    if kind not in MIXINGS:
        raise RecipeError(
            f"mixing is one of {', '.join(MIXINGS)}; got {kind!r}. Change it in the recipe or with --set."
        )
    mask = torch.zeros_like(source_labels, dtype=torch.bool)
    generators = sample_generators(len(source_labels), generator)
    for i, (labels, own) in enumerate(zip(source_labels, generators, strict=True)):
        if kind == "cutmix":
            rows, columns = _half_rectangle(labels.shape, own)
            mask[i, rows, columns] = True
        elif kind == "classmix":
            present = torch.bincount(labels.flatten(), minlength=IGNORE + 1)[:IGNORE].nonzero()[:, 0]
            order = torch.randperm(len(present), generator=own)
            chosen = present[order[: (len(present) + 1) // 2].to(present.device)]
            is_chosen = torch.zeros(IGNORE + 1, dtype=torch.bool, device=labels.device)
            mask[i] = is_chosen.index_fill(0, chosen, True)[labels]
    return mask


def _half_rectangle(size: torch.Size, generator: torch.Generator) -> tuple[slice, slice]:
    """Rows and columns of a rectangle of half the area, of random shape and place."""
    height, width = size
    share = 0.5 + 0.5 * float(torch.rand((), generator=generator))
    rows, cols = round(height * share), round(width * 0.5 / share)
    top = int(torch.randint(height - rows + 1, (), generator=generator))
    left = int(torch.randint(width - cols + 1, (), generator=generator))
    return slice(top, top + rows), slice(left, left + cols)
