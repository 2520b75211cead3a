"""The run folder: begun once, resumed with the same recipe alone, its lines readable after a crash."""

import dataclasses
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from cpsl_deploy.errors import OutputError, RecipeError
from cpsl_deploy.train.engine.run_folder import RunFolder
from cpsl_deploy.train.recipe import Data, Recipe, load_recipe

RECIPE = Recipe(name="tiny", data=Data(source_size=(64, 96), target_size=(64, 96), crop=(64, 64)))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_a_begun_run_holds_its_recipe_and_can_be_resumed(folder: RunFolder):
    folder.begin(RECIPE, resume=False)
    assert load_recipe(folder.recipe_file) == RECIPE
    RunFolder(folder.path).begin(RECIPE, resume=True)


def test_a_run_is_not_begun_over_another(folder: RunFolder):
    folder.begin(RECIPE, resume=False)
    with pytest.raises(OutputError, match="--resume"):
        folder.begin(RECIPE, resume=False)


def test_nothing_is_begun_among_other_files(folder: RunFolder):
    folder.path.mkdir()
    (folder.path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="not empty"):
        folder.begin(RECIPE, resume=False)
    assert [p.name for p in folder.path.iterdir()] == ["thesis.tex"]


def test_only_a_run_can_be_resumed(folder: RunFolder):
    with pytest.raises(OutputError, match="holds none"):
        folder.begin(RECIPE, resume=True)


def finished(folder: RunFolder, *stages: str) -> None:
    folder.begin(RECIPE, resume=False)
    for stage in stages:
        folder.stage_model(stage).write_bytes(b"weights")
        folder.add_results(**{stage: {"mean_iou": 0.5}})


def test_another_recipe_does_not_resume_and_the_error_names_the_difference(folder: RunFolder):
    finished(folder, "source_only")
    with pytest.raises(RecipeError, match=r"seed = 0 where now seed = 7 is asked for"):
        folder.begin(dataclasses.replace(RECIPE, seed=7), resume=True)
    assert load_recipe(folder.recipe_file) == RECIPE


def test_what_nothing_depends_on_yet_may_change(folder: RunFolder):
    finished(folder, "source_only")
    other = dataclasses.replace(
        RECIPE,
        compute=dataclasses.replace(RECIPE.compute, workers=7, checkpoint_every=3),
        warm_up=dataclasses.replace(RECIPE.warm_up, iterations=77),
    )
    folder.begin(other, resume=True)
    assert load_recipe(folder.recipe_file) == other, "the recipe is the one that the stages to come follow"


def test_a_checkpoint_makes_its_stage_one_under_way(folder: RunFolder):
    finished(folder, "source_only")
    other = dataclasses.replace(RECIPE, warm_up=dataclasses.replace(RECIPE.warm_up, iterations=77))
    state = {"stage": "warm_up", "iteration": 3, "seconds": 1.0, "module": {}, "optimisers": [], "scaler": {}}
    folder.checkpoints.write(state)
    with pytest.raises(RecipeError, match=r"warm_up\.iterations = 0 where now warm_up\.iterations = 77"):
        folder.begin(other, resume=True)
    folder.checkpoints.remove()
    folder.begin(other, resume=True)


def test_what_a_killed_process_left_half_written_is_cleared_away(folder: RunFolder):
    finished(folder)
    folder.soft_labels.mkdir()
    left = [folder.path / ".checkpoint.123.tmp.pt", folder.soft_labels / ".000001.123.tmp.npy"]
    kept = [folder.path / ".notes.tmp", folder.soft_labels / "000000.npy"]
    for path in (*left, *kept):
        path.write_bytes(b"half")
    folder.begin(RECIPE, resume=True)
    assert not any(path.exists() for path in left) and all(path.exists() for path in kept)


def test_results_are_added_to_those_there_are(folder: RunFolder):
    assert folder.results() == {}
    folder.add_results(warm_up={"mean_iou": 0.4})
    folder.add_results(self_labelling={"mean_iou": 0.5}, warm_up={"mean_iou": 0.41})
    assert folder.results() == {"warm_up": {"mean_iou": 0.41}, "self_labelling": {"mean_iou": 0.5}}


def test_damaged_results_are_an_error_that_names_the_file(folder: RunFolder):
    folder.add_results(warm_up={})
    folder.results_file.write_text('{"warm_')
    with pytest.raises(OutputError, match=r"results\.json"):
        folder.results()


def line(iteration: int, loss: float) -> dict:
    return {"stage": "warm_up", "iteration": iteration, "losses": {"source": loss}}


def test_metrics_come_back_and_a_resumed_step_replaces_the_first_one(folder: RunFolder):
    folder.begin(RECIPE, resume=False)
    assert folder.metrics() == []
    score = {"stage": "warm_up", "iteration": 10, "mean_iou": 0.3}
    for entry in (line(10, 1.0), score, line(20, 0.9), line(20, 0.8)):
        folder.log_metrics(entry)
    assert folder.metrics() == [line(10, 1.0), score, line(20, 0.8)]


def test_a_line_cut_short_costs_itself_alone(folder: RunFolder):
    folder.begin(RECIPE, resume=False)
    folder.log_metrics(line(10, 1.0))
    with open(folder.metrics_file, "a") as file:
        file.write('{"stage": "warm_up", "iter')
    for iteration in (20, 30):
        folder.log_metrics(line(iteration, 0.9))
    assert folder.metrics() == [line(10, 1.0), line(20, 0.9), line(30, 0.9)]


def test_going_on_from_an_iteration_takes_back_what_later_ones_logged(folder: RunFolder):
    """A score is taken before the step behind it, so that of the iteration itself is taken again."""
    folder.begin(RECIPE, resume=False)
    folder.rewind_metrics("warm_up", 0)
    score = {"stage": "warm_up", "iteration": 10, "mean_iou": 0.3}
    other = {**line(30, 0.7), "stage": "source_only"}
    for entry in (other, line(5, 1.1), {**score, "iteration": 5}, line(10, 1.0), score, line(15, 0.9)):
        folder.log_metrics(entry)
    with open(folder.metrics_file, "a") as file:
        file.write('{"stage": "warm_up", "iter')
    folder.rewind_metrics("warm_up", 10)
    wanted = [other, line(5, 1.1), {**score, "iteration": 5}, line(10, 1.0)]
    assert [json.loads(text) for text in folder.metrics_file.read_text().splitlines()] == wanted
    folder.rewind_metrics("warm_up", 0)
    assert folder.metrics() == [other]


def test_a_run_takes_over_finished_stages_of_another_once(folder: RunFolder, tmp_path: Path):
    other = RunFolder(tmp_path / "other")
    for run in (folder, other):
        run.begin(RECIPE, resume=False)
    for stage in ("source_only", "warm_up", "self_labelling"):
        other.stage_model(stage).write_bytes(stage.encode())
        other.log_metrics({"stage": stage, "iteration": 1, "losses": {}})
        other.add_results(**{stage: {"mean_iou": 0.5}, "prior": [1.0]})
    folder.add_results(warm_up={"mean_iou": 0.25})
    for _ in range(2):
        folder.take_over(other, ("source_only", "warm_up"))
    assert folder.stage_model("source_only").read_bytes() == b"source_only"
    assert folder.results() == {"warm_up": {"mean_iou": 0.25}, "source_only": {"mean_iou": 0.5}}
    assert [entry["stage"] for entry in folder.metrics()] == ["source_only"]
    folder.take_over(other, ("self_labelling",))
    assert folder.results()["prior"] == [1.0], "the stage's class prior comes with it"
    with pytest.raises(OutputError, match="distillation_1"):
        folder.take_over(other, ("distillation_1",))
