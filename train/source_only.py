"""Supervised training on one labelled domain: the source-only baseline, and the oracle on target labels."""

from __future__ import annotations

import torch

from .samples import Batch
from .stage import Losses, TrainingStage, predict


class Supervised(TrainingStage):
    """Cross entropy on logits upsampled to the labels."""

    needs_target = False

    def forward(self, batch: Batch, generator: torch.Generator) -> Losses:
        assert batch.source is not None
        logits = predict(self.network, batch.source.images).logits
        return {"source": self.on_labels(logits, batch.source.labels)}
