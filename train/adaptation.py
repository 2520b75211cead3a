"""The adaptation from first to last: source and target in, a run folder with a network to deploy out."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpsl_deploy.errors import ModelFileError
from cpsl_deploy.spec import ModelSpec

from . import recipe as recipes
from .batches import Batches, own_share, plain_crops, source_views, target_views
from .class_weights import class_weights
from .distillation import Distillation
from .domains import Domains
from .engine import processes as procs
from .engine.loop import MakeBatch, SilentWatcher, Surroundings, Watcher, train
from .engine.out_of_memory import resuming, told_what_to_lower
from .engine.precision import autocast
from .engine.processes import Processes
from .engine.run_folder import RunFolder
from .evaluation.scoring import Scoring
from .models import Segmenter, build, load_model, save_model
from .recipe import Recipe
from .reference_arithmetic import OURS, REFERENCE
from .samples import WorkingImages, class_shares
from .self_labelling import SelfLabelling, require_classifier_bias
from .soft_labels import SoftLabels, remove_soft_labels
from .source_only import Supervised
from .stage import TrainingStage, normalised
from .target_statistics import TargetSummary, prototype_shares, source_prototypes, summarise_target
from .views import Geometric, Photometric
from .warm_up import WarmUp

STAGES = ("source_only", "warm_up", "self_labelling", "distillation_1", "distillation_2")
Beginning = tuple[TrainingStage, MakeBatch]
"""A stage that is not trained yet, and what it will be shown."""
CALIBRATION_IMAGES = 8


class Adaptation:
    """One run: the datasets, the recipe, the folder, and the stages as methods in their order."""

    def __init__(
        self,
        domains: Domains,
        recipe: Recipe,
        folder: str | Path,
        *,
        device: str = "auto",
        watcher: Watcher | None = None,
        resume: bool = False,
    ) -> None:
        self.domains, self.recipe = domains, recipe
        self.arithmetic = REFERENCE if recipe.reference_arithmetic else OURS
        self.processes: Processes = procs.join(device)
        self.watcher = watcher or SilentWatcher()
        self._check_compute()
        self.folder = RunFolder(folder)
        if self.processes.is_first:
            self.folder.require_usable(resume=resume)
            self._check_starts()
            self.folder.begin(recipe, resume=resume)
        procs.barrier(self.processes)
        data = recipe.data
        self.source = WorkingImages(domains.source, data.source_size, data.cache_mib)
        self.target = WorkingImages(domains.target, data.target_size, data.cache_mib)
        self.soft_labels = SoftLabels(self.folder.soft_labels)
        self.device = self.processes.device
        self._pixels: dict[int, np.ndarray] = {}
        self.scoring = Scoring(
            domains=domains,
            recipe=recipe,
            processes=self.processes,
            folder=self.folder,
            warm_up=lambda: self.after("warm_up"),
        )

    def run(self, stages: Sequence[str] = STAGES) -> RunFolder:
        """Those of ``stages`` that are not done yet, in the method's order; after the last stage of all, the
        model to deploy. A stage that is left out must be done if a later one goes on from it.
        """
        for stage in (stage for stage in STAGES if stage in stages):
            if not self.folder.stage_model(stage).is_file() or stage not in self.folder.results():
                self.train(*self.begin(stage))
        if self.processes.is_first:
            if STAGES[-1] in stages:
                save_model(self.folder.model, *self._left_by(STAGES[-1]))
            self.folder.checkpoints.remove()
            remove_soft_labels(self.folder.soft_labels)
        procs.barrier(self.processes)
        return self.folder

    def begin(self, name: str) -> Beginning:
        """A stage of ``STAGES`` or the oracle, untrained, and its batches. Soft labels, prototypes and prior
        that it needs are made on the way, by the network of the stage before it.
        """
        with self.of_whole_images(f"preparing {name}"):
            stage, batches = getattr(self, name)()
        power = self.recipe.data.class_weight_power
        if power > 0:
            labelled = self.target if name == "oracle" else self.source
            stage.class_weights = class_weights(self.class_pixels(labelled).sum(axis=0), power)
        return stage, batches

    # ---- the stages, in the order of the method

    def source_only(self) -> Beginning:
        network = self.fresh_network(self.recipe.model.teacher, self.recipe.model.init)
        stage = Supervised("source_only", self.recipe.source_only, network)
        return stage, self.batches(stage)

    def warm_up(self) -> Beginning:
        network = self.after("source_only")
        torch.manual_seed(self.recipe.seed)  # the discriminator starts at random
        stage = WarmUp(self.recipe.warm_up, network, target_statistics=self.recipe.target_statistics)
        return stage, self.batches(stage)

    def self_labelling(self) -> Beginning:
        settings = self.recipe.self_labelling
        network = self.after("warm_up")
        estimate, smoothing = settings.prior_estimate, settings.prior_smoothing
        summary = self.summarise(network, prior_smoothing=smoothing, soft_prior=estimate == "soft")
        if estimate == "prototypes":
            prior = self.prototype_prior(network, summary.prototypes)
            summary = dataclasses.replace(summary, prior=prior)
        if self.processes.is_first:
            self.folder.add_results(prior=summary.prior.tolist())
        stage = SelfLabelling(
            settings,
            network,
            summary,
            self.soft_labels,
            target_statistics=self.recipe.target_statistics,
            arithmetic=self.arithmetic,
        )
        soft = None if settings.online_soft_labels else self.soft_labels
        return stage, self.batches(stage, settings.strong_geometric, settings.strong_photometric, soft)

    def distillation_1(self) -> Beginning:
        model = self.recipe.model
        return self._distil(
            "distillation_1", self.recipe.distillation_1, "self_labelling", model.teacher, model.init
        )

    def distillation_2(self) -> Beginning:
        student, init = self.recipe.model.student, self._student_init()
        return self._distil("distillation_2", self.recipe.distillation_2, "distillation_1", student, init)

    def run_oracle(self) -> None:
        """Train and score the oracle. No part of an adaptation."""
        self.train(*self.begin("oracle"))

    def oracle(self) -> Beginning:
        """The upper bound: the student, supervised on the target's own training labels for as many iterations
        as the adapted one. Nothing else reads these labels.
        """
        iterations = student_iterations(self.recipe)
        network = self.fresh_network(self.recipe.model.student, self._student_init())
        stage = Supervised(
            "oracle", dataclasses.replace(self.recipe.source_only, iterations=iterations), network
        )
        return stage, self.batches(stage, labelled=self.target)

    def _student_init(self) -> str:
        model = self.recipe.model
        return model.student_init or (model.init if model.student == model.teacher else "")

    def _distil(
        self, name: str, settings: recipes.Distillation, previous: str, architecture: str, init: str
    ) -> Beginning:
        frozen = self.after(previous)
        self.summarise(frozen, mirrored=True)
        stage = Distillation(
            name,
            settings,
            self.after(previous) if self.recipe.goes_on(name) else self.fresh_network(architecture, init),
            frozen,
            self.soft_labels,
            target_statistics=self.recipe.target_statistics,
            arithmetic=self.arithmetic,
        )
        views = (settings.strong_geometric, settings.strong_photometric, self.soft_labels)
        return stage, self.batches(stage, *views)

    # ---- what the stages are made of

    def build_network(self, architecture: str, init: str) -> Segmenter:
        torch.manual_seed(self.recipe.seed)
        return build(architecture, len(self.domains.classes), init=init or None)

    def fresh_network(self, architecture: str, init: str) -> Segmenter:
        """A network at its start; a pretrained one is calibrated on a few source images."""
        network = self.build_network(architecture, init)
        if init:
            images = plain_crops(self.source, self.recipe, CALIBRATION_IMAGES)
            network.calibrate(normalised(images, network))
        return network

    def after(self, stage: str) -> Segmenter:
        """The network a finished stage left, on this process's device."""
        network, _ = self._left_by(stage)
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _left_by(self, stage: str) -> tuple[Segmenter, ModelSpec]:
        """A finished stage's network. Raises ModelFileError if its file is gone or damaged."""
        file = self.folder.stage_model(stage)
        try:
            return load_model(file)
        except ModelFileError as error:
            remedy = " Or delete it: --resume trains its stage again." if file.is_file() else ""
            raise ModelFileError(f"{error}{remedy}") from error

    def summarise(self, network: Segmenter, **options: Any) -> TargetSummary:
        """Soft labels, prototypes and prior of the target by ``network``."""
        self.watcher.stage("soft labels", 0, len(self.target))

        def report(done: int, total: int) -> None:
            self.watcher.step("soft labels", done, {})

        with autocast(self.device, self.recipe.compute.precision):
            return summarise_target(
                network,
                self.target,
                self.soft_labels,
                self.device,
                **options,
                fallback=self.source_prototypes(network),
                progress=report,
                processes=self.processes,
                workers=self.recipe.compute.workers,
            )

    def source_prototypes(self, network: Segmenter) -> torch.Tensor:
        """(C, D) of the labelled source, for classes that are never predicted on the target."""
        workers = self.recipe.compute.workers
        return source_prototypes(network, self.source, self.device, workers=workers)

    def prototype_prior(self, network: Segmenter, prototypes: torch.Tensor) -> torch.Tensor:
        """The class prior (C,) as the mean prototype assignment over the target: another pass over it."""
        with autocast(self.device, self.recipe.compute.precision):
            return prototype_shares(
                network,
                self.target,
                prototypes,
                self.device,
                prior_smoothing=self.recipe.self_labelling.prior_smoothing,
                processes=self.processes,
                workers=self.recipe.compute.workers,
            )

    def batches(
        self,
        stage: TrainingStage,
        strong_geometric: Geometric | None = None,
        strong_photometric: Photometric | None = None,
        soft_labels: SoftLabels | None = None,
        *,
        labelled: WorkingImages | None = None,
    ) -> MakeBatch:
        """What this process shows the stage at each micro step. ``soft_labels``: of the target, where the
        stage uses them. ``labelled``: images to use in the source's place.
        """
        recipe, settings = self.recipe, stage.settings
        labelled = labelled or self.source
        rare = recipe.data.rare_class_temperature > 0
        return Batches(
            source=source_views(
                labelled,
                recipe,
                settings,
                pixels=self.class_pixels(labelled) if rare else None,
                styles=self.target,
            ),
            target=target_views(
                self.target, recipe, settings, strong_geometric, strong_photometric, soft_labels
            )
            if stage.needs_target
            else None,
            seed=[recipe.seed, STAGES.index(stage.name) if stage.name in STAGES else len(STAGES)],
            processes=self.processes,
            share=own_share(settings.batch, self.processes, recipe.compute.accumulate),
        )

    def class_pixels(self, labelled: WorkingImages) -> np.ndarray:
        """(n, C): read once for each labelled set."""
        if id(labelled) not in self._pixels:
            self._pixels[id(labelled)] = class_shares(labelled, len(self.domains.classes))
        return self._pixels[id(labelled)]

    def _check_compute(self) -> None:
        """Raises RecipeError for what these processes cannot do, before anything is written."""
        if self.recipe.compute.precision == "fp16" and self.processes.device.type != "cuda":
            raise recipes.RecipeError(
                "compute.precision fp16 is for GPUs, and this run is on the CPU. "
                "Use bf16 or fp32 (--precision)."
            )
        for stage in STAGES:
            own_share(getattr(self.recipe, stage).batch, self.processes, self.recipe.compute.accumulate)

    def _check_starts(self) -> None:
        """Raises ModelFileError or RecipeError if a network or the weights it starts from are not usable:
        before anything is written, and not when the last stage begins.
        """
        model = self.recipe.model
        for architecture, init in {(model.teacher, model.init), (model.student, self._student_init())}:
            network = self.build_network(architecture, init)
            if architecture == model.teacher and self.recipe.self_labelling.align_classifier:
                require_classifier_bias(network)

    def train(self, stage: TrainingStage, batches: MakeBatch) -> None:
        """Train a stage, score it, write its model."""
        around = Surroundings(
            processes=self.processes,
            compute=self.recipe.compute,
            seed=self.recipe.seed,
            checkpoint=self.folder.checkpoint,
            log_metrics=self.folder.log_metrics,
            watcher=self.watcher,
            evaluate=self.scoring.on_the_way,
            rewind=self.folder.rewind_metrics,
            crop=self.recipe.data.crop,
        )
        with self.of_whole_images(f"scoring {stage.name}"):
            seconds = train(stage, batches, around)
            score = self.scoring.score(stage.result())
            self.scoring.on_the_way(stage, stage.settings.iterations)
        procs.require_agreement(stage.result(), self.processes, stage.name)
        if self.processes.is_first:
            save_model(self.folder.stage_model(stage.name), stage.result(), self.spec(stage))
            entry: dict[str, Any] = {"iterations": stage.settings.iterations, "seconds": round(seconds, 1)}
            if score is not None:
                entry |= score.to_json()
                self.watcher.message(f"{stage.name}: mIoU {100 * score.mean_iou:.1f}")
            self.folder.add_results(**{stage.name: entry})
            self.folder.checkpoints.remove()
        procs.barrier(self.processes)

    def of_whole_images(self, doing: str) -> AbstractContextManager[None]:
        """What runs out of memory in the block, outside a training step, is told as work on whole images."""
        height, width = self.recipe.data.target_size
        return told_what_to_lower(
            f"{doing} (whole images of {height}x{width}, {self.recipe.compute.precision})",
            "a smaller data.target_size or data.source_size",
            resuming(self.folder.recipe_file),
        )

    def architecture(self, stage: str) -> str:
        """Registry name of the network that a stage leaves."""
        model = self.recipe.model
        return model.student if stage in (STAGES[-1], "oracle") else model.teacher

    def spec(self, stage: TrainingStage) -> ModelSpec:
        """What must be known of a stage's network to use it."""
        network, classes = stage.result(), self.domains.classes
        size = self.recipe.data.target_size
        return ModelSpec(
            architecture=self.architecture(stage.name),
            class_names=classes.names,
            palette=classes.palette,
            mean=network.mean,
            std=network.std,
            size=size,
            stride=network.stride,
            align_corners=network.align_corners,
            provenance={
                "stage": stage.name,
                "source": self.domains.source_reference or self.domains.source.name,
                "target": self.domains.target_reference or self.domains.target.name,
                "recipe": self.recipe.name,
                "seed": self.recipe.seed,
                "date": datetime.date.today().isoformat(),
            },
        )


def student_iterations(recipe: Recipe) -> int:
    """Iterations the deployed weights were trained for, those before a start from ``previous`` included."""
    total = 0
    for name in reversed(STAGES):
        total += getattr(recipe, name).iterations
        if not recipe.goes_on(name):
            break
    return total
