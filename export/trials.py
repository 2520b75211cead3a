"""Candidates held against the budget and timed against each other."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

import cpsl_deploy
from cpsl_deploy.bench.interleaved import Speed, compare_speed
from cpsl_deploy.errors import ModelFileError, UnavailableError
from cpsl_deploy.segmenter import Segmenter, labels_of
from cpsl_deploy.train.engine.loop import Watcher
from cpsl_deploy.train.models.base import Segmenter as Network

from .candidates import YARDSTICK, Candidate
from .gate.batches import Asked
from .gate.blame import find_blame
from .gate.budget import Budget
from .gate.frames import Frames, half_size
from .gate.judge import Verdict, judge
from .gate.outputs import check_outputs
from .gate.own_size import compare_sizes
from .gate.probe import Probe
from .gate.reference import Reference, make_reference
from .gate.report import Gated
from .request import ExportRequest
from .workshop import Workshop

_log = logging.getLogger(__name__)

SPEED_FRAMES = 4
AS_FAST = 0.95
"""Share of the fastest one's speed within which another is as fast: timing alone varies by that."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """A candidate's file and what came of it."""

    candidate: Candidate
    path: Path
    gated: Gated
    reference: Reference = field(repr=False)
    """What its verdict compares it with."""
    worst_labels: np.ndarray = field(repr=False)
    """uint8 (H, W): the file's of the frame ``gated.verdict.worst_frame`` of the reference."""
    at_half_size: bool = False
    """Whether the verdict is of a frame at half the size, because the file is within budget at its own."""
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
        resizes = request.contract.network_size is not None
        self.sizes = None if resizes else compare_sizes(reference, request.file_size(reference.spec))
        if self.sizes and self.sizes.drop > self.budget("fp32").max_iou_drop:
            _log.warning("the file's size costs %.1f points: %s", self.sizes.drop, self.sizes.words)

    def budget(self, precision: str) -> Budget:
        return self._request.budget(precision, labelled=self.reference.has_truth)

    def judge(self, segmenter: Segmenter, computed_in: str | None = None) -> Verdict:
        """The verdict on an opened file, whose labels are those that its users get. ``computed_in``: what the
        library computes a float32 file in, where that is less: "bf16" has no more bits than INT8."""
        precision = {"bf16": "int8", "f16": "fp16"}.get(computed_in or "", segmenter.contract.precision)
        budget = self.budget(precision)
        asked = Asked(segmenter)
        verdict = judge(asked.labels(self.reference.frames.images()), self.reference, budget)
        outputs = check_outputs(segmenter, self.reference, precision)
        return verdict.of_file(segmenter.contract, asked.broken, outputs, self.sizes)

    def judge_file(self, path: Path) -> Verdict:
        """The verdict on an ONNX file in onnxruntime on the CPU."""
        with cpsl_deploy.load(path, backend="onnxruntime", device="cpu", whole_graph=True) as segmenter:
            return self.judge(segmenter)


def hold_trials(
    candidates: Sequence[Candidate],
    workshop: Workshop,
    tribunal: Tribunal,
    network: Network,
    watcher: Watcher,
) -> list[Trial]:
    """Make and judge every candidate's file, and time those that pass if there is anything to compare.

    Of several, those that turn out not to run here, and those that a library refuses, are left out, with a
    message. Raises UnavailableError or ModelFileError for a single one and for the yardstick, and
    UnavailableError if nothing is left.
    """
    trials = []
    for candidate in candidates:
        watcher.message(f"{candidate.name}: making the file and comparing it with the model")
        try:
            trials.append(_trial(candidate, workshop, tribunal, network))
        except (UnavailableError, ModelFileError) as error:
            if len(candidates) == 1 or candidate == YARDSTICK:
                raise
            watcher.message(f"{candidate.name} is left out: {error}")
    if not trials:
        raise UnavailableError("none of the candidates runs on this machine; the messages above say why")
    passes = any(trial.passed for trial in trials)
    if passes and (len(candidates) > 1 or candidates[0].precision != "fp32"):
        watcher.message("timing the files that pass, in turns")
        trials = _timed(trials, workshop, tribunal)
    return trials


def chosen(trials: Sequence[Trial]) -> Trial | None:
    """The fastest of those that pass; of those that are as fast but for the noise of timing, the first, which
    needs least. None if none passes."""
    passing = [(trial, trial.speed.ratio if trial.speed else 0.0) for trial in trials if trial.passed]
    best = max((ratio for _, ratio in passing), default=0.0)
    return next((trial for trial, ratio in passing if ratio >= AS_FAST * best), None)


def _trial(candidate: Candidate, workshop: Workshop, tribunal: Tribunal, network: Network) -> Trial:
    path, reference = workshop.file(candidate), tribunal.reference
    with workshop.open(candidate, whole_graph=True) as segmenter:
        verdict = tribunal.judge(segmenter, candidate.backend_precision)
        worst_labels = _labels_at(segmenter, reference.frames, verdict.worst_frame)
    half = _at_half_size(path, tribunal, network) if verdict.passed else None
    if half is not None:
        reference, verdict, worst_labels = half
    blame = None
    if not verdict.passed:
        original = workshop.float_file(candidate)
        blame = find_blame(path, network, reference, frames=[verdict.worst_frame], float_file=original)
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
    return Trial(
        candidate=candidate,
        path=path,
        gated=gated,
        reference=reference,
        worst_labels=worst_labels,
        at_half_size=half is not None,
    )


def _labels_at(segmenter: Segmenter, frames: Frames, index: int) -> np.ndarray:
    """uint8 (H, W) of one frame, in a batch with those that it was judged with."""
    asked = Asked(segmenter)
    first = index - index % asked.at_once
    some = range(first, min(first + asked.at_once, len(frames)))
    labels = asked.labels(frames.read(i)[0] for i in some)
    return next(itertools.islice(labels, index - first, None))


def _at_half_size(
    path: Path, tribunal: Tribunal, network: Network
) -> tuple[Reference, Verdict, np.ndarray] | None:
    """What is wrong with a file that takes any size when a frame has about half of it: the reference there,
    the verdict, and the file's labels uint8 (H, W). None if nothing is.

    The runtime would bring the frame back to the usual size, so the file is run without it. A frame is too
    few pixels for the IoU of classes.
    """
    probe = Probe(path)
    if not probe.takes_any_size:
        return None
    frame = half_size(tribunal.reference.frames.read(0)[0])
    height, width = frame.shape[:2]
    described = f"the first of {tribunal.reference.described}, at {height}x{width}"
    frames = Frames.of([frame], described=described)
    reference = make_reference(network, probe.spec, frames, contract=probe.contract)
    labels = probe.labels(frame)
    budget = dataclasses.replace(
        tribunal.budget(probe.contract.precision), max_iou_drop=100, max_class_iou_drop=100
    )
    verdict = judge([labels], reference, budget).of_file(probe.contract)
    return None if verdict.passed else (reference, verdict, labels)


def _timed(trials: Sequence[Trial], workshop: Workshop, tribunal: Tribunal) -> list[Trial]:
    """The trials with their speeds. The yardstick is timed even if it is not among them."""
    passing = [trial.candidate for trial in trials if trial.passed and trial.candidate != YARDSTICK]
    frames = list(itertools.islice(tribunal.reference.frames.images(), SPEED_FRAMES))
    with contextlib.ExitStack() as opened:
        segmenters = {
            candidate.name: opened.enter_context(workshop.open(candidate))
            for candidate in (YARDSTICK, *passing)
        }
        at_once = segmenters[YARDSTICK.name].backend.batch or 1
        files = {name: partial(labels_of, segmenter) for name, segmenter in segmenters.items()}
        speeds = compare_speed(files, frames, at_once=at_once)
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
