"""A machine for building engines: a driver with one GPU, a stand-in for TensorRT, and files to build."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from export_networks import Small, small_model, spec_for
from exported_files import Export, planted
from finished_run import Run, finished_run
from stand_in_tensorrt import Driver, FakeTensorRT

import cpsl_deploy
from cpsl_deploy.backends import gpu
from cpsl_deploy.contract import Contract
from cpsl_deploy.export import trials, workshop
from cpsl_deploy.export.command import main
from cpsl_deploy.export.graph.onnx_file import export_onnx
from cpsl_deploy.train.models import ARCHITECTURES


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = small_model()
    spec = spec_for(model, weights_sha256="12ab")
    return export_onnx(model, spec, tmp_path_factory.mktemp("trt") / "model.onnx", size=(64, 96))


@pytest.fixture
def onnx_path(exported: Path, tmp_path: Path) -> Path:
    path = tmp_path / "run" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(exported.read_bytes())
    return path


@pytest.fixture(scope="module")
def free_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The input's batch, height and width are free; nothing but the input is looked at."""
    model = small_model()
    path = tmp_path_factory.mktemp("free") / "model.onnx"
    export_onnx(model, spec_for(model, weights_sha256="12ab"), path, size=(64, 96))
    proto = onnx.load(path)
    for dim, name in zip(
        proto.graph.input[0].type.tensor_type.shape.dim, ("batch", "height", "width"), strict=False
    ):
        dim.dim_param = name
    onnx.save(proto, path)
    return path


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Driver:
    """A machine with one GPU, and a cache folder of its own."""
    driver = Driver()
    monkeypatch.setattr(gpu, "_driver", lambda: driver)
    monkeypatch.setattr(gpu, "_nvml", lambda: driver)
    monkeypatch.setenv("CPSL_CACHE", str(tmp_path / "cache"))
    return driver


@pytest.fixture
def trt(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    fake = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    return fake


@pytest.fixture(scope="session")
def _traced() -> dict[tuple[Any, ...], bytes]:
    return {}


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch, _traced: dict[tuple[Any, ...], bytes]) -> list[Contract]:
    """Exports of saved weights share their traced files, because tracing takes seconds. Returns the contracts
    that are asked for."""
    asked: list[Contract] = []

    def shared(model: Any, spec: Any, path: Path, *, contract: Contract, **options: Any) -> Path:
        assert spec.weights_sha256, "which weights would it be of?"
        asked.append(contract)
        key = (type(model), spec.to_json(), contract, *options.items())
        if key not in _traced:
            export_onnx(model, spec, path, contract=contract, **options)
            _traced[key] = path.read_bytes()
        path.write_bytes(_traced[key])
        return path

    monkeypatch.setattr(workshop, "export_onnx", shared)
    return asked


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of a tiny network. It is for reading; ``folder`` is a copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "small", Small)
        return finished_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def folder(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder of its own, whose target has labelled validation images."""
    monkeypatch.setitem(ARCHITECTURES, "small", Small)
    return Path(shutil.copytree(finished.folder.path, tmp_path / "run"))


@pytest.fixture
def export(folder: Path, traced_once: list[Contract], monkeypatch: pytest.MonkeyPatch) -> Export:
    """``cpsl-export`` of the run with options and the exit code that is expected; all files are as fast."""
    monkeypatch.setattr(trials, "compare_speed", planted({}))

    def export(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(main, [str(folder), "--no-score", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result

    return export


@pytest.fixture
def calibrated_on(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The frames that INT8 is calibrated on from now on, uint8 (H, W, 3)."""
    given: list[np.ndarray] = []
    real = workshop.Quantiser

    def watched(source: Path, frames: list[np.ndarray], **options: Any) -> Any:
        given.extend(frames)
        return real(source, frames, **options)

    monkeypatch.setattr(workshop, "Quantiser", watched)
    return given


@pytest.fixture
def engines(trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRT:
    """A GPU with TensorRT, in which an engine gives what the ONNX file gives that was built last."""
    real = cpsl_deploy.load

    def load(path: Path, **options: Any) -> Any:
        if Path(path).suffix != ".engine":
            return real(path, **options)
        assert Path(path).is_file()
        (tmp_path / "parsed.onnx").write_bytes(trt.calls["onnx"])
        return real(tmp_path / "parsed.onnx", device="cpu")

    monkeypatch.setattr(cpsl_deploy, "load", load)
    return trt
