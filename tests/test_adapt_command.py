"""cpsl-adapt and its Python entry: whole runs on tiny images, interruptions, several processes, bad input."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch", reason="needs the extra 'train'")

import torch
from tiny_domains import CLASSES, write_domain, write_recipe

from cpsl_deploy.errors import DataError, InputError, RecipeError
from cpsl_deploy.train import RunFolder, adapt, load_model, load_recipe, recipe_names
from cpsl_deploy.train.adaptation import STAGES
from cpsl_deploy.train.command import main
from cpsl_deploy.train.distillation import Distillation
from cpsl_deploy.train.engine.loop import SilentWatcher
from cpsl_deploy.train.engine.progress import LineWatcher, duration
from cpsl_deploy.train.models.weights import read_weights
from cpsl_deploy.train.request import Asked, Request, recipe_for
from cpsl_deploy.train.self_labelling import SelfLabelling
from cpsl_deploy.train.source_only import Supervised
from cpsl_deploy.train.warm_up import WarmUp

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Setting:
    """Two tiny domains and a recipe."""

    source: Path
    target: Path
    recipe: Path

    def options(self, output: Path) -> list[str]:
        given = {"source": self.source, "target": self.target, "recipe": self.recipe, "output": output}
        return [text for key, value in given.items() for text in (f"--{key}", str(value))] + [
            "--device",
            "cpu",
        ]

    def adapt(self, output: Path, **options) -> RunFolder:
        return adapt(self.source, self.target, output, recipe=self.recipe, device="cpu", **options)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("domains")
    return Setting(
        write_domain(folder / "game", hue=200, extra_class="bus"),
        write_domain(folder / "camera", hue=240, val=True),
        write_recipe(folder),
    )


@pytest.fixture(scope="module")
def whole(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    """A run that nothing interrupted, and what the command printed of it."""
    output = tmp_path_factory.mktemp("whole") / "run"
    result = CliRunner().invoke(main, setting.options(output), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return RunFolder(output), result.output


def invoke(setting: Setting, output: Path, *more: str) -> Result:
    return CliRunner().invoke(main, [*setting.options(output), *more], catch_exceptions=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- a whole run


def test_a_run_leaves_models_scores_and_a_report(whole: tuple[RunFolder, str]) -> None:
    folder, printed = whole
    network, spec = load_model(folder.model)
    assert spec.class_names == CLASSES and network.num_classes == len(CLASSES)
    results = folder.results()
    assert all(folder.stage_model(stage).is_file() and "iou" in results[stage] for stage in STAGES)
    assert {entry["stage"] for entry in folder.metrics()} == set(STAGES)
    assert folder.report.is_file()
    assert not folder.checkpoint.exists() and not folder.soft_labels.exists()
    assert "classes that only the source has are ignored: bus" in printed
    assert "source-only" in printed and "mean" in printed
    assert f"cpsl-export {folder.path}" in printed


def test_plain_output_says_where_every_stage_stands(whole: tuple[RunFolder, str]) -> None:
    _, printed = whole
    lines = printed.splitlines()
    for stage, total in zip(STAGES, (4, 3, 4, 2, 2), strict=True):
        assert f"{stage}: {total}" in lines
        done = next(line for line in lines if line.startswith(f"{stage}: {total}/{total}"))
        assert "took" in done and "source" in done


def test_the_run_remembers_what_it_was_given(whole: tuple[RunFolder, str], setting: Setting) -> None:
    folder, _ = whole
    domains = json.loads(folder.domains_file.read_text())
    assert domains["classes"] == list(CLASSES)
    assert domains["target"]["reference"] == str(setting.target)
    assert (domains["target"]["count"], domains["validation"]["count"]) == (6, 2)
    assert load_model(folder.model)[1].provenance["target"] == str(setting.target)
    assert load_recipe(folder.recipe_file) == load_recipe(setting.recipe)


# ---- a plan instead of a run


def test_a_plan_is_a_table_and_a_line_of_json(setting: Setting, tmp_path: Path) -> None:
    result = invoke(setting, tmp_path / "run", "--plan", "--set", "warm_up.iterations=1000")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "run").exists()
    *table, last = result.stdout.splitlines()
    planned = json.loads(last)
    assert [work["name"] for work in planned["work"] if work["is_stage"]] == list(STAGES)
    row = next(line for line in table if line.startswith("warm_up"))
    assert "squeezenet_fpn" in row and "1000 steps" in row and "64x64" in row
    assert any(line.startswith("total") for line in table)
    assert "measuring warm_up" in result.stderr


def test_a_plan_that_cannot_be_carried_out_ends_with_2(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parts(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    for kind in (Supervised, WarmUp, SelfLabelling, Distillation):
        monkeypatch.setattr(kind, "parts", parts)
    result = invoke(setting, tmp_path / "run", "--plan")
    assert result.exit_code == 2
    for stage in STAGES:
        assert f"error: {stage} does not fit: out of memory (Tried to allocate 20.00 GiB)" in result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["seconds"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plan", "--recipe", "own"], "Give both."),
        (["--plan", "--resume", "--recipe", "own"], "--resume"),
        (["--target", "photos"], "Missing option '--source'"),
        (["--source", "game.yaml"], "Missing option '--target'"),
    ],
)
def test_source_and_target_may_be_left_out_for_a_published_plan_alone(
    options: list[str], message: str
) -> None:
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 2 and message in result.output


# ---- interruptions


class Interrupter(SilentWatcher):
    """Presses Ctrl-C when a stage has come to an iteration; 0 is before its first."""

    def __init__(self, stage: str, iteration: int) -> None:
        self.at = (stage, iteration)

    def stage(self, name: str, done: int, total: int) -> None:
        self.step(name, done, {})

    def step(self, name: str, iteration: int, losses: dict[str, float]) -> None:
        if (name, iteration) == self.at:
            signal.raise_signal(signal.SIGINT)


def test_a_run_interrupted_everywhere_ends_as_an_uninterrupted_one(
    whole: tuple[RunFolder, str], setting: Setting, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    stops = [
        ("source_only", 2),
        ("warm_up", 0),
        ("soft labels", 3),
        ("self_labelling", 3),
        ("distillation_2", 1),
    ]
    for number, (stage, iteration) in enumerate(stops):
        with pytest.raises(KeyboardInterrupt, match="--resume"):
            setting.adapt(output, watcher=Interrupter(stage, iteration), resume=number > 0)
        assert (output / "checkpoint.pt").exists() == (stage in STAGES and iteration > 0)
    folder = setting.adapt(output, resume=True)
    for stage in STAGES:
        resumed, uninterrupted = (read_weights(run.stage_model(stage)) for run in (folder, whole[0]))
        assert resumed.keys() == uninterrupted.keys()
        for key, value in resumed.items():
            assert torch.equal(value, uninterrupted[key]), (stage, key)
        assert folder.results()[stage]["iou"] == whole[0].results()[stage]["iou"]


def test_ctrl_c_ends_the_command_with_130_and_says_how_to_go_on(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = LineWatcher.step

    def interrupt(self: LineWatcher, name: str, iteration: int, losses: dict[str, float]) -> None:
        step(self, name, iteration, losses)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(LineWatcher, "step", interrupt)
    result = invoke(setting, tmp_path / "run")
    assert result.exit_code == 130
    assert "source_only stopped at iteration 1" in result.output and "--resume" in result.output
    assert (tmp_path / "run/checkpoint.pt").is_file()


# ---- targets without labels


def test_a_folder_of_photos_is_enough(setting: Setting, tmp_path: Path) -> None:
    photos = setting.target.parent / "images" / "train"
    short = {f"{stage}.iterations": 1 for stage in STAGES}
    folder = adapt(
        setting.source, photos, tmp_path / "run", recipe=setting.recipe, device="cpu", settings=short, seed=3
    )
    assert load_model(folder.model)[1].class_names == (*CLASSES, "bus")
    assert all("iou" not in folder.results()[stage] for stage in STAGES)
    assert load_recipe(folder.recipe_file).seed == 3


# ---- several processes


def test_two_processes_under_torchrun(setting: Setting, tmp_path: Path) -> None:
    # The run itself compares the networks of its processes after every stage.
    output = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "cpsl_deploy.train.command", *setting.options(output)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("source_only: 4/4") == 1
    folder = RunFolder(output)
    assert folder.model.is_file() and folder.report.is_file()
    assert all("iou" in folder.results()[stage] for stage in STAGES)


# ---- bad input: exit code 2, a message with the remedy, nothing written


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--recipe", "fast"], "no recipe 'fast'"),
        (["--set", "self_labelling.speed=3"], "unknown recipe key 'self_labelling.speed'"),
        (["--set", "seed"], "key=value"),
        (["--set", "warm_up.batch=many"], "warm_up.batch"),
        (["--source", "nowhere"], "nowhere is neither there"),
        (["--source", "gta5", "--source-root", "nowhere"], "Expected there"),
        (["--target-split", "test"], "no split 'test'"),
        (["--val-split", "test"], "no split 'test'"),
        (["--classes", "cityscapes-20"], "no class name in common"),
        (["--classes", "road,,car"], "names with commas"),
        (["--student", "resnet9000"], "unknown architecture 'resnet9000'"),
        (["--init", "absent.safetensors"], "absent.safetensors"),
        (["--precision", "fp16"], "fp16 is for GPUs"),
        (["--set", "compute.accumulate=3"], "not divisible by 3"),
        (["--resume"], "holds none"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(setting, tmp_path / "run", *more)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_asked_for_and_absent_is_an_error(setting: Setting, tmp_path: Path) -> None:
    result = invoke(setting, tmp_path / "run", "--device", "cuda")
    assert result.exit_code == 2
    assert "--device cpu" in result.output
    assert not (tmp_path / "run").exists()


def test_corrupt_initial_weights_leave_no_folder(setting: Setting, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"\x10\0\0\0\0\0\0\0{not json")
    for option in ("--init", "--student-init"):
        result = invoke(setting, tmp_path / "run", option, str(weights))
        assert result.exit_code == 2
        assert "weights.safetensors is damaged" in result.output
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_cannot_be_aligned_is_refused_at_once(setting: Setting, tmp_path: Path) -> None:
    aligned = ("--teacher", "deeplabv2_resnet101", "--set", "self_labelling.align_classifier=true")
    result = invoke(setting, tmp_path / "run", *aligned)
    assert result.exit_code == 2
    assert "DeepLabV2 has none. Set it to false." in result.output
    assert not (tmp_path / "run").exists()


def test_a_damaged_image_is_found_before_training(setting: Setting, tmp_path: Path) -> None:
    source = write_domain(tmp_path / "game", hue=200)
    (tmp_path / "game/images/train/3.png").write_bytes(b"not a PNG")
    result = invoke(setting, tmp_path / "run", "--source", str(source))
    assert result.exit_code == 2
    assert "3.png" in result.output and "cpsl-check" in result.output
    assert not (tmp_path / "run").exists()


def test_an_output_folder_with_something_in_it_is_left_alone(
    whole: tuple[RunFolder, str], setting: Setting, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = invoke(setting, tmp_path)
    assert result.exit_code == 2 and "not empty" in result.output and "--resume" not in result.output
    assert contents(tmp_path) == {"notes.txt": b"mine"}

    before = contents(whole[0].path)
    result = invoke(setting, whole[0].path)
    assert result.exit_code == 2 and "--resume" in result.output
    assert contents(whole[0].path) == before


def test_a_run_is_resumed_as_it_began_or_not_at_all(whole: tuple[RunFolder, str], setting: Setting) -> None:
    folder = whole[0]
    before = contents(folder.path)
    with pytest.raises(RecipeError, match="seed = 0"):
        setting.adapt(folder.path, resume=True, seed=1)
    with pytest.raises(DataError, match="the target differs: then 6 images of camera"):
        setting.adapt(folder.path, resume=True, target_split="val")
    with pytest.raises(DataError, match="the classes differs: then road, sky, car, now road"):
        setting.adapt(folder.path, resume=True, classes="road,sky")
    assert contents(folder.path) == before


def test_a_corrupt_checkpoint_is_named_and_finished_stages_stay(setting: Setting, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        setting.adapt(output, watcher=Interrupter("warm_up", 1))
    checkpoint = output / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    before = contents(output)
    result = invoke(setting, output, "--resume")
    assert result.exit_code == 2
    assert "checkpoint.pt cannot be read" in result.output and "Delete it" in result.output
    assert contents(output) == before


# ---- choices and words


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_comes_with_the_package_loads(name: str) -> None:
    assert load_recipe(name).name == name


def test_the_recipe_follows_the_datasets() -> None:
    assert recipe_for("demo", "demo") == recipe_for("demo-source", "demo-target") == "demo"
    assert recipe_for("demo", "photos") == recipe_for("gta5", "./cityscapes") == "own"
    assert {"demo", "own"} <= set(recipe_names())


def test_the_output_folder_is_named_after_both_sides() -> None:
    recipe = load_recipe("own")
    for source, target, name in (
        ("gta5", "./cityscapes/", "gta5-cityscapes-own"),
        ("sets/mine.yaml", "drive.mp4", "mine-drive-own"),
    ):
        assert Request(source=source, target=target).run_folder(None, recipe) == Path("runs") / name
    assert Request().run_folder(None, recipe) == Path("runs/own"), "a plan without data"
    assert Request().run_folder("here", recipe) == Path("here")


def test_one_side_alone_is_refused_and_an_unknown_option_named() -> None:
    with pytest.raises(InputError, match=r"--source and --target.*Give both"):
        Request(source="gta5")
    with pytest.raises(TypeError, match="'frmes'"):
        adapt("gta5", "drive.mp4", frmes=20)


def test_named_options_come_before_settings_and_a_recipe_s_own_values() -> None:
    settings = {"seed": 3, "model.init": "a.pth", "warm_up.style": "none"}
    request = Request(source="demo", target="demo", settings=settings, init=Path("b.pth"), precision="fp32")
    recipe = request.resolved_recipe()
    assert (recipe.name, recipe.seed, recipe.warm_up.style) == ("demo", 3, "none")
    assert (recipe.model.init, recipe.compute.precision) == ("b.pth", "fp32")


@pytest.mark.parametrize(("seconds", "text"), [(41.6, "42 s"), (185, "3 min 05 s"), (7630, "2 h 07 min")])
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def without_torch(*words: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.modules['torch'] = None; from cpsl_deploy.train.command import main; main()"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)


def test_help_needs_no_torch() -> None:
    done = without_torch("--help")
    assert done.returncode == 0 and "--target DATA" in done.stdout


def test_without_torch_the_command_says_what_to_install() -> None:
    done = without_torch("--source", "a", "--target", "b")
    assert done.returncode == 2
    assert "pip install 'cpsl_deploy[train]'" in done.stderr


def test_what_type_checkers_see_is_what_a_request_takes() -> None:
    """``adapt(**asked)`` is checked by a list of its own."""
    taken = {field.name for field in dataclasses.fields(Request)} - {"source", "target"}
    assert Asked.__annotations__.keys() == taken
    types = {field.name: field.type for field in dataclasses.fields(Request)}
    assert {name: value.__forward_arg__ for name, value in Asked.__annotations__.items()} == {
        name: types[name] for name in taken
    }
