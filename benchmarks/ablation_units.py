"""The training of an ablation: one unit per arm and seed, claimed, run once, resumable."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ablation_arms import ORACLE, Arm, Plan, taken_over
from pairs import Lines, Pair, claimed

from cpsl_deploy.data import Dataset
from cpsl_deploy.errors import CpslError, DataError, RecipeError
from cpsl_deploy.files import write_json
from cpsl_deploy.train.adaptation import STAGES, Adaptation, student_iterations
from cpsl_deploy.train.domains import Domains
from cpsl_deploy.train.engine.run_folder import RunFolder
from cpsl_deploy.train.recipe import Recipe, load_recipe
from cpsl_deploy.train.reporting.report import describe_training_machine

Outcome = Literal["ran", "done", "busy", "failed"]
WAIT_SECONDS = 5.0
"""Between two looks at units that other processes are working on."""


@dataclass(frozen=True)
class Unit:
    """An arm with a seed: what is run, claimed and done as one."""

    seed: int
    arm: Arm

    def __str__(self) -> str:
        return f"seed {self.seed} {self.arm.name}"


class Measurement:
    """The run folders ``seed-<n>/<arm>`` of a plan on a pair. Processes on one machine can share the work.

    Raises RecipeError if an arm's settings are none.
    """

    def __init__(
        self,
        plan: Plan,
        pair: Pair,
        output: Path,
        *,
        recipe: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        device: str = "auto",
    ) -> None:
        self.plan, self.pair, self.output, self.device = plan, pair, output, device
        self.base, self.given = recipe or pair.recipe, dict(overrides or {})
        self.domains: Callable[[int], Domains] = functools.cache(self._open)
        self.absent: Callable[[int], frozenset[str]] = functools.cache(self._absent)
        """The classes that a seed's validation images do not show."""
        for arm in plan.arms.values():
            self.recipe(Unit(0, arm))

    def _open(self, seed: int) -> Domains:
        domains = self.pair.open(seed)
        if len(domains.classes) != self.pair.classes:
            raise DataError(
                f"the pair {self.pair.name} has {self.pair.classes} classes, and these data have "
                f"{len(domains.classes)}: {', '.join(domains.classes.names)}. Give the pair's own."
            )
        return domains

    def recipe(self, unit: Unit) -> Recipe:
        """A unit's settings on this pair."""
        own = {key: self._of_classes(value) for key, value in self.plan.overrides(unit.arm).items()}
        given = {**self.pair.overrides, **own, **self.given, "seed": unit.seed}
        return load_recipe(self.base, given)

    def _of_classes(self, value: Any) -> Any:
        """``"5 / classes"`` as a number."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?) / classes", value) if isinstance(value, str) else None
        return float(found[1]) / self.pair.classes if found else value

    def without_no_ops(self, arms: Sequence[Arm]) -> list[Arm]:
        """Those whose settings are not, on this pair, just those of the arm they are like: nothing would be
        measured but the same training. One that another arm begins after stays.
        """
        begun = {before.name for arm in arms if (before := self.plan.begins_after(arm)) is not None}
        return [arm for arm in arms if arm.name in begun or not self._changes_nothing(arm)]

    def _changes_nothing(self, arm: Arm) -> bool:
        if not (arm.like and arm.set):
            return False
        return self._settings_by_stage(arm) == self._settings_by_stage(self.plan.arms[arm.like])

    def _settings_by_stage(self, arm: Arm) -> dict[str, Recipe]:
        """What each stage up to an arm's last one is trained with, by that arm or those it begins after."""
        before = self.plan.begins_after(arm)
        earlier = self._settings_by_stage(before) if before is not None else {}
        own = dict.fromkeys(arm.stages, self.recipe(Unit(0, arm)))
        return {stage: earlier[stage] for stage in taken_over(arm)} | own

    def _absent(self, seed: int) -> frozenset[str]:
        domains = self.domains(seed)
        validation = validation_of(domains)
        seen = {value for i in range(len(validation)) for value in np.unique(validation.label(i)).tolist()}
        return frozenset(name for k, name in enumerate(domains.classes.names) if k not in seen)

    def folder(self, seed: int, arm: str) -> RunFolder:
        return RunFolder(self.output / f"seed-{seed}" / arm)

    def results(self, unit: Unit) -> dict[str, Any] | None:
        """results.json of a finished unit; None of another one.

        Raises RecipeError if the folder was run with other settings than the unit's now.
        """
        run = self.folder(unit.seed, unit.arm.name)
        results = run.results()
        if any(stage not in results for stage in unit.arm.stages):
            return None
        if _settings(load_recipe(run.recipe_file), unit.arm) != _settings(self.recipe(unit), unit.arm):
            raise RecipeError(
                f"{run.path} was run with other settings than the arm {unit.arm.name} has now. Delete the "
                "folder to measure it again, or choose another output folder."
            )
        return results

    def run(self, unit: Unit) -> None:
        """Train what of a unit is not trained yet."""
        run = self.folder(unit.seed, unit.arm.name)
        if not run.recipe_file.is_file() and run.path.is_dir():
            for leftover in run.path.glob(".recipe.*.tmp.toml"):  # a kill while the first file was written
                leftover.unlink()
        adaptation = Adaptation(
            self.domains(unit.seed),
            self.recipe(unit),
            run.path,
            device=self.device,
            watcher=Lines(str(unit)),
            resume=run.recipe_file.is_file(),
        )
        write_json(run.path / "unit.json", _circumstances(adaptation.device))
        before = self.plan.begins_after(unit.arm)
        if before is not None:
            run.take_over(self.folder(unit.seed, before.name), taken_over(unit.arm))
        if unit.arm.stages != ORACLE:
            adaptation.run(unit.arm.stages)
        elif "oracle" not in run.results():
            adaptation.run_oracle()

    def run_all(self, units: list[Unit], done: Callable[[], object]) -> dict[str, str]:
        """Run the units that are not done, in their order as far as other processes are not at them; wait for
        those. ``done`` is called after each that was run here. An arm that fails does not stop the others.

        Returns what went wrong, by unit.
        """
        waiting, failed = list(units), {}
        while waiting:
            worked = False
            for unit in list(waiting):
                before = self.plan.begins_after(unit.arm)
                try:
                    if before is not None and str(Unit(unit.seed, before)) in failed:
                        raise CpslError(f"it begins after {before.name}, which failed.")
                    if before is not None and self.results(Unit(unit.seed, before)) is None:
                        continue
                    outcome = self._run_if_free(unit)
                except CpslError as error:
                    failed[str(unit)] = str(error)
                    Lines(str(unit)).message(f"failed: {error}")
                    outcome = "failed"
                if outcome == "busy":
                    continue
                waiting.remove(unit)
                worked = True
                if outcome == "ran":
                    done()
                break
            if not worked:
                time.sleep(WAIT_SECONDS)
        return failed

    def _run_if_free(self, unit: Unit) -> Outcome:
        """Run a unit that is not done and that no other process is at."""
        if self.results(unit) is not None:
            return "done"
        with claimed(self.output / f"seed-{unit.seed}" / f"{unit.arm.name}.lock") as mine:
            if not mine:
                return "busy"
            if self.results(unit) is not None:  # by another process, since the first look
                return "done"
            self.run(unit)
            return "ran"


def validation_of(domains: Domains) -> Dataset:
    """The labelled images that networks are scored on. Raises DataError if there are none."""
    if domains.validation is None:
        raise DataError("an ablation scores networks, and the target has no labelled images.")
    return domains.validation


def _settings(recipe: Recipe, arm: Arm) -> dict[str, Any]:
    """What of a recipe an arm's figures depend on: not the stages after its last one."""
    values = dataclasses.asdict(recipe)
    del values["name"], values["compute"], values["data"]["cache_mib"]
    values["precision"], values["accumulate"] = recipe.compute.precision, recipe.compute.accumulate
    last = 0 if arm.stages == ORACLE else STAGES.index(arm.stages[-1])
    for stage in STAGES[last + 1 :]:
        del values[stage]
    if arm.stages == ORACLE:
        del values["source_only"]["iterations"]
        values["iterations"] = student_iterations(recipe)
    return values


def _circumstances(device: torch.device) -> dict[str, Any]:
    """What a unit ran on and with."""
    return {
        "begun": datetime.datetime.now().isoformat(timespec="seconds"),
        "machine": describe_training_machine(device),
        "threads": torch.get_num_threads(),
        "revision": revision(),
    }


@functools.cache
def revision() -> str | None:
    """Commit of this checkout when the process began, ``+`` where files differ from it; None without git."""
    where = Path(__file__).parent
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
