"""benchmarks/ablation.py: what it declares, how it shares and continues its work, what it computes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("matplotlib", reason="needs the extra 'train'")
pytest.importorskip("fcntl", reason="claims are of POSIX systems")

import ablation
from ablation_arms import read_plan
from ablation_plot import write_plots
from ablation_summary import summarise
from ablation_text import findings, markdown, verdict
from ablation_units import Measurement, Unit
from pairs import Pair, carla_camvid, claimed, demo
from tiny_domains import write_domain, write_recipe

from cpsl_deploy.data import open_dataset
from cpsl_deploy.errors import DataError, RecipeError
from cpsl_deploy.train.domains import Domains, join_domains
from cpsl_deploy.train.engine.loop import prefetched
from cpsl_deploy.train.recipe import load_recipe

PLAN = """
prior_of = "alignment"
[[claim]]
text = "rectification beats plain self-training"
kind = "gain"
arm = "rectification"
over = "self-training"
[[claim]]
text = "alignment gains most on the tail"
kind = "tail"
arm = "alignment"
over = "rectification"
[[closure]]
arm = "adapted"
base = "source-only"
oracle = "oracle"
goal = 0.85

[[group]]
name = "paper"
title = "The terms"
[[group.arm]]
name = "source-only"
title = "source-only"
stages = ["source_only"]
[[group.arm]]
name = "warm-up"
title = "warm-up"
like = "source-only"
stages = ["warm_up"]
[[group.arm]]
name = "self-training"
title = "self-training"
like = "warm-up"
stages = ["self_labelling"]
set = { self_labelling = { rectify = false, self_labelling_weight = 0.0, photometric = {} } }
[[group.arm]]
name = "rectification"
title = "+ rectification"
like = "self-training"
stages = ["self_labelling"]
set = { self_labelling = { rectify = true, self_labelling_weight = 0.1, align_distribution = false } }
[[group.arm]]
name = "alignment"
title = "+ alignment"
like = "rectification"
stages = ["self_labelling"]
set = { self_labelling = { align_distribution = true } }
[[group.arm]]
name = "adapted"
title = "+ distillations"
like = "alignment"
stages = ["distillation_1", "distillation_2"]
[[group.arm]]
name = "oracle"
title = "oracle"
stages = ["oracle"]

[[group]]
name = "options"
title = "Without"
kind = "remove"
like = "alignment"
stages = ["self_labelling"]
[[group.arm]]
name = "minus-mixing"
title = "mixing"
set = { self_labelling = { mixing = "none" } }
[[group.arm]]
name = "minus-warm-up"
title = "half of the warm-up"
stages = ["warm_up", "self_labelling"]
set = { warm_up = { iterations = 1 } }
"""
SHORT = {f"{stage}.iterations": 1 for stage in ("source_only", "self_labelling", "distillation_1")}


@pytest.fixture
def plan(tmp_path: Path):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return read_plan(path)


# ---- the declaration


def test_settings_add_up_along_what_an_arm_is_like(plan) -> None:
    settings = plan.overrides(plan.arms["adapted"])
    assert settings["self_labelling.rectify"] and settings["self_labelling.align_distribution"]
    assert settings["self_labelling.self_labelling_weight"] == 0.1
    assert settings["self_labelling.photometric"] == {}
    assert plan.overrides(plan.arms["oracle"]) == {}


def test_an_arm_begins_after_the_nearest_arm_that_trained_the_stage_before(plan) -> None:
    begins = {name: plan.begins_after(arm) for name, arm in plan.arms.items()}
    assert begins["source-only"] is None and begins["oracle"] is None
    assert begins["alignment"] is plan.arms["warm-up"] and begins["minus-mixing"] is plan.arms["warm-up"]
    assert begins["adapted"] is plan.arms["alignment"]
    assert begins["minus-warm-up"] is plan.arms["source-only"]
    assert [arm.name for arm in plan.with_prefixes(["adapted"])] == [
        "source-only",
        "warm-up",
        "alignment",
        "adapted",
    ]
    assert plan.with_prefixes(["all"]) == list(plan.arms.values())
    assert {arm.name for arm in plan.with_prefixes(["options"])} == {
        "source-only",
        "warm-up",
        "minus-mixing",
        "minus-warm-up",
    }
    with pytest.raises(RecipeError, match="no 'owl'"):
        plan.with_prefixes(["owl"])


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ('like = "rectification"', 'like = "nothing"', "no 'nothing'"),
        ('name = "rectification"\ntitle', 'name = "alignment"\ntitle', "two 'alignment'"),
        ('["distillation_1", "distillation_2"]', '["distillation_2"]', "no arm it is like trains"),
        ('["warm_up", "self_labelling"]', '["self_labelling", "warm_up"]', "neighbours"),
        ('kind = "remove"', 'kind = "subtract"', "kind is one of"),
        ('like = "source-only"', 'like = "warm-up"', "like itself"),
        ("goal = 0.85", "goul = 0.85", "goul"),
        ('kind = "gain"', 'kind = "gian"', "a claim's kind is one of gain, tail; .* has 'gian'"),
    ],
)
def test_a_declaration_that_does_not_fit_together_is_refused(
    tmp_path: Path, before: str, after: str, rule: str
) -> None:
    assert before in PLAN
    (tmp_path / "plan.toml").write_text(PLAN.replace(before, after))
    with pytest.raises(RecipeError, match=rule):
        read_plan(tmp_path / "plan.toml")


def test_the_declared_arms_have_settings_on_both_pairs_and_each_differs(tmp_path: Path) -> None:
    """Not on every pair: an option that a recipe does not take cannot be left out of it."""
    declared = read_plan(ablation.DECLARATION)
    pairs = (demo(tmp_path), carla_camvid(tmp_path, ""))
    measurements = [Measurement(declared, pair, tmp_path) for pair in pairs]
    for arm in declared.arms.values():
        recipes = [of.recipe(Unit(0, arm)) for of in measurements]
        if arm.like and arm.set:
            assert recipes != [of.recipe(Unit(0, declared.arms[arm.like])) for of in measurements], arm.name


@pytest.mark.parametrize("pair", ["carla-camvid", "demo"])
def test_the_ladder_has_the_published_terms_and_nothing_else(pair: str, tmp_path: Path) -> None:
    """Whatever option is added to the pairs' recipes has to be switched off in the ladder."""
    opened = demo(tmp_path) if pair == "demo" else carla_camvid(tmp_path, "")
    declared = read_plan(ablation.DECLARATION)
    recipe = Measurement(declared, opened, tmp_path).recipe(Unit(0, declared.arms["distillation"]))
    published = load_recipe("paper")
    schedule = {"iterations", "batch", "optimiser", "weak", "momentum", "bank", "pixels_per_image"}
    for stage in ("self_labelling", "distillation_1", "distillation_2"):
        ours, theirs = (dataclasses.asdict(getattr(r, stage)) for r in (recipe, published))
        differing = {key for key in ours if ours[key] != theirs[key]} - schedule
        if stage == "self_labelling":  # the reference's weight is 5, of a mean that is divided by the classes
            assert differing == {"consistency_weight"}
        else:  # hundreds of iterations are too few for a student that starts from its first weights
            assert differing <= {"start"}
    for name in ("distillation", "own-plus-consistency"):
        arm = Measurement(declared, opened, tmp_path).recipe(Unit(0, declared.arms[name]))
        assert arm.self_labelling.consistency_weight == 5 / {"carla-camvid": 10, "demo": 12}[pair]
    assert published.self_labelling.consistency_weight == pytest.approx(5 / 19, abs=0.005)
    sizes = {"source_size", "target_size", "crop", "cache_mib"}
    ours, theirs = (dataclasses.asdict(r.data) for r in (recipe, published))
    assert {key for key in ours if ours[key] != theirs[key]} <= sizes
    assert recipe.target_statistics == published.target_statistics


def test_an_arm_that_changes_nothing_on_a_pair_is_not_run_and_it_is_said(
    plan, tiny_pair: Pair, tmp_path: Path, summary: dict
) -> None:
    """Class weights are taken out of one pair's recipe, and the other's has none."""
    declared = read_plan(ablation.DECLARATION)
    arms = [declared.arms[name] for name in ("own-self-labelling", "minus-class-weights", "minus-reinhard")]
    for pair, left in ((demo(tmp_path), {0, 2}), (carla_camvid(tmp_path, ""), {0, 1, 2})):
        measurement = Measurement(declared, pair, tmp_path)
        assert measurement.without_no_ops(arms) == [arms[i] for i in sorted(left)], pair.name

    same = dataclasses.replace(plan.arms["minus-mixing"], set={"self_labelling.mixing": "cutmix"})
    other = dataclasses.replace(plan, arms=plan.arms | {"minus-mixing": same})
    measurement = Measurement(other, tiny_pair, tmp_path / "out")
    assert measurement.without_no_ops([same, other.arms["minus-warm-up"]]) == [other.arms["minus-warm-up"]]
    start = dataclasses.replace(same, stages=("warm_up", "self_labelling"))
    after = dataclasses.replace(same, name="after", like="minus-mixing", stages=("distillation_1",))
    other = dataclasses.replace(plan, arms=plan.arms | {"minus-mixing": start, "after": after})
    measurement = Measurement(other, tiny_pair, tmp_path / "out")
    assert measurement.without_no_ops([start]) == [], "the same from the warm-up on"
    assert measurement.without_no_ops([start, after]) == [start, after], "something begins after it"

    no_op = {"arm": "minus-owl", "title": "owls", "group": "options", "like": "alignment"}
    told = summary | {"no_ops": [no_op]}
    assert "Without: pays: mixing; changes nothing: owls." in findings(told)
    assert "owls (`minus-owl`): not measured, because it changes nothing here." in markdown(told)


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ((0.0, 0.0), "changes nothing"),
        ((1.0, -1.0), "changes no mean"),
        ((0.0, 1.0), "pays on the mean"),
        ((0.0, -1.0), "costs on the mean"),
        ((2.0, 1.0), "pays"),
    ],
)
def test_what_an_option_does(values: tuple[float, float], outcome: str) -> None:
    assert verdict("add", {"all": {"seeds": dict(enumerate(values))}}, 2) == outcome


# ---- the work


@pytest.fixture(scope="module")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("domains")
    source = write_domain(folder / "rendered", hue=200)
    target = write_domain(folder / "camera", hue=60, val=True)

    def open_for(seed: int):
        return join_domains(
            open_dataset(source, "train"), open_dataset(target, "train"), open_dataset(target, "val")
        )

    return Pair(
        name="tiny",
        recipe=str(write_recipe(folder)),
        open=open_for,
        classes=3,
        large=("road",),
        overrides=SHORT,
    )


def test_data_of_other_classes_than_the_pair_s_are_refused(plan, tiny_pair: Pair, tmp_path: Path) -> None:
    """Weights are divided by their number before the data are opened."""
    other = dataclasses.replace(tiny_pair, classes=4)
    with pytest.raises(DataError, match="has 4 classes, and these data have 3: road, sky, car"):
        Measurement(plan, other, tmp_path).domains(0)


def test_arms_share_their_start_and_the_report_is_complete(plan, tiny_pair: Pair, tmp_path: Path) -> None:
    measurement = Measurement(plan, tiny_pair, tmp_path / "out")
    arms = plan.with_prefixes(["all"])
    units = [Unit(seed, arm) for seed in (0, 1) for arm in arms]
    assert measurement.run_all(units, lambda: None) == {}
    for seed in (0, 1):
        model = {name: measurement.folder(seed, name).stage_model("warm_up") for name in plan.arms}
        start = model["warm-up"].read_bytes()
        assert all(model[name].read_bytes() == start for name in ("self-training", "adapted", "minus-mixing"))
        assert model["minus-warm-up"].read_bytes() != start
    assert len(measurement.folder(0, "adapted").results()["prior"]) == 3

    summary = ablation.write_results(measurement, arms, (0, 1), "command")
    assert summary["missing"] == []
    written = json.loads((measurement.output / "ablation.json").read_text())
    adapted = written["arms"]["adapted"]
    for seed in ("0", "1"):
        results = measurement.folder(int(seed), "adapted").results()
        assert adapted["scores"]["all"]["seeds"][seed] == pytest.approx(
            100 * results["distillation_2"]["mean_iou"]
        )
        assert adapted["scores"]["large"]["seeds"][seed] == pytest.approx(
            100 * results["distillation_2"]["iou"][0]
        )
        assert set(adapted["cost"][seed]) == {"distillation_1", "distillation_2"}
        assert adapted["cost"][seed]["distillation_1"]["steps_per_second"] > 0
    text = (measurement.output / "ablation.md").read_text()
    assert "Partial" not in text and "rectification beats plain self-training" in text
    assert (measurement.output / "ladders.png").stat().st_size > 1000
    assert (measurement.output / "options.png").is_file()

    models = list(measurement.output.glob("seed-*/*/*.safetensors"))
    times = [path.stat().st_mtime_ns for path in models]
    measurement.run_all(units, lambda: pytest.fail("nothing was left to run"))
    assert times == [path.stat().st_mtime_ns for path in models], "what is done is not done again"


def test_an_interrupted_unit_ends_as_an_uninterrupted_one(
    plan, tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = Measurement(
        plan,
        tiny_pair,
        tmp_path / "several",
        overrides={"compute.checkpoint_every": 1, "self_labelling.iterations": 3},
    )
    once = Measurement(plan, tiny_pair, tmp_path / "once", overrides=several.given)
    units = [Unit(0, arm) for arm in plan.with_prefixes(["alignment"])]
    once.run_all(units, lambda: None)

    def cut(make, start, stop, workers):
        for number, batch in enumerate(prefetched(make, start, stop, workers), start=start):
            if number == 2:
                raise RuntimeError("power cut")
            yield batch

    monkeypatch.setattr("cpsl_deploy.train.engine.loop.prefetched", cut)
    with pytest.raises(RuntimeError, match="power cut"):
        several.run_all(units, lambda: None)
    summary = ablation.write_results(several, [unit.arm for unit in units], [0], "command")
    assert "seed 0 alignment" in summary["missing"]
    monkeypatch.undo()
    several.run_all(units, lambda: None)
    models = [m.folder(0, "alignment").stage_model("self_labelling").read_bytes() for m in (several, once)]
    assert models[0] == models[1]


def test_a_unit_that_another_process_is_at_is_left_to_it_and_taken_over_when_it_is_killed(
    tmp_path: Path,
) -> None:
    lock = tmp_path / "unit.lock"
    code = (
        "import sys, time; from pathlib import Path; from pairs import claimed\n"
        "with claimed(Path(sys.argv[1])) as mine: print(mine, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(ablation.__file__).parent)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True, env=environment
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        with claimed(lock) as mine:
            assert not mine
        other.send_signal(signal.SIGKILL)
        other.wait()
    with claimed(lock) as mine:
        assert mine


def test_units_in_other_hands_are_waited_for(
    plan, tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurement = Measurement(plan, tiny_pair, tmp_path / "out")
    unit = Unit(0, plan.arms["source-only"])
    measurement.run_all([unit], lambda: None)
    looks = []

    def is_free(unit: Unit) -> str:
        looks.append(str(unit))
        return "ran" if len(looks) == 3 else "busy"

    monkeypatch.setattr(measurement, "_run_if_free", is_free)
    monkeypatch.setattr(time, "sleep", lambda seconds: looks.append("wait"))
    assert measurement.run_all([Unit(0, plan.arms["warm-up"])], lambda: None) == {}
    assert looks == ["seed 0 warm-up", "wait", "seed 0 warm-up"]


def test_an_arm_that_fails_stops_what_begins_after_it_alone(
    plan, tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurement = Measurement(plan, tiny_pair, tmp_path / "out")
    run: list[str] = []

    def once(unit: Unit) -> str:
        run.append(unit.arm.name)
        if unit.arm.name == "alignment":
            raise RecipeError("no such thing")
        return "ran"

    monkeypatch.setattr(measurement, "_run_if_free", once)
    monkeypatch.setattr(measurement, "results", lambda unit: {} if unit.arm.name in run else None)
    failed = measurement.run_all([Unit(0, arm) for arm in plan.arms.values()], lambda: None)
    assert set(failed) == {"seed 0 alignment", "seed 0 adapted"}
    assert set(run) == set(plan.arms) - {"adapted"}


def test_figures_of_other_settings_are_neither_shown_nor_continued(
    plan, tiny_pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unit = Unit(0, plan.arms["source-only"])
    Measurement(plan, tiny_pair, tmp_path / "out").run_all([unit], lambda: None)
    later = Measurement(plan, tiny_pair, tmp_path / "out", overrides={"distillation_2.iterations": 1})
    assert later.results(unit) is not None, "stages after an arm's last one do not touch its figures"
    other = Measurement(plan, tiny_pair, tmp_path / "out", overrides={"source_only.batch": 1})
    with pytest.raises(RecipeError, match="other settings"):
        other.results(unit)
    assert ablation.collect(other, [unit.arm], [0]) == {0: {}}
    assert "left out" in caplog.text
    assert set(other.run_all([unit], lambda: None)) == {"seed 0 source-only"}


# ---- the figures


CLASSES = ("road", "sky", "car", "pole")
ROWS = {  # IoU of road, sky, car, pole
    0: {
        "source-only": (0.4, 0.4, 0.2, 0.0),
        "self-training": (0.50, 0.50, 0.2, 0.0),
        "rectification": (0.54, 0.50, 0.2, 0.0),
        "alignment": (0.56, 0.52, 0.2, 0.2),
        "adapted": (0.6, 0.6, 0.4, 0.2),
        "minus-mixing": (0.5, 0.52, 0.2, 0.2),
        "oracle": (0.8, 0.8, 0.6, 0.4),
    },
    1: {
        "source-only": (0.4, 0.4, 0.2, 0.0),
        "self-training": (0.60, 0.50, 0.2, 0.0),
        "rectification": (0.52, 0.50, 0.2, 0.0),
        "alignment": (0.62, 0.52, 0.2, 0.0),
        "adapted": (0.8, 0.8, 0.6, 0.4),
        "minus-mixing": (0.6, 0.52, 0.2, 0.0),
        "oracle": (0.8, 0.8, 0.6, 0.4),
    },
}


@pytest.fixture
def summary(plan) -> dict:
    results = {
        seed: {
            name: {
                stage: {"iou": list(iou), "seconds": 10.0, "iterations": 5, "step_seconds": 0.5}
                for stage in plan.arms[name].stages
            }
            | ({"prior": [0.5, 0.4, 0.09, 0.01]} if name == "alignment" else {})
            for name, iou in rows.items()
        }
        for seed, rows in ROWS.items()
    }
    arms = [arm for name, arm in plan.arms.items() if name not in ("warm-up", "minus-warm-up")]
    found = summarise(plan, arms, results, (0, 1), CLASSES, ("road", "sky"))
    return found | {
        "pair": "made-up",
        "command": "ablation.py",
        "prior_of": plan.prior_of,
        "validation": "nothing",
        "recipe_name": "own",
        "circumstances": [],
        "no_ops": [],
    }


def test_means_spread_and_differences_of_made_up_scores(summary: dict) -> None:
    arm = summary["arms"]["alignment"]
    assert summary["tail"]["0"]["classes"] == ["pole"]
    assert arm["scores"]["all"]["seeds"] == pytest.approx({"0": 37.0, "1": 33.5})
    assert arm["scores"]["all"]["mean"] == pytest.approx(35.25)
    assert arm["scores"]["all"]["std"] == pytest.approx(3.5 / 2**0.5)
    assert arm["scores"]["large"]["seeds"] == pytest.approx({"0": 54.0, "1": 57.0})
    assert arm["scores"]["head"]["seeds"]["0"] == pytest.approx(128 / 3)
    assert arm["scores"]["tail"]["seeds"] == pytest.approx({"0": 20.0, "1": 0.0})
    assert arm["difference"]["to"] == "rectification"
    assert arm["difference"]["all"]["seeds"] == pytest.approx({"0": 6.0, "1": 3.0})
    assert arm["difference"]["tail"]["mean"] == pytest.approx(10.0)
    assert arm["cost"]["0"]["self_labelling"]["steps_per_second"] == 2
    assert "difference" not in summary["arms"]["self-training"], "its predecessor is not measured"


def test_a_class_that_is_not_shown_does_not_count_where_a_network_sees_it(plan, tmp_path: Path) -> None:
    """Every network of the seed sees the pole that is not there, which no IoU of none gives away."""
    pictures = write_domain(tmp_path / "camera", hue=60, val=True, extra_class="pole")

    def open_for(seed: int) -> Domains:
        train, val = (open_dataset(pictures, split) for split in ("train", "val"))
        return join_domains(train, train, val)

    pair = Pair(name="tiny", recipe=str(write_recipe(tmp_path)), open=open_for, classes=4)
    measurement = Measurement(plan, pair, tmp_path / "out")
    assert measurement.absent(0) == {"pole"}
    names = measurement.domains(0).classes.names
    done = {"source_only": {"iou": [0.4, 0.2, 0.3, 0.0], "seconds": 1.0, "iterations": 1}}
    results = {0: {"source-only": done}}
    absent = {0: measurement.absent(0)}
    found = summarise(plan, [plan.arms["source-only"]], results, (0,), names, absent=absent)
    assert found["arms"]["source-only"]["scores"]["all"]["mean"] == pytest.approx(30)
    assert "pole" not in found["arms"]["source-only"]["iou"]


def test_claims_are_sentences_that_follow_from_the_figures(summary: dict) -> None:
    rectification, alignment = summary["claims"]
    assert rectification["holds"] is False
    assert rectification["sentence"] == (
        "“rectification beats plain self-training” does not hold on the mean; it does in 1 of 2 seeds: mIoU "
        "of rectification minus self-training: +1.0, -2.0 (mean -0.5 ± 2.1)."
    )
    assert alignment["holds"] is True
    assert "holds on the mean, but only in 1 of 2 seeds" in alignment["sentence"]
    assert "the tail changes by +20.0, +0.0" in alignment["sentence"]
    closure = summary["closures"][0]
    assert closure["seeds"] == pytest.approx({"0": 50.0, "1": 100.0})
    assert closure["mean"] == pytest.approx(75) and closure["reached"] is False
    lines = findings(summary)
    assert "gap closed by adapted: 75 % (50 %, 100 %); the goal of 85 % is not reached." in lines
    assert "Without: pays: mixing." in lines, "without it both seeds are worse"


def test_the_report_of_made_up_scores(summary: dict, tmp_path: Path) -> None:
    text = markdown(summary, write_plots(summary, tmp_path))
    assert "Partial" not in text
    row = next(line for line in text.splitlines() if line.startswith("| + alignment (`alignment`)"))
    assert "| 35.2 ± 2.5 | 37.0, 33.5 | 55.5 ± 2.1 |" in row and "+6.0, +3.0 (mean +4.5 ± 2.1)" in row
    assert "| `adapted` between `source-only` and `oracle` | 50 % | 100 % | 75.0 % ± 35.4 | 85 % |" in text
    assert "seed 0: tail pole. Estimated prior in %: road 50.0" in text


def test_what_is_not_measured_yet_is_said(plan) -> None:
    results = {
        0: {"source-only": {"source_only": {"iou": [0.5, None], "seconds": 1.0, "iterations": 1}}},
        1: {},
    }
    arms = [plan.arms["source-only"], plan.arms["warm-up"]]
    found = summarise(plan, arms, results, (0, 1), ("road", "sky"), absent={0: {"sky"}})
    assert found["missing"] == ["seed 0 warm-up", "seed 1 source-only", "seed 1 warm-up"]
    scores = found["arms"]["source-only"]["scores"]
    assert scores["all"] == {"seeds": {"0": 50.0}, "mean": 50.0, "std": None}, "absent classes do not count"
    assert scores["tail"]["mean"] is None and found["tail"] == {"0": None, "1": None}
    assert found["claims"][0]["sentence"] == "“rectification beats plain self-training” is not measured yet."
    full = found | {"pair": "p", "validation": "v", "prior_of": "a", "command": "c", "recipe_name": "own"}
    assert "**Partial: 1 of 4 units are measured.**" in markdown(full | {"circumstances": [], "no_ops": []})


def test_the_command_refuses_what_a_pair_lacks(tmp_path: Path) -> None:
    from click.testing import CliRunner

    result = CliRunner().invoke(ablation.main, ["--pair", "carla-camvid", "-o", str(tmp_path)])
    assert result.exit_code == 2 and "needs --data" in result.output
    result = CliRunner().invoke(
        ablation.main, ["--pair", "demo", "--arms", "owl", "-o", str(tmp_path), "--report-only"]
    )
    assert result.exit_code == 2 and "no 'owl'" in result.output


def test_the_last_line_is_one_compact_document(summary: dict) -> None:
    line = json.dumps(ablation.headline(summary, {"seed 0 x": "why"}))
    assert "\n" not in line
    assert json.loads(line)["gap_closure"] == {"adapted": {"0": 50.0, "1": 100.0}}
    assert json.loads(line)["failed"] == ["seed 0 x"]
