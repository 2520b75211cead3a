"""A rehearsal of an adaptation: every stage as it will be built, a few real steps of it, nothing kept."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cpsl_deploy.data import Dataset

from ..adaptation import Adaptation
from ..domains import Domains
from ..engine.loop import Loop, MakeBatch, SilentWatcher, Surroundings, prefetched
from ..engine.out_of_memory import told_what_to_lower, what_to_lower
from ..memory_bank import MemoryBank
from ..models import Segmenter, build
from ..recipe import Recipe
from ..samples import WorkingImages, class_shares, working_size
from ..self_labelling import SelfLabelling
from ..stage import TrainingStage, predict
from ..target_statistics import TargetSummary
from .peak_memory import PeakMemory

T = TypeVar("T")

IMAGES = 3
"""Of each side that a rehearsal reads: its passes measure two of them after one."""
STAGE_S = 20.0
"""A stage's steps are measured for about so long: a step that alone takes longer is the only one."""
ENOUGH_S, MOST_STEPS = 6.0, 10
"""Quick steps are measured for so long, or so many of them."""
LONGEST_STEP_S = 30.0
"""Steps that would take longer are measured on smaller crops and images."""
SHRINKINGS = (1, 2, 4)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Times of one thing that was done several times."""

    seconds: tuple[float, ...]
    warmed_up: bool = True
    """Whether it was done before, unmeasured. False: it takes so long that the first time was measured."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def scaled(self, factor: float) -> Measured:
        return dataclasses.replace(self, seconds=tuple(factor * value for value in self.seconds))


@dataclass(frozen=True, kw_only=True)
class StageRehearsal:
    """What a few steps of a stage said."""

    steps: Measured
    batch_seconds: float
    """To make one step's batch, by one thread."""
    memory_bytes: int | None
    """The most that was held, the passes before the stage and its scoring included."""
    bank_bytes: int
    checkpoint_bytes: int
    model_bytes: int


class _Marks(SilentWatcher):
    """When each image of the soft labels was done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def stage(self, name: str, done: int, total: int) -> None:
        self.times = []

    def step(self, name: str, iteration: int, losses: dict[str, float]) -> None:
        self.times.append(time.perf_counter())


class Rehearsal(Adaptation):
    """An adaptation of a few images in a temporary folder.

    Networks that a stage goes on from are random: that changes results, not costs. ``passes`` has the seconds
    per image of what is done with whole images, by what it is and the network's name.
    """

    def __init__(self, domains: Domains, recipe: Recipe, folder: Path, *, device: str, images: int) -> None:
        self.marks = _Marks()
        super().__init__(few_images(domains, images), recipe, folder, device=device, watcher=self.marks)
        self.source = self._as_kept(self.source, len(domains.source), with_labels=True)
        self.target = self._as_kept(self.target, len(domains.target), with_labels=False)
        self.peak = PeakMemory(self.device)
        self.passes: dict[tuple[str, str], Measured] = {}
        self._summaries: dict[str, TargetSummary] = {}

    def _as_kept(self, images: WorkingImages, count: int, *, with_labels: bool) -> WorkingImages:
        """The images, kept in memory only if all of the real run's fit there: else most are read anew."""
        fits = cache_bytes(images, count, with_labels=with_labels) <= self.recipe.data.cache_mib * 2**20
        return WorkingImages(images.dataset, images.size, self.recipe.data.cache_mib if fits else 0)

    def rehearse(self, name: str) -> StageRehearsal:
        """Build a stage, take some steps, score. Raises OutOfMemory."""
        self.peak.reset()
        stage, make = self.begin(name)
        loop = Loop(stage, self._surroundings())
        bank_bytes = 0
        if isinstance(stage, SelfLabelling):
            fill(stage.bank)
            bank_bytes = tensor_bytes(stage.bank.state_dict())
        batch_seconds = self._batch_seconds(make)
        steps = self._steps(loop, make)
        self._time_scoring(stage)
        return StageRehearsal(
            steps=steps,
            batch_seconds=batch_seconds,
            memory_bytes=self.peak.bytes(),
            bank_bytes=bank_bytes,
            checkpoint_bytes=tensor_bytes([stage.state_dict(), *(o.state_dict() for o in loop.optimisers)]),
            model_bytes=tensor_bytes(stage.result().state_dict()),
        )

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            processes=self.processes,
            compute=self.recipe.compute,
            seed=self.recipe.seed,
            checkpoint=self.folder.checkpoint,
            log_metrics=lambda entry: None,
            watcher=self.marks,
            crop=self.recipe.data.crop,
        )

    def _batch_seconds(self, make: MakeBatch) -> float:
        """Of one step: the second time, when images that are kept are there."""
        parts = self.recipe.compute.accumulate
        for step in range(2):
            began = time.perf_counter()
            for part in range(parts):
                make(step * parts + part)
        return time.perf_counter() - began

    def _steps(self, loop: Loop, make: MakeBatch) -> Measured:
        """Batches are made in threads meanwhile, as in a run."""
        compute, settings = self.recipe.compute, loop.stage.settings
        doing, _, _ = loop.holding(1)
        lower = what_to_lower(loop.stage.name, settings, compute)
        batches = prefetched(make, 0, (1 + MOST_STEPS) * compute.accumulate, compute.workers)
        with contextlib.closing(batches), told_what_to_lower(doing, lower):
            return measured_steps(lambda iteration: self._timed_step(loop, iteration, batches))

    def _timed_step(self, loop: Loop, iteration: int, batches: Iterator) -> float:
        began = time.perf_counter()
        loop.step(iteration, batches)
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        """For what the GPU was told to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    # ---- the passes over whole images, timed

    def _time_scoring(self, stage: TrainingStage) -> None:
        network = self.architecture(stage.name)
        if self.domains.validation is not None and ("scoring", network) not in self.passes:
            images = len(self.domains.validation)
            with self.of_whole_images(f"scoring {stage.name}"):
                self._time_pass("scoring", network, images, self.scoring.score, stage.result())

    def _time_pass(self, what: str, network: str, images: int, work: Callable[..., T], *arguments: Any) -> T:
        began = time.perf_counter()
        result = work(*arguments)
        self.wait()
        self.passes[what, network] = Measured(seconds=((time.perf_counter() - began) / images,))
        return result

    def after(self, stage: str) -> Segmenter:
        network = build(self.architecture(stage), len(self.domains.classes)).eval()
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def class_pixels(self, labelled: WorkingImages) -> np.ndarray:
        if id(labelled) not in self._pixels:
            anew = WorkingImages(labelled.dataset, labelled.size)
            classes, what = len(self.domains.classes), "class counts"
            counted = self._time_pass(what, "", len(anew), class_shares, anew, classes)
            self._pixels[id(labelled)] = counted
        return self._pixels[id(labelled)]

    def source_prototypes(self, network: Segmenter) -> Tensor:
        work, teacher = super().source_prototypes, self.recipe.model.teacher
        return self._time_pass("source prototypes", teacher, len(self.source), work, network)

    def prototype_prior(self, network: Segmenter, prototypes: Tensor) -> Tensor:
        work, teacher = super().prototype_prior, self.recipe.model.teacher
        return self._time_pass("class prior", teacher, len(self.target), work, network, prototypes)

    def summarise(self, network: Segmenter, **options: Any) -> TargetSummary:
        """The first image warms up. Both distillations' passes are by networks of the teacher's architecture:
        one is measured.
        """
        what = "soft labels, mirrored" if options.get("mirrored") else "soft labels"
        if what not in self._summaries:
            self._summaries[what] = super().summarise(network, **options)
            times = self.marks.times
            seconds = tuple(later - earlier for earlier, later in itertools.pairwise(times))
            self.passes[what, self.recipe.model.teacher] = Measured(seconds=seconds)
        return self._summaries[what]


def measured_steps(timed_step: Callable[[int], float]) -> Measured:
    """Steps after one that warms up, two or more within ``STAGE_S``. A step that takes half of it is followed
    by one; one that takes all of it is itself the measurement.
    """
    first, seconds = timed_step(0), list[float]()
    least = 0 if first >= STAGE_S else 1 if 3 * first > STAGE_S else 2
    while len(seconds) < least or (least == 2 and sum(seconds) < ENOUGH_S and len(seconds) < MOST_STEPS):
        seconds.append(timed_step(1 + len(seconds)))
    return Measured(seconds=tuple(seconds or [first]), warmed_up=bool(seconds))


def few_images(domains: Domains, images: int) -> Domains:
    """The same domains with so many images on every side, evenly spread; some twice where there are fewer."""

    def few(dataset: Dataset) -> Dataset:
        return dataset.subset(np.linspace(0, len(dataset) - 1, images).astype(int).tolist())

    validation = domains.validation
    return dataclasses.replace(
        domains,
        source=few(domains.source),
        target=few(domains.target),
        validation=few(validation) if validation is not None else None,
    )


def cache_bytes(images: WorkingImages, count: int, *, with_labels: bool) -> int:
    """Of so many images like the first at working size."""
    height, width = working_size(images.dataset.image_size(0), images.size)
    return count * height * width * (4 if with_labels else 3)


def fill(bank: MemoryBank) -> None:
    """Random pixels up to the last row: a step costs most, and nearly always, with a full bank."""
    device, step = bank.labels.device, 4096
    for start in range(0, bank.capacity, step):
        rows = min(step, bank.capacity - start)
        features = F.normalize(torch.randn(rows, bank.features.shape[1], device=device), dim=1)
        scores = F.normalize(torch.randn(rows, bank.num_classes, device=device), dim=1)
        bank.push(features, scores, torch.randint(bank.num_classes, (rows,), device=device))


def tensor_bytes(state: Any) -> int:
    """Of all tensors in nested dicts and lists."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(map(tensor_bytes, state.values()))
    return sum(map(tensor_bytes, state)) if isinstance(state, list | tuple) else 0


def shrinking(recipe: Recipe, classes: int, device: torch.device) -> int:
    """By how much the sides of crops and images must be divided for steps of a bearable length.

    Judged by one small image through the teacher, whose work grows with the number of pixels.
    """
    height, width = (max(32, side // SHRINKINGS[-1]) for side in recipe.data.crop)
    network = build(recipe.model.teacher, classes).eval().to(device)
    image = torch.zeros(1, 3, height, width, dtype=torch.uint8, device=device)
    with torch.no_grad():
        for _ in range(2):
            began = time.perf_counter()
            predict(network, image)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - began
    crop = recipe.data.crop[0] * recipe.data.crop[1]
    # Self-labelling: two student passes forward and backward, about three times a forward pass each, and
    # the teacher's.
    step = 7 * recipe.self_labelling.batch * seconds * crop / (height * width)
    fitting = [by for by in SHRINKINGS if step / by**2 <= LONGEST_STEP_S]
    return fitting[0] if fitting else SHRINKINGS[-1]


def shrunk(recipe: Recipe, by: int) -> Recipe:
    """The recipe with all sides divided by a number, none below 32."""
    data = recipe.data

    def less(size: tuple[int, int]) -> tuple[int, int]:
        return max(32, size[0] // by), max(32, size[1] // by)

    small = dataclasses.replace(
        data,
        source_size=less(data.source_size),
        target_size=less(data.target_size),
        crop=less(data.crop),
    )
    return dataclasses.replace(recipe, data=small)


def freed() -> None:
    """Give memory that nothing refers to any more back to the GPU, after a stage or a failed one."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
