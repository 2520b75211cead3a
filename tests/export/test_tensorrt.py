"""The engine builder against a stand-in for TensorRT's Python API: what it asks for and what it writes.

TensorRT itself needs a GPU; that the stand-in's names are the real ones is in test_tensorrt_api.py.
"""

from __future__ import annotations

import _thread
import errno
import json
import logging
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from export_networks import small_model, spec_for
from stand_in_tensorrt import WORKSPACE, Driver, FakeTensorRT

from cpsl_deploy.backends import gpu
from cpsl_deploy.backends.engine_key import require_own_engine
from cpsl_deploy.backends.tensorrt_backend import TensorRTBackend, read_sidecar
from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import InputError, MissingExtraError, ModelFileError, OutputError, UnavailableError
from cpsl_deploy.export.graph.onnx_file import export_onnx
from cpsl_deploy.export.tensorrt.engine import build_engine, ensure_engine
from cpsl_deploy.export.tensorrt.onnx_input import require_symmetric
from cpsl_deploy.export.tensorrt.profile import Profile
from cpsl_deploy.export.tensorrt.progress import shown_progress
from cpsl_deploy.files import sha256


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
    monkeypatch.setenv("CPSL_CACHE", str(tmp_path / "cache"))
    return driver


@pytest.fixture
def trt(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    fake = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    return fake


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("version", "flags"), [("10.16.1.11", 0b10), ("11.4.0.106", 0)])
def test_one_path_for_both_major_versions(
    onnx_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch, version: str, flags: int
) -> None:
    fake = FakeTensorRT(version=version)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    engine = ensure_engine(onnx_path)
    assert fake.calls["flags"] == flags
    assert fake.calls["onnx"] == onnx_path.read_bytes()
    assert "profile" not in fake.calls and "pool" not in fake.calls
    assert engine.path.read_bytes() == b"engine 1" and not engine.reused


@pytest.mark.parametrize("version", ["8.6.1", "10.12.0.36"])
def test_an_older_tensorrt_is_refused(onnx_path: Path, trt: FakeTensorRT, version: str) -> None:
    trt.__version__ = version
    with pytest.raises(UnavailableError, match=rf"10\.13 or later is needed, and {version}.*pip install"):
        ensure_engine(onnx_path)


def test_beside_the_model_are_the_engine_and_its_key(onnx_path: Path, trt: FakeTensorRT) -> None:
    engine = ensure_engine(onnx_path, workspace_gib=2)
    assert sorted(contents(onnx_path.parent)) == ["model.engine", "model.engine.json", "model.onnx"]
    sidecar = read_sidecar(engine.path)
    assert json.loads(sidecar.pop("cpsl_deploy"))["class_names"] == list(spec_for(small_model()).class_names)
    expected = {
        "weights_sha256": "12ab",
        "onnx_sha256": sha256(onnx_path),
        "tensorrt_version": "10.16.1.11",
        "gpu": "Some GPU",
        "compute_capability": "8.7",
        "driver_version": "13.0",
        "profile": "1x64x96",
        "workspace_gib": "2",
        "engine_sha256": sha256(engine.path),
    }
    assert expected.items() <= sidecar.items()
    assert Contract.from_metadata(sidecar, "engine") == Contract()
    assert trt.calls["pool"] == (WORKSPACE, 2 * 2**30)


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
    require_symmetric(symmetric(), Path("model.onnx"))
    with pytest.raises(ModelFileError, match=rf"in model\.onnx {problem}: this file was quantised for CPUs"):
        require_symmetric(symmetric(**changes), Path("model.onnx"))


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


def test_messages_go_to_the_log_and_verbose_ones_on_demand(
    onnx_path: Path, trt: FakeTensorRT, caplog: pytest.LogCaptureFixture
) -> None:
    def talks(monitor: Any) -> bool:
        for severity in range(5):
            trt.log(severity, f"note {severity}")
        return True

    trt.during = talks
    caplog.set_level(logging.DEBUG)
    levels = []
    for verbose in (False, True):
        caplog.clear()
        build_engine(onnx_path, verbose=verbose)
        levels.append([r.levelname for r in caplog.records if "TensorRT: note" in r.getMessage()])
    assert levels == [
        ["ERROR", "ERROR", "WARNING", "DEBUG", "DEBUG"],
        ["ERROR", "ERROR", "WARNING", "INFO", "INFO"],
    ]


def test_lines_of_progress_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress() as tell:
        for phases in ("", "Building", "Building > Timing", "Building", "Finishing"):
            tell(phases, 0.5)
    assert capsys.readouterr().err == "TensorRT: Building ...\nTensorRT: Finishing ...\n"


def test_a_free_input_gets_a_profile(free_onnx: Path, tmp_path: Path, trt: FakeTensorRT) -> None:
    path = tmp_path / "model.engine"
    ensure_engine(free_onnx, path)
    one = (1, 64, 96, 3)
    assert trt.calls["profile"] == ("image", one, one, one)
    ensure_engine(free_onnx, path, profile=Profile.from_text("1x64x96,2x96x128,8x544x960"))
    assert trt.calls["profile"] == ("image", one, (2, 96, 128, 3), (8, 544, 960, 3))
    assert read_sidecar(path)["profile"] == "1x64x96,2x96x128,8x544x960"
    trt.profile_fits = False
    with pytest.raises(ModelFileError, match="does not accept the profile 1x32x32"):
        ensure_engine(free_onnx, path, profile=Profile.fixed(32, 32))


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


def test_kernel_times_are_kept_and_those_of_another_gpu_dropped(
    onnx_path: Path, tmp_path: Path, trt: FakeTensorRT, caplog: pytest.LogCaptureFixture
) -> None:
    build_engine(onnx_path)
    assert (tmp_path / "cache/tensorrt/Some-GPU-8.7-trt10.16.1.11.timing").read_bytes() == b"times"
    build_engine(onnx_path)
    assert trt.calls["caches"] == [b"", b"times"]
    trt.cache_fits = False
    build_engine(onnx_path)
    assert trt.calls["caches"][2:] == [b"times", b""]
    assert "of another GPU or version; kernels are timed anew" in caplog.text


def test_kernel_times_that_cannot_be_kept_are_no_error(
    onnx_path: Path, tmp_path: Path, trt: FakeTensorRT, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file in the folder's place")
    assert ensure_engine(onnx_path).path.is_file()
    assert "timing cache was not kept" in caplog.text


@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        ("parses", ModelFileError, r"cannot read .*model\.onnx: no kernel \(node conv1, Conv\)"),
        ("builds", ModelFileError, r"cannot build .* for Some GPU: out of memory\. .*--workspace-gib"),
        (
            "starts",
            UnavailableError,
            r"cannot use Some GPU: CUDA init.*error: 35\. .*CUDA 13\.0;.*driver 580",
        ),
    ],
)
def test_a_failed_build_has_tensorrts_words_and_leaves_the_earlier_engine(
    onnx_path: Path, trt: FakeTensorRT, broken: str, error: type[Exception], message: str
) -> None:
    ensure_engine(onnx_path)
    before = contents(onnx_path.parent)
    setattr(trt, broken, False)
    with pytest.raises(error, match=message):
        build_engine(onnx_path)
    assert contents(onnx_path.parent) == before


def test_progress_is_told(onnx_path: Path, trt: FakeTensorRT) -> None:
    seen: list[tuple[str, float]] = []

    def slowly(monitor: Any) -> bool:
        monitor.phase_start("Building", None, 2)
        monitor.step_complete("Building", 0)
        monitor.phase_start("Timing", "Building", 4)
        monitor.step_complete("Timing", 1)
        while ("Building > Timing", 0.75) not in seen:
            pass
        monitor.phase_finish("Timing")
        monitor.phase_finish("Building")
        return True

    trt.during = slowly
    ensure_engine(onnx_path, on_progress=lambda phases, share: seen.append((phases, share)))
    assert seen[-1] == ("Building > Timing", 0.75)


def test_ctrl_c_stops_at_the_next_step_and_leaves_the_earlier_engine(
    onnx_path: Path, trt: FakeTensorRT
) -> None:
    ensure_engine(onnx_path)
    before = contents(onnx_path.parent)
    steps = []

    def until_stopped(monitor: Any) -> bool:
        monitor.phase_start("Building", None, 10**9)
        _thread.interrupt_main()
        while monitor.step_complete("Building", len(steps)):
            steps.append(1)
        return False

    trt.during = until_stopped
    with pytest.raises(KeyboardInterrupt, match=r"No engine was written.*model\.onnx"):
        build_engine(onnx_path)
    assert steps and contents(onnx_path.parent) == before


def test_an_error_while_showing_progress_ends_the_build(onnx_path: Path, trt: FakeTensorRT) -> None:
    def until_stopped(monitor: Any) -> bool:
        while monitor.step_complete("Building", 0):
            pass
        return False

    def broken_pipe(phases: str, share: float) -> None:
        raise BrokenPipeError

    trt.during = until_stopped
    with pytest.raises(BrokenPipeError):
        ensure_engine(onnx_path, on_progress=broken_pipe)


@pytest.mark.parametrize("call", [1, 2])
def test_a_full_disk_leaves_both_earlier_files(
    onnx_path: Path, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    ensure_engine(onnx_path)
    before = contents(onnx_path.parent)
    writers = {1: "write_bytes", 2: "write_text"}

    def full(path: Path, *args: Any, **kwargs: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, writers[call], full)
    with pytest.raises(OutputError, match=r"disk is full.*What was there before is untouched"):
        build_engine(onnx_path)
    monkeypatch.undo()
    assert contents(onnx_path.parent) == before


def test_a_place_that_cannot_be_written_is_told_before_the_build(onnx_path: Path, trt: FakeTensorRT) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        ensure_engine(onnx_path, onnx_path / "model.engine")
    assert trt.calls["builds"] == 0


def test_without_tensorrt_the_pip_command_is_shown(
    onnx_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"in place: .*model\.onnx.*pip install 'cpsl_deploy\[trt\]'"):
        ensure_engine(onnx_path)


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
        "TensorRT is missing here, too: pip install 'cpsl_deploy[trt]'",
        f"in place, with onnxruntime or OpenVINO: {onnx_path}",
    ):
        assert part in str(error.value)
