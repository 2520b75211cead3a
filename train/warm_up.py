"""Stage 0: warm-up by output-space adversarial alignment (AdaptSegNet, arXiv 1802.10349)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from . import recipe
from .adversarial import SOURCE, TARGET, PatchDiscriminator, least_squares
from .models import Segmenter
from .samples import Batch
from .stage import Losses, TrainingStage, kept_statistics, predict, together


class WarmUp(TrainingStage):
    """Source cross entropy, while target predictions learn to look like source predictions."""

    settings: recipe.WarmUp

    def __init__(self, settings: recipe.WarmUp, network: Segmenter, *, target_statistics: bool) -> None:
        super().__init__("warm_up", settings, network)
        self.discriminator = PatchDiscriminator(network.num_classes)
        self.target_statistics = target_statistics

    def forward(self, batch: Batch, generator: torch.Generator) -> Losses:
        return together(self.parts(batch, generator))

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Losses]:
        assert batch.source is not None and batch.target is not None
        with kept_statistics(self.network) if self.target_statistics else contextlib.nullcontext():
            source = predict(self.network, batch.source.images).logits
        yield {"source": self.on_labels(source, batch.source.labels)}
        target = predict(self.network, batch.target.weak).logits
        source_probs, target_probs = source.detach().softmax(dim=1), target.softmax(dim=1)

        self.discriminator.requires_grad_(False)
        fooled = least_squares(self.discriminator(target_probs), SOURCE)
        self.discriminator.requires_grad_(True)
        told_apart = 0.5 * (
            least_squares(self.discriminator(source_probs), SOURCE)
            + least_squares(self.discriminator(target_probs.detach()), TARGET)
        )
        yield {
            "adversarial": self.settings.adversarial_weight * fooled,
            "discriminator": told_apart,
        }

    def optimisers(self) -> list[torch.optim.Optimizer]:
        rate = self.settings.discriminator_lr
        return [
            *super().optimisers(),
            torch.optim.Adam(self.discriminator.parameters(), lr=rate, betas=(0.9, 0.99)),
        ]
