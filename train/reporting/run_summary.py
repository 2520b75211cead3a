"""What a run says of itself, read once from its folder, for the report's tables and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsl_deploy.classes import ClassSpace
from cpsl_deploy.data import Dataset
from cpsl_deploy.errors import InputError

from ..engine.run_folder import RunFolder
from ..recipe import Recipe, load_recipe
from .held_out import HeldOut

if TYPE_CHECKING:
    from ..domains import Domains

STAGE_TITLES = {
    "source_only": "source-only",
    "warm_up": "warm-up",
    "self_labelling": "self-labelling",
    "distillation_1": "distillation 1",
    "distillation_2": "distillation 2",
}
"""The stages in their order, as the report names them."""
TAIL_SHARE = 0.02
"""A class believed to have less of the target's pixels is in the tail."""
UNSEEN_SHARE = 1e-4
"""A class of a smaller share gives self-labelling nothing to start from."""

_NOT_DIAGNOSTICS = {"stage", "iteration", "losses", "lr_factor", "step_seconds"}

Line = tuple[np.ndarray, np.ndarray]
"""Iterations of a stage and a value at each, (n,) both; NaN where a value is missing."""
ClassLines = tuple[np.ndarray, np.ndarray]
"""Iterations of a stage (n,) and a value per class at each, (n, C); NaN where a value is missing."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A network on its way, scored on the images that the curves are of."""

    stage: str
    iteration: int
    mean_iou: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What results.json says of one network: a stage's, the exported one or the oracle."""

    key: str
    title: str
    iterations: int | None = None
    seconds: float | None = None
    mean_iou: float | None = None
    """0..1; None where nothing was scored."""
    pixel_accuracy: float | None = None
    iou: tuple[float | None, ...] = ()
    """Per class, 0..1; None for a class that occurs neither in the labels nor in the predictions. Empty where
    nothing was scored."""

    def mean_over(self, classes: Iterable[int]) -> float | None:
        """Mean IoU of some classes, without those that never occur; None if that leaves none."""
        known = [value for k in classes if self.iou and (value := self.iou[k]) is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run, as far as it has come."""

    name: str
    recipe: Recipe
    classes: ClassSpace
    source: str
    target: str
    validation: str | None
    """The labelled target images, in words; None if there are none."""
    unlabelled: str | None = None
    """Target images held out to look at, in words; None if there are none."""
    footage: tuple[str, ...] = ()
    """How the target's frames were sampled, if it is a drive."""
    held_out: HeldOut | None = None
    """Before and after on a drive's held-out seconds."""
    dropped: tuple[str, ...]
    stages: tuple[Result, ...]
    """Finished stages in their order; the first is source-only."""
    exported: Result | None
    oracle: Result | None
    prior: tuple[float, ...] | None
    """Share of target pixels per class as estimated at the start of self-labelling; None before that."""
    machine: Mapping[str, Any]
    log: tuple[Mapping[str, Any], ...]
    """The lines of metrics.jsonl."""

    @property
    def source_only(self) -> Result:
        return self.stages[0]

    @property
    def adapted(self) -> Result | None:
        """The last finished stage; None while there is only the source-only network."""
        return self.stages[-1] if len(self.stages) > 1 else None

    @property
    def is_finished(self) -> bool:
        return self.stages[-1].key == list(STAGE_TITLES)[-1]

    @property
    def is_scored(self) -> bool:
        return self.source_only.mean_iou is not None

    @property
    def scored_on(self) -> str:
        """The images that the scores are of, in words."""
        return self.validation or "labelled target images"

    @property
    def groups(self) -> dict[str, list[int]]:
        """Classes by descending share, as ``head`` and ``tail``; as ``all`` while no prior is known."""
        if self.prior is None:
            return {"all": list(range(len(self.classes)))}
        shares = self.prior
        by_share = sorted(range(len(shares)), key=lambda k: -shares[k])
        parts = {
            "head": [k for k in by_share if shares[k] >= TAIL_SHARE],
            "tail": [k for k in by_share if shares[k] < TAIL_SHARE],
        }
        return {name: classes for name, classes in parts.items() if classes}

    @property
    def unseen(self) -> list[int]:
        """Classes that the estimate finds (almost) nowhere in the target."""
        return [k for k, share in enumerate(self.prior or ()) if share < UNSEEN_SHARE]

    def architecture(self, stage: str) -> str:
        """The network of a stage."""
        model = self.recipe.model
        return model.student if stage == "distillation_2" else model.teacher

    def title(self, k: int) -> str:
        """A class with its share: ``road, 31.7 %``."""
        return self.classes.names[k] + (f", {share_text(self.prior[k])}" if self.prior else "")

    def starts(self) -> dict[str, int]:
        """Iterations of the whole run before each stage that was begun."""
        finished = {stage.key: stage.iterations or 0 for stage in self.stages}
        starts, total = {}, 0
        for key in STAGE_TITLES:
            logged = max((int(e["iteration"]) for e in self.log if e["stage"] == key), default=0)
            if key in finished or logged:
                starts[key] = total
                total += finished.get(key, logged)
        return starts

    def losses(self, stage: str) -> dict[str, Line]:
        """The weighted loss terms of a stage by name."""
        logged = (e for e in self.log if e["stage"] == stage and "losses" in e)
        return _lines((e["iteration"], e["losses"]) for e in logged)

    def diagnostics(self, stage: str) -> dict[str, Line]:
        """What a stage logs beside its losses."""
        logged = (e for e in self.log if e["stage"] == stage and "losses" in e)
        return _lines(
            (e["iteration"], {key: value for key, value in e.items() if key not in _NOT_DIAGNOSTICS})
            for e in logged
        )

    def per_class(self, stage: str, name: str) -> ClassLines:
        """What a stage logs beside its losses as a list with a value per class; empty if it logs no such."""
        logged = (e for e in self.log if e["stage"] == stage and "losses" in e)
        return self._class_lines((e["iteration"], e[name]) for e in logged if name in e)

    def of_pseudo_labels(self, name: str) -> ClassLines:
        """A figure of ``PseudoLabelScore.to_json`` over self-labelling; empty without labelled images."""
        scored = (e for e in self.log if e["stage"] == "self_labelling" and "pseudo_labels" in e)
        return self._class_lines((e["iteration"], e["pseudo_labels"][name]) for e in scored)

    def _class_lines(self, logged: Iterable[tuple[int, Sequence[float | None]]]) -> ClassLines:
        points = sorted(logged, key=lambda point: point[0])
        values = [[np.nan if value is None else value for value in row] for _, row in points]
        shape = (len(points), len(self.classes))
        return np.array([i for i, _ in points]), np.array(values, np.float64).reshape(shape)

    def moments(self) -> list[Moment]:
        """All networks that were scored on the images of the curves, in the order of the run."""
        scored = [
            Moment(stage=e["stage"], iteration=int(e["iteration"]), mean_iou=score)
            for e in self.log
            if e["stage"] in STAGE_TITLES and (score := _number(e.get("mean_iou"))) is not None
        ]
        order = list(STAGE_TITLES)
        return sorted(scored, key=lambda moment: (order.index(moment.stage), moment.iteration))

    def iou_on_the_way(self, stage: str) -> list[tuple[int, Sequence[float | None]]]:
        """(iteration of the stage, IoU per class) while it trained, its end included.

        A score just before the end is left out: the end's is of more images, and the two would overlap.
        """
        scored = [(int(e["iteration"]), e["iou"]) for e in self.log if e["stage"] == stage and "iou" in e]
        for result in self.stages:
            if result.key == stage and result.iou:
                end = result.iterations or 0
                scored = [point for point in scored if point[0] < 0.95 * end] + [(end, result.iou)]
        return sorted(scored, key=lambda point: point[0])


def group_title(group: str) -> str:
    """A key of ``RunSummary.groups`` in words."""
    limit = f"{100 * TAIL_SHARE:g} % of the target's pixels"
    titles = {
        "head": f"head classes: {limit} or more, by the estimated prior",
        "tail": f"tail classes: under {limit}, by the estimated prior",
    }
    return titles.get(group, "all classes")


def share_text(share: float) -> str:
    """A share as percent with as many digits as a small one needs."""
    percent = 100 * share
    if 0 < percent < 0.01:
        return "< 0.01 %"
    return f"{percent:.1f} %" if percent >= 1 or percent == 0 else f"{percent:.2f} %"


def points_text(difference: float) -> str:
    """A difference of IoUs in points, with its sign."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"  # the added zero makes -0.0 a plain zero


def read_run(folder: RunFolder, domains: Domains) -> RunSummary:
    """Read a run folder. Raises InputError if no stage is finished or its scores are of other classes."""
    results = folder.results()
    stages = []
    for key, title in STAGE_TITLES.items():
        if key not in results:
            break
        stages.append(_result(key, title, results, domains.classes))
    if not stages:
        raise InputError(
            f"a report needs a finished stage, and {folder.path} has none in results.json. Let the run go on "
            "with --resume first."
        )
    recipe = load_recipe(folder.recipe_file)
    validation = domains.validation
    return RunSummary(
        name=folder.path.resolve().name,
        recipe=recipe,
        classes=domains.classes,
        source=_described(domains.source),
        target=_described(domains.target),
        validation=None if validation is None else _described(validation),
        unlabelled=None if domains.held_out is None else _described(domains.held_out),
        footage=() if domains.target.footage is None else domains.target.footage.words(),
        held_out=HeldOut.from_json(results["held_out"], domains.classes) if "held_out" in results else None,
        dropped=domains.dropped,
        stages=tuple(stages),
        exported=_result("exported", "exported", results, domains.classes) if "exported" in results else None,
        oracle=_result("oracle", "oracle", results, domains.classes) if "oracle" in results else None,
        prior=_prior(results, recipe, folder, domains.classes),
        machine=results.get("machine", {}),
        log=tuple(folder.metrics()),
    )


def _described(dataset: Dataset) -> str:
    count = len(dataset)
    return f"{dataset.name} ({dataset.split}, {count} image{'s' if count != 1 else ''})"


def _result(key: str, title: str, results: Mapping[str, Any], classes: ClassSpace) -> Result:
    values = results[key]
    iou = tuple(_number(value) for value in values.get("iou", ()))
    if iou and len(iou) != len(classes):
        raise InputError(
            f"the scores of {key!r} are of {len(iou)} classes and the datasets have {len(classes)}. Open the "
            "datasets with the classes of the run."
        )
    return Result(
        key=key,
        title=title,
        iterations=values.get("iterations"),
        seconds=values.get("seconds"),
        mean_iou=_number(values.get("mean_iou")),
        pixel_accuracy=_number(values.get("pixel_accuracy")),
        iou=iou if any(value is not None for value in iou) else (),
    )


def _number(value: float | None) -> float | None:
    """JSON's null and NaN both mean that there is no figure."""
    return None if value is None or math.isnan(value) else float(value)


def _prior(
    results: Mapping[str, Any], recipe: Recipe, folder: RunFolder, classes: ClassSpace
) -> tuple[float, ...] | None:
    """The shares that were counted: the stored prior without the smoothing that the recipe added."""
    if "prior" not in results:
        return None
    stored = np.asarray(results["prior"], np.float64)
    if stored.shape != (len(classes),):
        raise InputError(
            f"the class prior in {folder.results_file} is of {stored.size} classes and the datasets have "
            f"{len(classes)}. Open the datasets with the classes of the run."
        )
    smoothing = recipe.self_labelling.prior_smoothing
    if smoothing < 1:
        stored = np.maximum((stored - smoothing / len(stored)) / (1 - smoothing), 0)
    return tuple(stored.tolist())


def _lines(logged: Iterable[tuple[int, Mapping[str, Any]]]) -> dict[str, Line]:
    points: dict[str, list[tuple[int, float]]] = {}
    for iteration, values in sorted(logged, key=lambda entry: entry[0]):
        for name, value in values.items():
            if isinstance(value, int | float):
                points.setdefault(name, []).append((iteration, float(value)))
    return {name: (np.array([i for i, _ in p]), np.array([v for _, v in p])) for name, p in points.items()}
