"""What is wrong with what the commands are given: exit code 2, one line that says so, earlier results kept.

A table of (command, kind of mistake). Mistakes that only one module can make are in that module's tests.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("onnx", reason="needs the extra 'export'")

import torch
from export_networks import Small
from finished_run import finished_run
from tiny_onnx import street, write_tiny_onnx

from cpsl_deploy import files
from cpsl_deploy.bench.command import main as cpsl_bench
from cpsl_deploy.command_line import Command
from cpsl_deploy.data import open_dataset
from cpsl_deploy.data.check_command import main as cpsl_check
from cpsl_deploy.errors import DataError, ModelFileError, OutputError
from cpsl_deploy.export.command import main as cpsl_export
from cpsl_deploy.export.demo_command import main as cpsl_demo
from cpsl_deploy.files import as_output_error, atomic_path
from cpsl_deploy.run_command import main as cpsl_run
from cpsl_deploy.train.command import main as cpsl_adapt
from cpsl_deploy.train.engine import checkpoint as checkpoint_file
from cpsl_deploy.train.engine.run_folder import RunFolder
from cpsl_deploy.train.models import ARCHITECTURES

# ---- what the commands are given when nothing is wrong; each case changes one thing of it

TINY = ["--recipe", "tiny.toml", "--device", "cpu", "--teacher", "small", "--student", "small"]
ADAPT = ["--source", "game/domain.yaml", "--target", "camera/domain.yaml", *TINY, "-o", "out"]
EXPORT = ["run", "-o", "out/model.onnx", "--size", "96x128", "--no-score"]
RUN = ["tiny.onnx", "photos", "-o", "out"]
BENCH = ["tiny.onnx", "--data", "camera/domain.yaml", "--quick", "--warm-up", "0", "--no-plot", "-o", "out"]
CHECK = ["camera/domain.yaml", "-o", "out"]
DEMO = ["-o", "out"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with everything the commands above name."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "small", Small)
        finished_run(folder)
    write_tiny_onnx(folder / "tiny.onnx", size=(96, 128))
    (folder / "photos").mkdir()
    for name in "abc":
        cv2.imwrite(str(folder / "photos" / f"{name}.png"), street(96, 128)[..., ::-1])
    writer = cv2.VideoWriter(str(folder / "drive.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (128, 96))
    panorama = np.random.default_rng(0).integers(0, 256, (12, 61, 3), np.uint8)
    panorama = cv2.resize(panorama, (488, 96), interpolation=cv2.INTER_CUBIC)
    for step in range(40):  # no picture comes back: what held-out seconds show is not trained on
        writer.write(panorama[:, 9 * step : 9 * step + 128])
    writer.release()
    return folder


@pytest.fixture
def place(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "work"
    shutil.copytree(whole, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CPSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(ARCHITECTURES, "small", Small)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield folder
    torch.set_num_threads(threads)


def contents() -> dict[str, str]:
    found = (path for path in sorted(Path().rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def invoke(command: click.Command, arguments: list[str]) -> Result:
    """Exit code 2, no traceback, and what was there is as it was."""
    before = contents()
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    after = contents()
    assert {name: after.get(name) for name in before} == before
    return result


def told(result: Result) -> str:
    return " ".join(result.output.split())


# ---- the mistakes


def write(path: str, content: bytes | str) -> Callable[[], None]:
    def do() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())

    return do


def cut(path: str, share: float) -> Callable[[], None]:
    def do() -> None:
        data = Path(path).read_bytes()
        Path(path).write_bytes(data[: int(len(data) * share)])

    return do


def mask(path: str, *, value: int = 0, size: tuple[int, int] = (96, 128)) -> Callable[[], None]:
    """Replaces every mask in a folder."""

    def do() -> None:
        for file in Path(path).iterdir():
            cv2.imwrite(str(file), np.full(size, value, np.uint8))

    return do


def classes(path: str, before: str, after: str) -> Callable[[], None]:
    def do() -> None:
        text = Path(path).read_text()
        assert before in text
        Path(path).write_text(text.replace(before, after))

    return do


def checkpoint(**changes: object) -> Callable[[], None]:
    """A run that stopped in its last stage, with a checkpoint that something is wrong with."""

    def do() -> None:
        (Path("run") / "distillation_2.safetensors").unlink()
        state = {"stage": "distillation_2", "iteration": 1, "module": {}, "optimisers": [], "scaler": {}}
        torch.save({**state, **changes}, "run/checkpoint.pt")

    return do


def nothing() -> None: ...


@dataclass(frozen=True)
class Case:
    command: click.Command
    arguments: list[str]
    message: str
    damage: Callable[[], None] = nothing

    def __str__(self) -> str:
        return ""


RESUME = [*ADAPT[:-1], "run", "--resume"]
TRAIN_IMAGE = "game/images/train/0.png"
VAL_IMAGE = "camera/images/val/1.png"
VAL_LABELS = "camera/labels/val"
NO_IMAGE = "is not a readable image"
NO_CODE = b"\x93garbage" * 40

CASES = {
    # a missing file
    "adapt, no source": Case(cpsl_adapt, [*ADAPT, "--source", "gone"], "gone is neither there"),
    "adapt, no recipe": Case(cpsl_adapt, [*ADAPT, "--recipe", "gone.toml"], "no recipe 'gone.toml'"),
    "adapt, no weights": Case(cpsl_adapt, [*ADAPT, "--init", "gone.pth"], "gone.pth"),
    "export, no run": Case(cpsl_export, ["gone"], "gone does not exist"),
    "export, no frames": Case(cpsl_export, [*EXPORT, "--frames", "gone"], "gone is neither there"),
    "run, no model": Case(cpsl_run, ["gone.onnx", *RUN[1:]], "no model file gone.onnx"),
    "run, no input": Case(cpsl_run, [RUN[0], "gone.png", *RUN[2:]], "no file or folder gone.png"),
    "bench, no model": Case(cpsl_bench, ["gone.onnx", *BENCH[1:]], "no model file gone.onnx"),
    "bench, no data": Case(cpsl_bench, [*BENCH, "--data", "gone"], "gone is neither there"),
    "check, no data": Case(cpsl_check, ["gone", "-o", "out"], "gone is neither there"),
    "check, no labels": Case(
        cpsl_check, CHECK, "camera/labels/val is not a folder", lambda: shutil.rmtree("camera/labels")
    ),
    # an unreadable file
    "adapt, recipe of bytes": Case(
        cpsl_adapt, [*ADAPT, "--recipe", "x.toml"], "x.toml is not valid TOML", write("x.toml", NO_CODE)
    ),
    "adapt, description of bytes": Case(
        cpsl_adapt, [*ADAPT, "--target", "x.yaml"], "x.yaml is not a YAML file", write("x.yaml", NO_CODE)
    ),
    "adapt, image": Case(cpsl_adapt, ADAPT, "0.png is truncated", cut(TRAIN_IMAGE, 0.5)),
    "export, frames": Case(
        cpsl_export, [*EXPORT, "--frames", "x"], f"a.png {NO_IMAGE}", write("x/a.png", b"no image")
    ),
    "run, every image": Case(
        cpsl_run, [RUN[0], "x", *RUN[2:]], f"a.png {NO_IMAGE}", write("x/a.png", b"no image")
    ),
    "run, one image": Case(
        cpsl_run, RUN, "1 could not be read: photos/b.png is empty", cut("photos/b.png", 0)
    ),
    "run, neither image nor video": Case(
        cpsl_run, [RUN[0], "x.txt", *RUN[2:]], "neither an image nor a video", write("x.txt", "notes")
    ),
    "bench, image": Case(cpsl_bench, BENCH, f"{VAL_IMAGE} is not an image", write(VAL_IMAGE, b"no image")),
    "bench, label": Case(
        cpsl_bench, BENCH, f"{VAL_LABELS}/0.png {NO_IMAGE}", write(f"{VAL_LABELS}/0.png", b"no image")
    ),
    "check, image": Case(cpsl_check, CHECK, "images or labels cannot be read", write(VAL_IMAGE, b"no image")),
    "check, description": Case(
        cpsl_check, ["x.yaml", "-o", "out"], "x.yaml is not a YAML file", write("x.yaml", "a: [1\nb")
    ),
    # a mask of other size
    "adapt, mask size": Case(
        cpsl_adapt, ADAPT, "labels have another size", mask("game/labels/train", size=(50, 60))
    ),
    "adapt, mask size, unchecked": Case(
        cpsl_adapt,
        [*ADAPT, "--no-check"],
        "a mask has the size of its image (height x width): game/labels/train/",
        mask("game/labels/train", size=(50, 60)),
    ),
    "bench, mask size": Case(
        cpsl_bench,
        BENCH,
        "a mask has the size of its image (height x width)",
        mask(VAL_LABELS, size=(50, 60)),
    ),
    "check, mask size": Case(
        cpsl_check, CHECK, "labels have another size than their image", mask(VAL_LABELS, size=(50, 60))
    ),
    # an unknown class, by name or by id
    "adapt, class without place": Case(
        cpsl_adapt, ADAPT, "boat: is not one of the classes", classes("game/domain.yaml", "car: 2", "boat: 2")
    ),
    "adapt, classes": Case(cpsl_adapt, [*ADAPT, "--classes", "boat,ship"], "no class name in common"),
    "adapt, id": Case(
        cpsl_adapt, ADAPT, "raw values in 6 masks are not in the map: 77", mask("game/labels/train", value=77)
    ),
    "bench, classes": Case(
        cpsl_bench,
        BENCH,
        "model and data have no class name in common",
        lambda: [classes("camera/domain.yaml", old, f"{old}s")() for old in ("road", "sky", "car")] and None,
    ),
    "check, id": Case(
        cpsl_check, CHECK, "1 raw values in 2 masks are not in the map: 77", mask(VAL_LABELS, value=77)
    ),
    "check, class without place": Case(
        cpsl_check,
        CHECK,
        "boat: is not one of the classes",
        classes("camera/domain.yaml", "car: 2", "boat: 2"),
    ),
    # a corrupt checkpoint or ONNX file
    "adapt, weights": Case(
        cpsl_adapt, [*ADAPT, "--init", "x.pth"], "x.pth is damaged or not a weights", write("x.pth", NO_CODE)
    ),
    "adapt, checkpoint": Case(
        cpsl_adapt,
        RESUME,
        "run/checkpoint.pt does not fit the stage distillation_2",
        checkpoint(module={"other": torch.zeros(1)}),
    ),
    "adapt, checkpoint of something": Case(
        cpsl_adapt, RESUME, "run/checkpoint.pt does not fit the stage", checkpoint(module=3)
    ),
    "adapt, results": Case(
        cpsl_adapt, RESUME, "run/results.json is damaged (it holds a list)", write("run/results.json", "[1]")
    ),
    "adapt, finished stage": Case(
        cpsl_adapt,
        RESUME,
        "distillation_2.safetensors is damaged",
        cut("run/distillation_2.safetensors", 0.5),
    ),
    "export, weights": Case(
        cpsl_export, EXPORT, "model.safetensors is damaged", cut("run/model.safetensors", 0.5)
    ),
    "export, an ONNX file": Case(
        cpsl_export,
        ["tiny.onnx"],
        "tiny.onnx is a finished file, of which nothing but a TensorRT engine can be made",
    ),
    "export, results": Case(cpsl_export, ["run"], "results.json is damaged", write("run/results.json", "{")),
    "run, model": Case(cpsl_run, RUN, "not a usable ONNX file, or damaged", cut("tiny.onnx", 0.5)),
    "bench, model": Case(cpsl_bench, BENCH, "not a usable ONNX file, or damaged", cut("tiny.onnx", 0.5)),
    # a video that ends early
    "run, video": Case(
        cpsl_run,
        [RUN[0], "drive.avi", *RUN[2:]],
        "drive.avi ends early: its header promises 40 frames and",
        cut("drive.avi", 0.5),
    ),
    "run, video without an end": Case(
        cpsl_run, [RUN[0], "drive.avi", *RUN[2:]], "drive.avi is neither an image nor", cut("drive.avi", 0.01)
    ),
    "adapt, video without an end": Case(
        cpsl_adapt, [*ADAPT, "--target", "drive.avi"], "drive.avi is not a video", cut("drive.avi", 0.01)
    ),
    "bench, video without an end": Case(
        cpsl_bench, [*BENCH, "--data", "drive.avi"], "drive.avi is not a video", cut("drive.avi", 0.01)
    ),
    "check, video without an end": Case(
        cpsl_check, ["drive.avi", "-o", "out"], "drive.avi is not a video", cut("drive.avi", 0.01)
    ),
    # an output place that is taken
    "adapt, output": Case(cpsl_adapt, ADAPT, "out is not empty", write("out/mine", "x")),
    "export, output": Case(
        cpsl_export, EXPORT, "was not made from these weights", write("out/model.onnx", "x")
    ),
    "run, output": Case(cpsl_run, RUN, "out is not empty", write("out/mine", "x")),
    "bench, output": Case(cpsl_bench, BENCH, "out is not empty", write("out/mine", "x")),
    "check, output": Case(cpsl_check, CHECK, "out is not empty", write("out/mine", "x")),
    "check, output for the environment": Case(
        cpsl_check, ["-o", "out"], "out is not empty", write("out/mine", "x")
    ),
    "demo, output": Case(cpsl_demo, DEMO, "out is not empty. It holds no demo", write("out/mine", "x")),
    "adapt, output is a file": Case(cpsl_adapt, ADAPT, "out is a file", write("out", "x")),
    "export, output below a file": Case(
        cpsl_export, EXPORT, "cannot write out/model.onnx", write("out", "x")
    ),
    "run, output is a file": Case(cpsl_run, RUN, "out is a file", write("out", "x")),
    "bench, output is a file": Case(cpsl_bench, BENCH, "out is a file", write("out", "x")),
    "check, output is a file": Case(cpsl_check, CHECK, "out is a file", write("out", "x")),
    "demo, output is a file": Case(cpsl_demo, DEMO, "out is a file", write("out", "x")),
    # the demo's own
    "demo, unknown setting": Case(cpsl_demo, [*DEMO, "--set", "nope=1"], "unknown recipe key 'nope'"),
    "demo, seed": Case(cpsl_demo, [*DEMO, "--seed", "-1"], "seed is 0 to 999"),
    "demo, marker": Case(cpsl_demo, DEMO, "demo.json says what", write("out/data/demo.json", "{")),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_said_in_one_line(place: Path, name: str) -> None:
    case = CASES[name]
    case.damage()
    result = invoke(case.command, case.arguments)
    assert case.message in told(result)
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    if case.command is not cpsl_check and "could not be read" not in result.output:
        assert len(lines) == 1, result.output


def test_a_damaged_run_leaves_no_output_behind(place: Path) -> None:
    """What is wrong with the input is found before the output folder is made, where that is possible."""
    for name in ("adapt, no source", "run, model", "bench, no data", "export, no frames", "demo, seed"):
        case = CASES[name]
        before = contents()
        case.damage()
        invoke(case.command, case.arguments)
        assert not [new for new in contents() if new not in before], name


def test_the_rest_of_a_cut_off_video_is_used(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut("drive.avi", 0.5)()
    invoke(cpsl_run, [RUN[0], "drive.avi", *RUN[2:]])
    frames = len((place / "out/areas.jsonl").read_text().splitlines())
    assert 0 < frames < 40 and (place / "out/drive.overlay.mp4").is_file()
    # As a target it is used, too, with a warning; the check lists it.
    dataset = open_dataset("drive.avi", "train", frames=16)
    assert len(dataset) > 0 and "ends early: it announces 40 frames" in caplog.text
    result = CliRunner().invoke(cpsl_check, ["drive.avi", "-o", "seen", "--frames", "16"])
    assert result.exit_code == 0 and "warning: drive.avi ends early" in result.output


def test_a_damaged_list_of_kept_frames_is_named(place: Path) -> None:
    open_dataset("drive.avi", "train", frames=8)
    index = next(Path(os.environ["CPSL_CACHE"]).rglob("frames.json"))
    for content in ("{", "[]", '{"read": 0, "announced": 3, "sampled": []}'):
        index.write_text(content)
        with pytest.raises(DataError, match=r"frames\.json.*is damaged.*Delete its folder"):
            open_dataset("drive.avi", "train", frames=8)


# ---- a full disk


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing written through ``atomic_path`` gets to the disk."""

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", fsync)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        pytest.param(cpsl_adapt, ADAPT, id="adapt"),
        pytest.param(cpsl_export, EXPORT, id="export"),
        pytest.param(cpsl_run, [*RUN, "--labels"], id="run"),
        pytest.param(cpsl_run, [RUN[0], "drive.avi", *RUN[2:]], id="run, video"),
        pytest.param(cpsl_bench, BENCH, id="bench"),
        pytest.param(cpsl_check, CHECK, id="check"),
        pytest.param(cpsl_demo, DEMO, id="demo"),
    ],
)
def test_a_full_disk_leaves_no_half_written_file(
    place: Path, full_disk: None, command: click.Command, arguments: list[str]
) -> None:
    before = contents()
    result = invoke(command, arguments)
    assert "the disk is full" in told(result) and "choose another output folder" in told(result)
    assert contents() == before


def test_earlier_files_survive_a_full_disk(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(cpsl_run, RUN).exit_code == 0
    assert CliRunner().invoke(cpsl_check, ["camera/domain.yaml", "-o", "seen"]).exit_code == 0
    monkeypatch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    invoke(cpsl_run, [*RUN, "--overwrite"])
    invoke(cpsl_check, ["camera/domain.yaml", "-o", "seen", "--overwrite"])


needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@needs_dev_full
@pytest.mark.parametrize("size", [10, 100_000])
def test_a_checkpoint_on_a_full_disk_is_an_os_error(size: int) -> None:
    """torch tells of its archive instead, unless it is asked twice."""
    with pytest.raises(OSError, match="No space left"):
        checkpoint_file._write({"weights": torch.zeros(size)}, Path("/dev/full"))


@needs_dev_full
def test_metrics_on_a_full_disk_are_an_output_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics_file = Path("/dev/full")
    with pytest.raises(OutputError, match="the disk is full"):
        folder.log_metrics({"stage": "warm_up", "iteration": 1})


def test_writers_that_tell_no_reason_filled_the_disk_if_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError("500000 requested and 38384 written")  # NumPy's
    assert "500000 requested" in str(as_output_error(error, tmp_path / "a.npy"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert "the disk is full" in str(as_output_error(error, tmp_path / "a.npy"))
    with pytest.raises(OutputError, match="the disk is full"), atomic_path(tmp_path / "a.npy"):
        raise error
    assert list(tmp_path.iterdir()) == []


# ---- the operating system's other errors


def test_an_error_of_the_operating_system_is_one_line() -> None:
    @click.command(cls=Command)
    def locked() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "photos")

    result = CliRunner().invoke(locked)
    assert result.exit_code == 2
    assert result.output.startswith("error: cannot read or write photos: Permission denied. Check ")
    assert len(result.output.splitlines()) == 1


def test_a_folder_that_may_not_be_read(place: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    os.chmod("photos", 0)
    try:
        result = CliRunner().invoke(cpsl_run, RUN)
    finally:
        os.chmod("photos", 0o755)
    assert result.exit_code == 2 and "photos: Permission denied" in result.output


def test_metrics_that_are_damaged_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    entry = {"stage": "warm_up", "iteration": 1, "losses": {}}
    folder.log_metrics(entry)
    with open(folder.metrics_file, "ab") as file:
        file.write(b'\xff\xfe\n[1]\n3\n{"stage": "warm_up"}\n{"stage')
    folder.log_metrics({**entry, "iteration": 2})
    with caplog.at_level(logging.WARNING):
        assert [found["iteration"] for found in folder.metrics()] == [1, 2]
    assert "5 damaged lines" in caplog.text


def test_a_checkpoint_without_all_its_parts_is_not_read(tmp_path: Path) -> None:
    torch.save({"stage": "warm_up", "iteration": 3, "module": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(ModelFileError, match=r"checkpoint\.pt cannot be read.*Delete it"):
        checkpoint_file.read_checkpoint(tmp_path / "checkpoint.pt")
