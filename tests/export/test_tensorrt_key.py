"""When an engine is reused, built again, or refused by the runtime."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from stand_in_tensorrt import Driver, FakeTensorRT, contents

from cpsl_deploy.backends.engine_key import require_own_engine
from cpsl_deploy.backends.tensorrt_backend import TensorRTBackend, read_sidecar
from cpsl_deploy.errors import ModelFileError
from cpsl_deploy.export.tensorrt.engine import build_engine, ensure_engine
from cpsl_deploy.export.tensorrt.profile import Profile
from cpsl_deploy.files import sha256


def test_an_engine_whose_key_holds_is_reused(onnx_path: Path, trt: FakeTensorRT) -> None:
    ensure_engine(onnx_path)
    before = contents(onnx_path.parent)
    again = ensure_engine(onnx_path)
    assert again.reused and again.reason == "" and again.build_s == 0
    assert trt.calls["builds"] == 1 and contents(onnx_path.parent) == before
    assert not build_engine(onnx_path).reused and trt.calls["builds"] == 2


CHANGES: dict[str, Any] = {
    "GPU was Some GPU and is Other GPU": lambda driver, trt, path: setattr(driver, "name", "Other GPU"),
    "compute capability was 8.7 and is 9.0": lambda d, t, p: setattr(d, "capability", (9, 0)),
    "the driver was 580.95.05 and is 580.105.08": lambda d, t, p: setattr(d, "own_version", "580.105.08"),
    "the driver was 580.95.05 and is CUDA 13.0": lambda d, t, p: setattr(d, "own_version", ""),
    "CUDA version of the driver was 13.0 and is 13.1": lambda d, t, p: setattr(d, "version", 13010),
    "TensorRT version was 10.16.1.11 and is 11.4.0": lambda d, t, p: setattr(t, "__version__", "11.4.0"),
    "is not the file that model.engine.json describes": lambda d, t, p: p.write_bytes(b"other"),
    "model.engine.json, which says what it was built for, is missing": (
        lambda d, t, p: Path(f"{p}.json").unlink()
    ),
    "is missing or damaged": lambda d, t, p: Path(f"{p}.json").write_text("{"),
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_changed_part_rebuilds_and_is_named(
    onnx_path: Path, driver: Driver, trt: FakeTensorRT, caplog: pytest.LogCaptureFixture, message: str
) -> None:
    path = ensure_engine(onnx_path).path
    caplog.clear()
    CHANGES[message](driver, trt, path)
    engine = ensure_engine(onnx_path)
    assert not engine.reused and message in engine.reason and path.read_bytes() == b"engine 2"
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert message in said and "building the TensorRT engine" in said
    assert ensure_engine(onnx_path).reused


def test_another_file_profile_or_limit_rebuilds(onnx_path: Path, free_onnx: Path, trt: FakeTensorRT) -> None:
    first = sha256(onnx_path)[:12]
    ensure_engine(onnx_path)
    onnx_path.write_bytes(free_onnx.read_bytes())
    assert f"ONNX file (SHA-256) was {first} and is" in ensure_engine(onnx_path).reason
    wide = Profile.fixed(96, 128)
    assert "sizes was 1x64x96 and is 1x96x128" in ensure_engine(onnx_path, profile=wide).reason
    reason = ensure_engine(onnx_path, profile=wide, workspace_gib=0.5).reason
    assert reason == "the workspace limit in GiB was all and is 0.5"


def test_the_runtime_refuses_an_engine_of_another_machine(
    onnx_path: Path, driver: Driver, trt: FakeTensorRT
) -> None:
    path = ensure_engine(onnx_path).path
    metadata = read_sidecar(path)
    require_own_engine(path, metadata, "10.16.1.11")
    with pytest.raises(
        ModelFileError, match=r"version was 10\.16\.1\.11 and is 10\.17.*cpsl-export RUN --trt"
    ):
        require_own_engine(path, metadata, "10.17")
    driver.name = "Other GPU"
    with pytest.raises(ModelFileError, match=r"the GPU was Some GPU and is Other GPU\. An engine runs where"):
        require_own_engine(path, metadata, "10.16.1.11")
    require_own_engine(path, {"precision": "fp16"}, "10.17")  # of somebody else's making: TensorRT decides
    driver.name = "Some GPU"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match=r"is not the file that .*json describes: it is damaged"):
        require_own_engine(path, metadata, "10.16.1.11")


@pytest.mark.parametrize(
    ("change", "value", "told"),
    [
        ("own_version", "590.44.01", "the driver was 580.95.05 and is 590.44.01."),
        ("version", 13010, "the CUDA version of the driver was 13.0 and is 13.1."),
    ],
)
def test_the_runtime_warns_of_another_driver_and_runs_the_engine(
    onnx_path: Path,
    driver: Driver,
    trt: FakeTensorRT,
    caplog: pytest.LogCaptureFixture,
    change: str,
    value: Any,
    told: str,
) -> None:
    path = ensure_engine(onnx_path).path
    metadata = read_sidecar(path)
    caplog.clear()
    require_own_engine(path, metadata, "10.16.1.11")
    assert not caplog.records
    setattr(driver, change, value)
    require_own_engine(path, metadata, "10.16.1.11")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and told in record.getMessage()
    assert "cpsl-export RUN --trt" in record.getMessage()
    with pytest.raises(ModelFileError, match=rf"TensorRT version was .*; {told}"):
        require_own_engine(path, metadata, "10.17")


def test_the_runtime_asks_before_it_touches_the_engine(
    onnx_path: Path, driver: Driver, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ensure_engine(onnx_path).path
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["cuda.bindings"].runtime = sys.modules["cuda.bindings.runtime"]  # type: ignore[attr-defined]
    driver.name = "Other GPU"
    # The stand-in has no Runtime: asking for one would be an AttributeError.
    with pytest.raises(ModelFileError, match=r"GPU was Some GPU and is Other GPU"):
        TensorRTBackend(path)
