"""``cpsl-export --auto``, ``--trt`` and ``--triton``: which file is put in place, and what goes with it.

Engines are built by the stand-in for TensorRT. None can run, so one opens as the ONNX file it was built of.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from export_networks import Small, small_model
from exported_files import ANYTHING, Export, planted, report_of, says
from onnx import numpy_helper
from stand_in_tensorrt import FakeTensorRT, contents

import cpsl_deploy
from cpsl_deploy.contract import Contract
from cpsl_deploy.export import request, trials, workshop
from cpsl_deploy.export.candidates import YARDSTICK, Candidate
from cpsl_deploy.export.graph.onnx_file import export_onnx, read_metadata
from cpsl_deploy.files import sha256
from cpsl_deploy.spec import ModelSpec

FP16, INT8 = Candidate(precision="fp16"), Candidate(precision="int8")
CUDA = Candidate(precision="fp16", device="cuda")
ENGINE = Candidate(backend="tensorrt", device="cuda", scheme="tensorrt")
ENGINE_NAME = "fp32 tensorrt cuda"


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Candidates of this machine besides the yardstick, and speeds by name."""

    def offer(*candidates: Candidate, speeds: dict[str, float] | None = None) -> None:
        monkeypatch.setattr(request, "candidates_here", lambda: [YARDSTICK, *candidates])
        monkeypatch.setattr(trials, "compare_speed", planted(speeds or {}))

    return offer


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Files of these precisions have other weights."""

    def spoil(*precisions: str) -> None:
        real = workshop.export_onnx

        def export(model: Small, spec: ModelSpec, path: Path, *, contract: Contract, **options: Any) -> Path:
            if contract.precision in precisions:
                return export_onnx(other_model(model), spec, path, contract=contract, **options)
            return real(model, spec, path, contract=contract, **options)

        monkeypatch.setattr(workshop, "export_onnx", export)

    return spoil


def other_model(model: Small) -> Small:
    return small_model(7, model.num_classes)


def test_auto_keeps_the_fastest_that_passes(export: Export, folder: Path, offer: Any) -> None:
    offer(FP16, INT8, speeds={"fp16 onnxruntime": 1.5, "int8 onnxruntime": 2.5})
    result = export("--auto")
    says(result, "chosen int8 onnxruntime: the fastest within budget", "| **int8 onnxruntime** |", "2.50 x")
    assert read_metadata(folder / "model.onnx")["precision"] == "int8"
    report = report_of(folder)
    assert [c["name"] for c in report["candidates"]] == [c.name for c in (YARDSTICK, FP16, INT8)]
    assert report["chosen"] == "int8 onnxruntime" and report["candidates"][1]["speed"] == 1.5
    assert report["onnx_sha256"] == sha256(folder / "model.onnx")
    page = (folder / "model.export/export.md").read_text()
    assert "Chosen: int8 onnxruntime, the fastest that passes." in page
    assert "Compared on 2 frames of" in page


def test_auto_never_keeps_one_that_fails(export: Export, folder: Path, offer: Any, spoil: Any) -> None:
    offer(FP16, INT8, speeds={"fp16 onnxruntime": 50.0, "int8 onnxruntime": 2.0})
    spoil("fp16")
    export("--auto")
    report = report_of(folder)
    assert report["chosen"] == "int8 onnxruntime"
    failed = report["candidates"][1]
    assert failed["name"] == "fp16 onnxruntime" and not failed["passed"] and failed["speed"] is None
    assert failed["blame"]["responsible"] == "network"
    assert "**failed**" in (folder / "model.export/export.md").read_text()


def test_auto_leaves_out_what_this_machine_cannot_run(export: Export, folder: Path, offer: Any) -> None:
    offer(CUDA, INT8, speeds={"int8 onnxruntime": 2.0})
    says(export("--auto"), "fp16 onnxruntime cuda is left out:")
    names = [candidate["name"] for candidate in report_of(folder)["candidates"]]
    assert names == ["fp32 onnxruntime", "int8 onnxruntime"]


def test_auto_with_nothing_that_passes_keeps_the_earlier_file(
    export: Export, folder: Path, offer: Any, spoil: Any
) -> None:
    offer(FP16)
    export("--size", "96x128")
    before = contents(folder / "model.export") | {"model.onnx": (folder / "model.onnx").read_bytes()}
    spoil("fp32", "fp16")
    says(export("--auto", code=3), "Responsible: the step network", str(folder / "model.refused/export.md"))
    after = contents(folder / "model.export") | {"model.onnx": (folder / "model.onnx").read_bytes()}
    assert after == before
    refused = json.loads((folder / "model.refused/export.json").read_text())
    assert refused["chosen"] is None and len(refused["candidates"]) == 2
    assert not any(candidate["passed"] for candidate in refused["candidates"])


# ---- TensorRT


def test_auto_puts_an_engine_in_place_with_its_file(
    export: Export, folder: Path, offer: Any, engines: FakeTensorRT
) -> None:
    offer(ENGINE, speeds={ENGINE_NAME: 9.0})
    result = export("--auto", "--workspace-gib", 2)
    says(result, f"chosen {ENGINE_NAME}", f"engine {folder / 'model.engine'}")
    assert engines.calls["builds"] == 1, "and not again for its speed or its place"
    sidecar = json.loads((folder / "model.engine.json").read_text())
    assert sidecar["onnx_sha256"] == sha256(folder / "model.onnx")
    assert sidecar["engine_sha256"] == sha256(folder / "model.engine")
    report = report_of(folder)
    assert report["engine"]["file"] == "model.engine" and report["engine"]["passed"]


def test_an_engine_that_does_not_win_is_not_put_in_place(
    export: Export, folder: Path, offer: Any, engines: FakeTensorRT
) -> None:
    offer(ENGINE, speeds={ENGINE_NAME: 0.5})
    export("--auto")
    assert not (folder / "model.engine").exists() and report_of(folder)["engine"] is None


def test_auto_goes_on_where_tensorrt_refuses_the_file(
    export: Export, folder: Path, offer: Any, engines: FakeTensorRT
) -> None:
    offer(ENGINE)
    engines.builds = False
    says(export("--auto"), f"{ENGINE_NAME} is left out:", "out of memory")
    assert report_of(folder)["chosen"] == "fp32 onnxruntime"


def test_trt_builds_an_engine_of_the_file_in_place(
    export: Export, folder: Path, engines: FakeTensorRT
) -> None:
    result = export("--trt", "--precision", "int8")
    says(result, f"engine {folder / 'model.engine'} (built in", "agreement")
    metadata = read_metadata(folder / "model.onnx")
    assert json.loads(metadata["calibration"])["scheme"] == "tensorrt"
    assert report_of(folder)["engine"]["agreement"] > 0.95
    says(export("--trt", "--precision", "int8"), "(up to date)")


def test_an_engine_that_breaks_the_budget_is_not_there_and_the_file_is(
    export: Export, folder: Path, engines: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real, built = cpsl_deploy.load, []

    def load(path: Path, **options: Any) -> Any:
        if Path(path).suffix == ".engine":
            built.append(Path(path).is_file())
            path = tmp_path / "other.onnx"
            onnx.save(negated(onnx.load(folder / "model.onnx")), path)
        return real(path, **options)

    monkeypatch.setattr(cpsl_deploy, "load", load)
    result = export("--trt", code=3)
    says(result, "the TensorRT engine of", "breaks the budget", "ONNX file is in place")
    assert built == [True] and (folder / "model.onnx").is_file()
    assert not (folder / "model.engine").exists() and not (folder / "model.engine.json").exists()


def negated(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the other sign of what the convolutions weigh."""
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    return model


def test_a_profile_of_several_sizes_leaves_them_free(
    export: Export, folder: Path, engines: FakeTensorRT
) -> None:
    engines.network.get_input = lambda index: type("Input", (), {"name": "image", "shape": (-1, -1, -1, 3)})
    export("--trt", "--batch", "free", "--profile", "1x64x96,1x96x128,4x192x256")
    assert report_of(folder)["input"]["shape"] == ["batch", "height", "width", 3]
    assert engines.calls["profile"][1:] == ((1, 64, 96, 3), (1, 96, 128, 3), (4, 192, 256, 3))
    export("--trt", "--batch", "2", "--profile", "2x64x96")
    assert report_of(folder)["input"]["shape"] == [2, 64, 96, 3], "a profile of one size fixes it"


# ---- Triton


def test_a_model_repository(export: Export, folder: Path, tmp_path: Path) -> None:
    definitions = pytest.importorskip("tritonclient.grpc.model_config_pb2", exc_type=ImportError)
    from google.protobuf import text_format

    result = export("--batch", "free", "--size", "96x128", "--triton", tmp_path / "served")
    says(result, f"triton tritonserver --model-repository={tmp_path / 'served'}")
    place = tmp_path / "served/segmenter"
    config = text_format.Parse((place / "config.pbtxt").read_text(), definitions.ModelConfig())
    assert list(config.input[0].dims) == [96, 128, 3] and config.max_batch_size > 1
    assert (place / "1/model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
    assert (place / "labels.txt").read_text().split() == ["road", "sky", "car"]


def test_a_refused_repository_leaves_the_file(export: Export, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "served/segmenter").mkdir(parents=True)
    (tmp_path / "served/segmenter/mine.txt").write_text("mine")
    result = export("--size", "96x128", "--triton", tmp_path / "served", code=2)
    says(result, "mine.txt", f"The exported file {folder / 'model.onnx'} is in place")
    assert (folder / "model.onnx").is_file() and contents(tmp_path / "served/segmenter") == {
        "mine.txt": b"mine"
    }


def test_an_engine_is_what_is_served(
    export: Export, folder: Path, engines: FakeTensorRT, tmp_path: Path
) -> None:
    export("--trt", "--triton", tmp_path / "served", *ANYTHING)
    served = tmp_path / "served/segmenter/1/model.plan"
    assert served.read_bytes() == (folder / "model.engine").read_bytes()
