"""Self-labelling stages of the tiny network, with either arithmetic."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_training import tiny_batch, tiny_network
from torch import Tensor

from cpsl_deploy.train import recipe
from cpsl_deploy.train.reference_arithmetic import OURS, Arithmetic
from cpsl_deploy.train.samples import Batch
from cpsl_deploy.train.self_labelling import SelfLabelling
from cpsl_deploy.train.stage import TrainingStage
from cpsl_deploy.train.target_statistics import SoftLabels, TargetSummary

PRIOR = torch.tensor([0.5, 0.3, 0.2])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_soft_labels(folder: Path) -> SoftLabels:
    """Of the four target images of ``tiny_batch``."""
    made, source = SoftLabels(folder / "soft_labels"), generator()
    for index in range(4):
        made.write(index, (3 * torch.randn(3, 8, 12, generator=source)).softmax(dim=0))
    return made


def self_labelling(
    folder: Path, arithmetic: Arithmetic = OURS, dropout: float = 0.5, **settings: object
) -> SelfLabelling:
    """A stage in training mode."""
    options = {"iterations": 4, "batch": 2, "bank": 64, "pixels_per_image": 16, "mixing": "none"}
    prototypes = torch.randn(3, 8, generator=generator(1))
    return SelfLabelling(
        recipe.SelfLabelling(**(options | settings)),
        tiny_network(dropout=dropout),
        TargetSummary(prototypes, PRIOR, torch.tensor([0.4, 0.4, 0.2])),
        random_soft_labels(folder),
        target_statistics=False,
        arithmetic=arithmetic,
    ).train()


def losses_of(stage: TrainingStage, batch: Batch | None = None, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return stage(batch or tiny_batch(), generator(seed))


def step(stage: TrainingStage, optimiser: torch.optim.Optimizer, number: int = 0) -> dict[str, Tensor]:
    """One step of training; its losses."""
    losses = losses_of(stage, tiny_batch(number), number)
    torch.stack(list(losses.values())).sum().backward()
    optimiser.step()
    optimiser.zero_grad()
    stage.after_step()
    return losses
