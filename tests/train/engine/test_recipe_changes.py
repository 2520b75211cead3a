"""What of a recipe may be another when a run is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from cpsl_deploy.errors import RecipeError
from cpsl_deploy.train.engine.recipe_changes import require_resumable
from cpsl_deploy.train.recipe import Recipe, load_recipe, to_toml

DONE = ("source_only", "warm_up")


@pytest.fixture
def begun() -> Recipe:
    return load_recipe("own")


def changed(recipe: Recipe, folder: Path, key: str, value: object) -> Recipe:
    (folder / "recipe.toml").write_text(to_toml(recipe))
    return load_recipe(folder / "recipe.toml", {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "mine"),
        ("compute.workers", 11),
        ("compute.checkpoint_every", 77),
        ("compute.log_every", 3),
        ("data.cache_mib", 1),
        ("self_labelling.optimiser.lr", 1e-6),
        ("self_labelling.strong_geometric.rotation", 3.5),
        ("distillation_2.iterations", 7),
        ("model.student", "ddrnet23_slim"),
        ("model.student_init", "other.safetensors"),
    ],
)
def test_what_nothing_done_depends_on_may_change(begun: Recipe, tmp_path: Path, key: str, value: object):
    now = changed(begun, tmp_path, key, value)
    assert now != begun
    require_resumable(begun, now, DONE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 99),
        ("target_statistics", None),
        ("data.crop", [96, 96]),
        ("model.teacher", "deeplabv2_resnet101"),
        ("model.init", "other.safetensors"),
        ("compute.accumulate", 2),
        ("compute.precision", "bf16"),
        ("source_only.iterations", 7),
        ("warm_up.optimiser.lr", 1e-6),
    ],
)
def test_what_was_needed_stays_and_the_error_names_it(begun: Recipe, tmp_path: Path, key: str, value: object):
    if value is None:
        value = not getattr(begun, key)
    if key == "compute.precision" and begun.compute.precision == value:
        value = "fp32"
    now = changed(begun, tmp_path, key, value)
    with pytest.raises(RecipeError, match=rf"stages up to warm_up .*where now {key} = "):
        require_resumable(begun, now, DONE)
    require_resumable(begun, now, ())


def test_a_stage_before_a_finished_one_stays_as_it_was(begun: Recipe, tmp_path: Path):
    """Its file may be missing, but those after it came of it."""
    now = changed(begun, tmp_path, "warm_up.iterations", 7)
    require_resumable(begun, now, ["source_only"])
    with pytest.raises(RecipeError, match=r"warm_up\.iterations"):
        require_resumable(begun, now, ["self_labelling"])
    with pytest.raises(RecipeError, match=r"model\.student"):
        require_resumable(
            begun, changed(begun, tmp_path, "model.student", "ddrnet23_slim"), ["distillation_2"]
        )


def test_many_differences_are_counted(begun: Recipe):
    with pytest.raises(RecipeError, match=r"and [0-9]+ more"):
        require_resumable(begun, load_recipe("synthia-cityscapes-13"), DONE)
