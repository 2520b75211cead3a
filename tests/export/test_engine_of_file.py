"""``cpsl-export FILE.onnx --trt``: an engine built where neither torch nor the package onnx is installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from stand_in_tensorrt import Driver, FakeTensorRT, contents
from tiny_onnx import CLASS_COLOURS, street, tiny_metadata, write_tiny_onnx

import cpsl_deploy
from cpsl_deploy.backends.tensorrt_backend import read_sidecar
from cpsl_deploy.errors import AccuracyError, InputError, ModelFileError
from cpsl_deploy.export.command import main
from cpsl_deploy.export.engine_of_file import EngineRequest, engine_of_file
from cpsl_deploy.export.tensorrt.onnx_input import read_onnx
from cpsl_deploy.files import sha256

TESTS = Path(__file__).parents[1]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "board").mkdir()
    return write_tiny_onnx(tmp_path / "board" / "model.onnx")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), np.roll(street(), 20 * number, 1)[..., ::-1])
    return folder


@pytest.fixture
def engine_gives(
    trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[Path | None], None]:
    """Opened engines give the labels of this file; None: those of the file that was built."""
    real, other = cpsl_deploy.load, [Path("none")]

    def load(path: Path, **options: Any) -> Any:
        if Path(path).suffix != ".engine":
            return real(path, **options)
        assert Path(path).is_file()
        (tmp_path / "parsed.onnx").write_bytes(trt.calls["onnx"])
        return real(other[0] if other[0].is_file() else tmp_path / "parsed.onnx", device="cpu")

    monkeypatch.setattr(cpsl_deploy, "load", load)
    return lambda path: other.__setitem__(0, path or Path("none"))


def of_other_colours(path: Path) -> Path:
    """A file that takes the sky for trees."""
    proto = onnx.load(write_tiny_onnx(path))
    bias = next(c for c in proto.graph.initializer if c.name == "bias")
    values = onnx.numpy_helper.to_array(bias).copy()
    values[1] -= 4 * np.abs(values).max()
    bias.CopyFrom(onnx.numpy_helper.from_array(values, "bias"))
    onnx.save(proto, path)
    return path


def words(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_nothing_of_torch_or_onnx_is_loaded(model: Path, photos: Path) -> None:
    """The whole command, in a process where importing them is an error; without matplotlib, too."""
    code = """
import sys
for name in ("torch", "onnx", "onnxscript", "matplotlib", "openvino"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
from stand_in_tensorrt import Driver, FakeTensorRT
fake = sys.modules["tensorrt"] = FakeTensorRT(shape=(1, -1, -1, 3), version="10.3.0")
import cpsl_deploy
from cpsl_deploy.backends import gpu
driver = Driver("Orin")
gpu._driver = gpu._nvml = lambda: driver
real = cpsl_deploy.load
built = lambda path: str(path).endswith(".engine")
cpsl_deploy.load = lambda path, **o: real(sys.argv[2] if built(path) else path, device="cpu")
from cpsl_deploy.export.command import main
main([sys.argv[2], "--trt", "--profile", "1x96x160", "--workspace-gib", "1", "--frames", sys.argv[3]])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(TESTS), str(model), str(photos)],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "", "CPSL_CACHE": str(model.parents[1] / "cache")},
    )
    assert done.returncode == 0, done.stderr
    printed = " ".join(done.stdout.split())
    for told in (
        f"engine {model.with_suffix('.engine')} (built in 0 s), of model.onnx, fp32",
        "runs on Orin with TensorRT 10.3.0, and nowhere else",
        "frames 1x96x160 (batch x height x width)",
        "agreement 100.0000% of 46,080 pixels with the ONNX file",
        "compared on 3 frames of",
    ):
        assert told in printed, done.stdout
    assert sorted(contents(model.parent)) == ["model.engine", "model.engine.json", "model.onnx"]


def test_without_frames_it_says_that_nothing_was_compared(model: Path, trt: FakeTensorRT) -> None:
    told = words(model, "--trt")
    assert "compared not at all: no frames were named" in told and "agreement" not in told
    sidecar = read_sidecar(model.with_suffix(".engine"))
    assert sidecar["onnx_sha256"] == sha256(model) and sidecar["profile"] == "1x96x160"
    assert trt.calls["profile"] == ("image", *[(1, 96, 160, 3)] * 3)
    assert "(up to date)" in words(model, "--trt") and trt.calls["builds"] == 1


def test_an_engine_with_other_labels_is_refused(
    model: Path, photos: Path, tmp_path: Path, engine_gives: Callable[[Path | None], None]
) -> None:
    engine_gives(of_other_colours(tmp_path / "other.onnx"))
    told = words(model, "--trt", "--frames", photos, code=3)
    for part in (
        "at least 99.900% of the pixels must have the ONNX file's label and 66.667% of 46,080 have it",
        "the IoU of sky may fall by 2 points and falls by 100.00",
        "3 frames of",
        "It was not put in place",
    ):
        assert part in told, told
    assert sorted(contents(model.parent)) == ["model.onnx"]
    allowed = ("--min-agreement", 0.6, "--max-iou-drop", 100, "--max-class-iou-drop", 100)
    assert "agreement 66.6667%" in words(model, "--trt", "--frames", photos, *allowed)
    before = contents(model.parent)
    assert "there before, built for another budget" in words(model, "--trt", "--frames", photos, code=3)
    assert contents(model.parent) == before


def test_ground_truth_decides_where_there_is_some(
    model: Path,
    tmp_path: Path,
    engine_gives: Callable[[Path | None], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine loses the sky, a third of the image, and in the ground truth it is there."""
    from cpsl_deploy.export import engine_of_file as step
    from cpsl_deploy.export.gate.frames import Frames

    frame = street()
    truth = np.zeros(frame.shape[:2], np.uint8)
    for label, colour in enumerate(CLASS_COLOURS):
        truth[(frame == colour).all(-1)] = label
    seen: list[tuple[int, int]] = []

    def opened(reference: str, spec: Any, size: tuple[int, int], **options: Any) -> Frames:
        seen.append(size)
        return Frames.of([frame[..., ::-1].copy()] * 2, [truth] * 2, described="2 frames by hand")

    monkeypatch.setattr(step, "open_frames", opened)
    told = words(model, "--trt", "--frames", "any")
    assert "IoU mean 100.0 %, the ONNX file's 100.0 %" in told and seen == [(96, 160)]
    engine_gives(of_other_colours(tmp_path / "other.onnx"))
    request = EngineRequest(frames="any", workspace_gib=1, min_agreement=0)
    with pytest.raises(AccuracyError, match=r"the mean IoU may fall by 1 points and falls by (2|3)\d"):
        engine_of_file(model, request)


def test_frames_and_onnxruntime_are_looked_for_before_the_build(
    model: Path, photos: Path, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    words(model, "--trt", "--frames", photos / "gone", code=2)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else 1)
    told = words(model, "--trt", "--frames", photos, code=2)
    assert "pip install 'cpsl_deploy[cpu]'" in told and "without it the engine is built alone" in told
    assert trt.calls["builds"] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--trt", "--precision", "fp16"], "--precision is decided when a file is made"),
        (["--trt", "--size", "64x96", "--no-drift"], "--size, --drift/--no-drift are decided when a file"),
        (["--trt", "--precision", "fp32"], "--precision is decided"),
        (["--trt", "-o", "x.onnx"], "--output is decided"),
        ([], "nothing but a TensorRT engine can be made. Give --trt"),
        (["--trt", "--min-agreement", "0.9"], "no frames are named to compare them on"),
        (["--trt", "--profile", "1x2"], "a profile is written BATCHxHEIGHTxWIDTH"),
        (["--trt", "--profile", "2x96x160"], "takes a batch of 1 only"),
    ],
)
def test_options_that_make_no_sense_say_so(
    model: Path, trt: FakeTensorRT, arguments: list[str], told: str
) -> None:
    assert told in words(model, *arguments, code=2)
    assert trt.calls["builds"] == 0 and sorted(contents(model.parent)) == ["model.onnx"]


def test_what_lies_in_the_way_or_is_no_model_is_told(tmp_path: Path, model: Path, trt: FakeTensorRT) -> None:
    assert "does not exist" in words(tmp_path / "gone.onnx", "--trt", code=2)
    (tmp_path / "text.onnx").write_text("no model")
    assert "not a usable ONNX file" in words(tmp_path / "text.onnx", "--trt", code=2)
    model.with_suffix(".engine").write_bytes(b"somebody else's")
    assert "is not of cpsl-export" in words(model, "--trt", code=2)
    assert model.with_suffix(".engine").read_bytes() == b"somebody else's"


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("batch", [1, 4, None])
def test_the_shape_is_what_onnx_says(tmp_path: Path, static: bool, batch: int | None) -> None:
    path = write_tiny_onnx(tmp_path / "m.onnx", static=static, batch=batch)
    read = read_onnx(path)
    assert read.shape == (batch, *((96, 160) if static else (None, None)))
    assert read.sha256 == sha256(path) and read.content == path.read_bytes()
    assert read.metadata == tiny_metadata()


@pytest.mark.parametrize("length", [-1, 0, 2**40])
def test_a_length_that_is_none_is_free(tmp_path: Path, length: int) -> None:
    proto = onnx.load(write_tiny_onnx(tmp_path / "m.onnx", static=True))
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = length
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    assert read_onnx(tmp_path / "m.onnx").shape == (1, None, 160)


def test_another_input_is_refused(tmp_path: Path) -> None:
    proto = onnx.load(write_tiny_onnx(tmp_path / "m.onnx"))
    proto.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 4
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelFileError, match=r"one input \(batch, height, width, 3\)"):
        read_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize("value", [-1.0, 2.0])
def test_a_request_checks_its_budget(value: float) -> None:
    with pytest.raises(InputError, match="least agreement is a share"):
        EngineRequest(frames="any", min_agreement=value)


def test_the_gpu_of_a_board_is_named(model: Path, trt: FakeTensorRT, driver: Driver) -> None:
    driver.name = "Orin"
    assert "runs on Orin with TensorRT 10.16.1.11" in words(model, "--trt")
