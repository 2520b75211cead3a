"""What the scripts in benchmarks/ compute from their measurements."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import cv2
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("onnx", reason="needs the extra 'export'")

from export_networks import Small, small_model, spec_for

from cpsl_deploy.export.candidates import Candidate
from cpsl_deploy.export.gate.frames import generated_frames
from cpsl_deploy.train.models import ARCHITECTURES, save_model

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
NAMES = ("road", "sidewalk", "building", "pole", "tree", "sky", "car", "pedestrian")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def real_pair() -> ModuleType:
    return script("real_pair")


def measured(real_pair: ModuleType, source_only: float, adapted: float, oracle: float) -> dict:
    """results.json of a seed: the same IoU for six classes, half of it for poles, none for pedestrians."""
    scores = dict.fromkeys(real_pair.COLUMNS, adapted) | {"source_only": source_only, "oracle": oracle}
    return {
        column: {"iou": [None if name == "pedestrian" else score / (1 + (name == "pole")) for name in NAMES]}
        for column, score in scores.items()
    }


def test_the_real_pair_s_means_gain_and_gap_closure(real_pair: ModuleType) -> None:
    seeds = {0: measured(real_pair, 0.4, 0.5, 0.6), 1: measured(real_pair, 0.4, 0.6, 0.8)}
    summary = real_pair.summarise(seeds, NAMES)
    first, second = summary["seeds"]["0"], summary["seeds"]["1"]
    assert first["stages"]["distillation_2"]["miou_10"] == pytest.approx(50 * 6.5 / 8), (
        "never right counts as 0"
    )
    assert first["stages"]["distillation_2"]["miou_6"] == pytest.approx(50)
    assert first["stages"]["oracle"]["iou"]["pole"] == pytest.approx(30)
    assert first["gain"] == pytest.approx(10 * 6.5 / 8) and second["gain"] == pytest.approx(20 * 6.5 / 8)
    assert first["gap_closure"] == second["gap_closure"] == pytest.approx(0.5)
    mean = next(line for line in real_pair.markdown(summary).splitlines() if line.startswith("| mean |"))
    assert mean.endswith("| +12.2 | 50 % |") and f" {70 * 6.5 / 8:.1f} / 70.0 |" in mean


def test_the_gate_of_every_kind_of_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = script("export_gate")
    monkeypatch.setitem(ARCHITECTURES, "small", Small)
    monkeypatch.setattr(gate, "candidates_here", lambda: [Candidate()])
    network = small_model()
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "photos").mkdir()
    for i, frame in enumerate(generated_frames((64, 96), 6)):
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.png"), frame)
    spec = spec_for(network, provenance={"target": str(tmp_path / "photos")})
    save_model(run / "model.safetensors", network, spec)
    arguments = [str(run), "-o", str(tmp_path / "gate")]
    done = CliRunner().invoke(gate.main, arguments)
    assert done.exit_code == 0, done.output
    kinds = {
        kind["name"]: kind for kind in json.loads((tmp_path / "gate/gate.json").read_text())["runs"]["run"]
    }
    assert set(kinds) == {"fp32 onnxruntime", "fp16 onnxruntime", "int8 symmetric onnxruntime"}
    assert kinds["fp32 onnxruntime"]["speed"] == 1 and kinds["fp32 onnxruntime"]["agreement"] > 0.999
    half, full = (kinds[f"{name} onnxruntime"]["bytes"] for name in ("fp16", "fp32"))
    assert half < full
    again = CliRunner().invoke(gate.main, arguments)
    assert again.exit_code == 2 and "--overwrite" in again.output
