"""The files of candidates: which are made, of what, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from export_networks import small_model, spec_for
from stand_in_tensorrt import FakeTensorRT, contents

from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import UnavailableError
from cpsl_deploy.export import workshop as workshop_module
from cpsl_deploy.export.candidates import YARDSTICK, Candidate
from cpsl_deploy.export.gate.frames import generated_frames
from cpsl_deploy.export.graph.onnx_file import export_onnx, read_metadata
from cpsl_deploy.export.request import ExportRequest
from cpsl_deploy.export.workshop import Workshop

INT8 = Candidate(precision="int8")
ENGINE = Candidate(backend="tensorrt", device="cuda", scheme="tensorrt")


class Passed:
    passed = True


class Making:
    """A workshop, and what it asked for."""

    def __init__(self, folder: Path, request: ExportRequest) -> None:
        self.calibrations: list[list[np.ndarray]] = []
        self.judged: list[str] = []
        self.folder = folder
        network = small_model()
        spec = spec_for(network, weights_sha256="12ab")
        self.workshop = Workshop(folder, network, spec, request, calibration=self._frames, judge=self._judge)

    def _frames(self) -> list[np.ndarray]:
        self.calibrations.append(list(generated_frames((64, 96), 2)))
        return self.calibrations[-1]

    def _judge(self, path: Path) -> Any:
        self.judged.append(path.name)
        return Passed()


@pytest.fixture
def making(tmp_path: Path, traced_once: list[Contract]) -> Iterator[Any]:
    def make(**request: Any) -> Making:
        (tmp_path / "files").mkdir()
        return Making(tmp_path / "files", ExportRequest(size=(64, 96), **request))

    yield make


def test_a_file_is_made_once(making: Any, traced_once: list[Contract]) -> None:
    made = making()
    path = made.workshop.file(YARDSTICK)
    assert made.workshop.file(YARDSTICK) == path and len(traced_once) == 1
    same = Candidate(backend="openvino", backend_precision="bf16")
    assert made.workshop.file(same) == path, "what runs it makes no other file"
    assert made.workshop.float_file(YARDSTICK) is None and not made.calibrations
    with made.workshop.open(YARDSTICK) as segmenter:
        assert segmenter.spec.weights_sha256 == "12ab"


def test_channels_stay_joined_for_tensorrt_alone(making: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def watched(*arguments: Any, free_concats: bool, **options: Any) -> Path:
        asked.append(free_concats)
        return export_onnx(*arguments, free_concats=free_concats, **options)

    monkeypatch.setattr(workshop_module, "export_onnx", watched)
    made = making()
    paths = {made.workshop.file(candidate) for candidate in (YARDSTICK, ENGINE)}
    assert asked == [False, True] and len(paths) == 2


def test_layers_are_searched_once(making: Any) -> None:
    made = making()
    assert made.workshop.kept(INT8) is None
    path = made.workshop.file(INT8)
    assert made.workshop.file(Candidate(precision="int8", backend="openvino")) == path
    assert len(made.judged) == 1 == len(made.calibrations)
    assert read_metadata(path)["precision"] == "int8"
    assert made.workshop.kept(INT8) is not None and made.workshop.kept(YARDSTICK) is None
    float_file = made.workshop.float_file(INT8)
    assert float_file is not None and read_metadata(float_file)["precision"] == "fp32"


def test_the_schemes_are_two_files(making: Any) -> None:
    made = making()
    symmetric = Candidate(precision="int8", scheme="tensorrt")
    kinds = {}
    for candidate in (INT8, symmetric):
        proto = onnx.load(made.workshop.file(candidate))
        zeros = {node.input[2] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
        kinds[candidate.scheme] = {i.data_type for i in proto.graph.initializer if i.name in zeros}
    assert onnx.TensorProto.UINT8 in kinds["cpu"] and kinds["tensorrt"] == {onnx.TensorProto.INT8}


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_int8_is_calibrated_in_the_files_colour_order(
    making: Any, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """And the same network comes of it: the ranges are of the same pixels."""
    given: list[np.ndarray] = []
    real = workshop_module.Quantiser

    def watched(source: Path, frames: list[np.ndarray], **options: Any) -> Any:
        given.extend(frames)
        return real(source, frames, **options)

    monkeypatch.setattr(workshop_module, "Quantiser", watched)
    made = making(contract=Contract(colour_order=order, precision="int8"))
    with made.workshop.open(INT8) as segmenter:
        assert segmenter.contract.colour_order == order
    (bgr,) = made.calibrations
    wanted = bgr if order == "BGR" else [frame[..., ::-1] for frame in bgr]
    assert len(given) == 2 and all(np.array_equal(a, b) for a, b in zip(given, wanted, strict=True))


def test_an_engine_is_built_once_beside_its_file(making: Any, trt: FakeTensorRT) -> None:
    made = making(trt=True, workspace_gib=2.0)
    engine = made.workshop.engine(ENGINE)
    assert made.workshop.engine(ENGINE).path == engine.path and trt.calls["builds"] == 1
    assert trt.calls["pool"][1] == 2 * 2**30
    ends = (".onnx", ".engine", ".engine.json")
    assert set(contents(made.folder)) == {f"fp32-tensorrt{end}" for end in ends}


def test_an_engine_without_a_gpu_is_unavailable(making: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpsl_deploy.export.tensorrt.engine.nvidia_gpu_count", lambda: 0)
    with pytest.raises(UnavailableError, match="no GPU"):
        making().workshop.open(ENGINE)
