"""What a run measures on labelled target images, if there are any. Nothing learns from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..domains import Domains
from ..engine.precision import autocast
from ..engine.processes import Processes
from ..engine.run_folder import RunFolder
from ..models import Segmenter
from ..recipe import Recipe
from ..self_labelling import SelfLabelling
from ..stage import TrainingStage
from .network_score import Score, evaluate
from .pseudo_label_score import score_pseudo_labels

CURVE_IMAGES = 24
"""That the curves over training time are scored on; the ends of stages are scored on all images, too."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Scores a run's networks and pseudo labels, in all processes at once."""

    domains: Domains
    recipe: Recipe
    processes: Processes
    folder: RunFolder
    warm_up: Callable[[], Segmenter]
    """Loads the finished warm-up network, whose softmax is the fixed soft label."""

    def score(self, network: Segmenter, most: int | None = None) -> Score | None:
        """The network's score on the labelled target images; None if there are none."""
        if self.domains.validation is None:
            return None
        device, size = self.processes.device, self.recipe.data.target_size
        with autocast(device, self.recipe.compute.precision):
            return evaluate(
                network, self.domains.validation, size, device, most=most, processes=self.processes
            )

    def on_the_way(self, stage: TrainingStage, iteration: int) -> None:
        """Log a point of the curves: the scores of ``CURVE_IMAGES`` images; at the start, the pseudo labels'
        alone, because the network is that of the stage before.
        """
        if iteration == 0:
            self._at_the_start(stage)
            return
        score = self.score(stage.result(), most=CURVE_IMAGES)
        if score is None:
            return
        entry = {"stage": stage.name, "iteration": iteration, "most_images": CURVE_IMAGES, **score.to_json()}
        if isinstance(stage, SelfLabelling):
            entry["pseudo_labels"] = self._pseudo_labels(stage)
        if self.processes.is_first:
            self.folder.log_metrics(entry)

    def _at_the_start(self, stage: TrainingStage) -> None:
        """Log how right the pseudo labels are that a stage begins with."""
        if self.domains.validation is None or not isinstance(stage, SelfLabelling):
            return
        entry = {"stage": stage.name, "iteration": 0, "most_images": CURVE_IMAGES}
        entry["pseudo_labels"] = self._pseudo_labels(stage)
        if self.processes.is_first:
            self.folder.log_metrics(entry)

    def _pseudo_labels(self, stage: SelfLabelling) -> dict[str, Any]:
        """Of the labels that the stage would give the images of the evaluation."""
        assert self.domains.validation is not None
        device = self.processes.device
        warm_up = None if stage.settings.online_soft_labels else self.warm_up()
        with autocast(device, self.recipe.compute.precision):
            score = score_pseudo_labels(
                partial(stage.label_image, warm_up=warm_up),
                self.domains.validation,
                len(self.domains.classes),
                self.recipe.data.target_size,
                device,
                most=CURVE_IMAGES,
                processes=self.processes,
            )
        return score.to_json()
