"""cpsl-demo from first to last, with a few small pictures and a step or two per stage."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("onnx", reason="needs the extra 'export'")

import torch
from export_networks import Small

import cpsl_deploy
from cpsl_deploy.data.demo import DEMO_CLASSES, DemoSettings
from cpsl_deploy.errors import OutputError
from cpsl_deploy.export import demo as demo_module
from cpsl_deploy.export.demo import DemoResult, demo
from cpsl_deploy.export.demo_command import HEADLINE, main
from cpsl_deploy.train import RunFolder
from cpsl_deploy.train.adaptation import STAGES
from cpsl_deploy.train.engine.loop import SilentWatcher
from cpsl_deploy.train.models import ARCHITECTURES
from cpsl_deploy.train.models.weights import read_weights

TINY = {"train": 4, "val": 2, "size": (64, 128), "video_seconds": 0.3}
SETTINGS = {
    "model.teacher": "small",
    "model.student": "small",
    "data.source_size": [64, 128],
    "data.target_size": [64, 128],
    "data.crop": [64, 64],
    "compute.log_every": 1,
    "compute.workers": 1,
    "compute.precision": "fp32",
    "self_labelling.bank": 512,
    **{f"{stage}.iterations": 2 for stage in STAGES},
    **{f"{stage}.batch": 2 for stage in STAGES},
}


@pytest.fixture(autouse=True, scope="module")
def small_and_single() -> Iterator[None]:
    """A network that exports in a second, and one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "small", Small)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a demo that the command ran, and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    options = [text for key, value in SETTINGS.items() for text in ("--set", f"{key}={json.dumps(value)}")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "DemoSettings", partial(DemoSettings, **TINY))
        result = CliRunner().invoke(
            main, ["-o", str(folder), "--device", "cpu", *options], catch_exceptions=False
        )
    assert result.exit_code == 0, result.output
    return folder, result.output


def again(folder: Path, **options) -> DemoResult:
    return demo(folder, settings=SETTINGS, data=DemoSettings(**TINY), device="cpu", **options)


def test_everything_is_there_and_can_be_used(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    for name in (
        *("data/rendered.yaml", "data/camera.yaml", "data/drive.mp4"),
        *(
            "run/model.safetensors",
            "run/model.onnx",
            "run/model.export/export.json",
            "run/recipe.toml",
            "run/metrics.jsonl",
        ),
        *("run/report.md", "run/before_after.png", "run/curves.png", "run/per_class.png"),
        *("video/drive.overlay.mp4", "video/areas.jsonl"),
        *("bench/bench.json", "bench/bench.md", "bench/bench.png"),
    ):
        assert (folder / name).stat().st_size > 0, name
    with cpsl_deploy.load(folder / "run") as segmenter:
        assert segmenter.classes.names == DEMO_CLASSES.names
    given, made = (cv2.VideoCapture(str(folder / n)) for n in ("data/drive.mp4", "video/drive.overlay.mp4"))
    for what in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_WIDTH):
        assert given.get(what) == made.get(what) > 0
    measured = json.loads((folder / "bench/bench.json").read_text())
    exported = RunFolder(folder / "run").results()["exported"]
    assert measured["accuracy"]["miou"] == pytest.approx(exported["mean_iou"])


def test_the_command_prints_every_score_and_where_to_look(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    results = RunFolder(folder / "run").results()
    words = " ".join(printed.split())
    for key, title in HEADLINE:
        assert f"{title} {100 * results[key]['mean_iou']:.1f}" in words
    gain = 100 * (results["distillation_2"]["mean_iou"] - results["source_only"]["mean_iou"])
    assert f"gain {gain:+.1f}" in words
    for name in ("run/report.md", "run/before_after.png", "video/drive.overlay.mp4", "run/model.onnx"):
        assert str(folder / name) in printed


class Interrupter(SilentWatcher):
    """Presses Ctrl-C at a step of a stage."""

    def __init__(self, stage: str, iteration: int) -> None:
        self.at = (stage, iteration)

    def step(self, name: str, iteration: int, losses: dict[str, float]) -> None:
        if (name, iteration) == self.at:
            signal.raise_signal(signal.SIGINT)


def test_an_interrupted_demo_goes_on_and_ends_as_an_uninterrupted_one(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    pictures: dict[Path, int] = {}
    for stage, iteration in (("pictures", 3), ("warm_up", 1)):
        with pytest.raises(KeyboardInterrupt, match="The same command goes on"):
            again(folder, watcher=Interrupter(stage, iteration))
        assert all(path.stat().st_mtime_ns == time for path, time in pictures.items())
        pictures = {path: path.stat().st_mtime_ns for path in folder.rglob("data/*/images/*/*.png")}
        assert pictures
    result = again(folder)
    assert {path: path.stat().st_mtime_ns for path in pictures} == pictures
    uninterrupted = RunFolder(finished[0] / "run")
    resumed, whole = (read_weights(path) for path in (folder / "run/model.safetensors", uninterrupted.model))
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    assert result.results["exported"] == uninterrupted.results()["exported"]
    assert result.video.is_file() and result.bench.is_file() and result.model.is_file()


def test_a_folder_holds_one_demo(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(OutputError, match="holds a demo of other settings"):
        demo(folder, seed=1, settings=SETTINGS, data=DemoSettings(**{**TINY, "seed": 1}), device="cpu")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_without_torch_the_command_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from cpsl_deploy.export.demo_command import main; main()"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "pip install 'cpsl_deploy[train]'" in done.stderr and "Traceback" not in done.stderr
    assert subprocess.run([*words, "--help"], capture_output=True, timeout=60).returncode == 0
