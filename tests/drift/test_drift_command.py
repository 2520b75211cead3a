"""``cpsl-drift``, from photos to a reference to an alarm."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from cpsl_deploy.drift.command import main
from cpsl_deploy.sinks.video_file import video_writer

tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)


def cpsl_drift(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def frame(index: int, gain: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(index)
    image = np.roll(tiny_onnx.street(), int(10 * np.sin(index / 8)), axis=0)[..., ::-1].astype(np.float64)
    image += 8 * np.sin(index / 5) + rng.normal(0, 8, image.shape)
    return np.clip(gain * image, 0, 255).astype(np.uint8)


def photos(folder: Path, count: int, gain: float = 1.0) -> Path:
    folder.mkdir()
    for i in range(count):
        cv2.imwrite(str(folder / f"{i:04d}.png"), frame(i, gain))
    return folder


def video(path: Path, frames: Iterable[np.ndarray], fps: float) -> Path:
    with video_writer(path, size=(96, 160), fps=fps, codec="MJPG") as append:
        for image in frames:
            append(image)
    return path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model file without a reference, and one of its own roads."""
    folder = tmp_path_factory.mktemp("drift")
    model = tiny_onnx.write_tiny_onnx(folder / "tiny.onnx")
    made = folder / "reference.json"
    own = video(folder / "own.avi", (frame(i) for i in range(90)), 1)
    said = cpsl_drift(model, "--calibrate", own, "-o", made, "--photos", 80).output
    assert "80 frames of own" in said and "1 % of windows" in said
    assert f"use it with: cpsl-run {model} INPUT --drift --drift-reference {made}" in said.splitlines()
    return model, made


def test_scores_of_folders_and_videos(reference: tuple[Path, Path], tmp_path: Path) -> None:
    model, stored = reference
    same = video(tmp_path / "same.avi", (frame(500 + i) for i in range(30)), 1)
    dark = video(tmp_path / "dark.avi", (frame(600 + i // 5, 1.0 if i < 75 else 0.3) for i in range(150)), 5)
    result = cpsl_drift(model, same, dark, "--reference", stored, "-o", tmp_path / "out", "--threads", 1)
    assert "same: no alarm" in result.output and "dark: alarm from frame" in result.output
    headline = json.loads(result.output.splitlines()[-1])
    calm, darker = headline["sources"]
    assert calm["alarms"] == 0 and calm["highest"] < 1 and calm["frames"] == 30
    assert darker["alarms"] == 1 and darker["alarm_at_end"] and 75 < darker["first_alarm_index"] < 150
    assert any("less detail" in words for words in darker["causes"])
    written = json.loads((tmp_path / "out/drift.json").read_text())
    assert written["sources"] == headline["sources"]
    assert len(written["curves"][1]["points"]) == darker["scored"]
    assert cv2.imread(str(tmp_path / "out/drift.png")).shape[1] > 500


def test_a_file_that_brings_its_reference(reference: tuple[Path, Path], tmp_path: Path) -> None:
    text = reference[1].read_text()
    model = tiny_onnx.write_tiny_onnx(
        tmp_path / "m.onnx", metadata={**tiny_onnx.tiny_metadata(), "drift_reference": text}
    )
    dark = photos(tmp_path / "dark", 20, 0.3)
    (dark / "bad.png").write_bytes(b"no image")
    result = cpsl_drift(model, dark, "-o", tmp_path / "out", "--no-plot")
    assert "dark: alarm from frame 7 on" in result.output
    written = json.loads((tmp_path / "out/drift.json").read_text())
    assert len(written["unreadable"]) == 1 and not (tmp_path / "out/drift.png").exists()


def test_too_short(reference: tuple[Path, Path], tmp_path: Path) -> None:
    few = photos(tmp_path / "few", 3)
    result = cpsl_drift(reference[0], few, "--reference", reference[1], "-o", tmp_path / "out")
    assert "3 frames are too few for a window" in result.output


def test_what_is_refused(reference: tuple[Path, Path], tmp_path: Path) -> None:
    model, stored = reference
    few = photos(tmp_path / "few", 3)
    for arguments, words in (
        ((model,), "one of the two"),
        ((model, few, "--calibrate", few), "one of the two"),
        ((model, few), "has no drift reference"),
        ((model, few, "--reference", few / "0000.png"), "cannot read"),
        ((model, "--calibrate", few, "-o", tmp_path / "r.json"), "60 to 2000 frames"),
        ((model, "--calibrate", few, "-o", stored), "--overwrite"),
        ((model, "--calibrate", few, "-o", tmp_path / "r.json", "--photos", 5), "--photos are 60"),
        ((model, few, "--reference", stored, "--window", 0), "window_s"),
        ((model, few, "--reference", stored, "--image-seconds", 0), "more than 0 seconds"),
        ((model, tmp_path / "none", "--reference", stored), "no file or folder"),
        ((model, "rtsp://user:secret@camera/road"), "cpsl-drift reads recorded footage; for live sources"),
        ((model, "0"), "camera 0 is a live source"),
        ((model, "--calibrate", "rtsp://user:secret@camera/road"), "recorded footage"),
    ):
        said = " ".join(cpsl_drift(*arguments, code=2).output.split())
        assert words in said, arguments
        assert "secret" not in said
    assert not (tmp_path / "r.json").exists()


def test_no_torch_is_needed(reference: tuple[Path, Path], tmp_path: Path) -> None:
    few = photos(tmp_path / "few", 8)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from cpsl_deploy.drift.command import main; assert 'cv2' not in sys.modules; main()"
    )
    arguments = [reference[0], few, "--reference", reference[1], "--no-plot", "-o", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
