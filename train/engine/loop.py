"""The training loop: one step after another, watched, interruptible and resumable."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from cpsl_deploy.errors import ModelFileError, TrainingError

from .. import recipe
from ..samples import Batch
from ..stage import Losses, TrainingStage, learning_rate_factor
from .checkpoint import Checkpoints
from .loss_watch import BadLoss, LossWatch, listed
from .memory import keep_freed_memory
from .out_of_memory import resuming, step_in_words, told_what_to_lower, what_to_lower
from .precision import autocast, keep_depthwise_in_fp32
from .prefetch import prefetched
from .processes import Processes, any_process, mean_over_processes, of_all
from .synchronised import synchronise

_log = logging.getLogger(__name__)

STEPS_BETWEEN_QUESTIONS = 10
"""Of one process to the others, whether they were interrupted."""
MakeBatch = Callable[[int], Batch]
"""The batch of this process for micro step i = iteration * accumulate + part."""


class Watcher(Protocol):
    """Sees what the loop does."""

    def stage(self, name: str, done: int, total: int) -> None:
        """A stage begins, at iteration ``done`` of ``total``."""

    def step(self, name: str, iteration: int, losses: dict[str, float]) -> None:
        """Some iterations are done; ``losses`` are the terms' means over them."""

    def message(self, text: str) -> None:
        """Something worth a line."""


class SilentWatcher:
    """Watches nothing."""

    def stage(self, name: str, done: int, total: int) -> None: ...
    def step(self, name: str, iteration: int, losses: dict[str, float]) -> None: ...
    def message(self, text: str) -> None:
        _log.info("%s", text)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where and how a stage is trained."""

    processes: Processes
    compute: recipe.Compute
    seed: int
    checkpoint: Path
    log_metrics: Callable[[dict[str, Any]], None]
    watcher: Watcher
    evaluate: Callable[[TrainingStage, int], None] = lambda stage, iteration: None
    """Called at the beginning of each quarter of the stage, with the iterations done."""
    rewind: Callable[[str, int], None] = lambda stage, iteration: None
    """Called before the first step with the iteration that a stage goes on from: what was logged of later
    ones is logged again."""
    crop: tuple[int, int] | None = None
    """(height, width) of the crops, for an error's words."""


def step_seed(seed: int, stage: str, step: int) -> int:
    """A seed for the random choices of one step, the same in all processes."""
    return ((seed * 1_000_003 + sum(map(ord, stage))) * 1_000_003 + step) * 1_000_003 % 2**63


def evaluated(total: int) -> range:
    """The iterations before which a stage of so many is evaluated: its start and its quarters."""
    return range(0, total, max(1, total // 4))


def train(stage: TrainingStage, make_batch: MakeBatch, around: Surroundings) -> float:
    """Train a stage to its end, from its checkpoint if there is one of it. Returns the seconds it took, those
    before the checkpoint included.

    Killed at any moment and called again, it ends in the same bits (on a CPU): all random choices of a step
    follow from its number, and a checkpoint has everything else. Ctrl-C lets the step under way end (of
    several processes: up to ten), writes a checkpoint and goes on as KeyboardInterrupt; a second one stops at
    once. Raises TrainingError if a loss is not finite or explodes, or if a step does not fit into memory,
    ModelFileError if the checkpoint cannot be read.
    """
    loop = Loop(stage, around)
    compute, total = around.compute, stage.settings.iterations
    start = loop.restore()
    if around.processes.is_first:
        around.rewind(stage.name, start)
    around.watcher.stage(stage.name, start, total)
    batches = prefetched(make_batch, start * compute.accumulate, total * compute.accumulate, compute.workers)
    with contextlib.closing(batches), interruptible() as interrupted:
        for iteration in range(start, total):
            # Here and not after the step: a run that is resumed at this point evaluates it, too.
            if iteration in evaluated(total):
                loop.evaluate(iteration)
            done = iteration + 1
            with told_what_to_lower(*loop.holding(done)):
                loop.step(iteration, batches)
            if done % compute.log_every == 0 or done == total:
                loop.report(done)
            is_interrupted = loop.is_interrupted(done, interrupted.is_set())
            if is_interrupted or (done < total and done % compute.checkpoint_every == 0):
                loop.save(done)
            if is_interrupted:
                raise KeyboardInterrupt(
                    f"{stage.name} stopped at iteration {done}; --resume continues from there."
                )
    return loop.seconds()


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """In the block the first Ctrl-C sets the event; a second one interrupts.

    Threads other than the main one cannot be interrupted: there nothing is done.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(signum: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt(
                "stopped at once; the last regular checkpoint is intact, --resume continues there."
            )
        asked.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


class Loop:
    """A stage with its optimisers, and what is done with them in one step."""

    def __init__(self, stage: TrainingStage, around: Surroundings) -> None:
        self.stage, self.around, self.processes = stage, around, around.processes
        device = around.processes.device
        if self.processes.world > 1:
            synchronise(stage, device)  # all of its networks: the student may not be alone in training mode
        stage.to(device)
        stage.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if device.type == "cpu":
            keep_depthwise_in_fp32(stage.network)
            keep_freed_memory()
        self.optimisers = stage.optimisers()
        self.rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in self.optimisers]
        self.scaler = torch.amp.GradScaler(device.type, enabled=around.compute.precision == "fp16")
        self.module = self._distributed()
        self.checkpoints = Checkpoints(around.checkpoint)
        self.losses = LossWatch()
        self.reported = 0
        self.is_kept = False
        """Whether there is a checkpoint of this stage."""
        self.began = self.started = time.perf_counter()
        self.seconds_before = 0.0
        stage.train()

    def _distributed(self) -> nn.Module:
        if self.processes.world == 1:
            return self.stage
        ids = [self.processes.device.index] if self.processes.device.type == "cuda" else None
        with warnings.catch_warnings():
            # Its other name is unknown to the older of the versions of torch that are supported.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return nn.parallel.DistributedDataParallel(self.stage, device_ids=ids, broadcast_buffers=False)

    def step(self, iteration: int, batches: Iterator[Batch]) -> None:
        settings, accumulate = self.stage.settings, self.around.compute.accumulate
        self.factor = learning_rate_factor(iteration, settings.iterations, settings.optimiser)
        for optimiser, rates in zip(self.optimisers, self.rates, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * self.factor
        for part in range(accumulate):
            together = part == accumulate - 1 or self.module is self.stage
            with contextlib.nullcontext() if together else self.module.no_sync():  # type: ignore[operator]
                self._backward(iteration * accumulate + part, next(batches))
        if settings.optimiser.clip_norm:
            self.scaler.unscale_(self.optimisers[0])
            nn.utils.clip_grad_norm_(self.stage.network.parameters(), settings.optimiser.clip_norm)
        for optimiser in self.optimisers:
            self.scaler.step(optimiser)
            optimiser.zero_grad(set_to_none=True)
        self.scaler.update()
        self.stage.after_step()

    def _backward(self, micro: int, batch: Batch) -> None:
        """Add the gradients of one part of a step. All its random choices follow from its number."""
        compute, device = self.around.compute, self.processes.device
        seed = step_seed(self.around.seed, self.stage.name, micro)
        torch.manual_seed(seed)
        losses: Losses = {}
        parts = self._parts(batch.to(device), torch.Generator().manual_seed(seed))
        while True:
            with autocast(device, compute.precision):
                part = next(parts, None)
            if part is None:
                break
            total = torch.stack(list(part.values())).sum() / compute.accumulate
            self.scaler.scale(total).backward()
            losses |= {term: loss.detach() for term, loss in part.items()}
            del part, total  # they hold what the part took
        self.losses.see(micro // compute.accumulate + 1, losses, batch)

    def _parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Losses]:
        """The step's losses. Several processes average gradients behind one forward pass: all at once."""
        if self.module is self.stage:
            return self.stage.parts(batch, generator)
        return iter([self.module(batch, generator)])

    def evaluate(self, iteration: int) -> None:
        """What the surroundings do at a quarter of the stage; no part of a step's time."""
        began = time.perf_counter()
        self.around.evaluate(self.stage, iteration)
        self.stage.train()
        self.began += time.perf_counter() - began

    def is_interrupted(self, done: int, here: bool) -> bool:
        """Whether Ctrl-C has reached any process: the same answer in all of them.

        Several ask each other seldom, because GPUs wait for the answer, but always at the stage's end.
        """
        if self.processes.world == 1:
            return here
        asks = done % STEPS_BETWEEN_QUESTIONS == 0 or done == self.stage.settings.iterations
        return asks and any_process(here, self.processes)

    def seconds(self) -> float:
        """How long the stage has been trained, without what an interruption threw away."""
        return self.seconds_before + time.perf_counter() - self.started

    def holding(self, iteration: int) -> tuple[str, str, str]:
        """What a step does and holds, and what to lower if it does not fit into memory."""
        around, settings = self.around, self.stage.settings
        held = step_in_words(settings, around.compute, around.crop)
        return (
            f"training {self.stage.name}, iteration {iteration} ({held})",
            what_to_lower(
                self.stage.name, settings, around.compute, self.processes.world, is_kept=self.is_kept
            ),
            resuming(around.checkpoint.with_name("recipe.toml")),
        )

    def report(self, done: int) -> None:
        """Log the losses' means since the last report. Raises TrainingError for a bad one."""
        self._stop_for_bad_losses()
        means = {
            term: float(mean_over_processes(torch.tensor(mean, device=self.processes.device), self.processes))
            for term, mean in self.losses.means().items()
        }
        seconds = (time.perf_counter() - self.began) / (done - self.reported)
        self.reported, self.began = done, time.perf_counter()
        diagnostics = self.stage.diagnostics()
        if self.processes.is_first:
            entry = {"stage": self.stage.name, "iteration": done, "losses": means, "lr_factor": self.factor}
            self.around.log_metrics(entry | {"step_seconds": seconds} | diagnostics)
            self.around.watcher.step(self.stage.name, done, means)

    def _stop_for_bad_losses(self) -> None:
        """Raises TrainingError, in all processes, for the first step whose loss is not finite or explodes."""
        bad = self.losses.judge()
        if any_process(bad is not None, self.processes):
            found = [each for each in of_all(bad, self.processes) if each is not None]
            first: BadLoss = min(found, key=lambda each: each.iteration)
            raise TrainingError(
                f"{self.stage.name} cannot go on: {first}. Its batch: {listed(first.images)}. "
                f"If nothing is wrong with these: {self._remedy()}"
            )

    def _remedy(self) -> str:
        name, recipe_file = self.stage.name, self.around.checkpoint.with_name("recipe.toml")
        return f"lower {name}.optimiser.lr or set {name}.optimiser.clip_norm{resuming(recipe_file)}."

    def save(self, iteration: int) -> None:
        """Write a checkpoint. Raises TrainingError, keeping the last one, for bad losses or weights."""
        if self.reported < iteration:  # what is logged must not be in memory alone
            self.report(iteration)
        if self.processes.is_first:
            self._write_checkpoint(iteration)
        self.is_kept = True

    def _write_checkpoint(self, iteration: int) -> None:
        for key, value in self.stage.state_dict().items():
            if not torch.isfinite(value).all():
                raise TrainingError(
                    f"a checkpoint holds finite numbers alone; {key} of {self.stage.name} is not finite "
                    f"after iteration {iteration} (its batch: {listed(self.losses.images)}). To avoid it, "
                    f"{self._remedy()}"
                )
        state = {
            "stage": self.stage.name,
            "iteration": iteration,
            "seconds": self.seconds(),
            "module": self.stage.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "scaler": self.scaler.state_dict(),
        }
        self.checkpoints.write(state)

    def restore(self) -> int:
        """The iteration to go on from: 0 without a checkpoint of this stage.

        Raises ModelFileError for a checkpoint that is damaged or does not fit this stage.
        """
        state = self.checkpoints.read(self.stage.name)
        if state is None:
            return 0
        try:
            self.stage.load_state_dict(state["module"])
            for optimiser, own in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(own)
            if state["scaler"]:
                self.scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelFileError(
                f"the checkpoint {self.around.checkpoint} does not fit the stage {self.stage.name} "
                f"({str(error).splitlines()[0].rstrip(':')}). Delete it to start its stage again with "
                "--resume; finished stages are kept."
            ) from error
        self.reported, self.seconds_before = state["iteration"], state.get("seconds", 0.0)
        self.is_kept = True
        _log.info("%s continues at iteration %d", self.stage.name, state["iteration"])
        return state["iteration"]
