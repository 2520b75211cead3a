"""The run folder: what an adaptation leaves behind, and what a resumed one finds.

recipe.toml          the resolved recipe          domains.json       the datasets and classes
results.json         scores of every stage        metrics.jsonl      losses and scores, a line each
<stage>.safetensors  the network after a stage    model.safetensors  the one to deploy
checkpoint.pt, checkpoint.before.pt               the stage under way: its last two states
soft_labels/         while a stage needs them
report.md            the comparison, with its pictures
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpsl_deploy.errors import OutputError
from cpsl_deploy.files import (
    as_output_error,
    new_output_folder,
    remove_leftovers,
    write_bytes,
    write_json,
    write_text,
)

from ..recipe import Recipe, load_recipe, to_toml
from .checkpoint import Checkpoints
from .recipe_changes import require_resumable

_log = logging.getLogger(__name__)


class RunFolder:
    """The files of a run, by name."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe_file = self.path / "recipe.toml"
        self.domains_file = self.path / "domains.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.results_file = self.path / "results.json"
        self.checkpoint = self.path / "checkpoint.pt"
        self.checkpoints = Checkpoints(self.checkpoint)
        self.model = self.path / "model.safetensors"
        self.report = self.path / "report.md"
        self.soft_labels = self.path / "soft_labels"

    def stage_model(self, stage: str) -> Path:
        return self.path / f"{stage}.safetensors"

    def require_usable(self, *, resume: bool) -> None:
        """Raises OutputError for a folder that is not empty, or that holds no run if one is to be resumed."""
        if resume and not self.recipe_file.is_file():
            raise OutputError(
                f"--resume continues a run, and {self.path} holds none (no recipe.toml). Leave --resume out "
                "to start one."
            )
        if not resume and self.path.is_dir() and any(self.path.iterdir()):
            remedy = (
                "Continue the run in it with --resume, or choose" if self.recipe_file.is_file() else "Choose"
            )
            raise OutputError(
                f"the output folder {self.path} is not empty. {remedy} another one with --output."
            )

    def begin(self, recipe: Recipe, *, resume: bool) -> None:
        """Make the folder, or check that the run in it is the one to resume and clear up after its end.

        Raises OutputError for a folder with something else in it, RecipeError if its recipe differs in what
        was needed so far (see ``recipe_changes``); what differs else is what the run goes on with.
        """
        self.require_usable(resume=resume)
        if not resume:
            new_output_folder(self.path)
            write_text(self.recipe_file, to_toml(recipe))
            return
        begun = load_recipe(self.recipe_file)
        if begun != recipe:
            finished = {stage for stage in self.results() if self.stage_model(stage).is_file()}
            require_resumable(begun, recipe, finished | self.checkpoints.stages())
            write_text(self.recipe_file, to_toml(recipe))
        for folder in (self.path, self.soft_labels):
            remove_leftovers(folder)

    def results(self) -> dict[str, Any]:
        """Scores of the finished stages by name. Raises OutputError if results.json is damaged."""
        if not self.results_file.is_file():
            return {}
        try:
            results = json.loads(self.results_file.read_text())
            if not isinstance(results, dict):
                raise ValueError(f"it holds a {type(results).__name__}")
        except ValueError as error:
            raise OutputError(
                f"{self.results_file} is damaged ({error}). Delete it; --resume trains the stages again."
            ) from error
        return results

    def add_results(self, **entries: Any) -> None:
        write_json(self.results_file, self.results() | entries)

    def take_over(self, other: RunFolder, stages: Sequence[str]) -> None:
        """Copy finished stages of another run: their networks, scores and logged lines. A run that begins
        with them trains none of them again. Nothing is done twice, also after an interruption.

        Raises OutputError if a stage is not finished there.
        """
        theirs = other.results()
        for stage in stages:
            if stage not in theirs or not other.stage_model(stage).is_file():
                raise OutputError(
                    f"a run begins with finished stages of another one, and {other.path} has not finished "
                    f"{stage}. Finish it first: --resume continues it."
                )
            if stage in self.results():
                continue
            write_bytes(self.stage_model(stage), other.stage_model(stage).read_bytes())
            for entry in other.metrics():
                if entry["stage"] == stage:
                    self.log_metrics(entry)
            made_on_the_way = ("prior",) if stage == "self_labelling" else ()
            self.add_results(**{key: theirs[key] for key in (stage, *made_on_the_way) if key in theirs})

    def log_metrics(self, entry: dict[str, Any]) -> None:
        """Append a line. A line cut short by a crash is skipped when read, and stays a line of its own.

        Raises OutputError if it cannot be written.
        """
        try:
            with open(self.metrics_file, "a+b") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
                file.write(json.dumps(entry).encode() + b"\n")
        except OSError as error:
            raise as_output_error(error, self.metrics_file) from error

    def metrics(self) -> list[dict[str, Any]]:
        """Logged lines; of a step logged again after a resume, the later line. Damaged lines are left out."""
        latest: dict[tuple, dict[str, Any]] = {}
        damaged = 0
        if self.metrics_file.is_file():
            for line in self.metrics_file.read_bytes().splitlines():
                try:
                    entry = json.loads(line)
                    latest[entry["stage"], entry["iteration"], "losses" in entry] = entry
                except (ValueError, TypeError, KeyError):
                    damaged += bool(line.strip())
        if damaged:
            _log.warning("%d damaged lines of %s are left out", damaged, self.metrics_file)
        return list(latest.values())

    def rewind_metrics(self, stage: str, iteration: int) -> None:
        """Take back what was logged of a stage by steps after an iteration, and scores at it or later: going
        on from there logs them again.
        """
        if not self.metrics_file.is_file():
            return

        def stays(entry: dict[str, Any]) -> bool:
            is_earlier = entry["iteration"] < iteration + ("losses" in entry)
            return entry["stage"] != stage or is_earlier

        kept = [json.dumps(entry) + "\n" for entry in self.metrics() if stays(entry)]
        write_text(self.metrics_file, "".join(kept))
