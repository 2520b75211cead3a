"""Where the authors' code is faulty in views and runs: the last rows of the README's table of differences.

The others are in ``test_reference_faults.py``.
"""

# ruff: noqa: E402
from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_self_labelling import self_labelling, step
from tiny_training import CLASSES, CROP, SIZE, TinySegmenter, streets, tiny_batch
from torch import Tensor

from cpsl_deploy.train import recipe
from cpsl_deploy.train.adaptation import STAGES, Adaptation
from cpsl_deploy.train.domains import Domains
from cpsl_deploy.train.engine import processes
from cpsl_deploy.train.engine.loop import SilentWatcher, Surroundings, train
from cpsl_deploy.train.models import load_model
from cpsl_deploy.train.models.registry import ARCHITECTURES
from cpsl_deploy.train.recipe import Data, Recipe
from cpsl_deploy.train.reference_arithmetic import OURS, REFERENCE, Arithmetic
from cpsl_deploy.train.samples import Batch
from cpsl_deploy.train.stage import learning_rate_factor
from cpsl_deploy.train.views import Geometric, jitter_matrix, warp_image, warp_labels

BOTH = pytest.mark.parametrize("arithmetic", [OURS, REFERENCE], ids=["ours", "reference"])


# ---- the strong view's geometry is replayed on labels in another order than on the image

Change = tuple[str, float]


def change_matrix(kind: str, amount: float, width: float) -> np.ndarray:
    """A point's way through one change of a square view about its centre; a shift is a share of ``width``."""
    sin, cos = np.sin(np.deg2rad(amount)), np.cos(np.deg2rad(amount))
    return {
        "shear_x": np.array([[1, amount, 0], [0, 1, 0], [0, 0, 1]]),
        "shift_x": np.array([[1, 0, amount * width], [0, 1, 0], [0, 0, 1]]),
        "rotate": np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]),
    }[kind]


def replayed(changes: list[Change], point: np.ndarray, width: float, height: float) -> np.ndarray:
    """Where the reference puts a point's label: kinds in a fixed order, the last amount of each, shifts in x
    by a share of the height."""
    last = dict(changes)
    for kind in ("shear_x", "shift_x", "rotate"):
        if kind in last:
            point = (
                change_matrix(kind, last[kind] * (height / width if kind == "shift_x" else 1), width) @ point
            )
    return point


def centre(shown: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(shown)
    return np.array([columns.mean(), rows.mean()])


def test_a_point_s_label_is_where_the_point_is():
    """Points tracked through random compositions of changes: in image and labels to within a pixel."""
    size, tracked, apart = (96, 128), 0, []
    geometry = Geometric(scale=(0.8, 1.25), flip=True, rotation=25, translation=0.15, shear=12)
    ys, xs = np.mgrid[: size[0], : size[1]]
    for seed in range(60):
        rng = np.random.default_rng(seed)
        matrix = np.linalg.multi_dot([jitter_matrix(rng, size, geometry) for _ in range(rng.integers(2, 5))])
        there = rng.uniform((30, 30), (98, 66))
        point = (matrix @ [*there, 1])[:2]  # what the view shows there
        if (point > 10).all() and (point < np.array([118, 86])).all():
            disc = ((xs - point[0]) ** 2 + (ys - point[1]) ** 2 < 36).astype(np.uint8)
            image = np.repeat(200 * disc[:, :, None], 3, axis=2)
            inside = warp_labels(np.zeros(size, np.uint8), matrix, size) == 0  # beyond, the image is mirrored
            for shown in (
                warp_image(image, matrix, size)[:, :, 0] > 100,
                warp_labels(disc, matrix, size) == 1,
            ):
                assert np.abs(centre(shown & inside) - there).max() < 1
            tracked += 1

        start = true = np.array([*(there - [64, 48]), 1])
        changes = [("rotate", rng.uniform(5, 30)), ("shift_x", rng.uniform(0.1, 0.3)), ("rotate", 20.0)]
        for kind, amount in changes:
            true = change_matrix(kind, amount, 128) @ true
        apart.append(np.hypot(*(replayed(changes, start, 128, 96) - true)[:2]))
    assert tracked > 20
    assert np.median(apart) > 5, "pixels between a point and its label in the reference"


# ---- the schedule fails past its end, options crash when off, checkpoints lack states


def test_the_schedule_clamps_past_its_end():
    settings = recipe.Optimiser(poly_power=0.9)
    assert [learning_rate_factor(i, 100, settings) for i in (100, 101, 5000)] == [0, 0, 0]
    assert isinstance((1 - 101 / 100) ** 0.9, complex), "which is no rate"


BOOLEANS = [f.name for f in dataclasses.fields(recipe.SelfLabelling) if f.type in (bool, "bool")]
SWITCHES: dict[str, tuple[object, object]] = {
    **{name: (False, True) for name in BOOLEANS},
    "threshold": (0.0, 0.9),
    "symmetric_alpha": (0.0, 1.0),
    "symmetric_beta": (0.0, 1.0),
    "mixing": ("none", "classmix"),
    "target_weight": (0.0, 1.0),
    "self_labelling_weight": (0.0, 0.1),
    "consistency_weight": (0.0, 0.26),
    "contrast_weight": (0.0, 0.001),
    "prior_momentum": (0.0, 0.9),
    "prior_floor": (0.0, 1.0),
}
"""Options of self-labelling: off and on."""


@BOTH
@pytest.mark.parametrize("others", [0, 1], ids=["others off", "others on"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_every_option_works_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str, others: int, arithmetic: Arithmetic
):
    """Two steps with all other options off, or all on, and this one the other way."""
    monkeypatch.setattr(TinySegmenter, "classifier_bias", lambda self: self.classifier.bias)
    settings = {name: values[others] for name, values in SWITCHES.items()}
    made = self_labelling(tmp_path, arithmetic, **settings | {switch: SWITCHES[switch][1 - others]})
    (optimiser,) = made.optimisers()
    for micro in range(2):
        losses = step(made, optimiser, micro)
        assert losses and all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(value).all() for value in made.state_dict().values())


@BOTH
def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path: Path, arithmetic: Arithmetic):
    """Optimiser, bank, prior, teacher and random states are in the checkpoint."""

    def trained(folder: Path, *, killed_at: int | None = None) -> dict[str, Tensor]:
        made = self_labelling(
            tmp_path, arithmetic, iterations=5, prior_momentum=0.5, contrast_weight=0.1, mixing="cutmix"
        )

        def batch(micro: int) -> Batch:
            if micro == killed_at:
                raise ConnectionError("killed")
            return tiny_batch(micro)

        around = Surroundings(
            processes=processes.Processes(0, 1, torch.device("cpu")),
            compute=recipe.Compute(checkpoint_every=2, workers=1),
            seed=3,
            checkpoint=folder / "checkpoint.pt",
            log_metrics=lambda entry: None,
            watcher=SilentWatcher(),
        )
        train(made, batch, around)
        return made.state_dict()

    whole = trained(tmp_path / "whole")
    with pytest.raises(ConnectionError):
        trained(tmp_path / "parts", killed_at=3)
    resumed = trained(tmp_path / "parts")
    assert resumed.keys() == whole.keys() and all(torch.equal(resumed[key], whole[key]) for key in whole)
    saved = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    assert saved["optimisers"][0]["state"] and saved["module"].keys() == whole.keys()


# ---- training needs the target's label files; the best checkpoint is picked on its validation labels


class NoLabels:
    """A target that has no ground truth."""

    def __init__(self) -> None:
        self.pictures, self.read = streets(4, first_seed=100), 0
        self.name, self.split, self.names = "photos", "train", self.pictures.names
        self.classes, self.has_labels = None, False

    def __len__(self) -> int:
        return len(self.pictures)

    def image(self, index: int) -> np.ndarray:
        self.read += 1
        return self.pictures.image(index)

    def label(self, index: int) -> np.ndarray:
        raise FileNotFoundError("gtFine/0.png")


@BOTH
def test_images_are_enough_and_the_last_network_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arithmetic: Arithmetic
):
    """All stages on a target without labels; what they leave is their last network, not one on the way."""
    monkeypatch.setitem(ARCHITECTURES, "tiny", lambda classes: TinySegmenter(classes))
    short = {"iterations": 4, "batch": 2}
    tiny = Recipe(
        name="tiny",
        reference_arithmetic=arithmetic is REFERENCE,
        # Twice the size, so that cars are large enough for a prototype.
        data=Data(source_size=(2 * SIZE[0], 2 * SIZE[1]), target_size=SIZE, crop=CROP),
        model=recipe.Model(teacher="tiny", student="tiny"),
        source_only=recipe.SourceOnly(**short),
        warm_up=recipe.WarmUp(**short),
        # Smoothed: a class that nothing predicts would stop the reference's Sinkhorn.
        self_labelling=recipe.SelfLabelling(
            **short, bank=64, pixels_per_image=16, momentum=0.9, prior_smoothing=0.1
        ),
        distillation_1=recipe.Distillation(**short),
        distillation_2=recipe.Distillation(**short),
        compute=recipe.Compute(workers=1),
    )
    states: dict[str, list[dict[str, Tensor]]] = {name: [] for name in STAGES}

    def follow(made, batches, around):
        assert getattr(made, "arithmetic", arithmetic) is arithmetic

        def seen(stage, iteration):
            states[stage.name].append(copy.deepcopy(stage.result().state_dict()))

        seconds = train(made, batches, dataclasses.replace(around, evaluate=seen))
        seen(made, made.settings.iterations)
        return seconds

    monkeypatch.setattr("cpsl_deploy.train.adaptation.train", follow)
    target = NoLabels()
    domains = Domains(source=streets(4), target=target, validation=streets(2, 200), classes=CLASSES)
    run = Adaptation(domains, tiny, tmp_path / "run", device="cpu").run()
    assert target.read > 0
    for name in STAGES:
        *on_the_way, last = states[name]
        saved = load_model(run.stage_model(name))[0].state_dict()
        assert len(on_the_way) == 4 and saved.keys() == last.keys()
        assert all(torch.equal(saved[key], last[key]) for key in saved), name
        for earlier in on_the_way:  # any of which validation labels could have picked
            assert not all(torch.equal(saved[key], earlier[key]) for key in saved), name
    deployed = load_model(run.model)[0].state_dict()
    assert all(torch.equal(deployed[key], states[STAGES[-1]][-1][key]) for key in deployed)
