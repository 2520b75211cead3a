"""``plan``: what an adaptation will take on this machine, measured before anything long starts."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cpsl_deploy.errors import UnavailableError
from cpsl_deploy.machine import Machine, describe_machine

from ..adaptation import STAGES
from ..domains import Domains
from ..engine import processes as procs
from ..engine.loop import SilentWatcher, Watcher, evaluated
from ..engine.out_of_memory import OutOfMemory
from ..evaluation.scoring import CURVE_IMAGES
from ..places import introduce
from ..recipe import Recipe
from ..request import Asked, Request
from ..target_statistics import PROTOTYPE_IMAGES
from .planned import Disk, Plan, Work
from .published_sets import Counts, published_sets, stand_ins
from .rehearsal import IMAGES, Rehearsal, StageRehearsal, cache_bytes, freed, shrinking, shrunk

if TYPE_CHECKING:
    from typing_extensions import Unpack

FEWER_IMAGES = 2
"""Of each side, where one takes seconds."""


def plan(
    source: str | Path | None = None,
    target: str | Path | None = None,
    output: str | Path | None = None,
    *,
    device: str = "auto",
    watcher: Watcher | None = None,
    **asked: Unpack[Asked],
) -> Plan:
    """Measure a few real steps of every stage of the adaptation that ``adapt`` would run with the same
    arguments, and say what the whole of it will take. Nothing is written to ``output``. All that is left
    is what opening the data puts into the cache folder, where the run finds it: frames sampled from a video,
    the demo's pictures. That is in no line.

    Without ``source`` and ``target``: for the recipes of published sets, whose sizes and numbers of images
    are known; random images stand in. Measures one process, about half a minute per stage at most.

    Raises the errors of ``cpsl_deploy.errors`` as ``adapt`` does; a stage that does not fit into memory is no
    error but a line of the plan.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UnavailableError("a plan measures one process. Make it without torchrun.")
    request = Request(source=source, target=target, **asked)
    recipe = request.resolved_recipe()
    sets = None if request.has_data else published_sets(recipe)
    watcher = watcher or SilentWatcher()
    machine = describe_machine()
    with _no_run_begun(), tempfile.TemporaryDirectory(prefix="cpsl-plan-") as temporary:
        folder = Path(temporary)
        notes: tuple[str, ...] = ()
        if sets is None:
            domains = request.open(watcher)
            introduce(domains, watcher)
            images = _counts(domains)
        else:
            domains, images = stand_ins(sets, recipe, IMAGES, folder), sets.counts
            notes = (
                f"No data was given. Random images stand in for {sets.source} and {sets.target}; assumed are "
                f"{images.source} and {images.target} images, and {images.validation} to score on.",
            )
        rehearsed = _rehearse(domains, recipe, folder / "run", device, watcher)
        return rehearsed.plan(images, machine, request.run_folder(output, recipe), notes)


@contextlib.contextmanager
def _no_run_begun() -> Iterator[None]:
    """An interruption says so."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("No run was begun.") from None


def _counts(domains: Domains) -> Counts:
    validation = domains.validation
    return Counts(
        source=len(domains.source),
        target=len(domains.target),
        validation=len(validation) if validation is not None else 0,
    )


def _rehearse(domains: Domains, recipe: Recipe, folder: Path, device: str, watcher: Watcher) -> _Rehearsed:
    """Measure every stage; those whose steps cost the same, once."""
    by = shrinking(recipe, len(domains.classes), procs.join(device).device)
    images = IMAGES if by == 1 else FEWER_IMAGES
    rehearsal = Rehearsal(domains, shrunk(recipe, by), folder, device=device, images=images)
    found: dict[str, StageRehearsal] = {}
    failed: dict[str, str] = {}
    twins: dict[str, str] = {}
    for name in STAGES:
        twin = next((other for other in found if _cost_the_same(name, other, rehearsal)), None)
        if twin is not None:
            twins[name] = twin
            continue
        watcher.message(f"measuring {name}")
        try:
            found[name] = rehearsal.rehearse(name)
        except OutOfMemory as error:
            failed[name] = f"{name} does not fit: {error.words} while {error.doing}. Set {error.lower}"
        freed()
    return _Rehearsed(recipe, rehearsal, by, found, failed, twins)


def _cost_the_same(name: str, other: str, rehearsal: Rehearsal) -> bool:
    """Whether stages differ in the number of their steps alone."""
    mine, theirs = (getattr(rehearsal.recipe, stage) for stage in (name, other))
    same_network = rehearsal.architecture(name) == rehearsal.architecture(other)
    return same_network and replace(mine, iterations=0) == replace(theirs, iterations=0)


@dataclass(frozen=True)
class _Rehearsed:
    """What was measured, and what a plan makes of it."""

    recipe: Recipe
    rehearsal: Rehearsal
    by: int
    """Sides were divided by it."""
    found: dict[str, StageRehearsal]
    failed: dict[str, str]
    """Stages that do not fit, and why."""
    twins: dict[str, str]
    """Stages that were not measured, and those measured in their place."""

    def plan(self, images: Counts, machine: Machine, run: Path, notes: tuple[str, ...]) -> Plan:
        work = tuple(self._work(images, machine))
        bank = self.found.get("self_labelling")
        return Plan(
            recipe=self.recipe,
            device=str(self.rehearsal.device),
            machine=machine,
            torch_version=torch.__version__,
            threads=torch.get_num_threads(),
            images=images,
            work=work,
            cache_bytes=self._cache_bytes(images),
            bank_bytes=bank.bank_bytes if bank is not None else 0,
            disk=self._disk(images, run),
            shrunk_by=self.by,
            notes=(*notes, *self._notes(work, machine)),
        )

    def _work(self, images: Counts, machine: Machine) -> Iterator[Work]:
        recipe, teacher = self.recipe, self.recipe.model.teacher
        for name in STAGES:
            distils = name.startswith("distillation")
            if name == "source_only" and ("class counts", "") in self.rehearsal.passes:
                yield self._pass("class counts", "", images.source, recipe.data.source_size)
            if name == "self_labelling":
                few = len(range(0, images.source, max(1, images.source // PROTOTYPE_IMAGES)))
                passes = 1 + sum(other.startswith("distillation") for other in STAGES)
                yield self._pass("source prototypes", teacher, passes * few, recipe.data.source_size)
            if name == "self_labelling" or distils:
                what = "soft labels, mirrored" if distils else "soft labels"
                yield self._pass(what, teacher, images.target, recipe.data.target_size)
            if name == "self_labelling" and recipe.self_labelling.prior_estimate == "prototypes":
                yield self._pass("class prior", teacher, images.target, recipe.data.target_size)
            yield self._stage(name, machine)
        for network in dict.fromkeys(map(self.rehearsal.architecture, STAGES)):
            stages = [name for name in STAGES if self.rehearsal.architecture(name) == network]
            scored = sum(scored_images(recipe, name, images.validation) for name in stages)
            if scored:
                yield self._pass("scoring", network, scored, recipe.data.target_size)

    def _pass(self, what: str, network: str, count: int, size: tuple[int, int]) -> Work:
        each = self.rehearsal.passes.get((what, network))
        return Work(
            name=what,
            is_stage=False,
            network=network,
            count=count,
            size=size,
            each=each.scaled(self.by**2) if each is not None else None,
        )

    def _stage(self, name: str, machine: Machine) -> Work:
        settings = getattr(self.recipe, name)
        twin = self.twins.get(name, "")
        found = self.found.get(twin or name)
        workers = min(self.recipe.compute.workers, max(1, int(machine.usable_cores)))
        work = Work(
            name=name,
            is_stage=True,
            network=self.rehearsal.architecture(name),
            count=settings.iterations,
            batch=settings.batch,
            size=self.recipe.data.crop,
            same_as=twin,
            does_not_fit=self.failed.get(name, ""),
        )
        if found is None:
            return work
        return replace(
            work,
            each=found.steps.scaled(self.by**2),
            batch_seconds=found.batch_seconds * self.by**2 / workers,
            memory_bytes=found.memory_bytes if self.by == 1 else None,
        )

    def _cache_bytes(self, images: Counts) -> int:
        data, rehearsal = self.recipe.data, self.rehearsal
        kept = (
            cache_bytes(rehearsal.source, images.source, with_labels=True) * self.by**2,
            cache_bytes(rehearsal.target, images.target, with_labels=False) * self.by**2,
        )
        return sum(min(each, data.cache_mib * 2**20) for each in kept)

    def _disk(self, images: Counts, run: Path) -> Disk:
        stages = [self.found[self.twins.get(name, name)] for name in STAGES if name not in self.failed]
        files = [path.stat().st_size for path in self.rehearsal.folder.soft_labels.glob("*.npy")]
        there = next(parent for parent in (run, *run.absolute().parents) if parent.exists())
        return Disk(
            models=sum(each.model_bytes for each in [*stages, *stages[-1:]]),
            checkpoint=3 * max((each.checkpoint_bytes for each in stages), default=0),
            soft_labels=round(self.by**2 * images.target * sum(files) / max(1, len(files))),
            free=shutil.disk_usage(there).free,
        )

    def _notes(self, work: tuple[Work, ...], machine: Machine) -> Iterator[str]:
        if self.by > 1:
            height, width = self.rehearsal.recipe.data.crop
            yield (
                f"Full steps are long here. Times marked ~ are of crops of {height}x{width}, and of images "
                f"whose sides are divided by {self.by}, too, times {self.by**2}; memory was not measured."
            )
        if any(each.each is not None and not each.each.warmed_up for each in work):
            yield "A step marked * is the only one that was made: none came before it."
        waiting = [each.name for each in work if each.waits_for_batches]
        if waiting:
            yield (
                f"Waiting for batches, and planned at their pace: {', '.join(waiting)}. On a machine with "
                "more cores, more threads make them: --set compute.workers=N."
            )
        yield (
            "Not in it: sampling frames of a video, checking the data first, reading images that are then "
            "kept in memory, writing checkpoints and the report."
        )
        if self.rehearsal.device.type == "cpu" and self.by == 1:
            yield "Memory is that of the whole process at its most, its libraries included."
        if machine.was_busy:
            yield (
                f"The machine was busy in the minute before (load average {machine.load_average}): if that "
                "work ends, times are too long."
            )


def scored_images(recipe: Recipe, stage: str, images: int) -> int:
    """How many images pass through the network to score a stage: see ``Scoring``."""
    settings, curve = getattr(recipe, stage), min(CURVE_IMAGES, images)
    moments = len(evaluated(settings.iterations)) + 1  # the end is one, too: the start, of no iterations
    scored = images + (moments - 1) * curve  # the network is not scored at the start
    if stage == "self_labelling":
        scored += moments * curve * (1 if settings.online_soft_labels else 2)
    return scored
