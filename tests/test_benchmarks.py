"""What the scripts in benchmarks/ compute from their measurements."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("onnx", reason="needs the extra 'export'")

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
NAMES = ("road", "sidewalk", "building", "pole", "tree", "sky", "car", "pedestrian")


@pytest.fixture(scope="module")
def real_pair() -> ModuleType:
    spec = importlib.util.spec_from_file_location("real_pair", BENCHMARKS / "real_pair.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
