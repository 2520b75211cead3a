"""A plan: what it measures and counts, that it leaves nothing behind, what it says of what does not fit."""

# ruff: noqa: E402
import dataclasses
import json
import mmap
import sys
import tempfile
from pathlib import Path

import cv2
import pytest

torch = pytest.importorskip("torch")

from drives import drive, write_video
from tiny_domains import write_domain, write_recipe

from cpsl_deploy.data import open_dataset
from cpsl_deploy.errors import InputError, UnavailableError
from cpsl_deploy.train import Plan, load_recipe, plan
from cpsl_deploy.train import recipe as recipes
from cpsl_deploy.train.adaptation import STAGES
from cpsl_deploy.train.engine.loop import evaluated
from cpsl_deploy.train.engine.out_of_memory import what_to_lower
from cpsl_deploy.train.memory_bank import MemoryBank
from cpsl_deploy.train.planning.peak_memory import PeakMemory
from cpsl_deploy.train.planning.plan import scored_images
from cpsl_deploy.train.planning.planned import Work
from cpsl_deploy.train.planning.published_sets import PUBLISHED
from cpsl_deploy.train.planning.rehearsal import (
    MOST_STEPS,
    STAGE_S,
    Measured,
    Rehearsal,
    cache_bytes,
    fill,
    measured_steps,
    shrunk,
    tensor_bytes,
)
from cpsl_deploy.train.planning.table import plan_text, size
from cpsl_deploy.train.samples import WorkingImages
from cpsl_deploy.train.warm_up import WarmUp

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SMALL = {
    "data.source_size": [96, 128],
    "data.target_size": [96, 192],
    "data.crop": [64, 64],
    "self_labelling.bank": 1024,
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpsl_deploy.train.planning.rehearsal.MOST_STEPS", 2)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("domains")
    return (
        write_domain(folder / "game", hue=200),
        write_domain(folder / "camera", hue=240, val=True),
        write_recipe(folder),
    )


def of_stages(made: Plan) -> dict[str, Work]:
    return {work.name: work for work in made.work if work.is_stage}


def left(folder: Path) -> list[str]:
    """What was left in a folder, by anything but torch's own import."""
    return [path.name for path in folder.iterdir() if not path.name.startswith("torchinductor")]


# ---- a whole plan


def test_a_plan_has_every_stage_and_pass_and_leaves_nothing_behind(
    places: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source, target, recipe = places
    settings = {"data.rare_class_temperature": 0.1, "self_labelling.prior_estimate": "prototypes"}
    made = plan(source, target, recipe=recipe, device="cpu", settings=settings)
    assert left(tmp_path) == []

    stages = of_stages(made)
    assert list(stages) == list(STAGES)
    assert [work.count for work in stages.values()] == [4, 3, 4, 2, 2]
    assert all(work.batch == 2 and work.size == (64, 64) for work in stages.values())
    assert stages["distillation_2"].same_as == "distillation_1" and not stages["warm_up"].same_as
    passes = [(work.name, work.count) for work in made.work if not work.is_stage]
    # Scored: two images after every stage and at each of its quarters; pseudo labels by two networks.
    scoring = 5 * 2 + 2 * (4 + 3 + 4 + 2 + 2) + 2 * 2 * 5
    assert passes == [
        ("class counts", 6),
        ("source prototypes", 18),
        ("soft labels", 6),
        ("class prior", 6),
        ("soft labels, mirrored", 6),
        ("soft labels, mirrored", 6),
        ("scoring", scoring),
    ]
    assert all(work.each is not None and work.seconds > 0 for work in made.work)
    assert made.seconds == pytest.approx(sum(work.count * work.seconds_each for work in made.work))
    assert made.shrunk_by == 1 and not made.problems
    if sys.platform == "linux":
        assert all(work.memory_bytes > 50 * 2**20 for work in stages.values())
    images = 6 * 96 * 128 * (4 + 3)
    assert made.cache_bytes == images
    assert made.disk.soft_labels == 6 * 3 * 24 * 32 * 2 + 6 * 128  # float16 at stride 4, and .npy headers

    text = plan_text(made)
    assert all(len(line) <= 130 for line in text.splitlines())
    assert "distillation_2 costs what one of distillation_1 costs" in text
    assert json.loads(json.dumps(made.to_json()))["work"][1]["seconds_each"] == made.work[1].seconds_each


def test_a_published_recipe_is_planned_without_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys.modules[plan.__module__], "shrinking", lambda *_: 2)
    small = {"teacher": "squeezenet_fpn", "student": "ddrnet23_slim", "precision": "fp32"}
    shapes = {**SMALL, "data.crop": [64, 128], "data.source_size": [128, 256], "data.target_size": [128, 256]}
    made = plan(recipe="gta5-cityscapes", device="cpu", **small, settings=shapes)
    assert left(tmp_path) == []
    assert made.images == PUBLISHED["gta5-cityscapes"].counts
    stages = of_stages(made)
    assert [work.count for work in stages.values()] == [45000, 45000, 90000, 90000, 90000]
    assert stages["self_labelling"].size == (64, 128)  # as it will be, not as it was measured
    assert all(work.memory_bytes is None for work in stages.values())
    assert not stages["distillation_2"].same_as  # another network
    assert [work.network for work in made.work if work.name == "scoring"] == [
        "squeezenet_fpn",
        "ddrnet23_slim",
    ]
    scored = next(
        work.count for work in made.work if work.network == "ddrnet23_slim" and work.name == "scoring"
    )
    assert scored == 500 + 4 * 24
    # (128x256) / (stride 4) of 19 classes, as float16, of 2,975 images; headers are scaled, too.
    assert made.disk.soft_labels == pytest.approx(2975 * 19 * 32 * 64 * 2, rel=0.05)
    text = " ".join(plan_text(made).split())
    assert (
        "Random images stand in for GTA5 and Cityscapes; assumed are 24966 and 2975 images, and 500" in text
    )
    assert "Times marked ~ are of crops of 32x64" in text and "memory: not measured" in text


def test_a_stage_that_does_not_fit_is_named_with_what_to_lower(
    places: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def parts(self: WarmUp, *_: object) -> None:
        raise torch.cuda.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 15 GiB."
        )

    monkeypatch.setattr(WarmUp, "parts", parts)
    source, target, recipe = places
    made = plan(source, target, recipe=recipe, device="cpu")
    stages = of_stages(made)
    assert stages["warm_up"].seconds is None and made.seconds is None
    assert all(work.seconds > 0 for name, work in stages.items() if name != "warm_up")
    (problem,) = made.problems
    assert problem.startswith("warm_up does not fit: out of memory (Tried to allocate 20.00 GiB.")
    assert "2 crops of 64x64 per domain, fp32" in problem and "compute.accumulate = 2" in problem
    assert "does not fit" in plan_text(made)


def interrupt(self: Rehearsal, name: str) -> None:
    assert left(self.folder.path.parent.parent)  # the temporary folder
    raise KeyboardInterrupt


def test_a_plan_of_a_drive_leaves_its_frames_for_the_run(
    places: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Rehearsal, "rehearse", interrupt)
    monkeypatch.setenv("CPSL_CACHE", str(tmp_path / "cache"))
    source, _, recipe = places
    video = write_video(tmp_path / "drive.avi", drive([("moving", 4)]))
    with pytest.raises(KeyboardInterrupt, match=r"No run was begun\."):
        plan(source, video, recipe=recipe, device="cpu")
    assert sorted(left(tmp_path)) == ["cache", "drive.avi"]
    monkeypatch.setattr(cv2, "VideoCapture", None)  # nothing is decoded again
    assert len(open_dataset(video, "train")) >= 4


def test_an_interrupted_plan_leaves_nothing_either(
    places: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Rehearsal, "rehearse", interrupt)
    source, target, recipe = places
    with pytest.raises(KeyboardInterrupt, match=r"No run was begun\."):
        plan(source, target, recipe=recipe, device="cpu")
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"source": "demo"}, InputError, "Give both"),
        ({"recipe": "own"}, InputError, "'own' is for any data"),
        ({}, InputError, "needs --source and --target, or the --recipe"),
        ({"recipe": "gta5-cityscapes", "device": "tpu"}, UnavailableError, "a device is one of"),
    ],
)
def test_what_cannot_be_planned(given: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan(**given)


def test_a_plan_is_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UnavailableError, match="without torchrun"):
        plan("demo", "demo")


# ---- what it is made of


@pytest.mark.parametrize(
    ("seconds", "measured", "warmed_up"),
    [
        (STAGE_S + 1, 1, False),
        (0.9 * STAGE_S, 1, True),
        (0.2 * STAGE_S, 2, True),
        (0.01, MOST_STEPS, True),
    ],
)
def test_long_steps_are_measured_less_often(
    seconds: float, measured: int, warmed_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpsl_deploy.train.planning.rehearsal.MOST_STEPS", MOST_STEPS)
    taken = []

    def step(iteration: int) -> float:
        taken.append(iteration)
        return seconds if iteration else seconds + 0.001

    found = measured_steps(step)
    assert taken == list(range(measured + warmed_up))
    assert found.warmed_up == warmed_up
    assert found.seconds == (seconds,) * measured if warmed_up else (seconds + 0.001,)


def test_a_step_takes_as_long_as_its_batch_if_that_is_longer() -> None:
    work = Work(
        name="warm_up",
        is_stage=True,
        network="n",
        count=10,
        each=Measured(seconds=(1.0, 3.0)),
        batch_seconds=0.5,
    )
    assert (work.seconds_each, work.seconds, work.waits_for_batches) == (2.0, 20.0, False)
    slow = dataclasses.replace(work, batch_seconds=5.0)
    assert (slow.seconds_each, slow.seconds, slow.waits_for_batches) == (5.0, 50.0, True)


@pytest.mark.parametrize("iterations", [0, 1, 3, 4, 250, 400])
def test_scored_images_are_those_the_loop_asks_for(iterations: int) -> None:
    lengths = {f"{name}.iterations": iterations for name in ("warm_up", "self_labelling")}
    online, fixed = (
        load_recipe("own", lengths | {"self_labelling.online_soft_labels": is_online})
        for is_online in (True, False)
    )
    asked = [*evaluated(iterations), iterations]  # the loop on the way, the adaptation at the end
    curve = 24 * sum(at > 0 for at in asked)
    assert scored_images(fixed, "warm_up", 100) == 100 + curve
    assert scored_images(online, "self_labelling", 100) == 100 + curve + 24 * len(asked)
    # The warm-up network labels them, too.
    assert scored_images(fixed, "self_labelling", 100) == 100 + curve + 2 * 24 * len(asked)
    assert scored_images(fixed, "warm_up", 0) == 0


def test_a_bank_is_filled_to_its_last_row() -> None:
    bank = MemoryBank(5000, 8, 3)
    fill(bank)
    features, scores, labels = bank.rows()
    assert len(features) == 5000 and torch.allclose(features.norm(dim=1), torch.ones(5000), atol=1e-5)
    assert labels.unique().tolist() == [0, 1, 2] and scores.isfinite().all()


def test_bytes_of_nested_states() -> None:
    state = {"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.float16), {"c": torch.zeros(1)}], "d": 5}
    assert tensor_bytes(state) == 12 + 4 + 4


def test_images_at_working_size_are_counted_with_their_labels() -> None:
    class Sized:
        def image_size(self, index: int) -> tuple[int, int]:
            return 200, 400

    images = WorkingImages(Sized(), (100, 200))  # type: ignore[arg-type]
    assert cache_bytes(images, 10, with_labels=True) == 10 * 100 * 200 * 4
    assert cache_bytes(images, 10, with_labels=False) == 10 * 100 * 200 * 3


def test_a_shrunk_recipe_differs_in_its_sizes_alone() -> None:
    recipe = load_recipe("gta5-cityscapes")
    small = shrunk(recipe, 4)
    assert (small.data.crop, small.data.target_size) == ((128, 224), (256, 512))
    assert dataclasses.replace(small, data=recipe.data) == recipe
    assert shrunk(recipe, 1) == recipe
    assert min(shrunk(load_recipe("demo"), 4).data.crop) == 32


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is reset by way of Linux's /proc")
def test_the_peak_is_of_the_time_since_its_reset() -> None:
    peak, mebi = PeakMemory(CPU), 2**20
    peak.reset()
    before = peak.bytes()
    with mmap.mmap(-1, 64 * mebi) as block:  # torch might take memory that it was given back before
        block.write(bytes(64 * mebi))
        held = peak.bytes()
    assert held - before > 60 * mebi
    assert peak.bytes() > held - 8 * mebi  # the kernel counts in batches
    peak.reset()
    assert peak.bytes() < held - 60 * mebi


@pytest.mark.parametrize(
    ("batch", "accumulate", "precision", "world", "words"),
    [
        (
            8,
            1,
            "fp32",
            1,
            'compute.accumulate = 2 (the same batch in more parts), compute.precision = "bf16"',
        ),
        (6, 2, "bf16", 1, "compute.accumulate = 3"),
        (4, 1, "bf16", 4, "a smaller data.crop or a smaller warm_up.batch"),
    ],
)
def test_what_to_lower(batch: int, accumulate: int, precision: str, world: int, words: str) -> None:
    compute = recipes.Compute(accumulate=accumulate, precision=precision)
    assert what_to_lower("warm_up", recipes.WarmUp(batch=batch), compute, world).startswith(words)
    lower = what_to_lower("self_labelling", recipes.SelfLabelling(batch=batch), compute, world)
    assert lower.endswith("a smaller self_labelling.bank")


@pytest.mark.parametrize(("count", "text"), [(0, "0 MiB"), (600 * 2**20, "600 MiB"), (3 * 2**30, "3.0 GiB")])
def test_sizes_in_words(count: int, text: str) -> None:
    assert size(count) == text
