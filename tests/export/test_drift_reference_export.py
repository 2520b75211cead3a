"""``cpsl-export`` stores what the file sees on the images that the run trained on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from export_networks import Small
from exported_files import planted
from finished_run import Run, finished_run
from stand_in_tensorrt import FakeTensorRT

import cpsl_deploy
from cpsl_deploy.contract import Contract
from cpsl_deploy.drift.reference import KEY, DriftReference, names_of
from cpsl_deploy.export import ExportRequest, drift, export, request, trials
from cpsl_deploy.export.candidates import YARDSTICK, Candidate
from cpsl_deploy.export.gate import frames
from cpsl_deploy.export.graph.onnx_file import read_metadata
from cpsl_deploy.export.result import ExportResult
from cpsl_deploy.files import sha256
from cpsl_deploy.train.models import ARCHITECTURES

COUNT = 72
REMEDY = "Make one with: cpsl-drift MODEL --calibrate PHOTOS"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traced_once: list[Contract]) -> Run:
    """A run whose target has enough images."""
    monkeypatch.setitem(ARCHITECTURES, "small", Small)
    made = finished_run(tmp_path)
    for kind in ("images", "labels"):
        for i in range(6, COUNT):
            folder = made.target.parent / kind / "train"
            shutil.copy(folder / f"{i % 6}.png", folder / f"{i:03d}.png")
    return made


def exported(run: Run, **options: object) -> ExportResult:
    return export(run.folder.path, request=ExportRequest(**options), score=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("outputs", [("labels",), ("labels", "confidence", "logits")])
def test_the_file_brings_the_reference_along(run: Run, outputs: tuple[str, ...]) -> None:
    result = exported(run, contract=Contract(outputs=outputs))
    assert result.drift.startswith("reference of 72 frames of ") and "(train)" in result.drift
    assert json.loads(result.report.read_text())["drift"] == result.drift
    images = sorted((run.target.parent / "images/train").glob("*.png"))
    with cpsl_deploy.load(result.path) as segmenter:
        stored = DriftReference.stored_in(segmenter)
        assert stored is not None and stored.names == names_of(segmenter) and stored.frames == COUNT
        again = DriftReference.of(segmenter, (cv2.imread(str(path)) for path in images))
    assert stored.mean == pytest.approx(again.mean, abs=1e-3)
    assert result.onnx_sha256 == sha256(result.path)


def test_a_file_for_several_frames(run: Run) -> None:
    result = exported(run, batch=2, size=(96, 128))
    assert KEY in read_metadata(result.path)


def test_the_number_of_frames_is_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "MOST_FRAMES", 64)
    assert exported(run).drift.startswith("reference of 64 frames")
    monkeypatch.setattr(drift, "MOST_SECONDS", 0.0)
    assert exported(run).drift.startswith("reference of 60 of 64 frames")


def test_not_asked_for(run: Run) -> None:
    result = exported(run, drift=False)
    assert result.drift == "no reference: it was not asked for" and KEY not in read_metadata(result.path)


def test_a_target_that_is_gone_or_too_small_is_said(run: Run) -> None:
    for path in sorted((run.target.parent / "images/train").glob("*.png"))[20:]:
        path.unlink()
        (run.target.parent / "labels/train" / path.name).unlink()
    result = exported(run)
    assert "the target has 20 images, and 60 real ones are needed" in result.drift
    assert KEY not in read_metadata(result.path)
    shutil.rmtree(run.target.parent)
    assert "cannot be read" in exported(run).drift


def test_images_that_are_named_stand_in_for_a_target_that_is_gone(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = sorted((run.target.parent / "images/train").glob("*.png"))
    photos = tmp_path / "photos"
    shutil.copytree(images[0].parent, photos)
    shutil.rmtree(run.target.parent)
    result = exported(run, frames=photos)
    assert result.drift.startswith("reference of 72 frames of ") and str(photos) in result.drift
    assert KEY in read_metadata(result.path) and "drift" not in caplog.text
    for path in sorted(photos.iterdir())[:20]:
        path.unlink()
    result = exported(run, frames=photos)
    assert result.drift.endswith("60 real ones are needed. " + REMEDY) and " 52 " in result.drift


def test_large_images_are_not_fewer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MOST_PIXELS", 10 * 96 * 128)
    assert exported(run).drift.startswith("reference of 72 frames")


def test_the_command_warns_of_a_file_without_a_reference(run: Run) -> None:
    shutil.rmtree(run.target.parent)
    code = (
        "import sys; sys.path[:0] = sys.argv.pop(1).split(':')\n"
        "from export_networks import Small; from cpsl_deploy.train.models import ARCHITECTURES\n"
        "ARCHITECTURES['small'] = Small\n"
        "from cpsl_deploy.export.command import main; main()"
    )
    helpers = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, helpers, str(run.folder.path), "--no-score"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "no drift reference" in line]
    assert line.startswith("WARNING: ") and line.endswith(REMEDY)
    assert f"drift       no reference: {line.partition('no drift reference: ')[2]}" in done.stdout


def test_an_image_that_cannot_be_read_costs_the_reference_and_not_the_export(run: Run) -> None:
    (run.target.parent / "images/train/030.png").write_bytes(b"no image")
    result = exported(run)
    assert result.drift.startswith("no reference: ") and "030.png" in result.drift and result.path.is_file()
    assert result.drift.endswith(REMEDY)


@pytest.mark.parametrize("how", ["auto", "trt"])
def test_an_engine_has_the_reference_of_its_file(
    run: Run, monkeypatch: pytest.MonkeyPatch, engines: FakeTensorRT, how: str
) -> None:
    """One that is chosen, and one that is built of the file in place."""
    engine = Candidate(backend="tensorrt", device="cuda", scheme="tensorrt")
    monkeypatch.setattr(request, "candidates_here", lambda: [YARDSTICK, engine])
    monkeypatch.setattr(trials, "compare_speed", planted({engine.name: 9.0}))
    result = exported(run, **{how: True})
    sidecar = json.loads((run.folder.path / "model.engine.json").read_text())
    assert sidecar[KEY] == read_metadata(result.path)[KEY]
    assert sidecar["onnx_sha256"] == sha256(result.path)
    assert engines.calls["builds"] == 1, "and not again for what its file says besides"
