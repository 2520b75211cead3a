"""Candidates held against the budget and timed against each other."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

import cpsl_deploy
from cpsl_deploy.errors import UnavailableError
from cpsl_deploy.segmenter import Segmenter
from cpsl_deploy.train.engine.loop import Watcher
from cpsl_deploy.train.models.base import Segmenter as Network

from .candidates import YARDSTICK, Candidate
from .gate.blame import find_blame
from .gate.budget import Budget
from .gate.judge import Verdict, judge
from .gate.reference import Reference
from .gate.report import Gated
from .request import ExportRequest
from .speed import Speed, compare_speed
from .workshop import Workshop

SPEED_FRAMES = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """A candidate's file and what came of it."""

    candidate: Candidate
    path: Path
    gated: Gated
    speed: Speed | None = None
    """Against the float32 file in onnxruntime; None if nothing was timed."""

    @property
    def passed(self) -> bool:
        return self.gated.verdict.passed


class Tribunal:
    """The reference and the budget that every file is held against."""

    def __init__(self, reference: Reference, request: ExportRequest) -> None:
        self.reference = reference
        self._request = request

    def budget(self, precision: str) -> Budget:
        return self._request.budget(precision, labelled=self.reference.has_truth)

    def judge(self, segmenter: Segmenter, computed_in: str | None = None) -> Verdict:
        """The verdict on an opened file, whose labels are those that its users get. ``computed_in``: what the
        library computes a float32 file in, where that is less: "bf16" has no more bits than INT8."""
        precision = {"bf16": "int8", "f16": "fp16"}.get(computed_in or "", segmenter.contract.precision)
        budget = self.budget(precision)
        images = self.reference.frames.images()
        return judge((labels_of(segmenter, image) for image in images), self.reference, budget)

    def judge_file(self, path: Path) -> Verdict:
        """The verdict on an ONNX file in onnxruntime on the CPU."""
        with cpsl_deploy.load(path, backend="onnxruntime", device="cpu") as segmenter:
            return self.judge(segmenter)


def labels_of(segmenter: Segmenter, frame: np.ndarray) -> np.ndarray:
    """Labels uint8 (H, W) of one frame uint8 (H, W, 3) BGR, whatever number of frames the file takes."""
    if segmenter.backend.batch in (None, 1):
        return segmenter.predict(frame).labels
    return segmenter.predict_batch([frame] * segmenter.backend.batch)[0].labels


def hold_trials(
    candidates: Sequence[Candidate],
    workshop: Workshop,
    tribunal: Tribunal,
    network: Network,
    watcher: Watcher,
) -> list[Trial]:
    """Make and judge every candidate's file, and time those that pass if there is anything to compare.

    Of several, those that turn out not to run here are left out, with a message. Raises UnavailableError for
    a single one that does not run.
    """
    trials = []
    for candidate in candidates:
        watcher.message(f"{candidate.name}: making the file and comparing it with the model")
        try:
            trials.append(_trial(candidate, workshop, tribunal, network))
        except UnavailableError as error:
            if len(candidates) == 1:
                raise
            watcher.message(f"{candidate.name} is left out: {error}")
    if len(candidates) > 1 or candidates[0].precision != "fp32":
        watcher.message("timing the files that pass, in turns")
        trials = _timed(trials, workshop, tribunal)
    return trials


def chosen(trials: Sequence[Trial]) -> Trial | None:
    """The fastest of those that pass; None if none does."""
    passing = [trial for trial in trials if trial.passed]
    return max(passing, key=lambda trial: trial.speed.ratio if trial.speed else 0.0, default=None)


def _trial(candidate: Candidate, workshop: Workshop, tribunal: Tribunal, network: Network) -> Trial:
    path = workshop.file(candidate)
    with workshop.open(candidate) as segmenter:
        verdict = tribunal.judge(segmenter, candidate.backend_precision)
    blame = None
    if not verdict.passed:
        worst = [verdict.worst_frame]
        original = workshop.float_file(candidate)
        blame = find_blame(path, network, tribunal.reference, frames=worst, float_file=original)
    found = workshop.kept(candidate)
    gated = Gated(
        name=candidate.name,
        precision=candidate.precision,
        backend=candidate.backend,
        bytes=path.stat().st_size,
        verdict=verdict,
        blame=blame,
        kept_layers=tuple(cost.parameter for cost in found.costs if cost.kept) if found else (),
    )
    return Trial(candidate=candidate, path=path, gated=gated)


def _timed(trials: Sequence[Trial], workshop: Workshop, tribunal: Tribunal) -> list[Trial]:
    """The trials with their speeds. The yardstick is timed even if it is not among them."""
    passing = [trial.candidate for trial in trials if trial.passed and trial.candidate != YARDSTICK]
    frames = list(itertools.islice(tribunal.reference.frames.images(), SPEED_FRAMES))
    with contextlib.ExitStack() as opened:
        files = {
            candidate.name: partial(labels_of, opened.enter_context(workshop.open(candidate)))
            for candidate in (YARDSTICK, *passing)
        }
        speeds = compare_speed(files, frames)
    return [
        dataclasses.replace(
            trial,
            speed=speed,
            gated=dataclasses.replace(trial.gated, speed=speed.ratio, remark=_remark(speed)),
        )
        if (speed := speeds.get(trial.candidate.name)) and trial.passed
        else trial
        for trial in trials
    ]


def _remark(speed: Speed) -> str:
    return (
        f"{speed.median_ms:.1f} ms a frame; ratio between the quartiles {speed.low:.2f} and {speed.high:.2f}"
    )
