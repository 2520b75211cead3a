"""The engine builder against a stand-in for TensorRT's Python API: what it asks for and what it writes.

TensorRT itself needs a GPU. The stand-in has the names that the bindings of 10.16 and 11.4 have.
"""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from export_networks import small_model, spec_for

from cpsl_deploy.backends.tensorrt_backend import read_sidecar
from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import MissingExtraError, ModelFileError
from cpsl_deploy.export.graph.onnx_file import export_onnx
from cpsl_deploy.export.tensorrt import engine as tensorrt_engine
from cpsl_deploy.export.tensorrt.engine import build_engine
from cpsl_deploy.files import sha256

Flags10 = IntEnum("Flags10", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1})
Flags11 = IntEnum("Flags11", {"STRONGLY_TYPED": 0})


class FakeTensorRT:
    """Records the calls; ``shape`` is what the parsed network's input has."""

    __version__ = "10.16.1"

    def __init__(self, shape: tuple[int, ...], flags: Any = Flags10) -> None:
        self.NetworkDefinitionCreationFlag = flags
        self.calls: dict[str, Any] = {"caches": []}
        self.parses, self.builds, self.cache_fits = True, True, True
        self.network = SimpleNamespace(get_input=lambda i: SimpleNamespace(name="image", shape=shape))

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

        def __init__(self) -> None: ...

    class IProgressMonitor:
        def __init__(self) -> None: ...

    def Builder(self, logger: Any) -> Any:
        def build(network: Any, config: Any) -> bytes | None:
            config.progress_monitor.phase_start("Building", None, 2)
            assert config.progress_monitor.step_complete("Building", 1), "False would cancel the build"
            return b"engine" if self.builds else None

        return SimpleNamespace(
            create_network=lambda flags: self.calls.update(flags=flags) or self.network,
            create_builder_config=self._config,
            create_optimization_profile=lambda: SimpleNamespace(
                set_shape=lambda name, min, opt, max: self.calls.update(profile=(name, min, opt, max))
            ),
            build_serialized_network=build,
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        return SimpleNamespace(
            parse=lambda content: self.calls.update(onnx=content) or self.parses,
            num_errors=1,
            get_error=lambda i: SimpleNamespace(desc=lambda: "no kernel for Foo"),
        )

    def _config(self) -> Any:
        def use(cache: bytes, ignore_mismatch: bool) -> bool:
            self.calls["caches"].append(cache)
            return self.cache_fits or cache == b""

        return SimpleNamespace(
            create_timing_cache=lambda content: content,
            set_timing_cache=use,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"times"),
            add_optimization_profile=lambda profile: 0,
        )


@pytest.fixture(scope="module")
def onnx_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = small_model()
    spec = spec_for(model, weights_sha256="12ab")
    return export_onnx(model, spec, tmp_path_factory.mktemp("trt") / "model.onnx", size=(64, 96))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_engine, "nvidia_gpu_count", lambda: 1)
    monkeypatch.setattr(tensorrt_engine, "_gpu_name", lambda: "Some GPU")


def install(monkeypatch: pytest.MonkeyPatch, fake: FakeTensorRT) -> FakeTensorRT:
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    return fake


@pytest.mark.parametrize(("flags", "value"), [(Flags10, 0b11), (Flags11, 0b1)])
def test_one_path_for_both_major_versions(
    onnx_path: Path, tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch, flags: Any, value: int
) -> None:
    fake = install(monkeypatch, FakeTensorRT((1, 64, 96, 3), flags))
    engine = build_engine(onnx_path, tmp_path / "model.engine")
    assert fake.calls["flags"] == value
    assert fake.calls["onnx"] == onnx_path.read_bytes()
    assert "profile" not in fake.calls
    assert engine.path.read_bytes() == b"engine"


def test_the_sidecar_is_what_the_runtime_reads(
    onnx_path: Path, tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, FakeTensorRT((1, 64, 96, 3)))
    engine = build_engine(onnx_path, tmp_path / "model.engine")
    sidecar = read_sidecar(engine.path)
    assert engine.sidecar == tmp_path / "model.engine.json"
    assert json.loads(sidecar["cpsl_deploy"])["class_names"] == list(spec_for(small_model()).class_names)
    del sidecar["cpsl_deploy"]
    assert sidecar == {
        **Contract().to_metadata(),
        "weights_sha256": "12ab",
        "onnx_sha256": sha256(onnx_path),
        "size": "64x96",
        "tensorrt_version": "10.16.1",
        "gpu": "Some GPU",
    }


@pytest.mark.parametrize(("size", "expected"), [(None, (64, 96)), ((128, 256), (128, 256))])
def test_a_free_size_is_fixed_by_a_profile(
    onnx_path: Path,
    tmp_path: Path,
    gpu: None,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int] | None,
    expected: tuple[int, int],
) -> None:
    fake = install(monkeypatch, FakeTensorRT((1, -1, -1, 3)))
    build_engine(onnx_path, tmp_path / "model.engine", size=size)
    shape = (1, *expected, 3)
    assert fake.calls["profile"] == ("image", shape, shape, shape)


def test_kernel_times_are_kept_and_those_of_another_gpu_dropped(
    onnx_path: Path, tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(monkeypatch, FakeTensorRT((1, 64, 96, 3)))
    build_engine(onnx_path, tmp_path / "model.engine")
    build_engine(onnx_path, tmp_path / "model.engine")
    assert fake.calls["caches"] == [b"", b"times"]
    fake.cache_fits = False
    build_engine(onnx_path, tmp_path / "model.engine")
    assert fake.calls["caches"][2:] == [b"times", b""]


@pytest.mark.parametrize(
    ("broken", "message"), [("parses", "cannot read .*: no kernel for Foo"), ("builds", "cannot build")]
)
def test_a_refused_file_leaves_nothing_behind(
    onnx_path: Path, tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch, broken: str, message: str
) -> None:
    setattr(install(monkeypatch, FakeTensorRT((1, 64, 96, 3))), broken, False)
    with pytest.raises(ModelFileError, match=message):
        build_engine(onnx_path, tmp_path / "model.engine")
    assert not list(tmp_path.iterdir())


def test_without_tensorrt_the_pip_command_is_shown(
    onnx_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"in place: .*model\.onnx.*pip install 'cpsl_deploy\[trt\]'"):
        build_engine(onnx_path)
