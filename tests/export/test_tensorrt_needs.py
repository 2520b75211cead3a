"""What is refused before TensorRT builds anything, and what exactly is said to be missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from stand_in_tensorrt import Driver, FakeTensorRT

from cpsl_deploy.backends import tensorrt_remedy
from cpsl_deploy.errors import InputError, MissingExtraError, ModelFileError, UnavailableError
from cpsl_deploy.export.tensorrt.engine import ensure_engine
from cpsl_deploy.export.tensorrt.onnx_input import require_symmetric
from cpsl_deploy.export.tensorrt.profile import Profile


@pytest.mark.parametrize("version", ["8.6.2", "10.0.1"])
def test_an_older_tensorrt_is_refused(onnx_path: Path, trt: FakeTensorRT, version: str) -> None:
    trt.__version__ = version
    with pytest.raises(UnavailableError, match=rf"10\.3 or later is needed, and {version}.*pip install"):
        ensure_engine(onnx_path)


def symmetric(**changes: Any) -> onnx.ModelProto:
    """A Q/DQ pair, an int8 weight and its DQ; ``zero`` and ``weight`` are constants to change."""
    constants = {
        "scale": np.float32(0.1),
        "zero": np.int8(0),
        "weight": np.zeros((2, 2), np.int8),
        **changes,
    }
    make = onnx.helper.make_node
    nodes = [
        make("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="quantise"),
        make("DequantizeLinear", ["q", "scale", "zero"], ["y"], name="dequantise"),
        make("DequantizeLinear", ["weight", "scale"], ["w"], name="weights"),
    ]
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "graph", [], [], tensors))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"zero": np.uint8(0)}, "quantise has uint8 values"),
        ({"zero": np.int8(3)}, "quantise has a zero point other than 0"),
        ({"weight": np.zeros(2, np.int32)}, "weight is quantised as int32"),
    ],
)
def test_an_int8_file_for_cpus_is_refused(changes: dict[str, Any], problem: str) -> None:
    require_symmetric(symmetric().SerializeToString(), Path("model.onnx"))
    with pytest.raises(ModelFileError, match=rf"in model\.onnx {problem}: this file was quantised for CPUs"):
        require_symmetric(symmetric(**changes).SerializeToString(), Path("model.onnx"))


def test_an_int8_file_is_looked_at_before_tensorrt_is(
    onnx_path: Path, tmp_path: Path, trt: FakeTensorRT
) -> None:
    proto = onnx.load(onnx_path)
    proto.graph.node.extend(symmetric(zero=np.uint8(0)).graph.node)
    proto.graph.initializer.extend(symmetric(zero=np.uint8(0)).graph.initializer)
    ensure_engine(onnx_path)
    for entry in proto.metadata_props:
        entry.value = "int8" if entry.key == "precision" else entry.value
    onnx.save(proto, onnx_path)
    with pytest.raises(ModelFileError, match="quantised for CPUs"):
        ensure_engine(onnx_path)
    assert trt.calls["builds"] == 1


def test_a_profile_must_fit_a_fixed_input(onnx_path: Path, trt: FakeTensorRT) -> None:
    ensure_engine(onnx_path, profile=Profile.fixed(64, 96))
    with pytest.raises(
        InputError, match=r"height of 64 only, and the profile asks for 64 to 128.*free height"
    ):
        ensure_engine(onnx_path, profile=Profile.from_text("1x64x96,1x64x96,1x128x96"))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("1x64", "BATCHxHEIGHTxWIDTH"),
        ("1x64x96,1x64x96", "MIN,OPT,MAX"),
        ("0x64x96", "batch 1 or more"),
        ("1x8x96", "each side 16 or more"),
        ("1x64x96,1x64x96,1x64x80", "its width has 96, 96, 80"),
        ("2x64x96,1x64x96,4x64x96", "its batch has 2, 1, 4"),
    ],
)
def test_a_profile_that_breaks_a_rule(text: str, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        Profile.from_text(text)


@pytest.mark.parametrize("limit", [0, -1, float("nan"), 5000])
def test_a_workspace_limit_that_breaks_the_rule(onnx_path: Path, limit: float) -> None:
    with pytest.raises(InputError, match="above 0 and up to 1024 GiB"):
        ensure_engine(onnx_path, workspace_gib=limit)


def test_without_tensorrt_the_pip_command_is_shown(
    onnx_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"in place: .*model\.onnx.*pip install 'cpsl_deploy\[trt\]'"):
        ensure_engine(onnx_path)


def test_on_a_jetson_no_wheel_is_recommended(
    onnx_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JetPack's TensorRT is the only one that runs there."""
    monkeypatch.setattr(tensorrt_remedy, "on_jetson", lambda: True)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(UnavailableError, match=r"apt-get install python3-libnvinfer.*--system-site-packages"):
        ensure_engine(onnx_path)
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(version="8.6.2"))
    with pytest.raises(
        UnavailableError, match=r"10\.3 or later .* 8\.6\.2 is.*update to JetPack 6\.1 or later"
    ):
        ensure_engine(onnx_path)
    stranger = FakeTensorRT(version="10.3.0")
    stranger.starts = False
    monkeypatch.setitem(sys.modules, "tensorrt", stranger)
    with pytest.raises(UnavailableError, match=r"cannot use Some GPU.*JetPack.s own.*groups video"):
        ensure_engine(onnx_path)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    driver.count = 0
    with pytest.raises(UnavailableError) as error:
        ensure_engine(onnx_path)
    told = [
        str(error.value),
        *(str(tensorrt_remedy.missing_package(name, "it")) for name in ("tensorrt", "cuda")),
    ]
    assert "pip install -r requirements/jetson.txt" in told[2]
    assert not any("cpsl_deploy[trt]" in text for text in told)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        # What the bindings of 10.16.1 say without TensorRT's libraries, seen with their wheel alone.
        (
            "raise ImportError('libnvonnxparser.so.10: cannot open shared object file: No such file')",
            r"the library libnvonnxparser\.so\.10, of the package tensorrt-cu13-libs, is not installed",
        ),
        (
            "raise ImportError('libcudart.so.13: cannot open shared object file: No such file')",
            r"the library libcudart\.so\.13 is not installed",
        ),
        (
            "raise FileNotFoundError('Could not find: nvinfer_10.dll. Is it on your PATH?')",
            r"the library nvinfer_10\.dll, of the package tensorrt-cu13-libs",
        ),
        ("import tensorrt_bindings", "its part tensorrt_bindings is not installed"),
    ],
)
def test_a_package_that_does_not_load_names_what_is_missing(
    onnx_path: Path,
    driver: Driver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    message: str,
) -> None:
    (tmp_path / "tensorrt.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(UnavailableError, match=rf"does not load: {message}.*in place: .*model\.onnx"):
        ensure_engine(onnx_path)


def test_without_a_gpu_nothing_of_tensorrt_is_loaded_and_both_lacks_are_told(
    onnx_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.count = 0
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"loads {name}"))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(UnavailableError) as error:
        ensure_engine(onnx_path)
    for part in (
        "offers this process no GPU: check CUDA_VISIBLE_DEVICES",
        "TensorRT is missing here, too. Install it with: pip install 'cpsl_deploy[trt]'",
        f"in place, with onnxruntime or OpenVINO: {onnx_path}",
    ):
        assert part in str(error.value)
