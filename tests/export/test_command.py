"""``cpsl-export`` and ``cpsl_deploy.export.export`` from weights to a file in place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from export_networks import Small, small_model, spec_for

import cpsl_deploy
from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import OutputError
from cpsl_deploy.export import ExportRequest, export, workshop
from cpsl_deploy.export.command import main
from cpsl_deploy.export.gate.frames import generated_frames
from cpsl_deploy.export.gate.reference import torch_labels
from cpsl_deploy.export.graph.onnx_file import export_onnx, read_metadata
from cpsl_deploy.files import sha256
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.models import ARCHITECTURES, load_model, save_model

SIZE = "48x64"


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(ARCHITECTURES, "small", Small)
    return write_run(tmp_path / "run", seed=0)


def write_run(folder: Path, seed: int) -> Path:
    folder.mkdir(exist_ok=True)
    model = small_model(seed)
    save_model(folder / "model.safetensors", model, spec_for(model))
    return folder


def cpsl_export(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_a_run_becomes_a_file_that_the_runtime_runs(run_folder: Path) -> None:
    result = cpsl_export(run_folder)
    assert result.exit_code == 0, result.output
    assert "any height" in result.output and "4 generated frames" in result.output
    model, spec = load_model(run_folder / "model.safetensors")
    frame = next(generated_frames(spec.size, 1))
    with cpsl_deploy.load(run_folder) as segmenter:
        labels = segmenter.predict(frame).labels
        from_rgb = segmenter.predict(frame[..., ::-1].copy(), colour_order="RGB").labels
        assert segmenter.spec == spec
    assert (labels == torch_labels(model, spec, frame)).mean() > 0.999
    assert np.array_equal(labels, from_rgb)


def test_the_report(run_folder: Path) -> None:
    result = export(run_folder, request=ExportRequest(size=(48, 64)))
    folder = run_folder / "model.export"
    report = json.loads((folder / "export.json").read_text())
    assert result.path == run_folder / "model.onnx" and result.report == folder / "export.json"
    assert report["input"] == {"name": "image", "dtype": "uint8", "shape": [1, 48, 64, 3]}
    assert report["contract"] == Contract().to_metadata()
    assert report["weights_sha256"] == sha256(run_folder / "model.safetensors")
    assert report["onnx_sha256"] == sha256(result.path) and report["bytes"] == result.path.stat().st_size
    assert report["operators"]["Conv"] == 3
    (candidate,) = report["candidates"]
    assert candidate["agreement"] >= 0.999 and candidate["pixels"] == 4 * 48 * 64 and candidate["passed"]
    page = (folder / "export.md").read_text()
    assert "fp32 onnxruntime" in page and all(f"({p.name})" in page for p in folder.glob("*.png"))
    assert {"torch", "onnx", "onnxruntime", "python", "cpsl_deploy"} == set(report["versions"])
    assert read_metadata(result.path)["weights_sha256"] == report["weights_sha256"]


def test_a_weights_file_and_another_name(run_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "car.onnx"
    result = cpsl_export(run_folder / "model.safetensors", "-o", output, "--size", SIZE)
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in output.parent.iterdir()) == ["car.export", "car.onnx"]
    assert not (run_folder / "model.onnx").exists()


def test_a_file_of_the_same_weights_is_replaced_and_one_of_others_is_not(run_folder: Path) -> None:
    output = run_folder / "model.onnx"
    assert cpsl_export(run_folder, "--size", SIZE).exit_code == 0
    assert cpsl_export(run_folder, "--size", "32x32").exit_code == 0
    before = output.read_bytes()
    write_run(run_folder, seed=1)
    refused = cpsl_export(run_folder, "--size", SIZE)
    assert refused.exit_code == 2 and "--overwrite" in refused.output
    assert output.read_bytes() == before
    assert cpsl_export(run_folder, "--size", SIZE, "--overwrite").exit_code == 0
    assert read_metadata(output)["weights_sha256"] == sha256(run_folder / "model.safetensors")


def test_a_file_of_another_kind_is_not_replaced(run_folder: Path) -> None:
    (run_folder / "model.onnx").write_text("notes")
    with pytest.raises(OutputError, match="not made from these weights"):
        export(run_folder, request=ExportRequest(size=(48, 64)))
    assert (run_folder / "model.onnx").read_text() == "notes"


def export_another(model: Small, spec: ModelSpec, path: Path, **options: Any) -> Path:
    return export_onnx(small_model(1), spec, path, **options)


def test_a_file_that_disagrees_is_not_put_in_place(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "export_onnx", export_another)
    result = cpsl_export(run_folder, "--size", SIZE)
    assert result.exit_code == 3 and "at least 99.900% of the pixels must have" in result.output
    assert "Responsible: the step network" in result.output
    assert sorted(file.name for file in run_folder.iterdir()) == ["model.refused", "model.safetensors"]
    assert "the step network" in (run_folder / "model.refused/export.md").read_text()
    allowed = ("--min-agreement", 0, "--max-iou-drop", 100, "--max-class-iou-drop", 100)
    assert cpsl_export(run_folder, "--size", SIZE, *allowed).exit_code == 0
    assert not (run_folder / "model.refused").exists(), "it told of a file that is not the one in place"


def test_an_earlier_file_survives_one_that_disagrees(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(run_folder, request=ExportRequest(size=(48, 64))).path
    before = path.read_bytes()
    monkeypatch.setattr(workshop, "export_onnx", export_another)
    assert cpsl_export(run_folder, "--size", SIZE).exit_code == 3
    assert path.read_bytes() == before


def test_trt_without_a_gpu_says_so_and_leaves_the_onnx_file(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpsl_deploy.export.tensorrt.engine.nvidia_gpu_count", lambda: 0)
    result = cpsl_export(run_folder, "--trt")
    assert result.exit_code == 2
    assert "no GPU" in result.output and str(run_folder / "model.onnx") in result.output
    shape = onnx.load(run_folder / "model.onnx").graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [1, 64, 96, 3], "the spec's size, fixed"
    assert sorted(file.name for file in run_folder.iterdir()) == [
        "model.export",
        "model.onnx",
        "model.safetensors",
    ]


def test_a_truncated_weights_file_is_a_clear_error(run_folder: Path) -> None:
    weights = run_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    result = cpsl_export(run_folder)
    assert result.exit_code == 2 and "model.safetensors is damaged" in result.output
    assert [file.name for file in run_folder.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone"], "gone does not exist"),
        (["run", "-o", "run/model.pt"], "named something.onnx"),
        (["run", "--size", "48"], "a size is written"),
        (["run", "--frames", "gone"], "gone"),
        (["empty"], "has none. Name a folder that cpsl-adapt wrote"),
        (["unfinished"], "stages so far are warm_up.safetensors"),
    ],
)
def test_bad_input(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(run_folder.parent)
    Path("empty").mkdir()
    Path("unfinished").mkdir()
    Path("unfinished/warm_up.safetensors").touch()
    result = cpsl_export(*arguments)
    assert result.exit_code == 2 and message in result.output, result.output
    assert [file.name for file in run_folder.iterdir()] == ["model.safetensors"]
