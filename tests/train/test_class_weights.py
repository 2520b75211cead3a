"""Weights of rare classes in the cross entropy on labels."""

from __future__ import annotations

# ruff: noqa: E402
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from numpy.testing import assert_allclose
from tiny_domains import write_domain, write_recipe

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.errors import RecipeError
from cpsl_deploy.train.adaptation import STAGES, Adaptation
from cpsl_deploy.train.class_weights import RAREST_SHARE, class_weights
from cpsl_deploy.train.places import Place, open_domains
from cpsl_deploy.train.recipe import load_recipe
from cpsl_deploy.train.symmetric_cross_entropy import cross_entropy

LENGTHS = [f"{stage}.iterations" for stage in STAGES]


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0])
def test_the_mean_weight_of_all_pixels_is_one(power: float) -> None:
    pixels = np.array([900.0, 90.0, 10.0, 0.0])
    weights = class_weights(pixels, power).numpy()
    assert_allclose((weights * pixels).sum() / pixels.sum(), 1, rtol=1e-6)


def test_weights_fall_with_the_share_to_the_power() -> None:
    weights = class_weights(np.array([800.0, 200.0]), 0.5).numpy()
    assert_allclose(weights[1] / weights[0], 2.0, rtol=1e-6)
    assert_allclose(class_weights(np.array([800.0, 200.0]), 0).numpy(), 1.0)


def test_power_one_gives_every_class_the_same_part() -> None:
    pixels = np.array([700.0, 290.0, 10.0])
    parts = class_weights(pixels, 1.0).numpy() * pixels
    assert_allclose(parts, parts[0], rtol=1e-6)


def test_classes_without_pixels_stay_finite() -> None:
    weights = class_weights(np.array([1e6, 0.0]), 1.0)
    assert_allclose(weights[1] / weights[0], 1 / RAREST_SHARE, rtol=1e-5)
    assert class_weights(np.zeros(3), 1.0).tolist() == [1, 1, 1]


def test_cross_entropy_multiplies_and_does_not_divide_by_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator)
    labels[0, 0] = IGNORE
    weights = torch.tensor([0.5, 1.0, 4.0])
    found = cross_entropy(logits, labels, class_weights=weights)
    log_probs = logits.log_softmax(dim=1).permute(0, 2, 3, 1)[labels != IGNORE]
    true = labels[labels != IGNORE]
    expected = -(weights[true] * log_probs[torch.arange(len(true)), true]).mean()
    assert_allclose(found.item(), expected.item(), rtol=1e-5)
    assert found != cross_entropy(logits, labels)


def test_every_stage_weighs_the_labels_it_learns_from(tmp_path: Path) -> None:
    source = write_domain(tmp_path / "game", hue=200)
    target = write_domain(tmp_path / "camera", hue=240, val=True)
    places = (Place(role="source", reference=str(source)), Place(role="target", reference=str(target)))
    recipe = load_recipe(write_recipe(tmp_path), {"data.class_weight_power": 0.5} | dict.fromkeys(LENGTHS, 1))
    adaptation = Adaptation(open_domains(*places, None, None), recipe, tmp_path / "run", device="cpu")
    of_source = class_weights(adaptation.class_pixels(adaptation.source).sum(axis=0), 0.5)
    of_target = class_weights(adaptation.class_pixels(adaptation.target).sum(axis=0), 0.5)
    for name in (*STAGES, "oracle"):
        stage, batches = adaptation.begin(name)
        assert_allclose(stage.class_weights, of_target if name == "oracle" else of_source)
        batch = batches(0)
        torch.manual_seed(0)
        weighted = stage(batch, torch.Generator().manual_seed(0))["source"]
        stage.class_weights = torch.ones(len(of_source))
        torch.manual_seed(0)
        assert weighted != stage(batch, torch.Generator().manual_seed(0))["source"]
        adaptation.train(stage, batches)


def test_a_power_above_one_is_refused() -> None:
    with pytest.raises(RecipeError, match="class_weight_power is from 0 to 1"):
        load_recipe("own", {"data.class_weight_power": 1.5})
