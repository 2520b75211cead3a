"""What the tests of ``cpsl-export`` ask of a run of a tiny network and of the file that it becomes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from click.testing import Result
from finished_run import Run

from cpsl_deploy.bench.interleaved import Speed

ANYTHING = ("--min-agreement", 0, "--max-iou-drop", 100, "--max-class-iou-drop", 100)
"""A budget that every file keeps."""
Export = Callable[..., Result]


def planted(ratios: dict[str, float]) -> Callable[..., dict[str, Speed]]:
    """In place of `compare_speed`: how many times as fast as the yardstick, by name, 1 if not given."""

    def compare_speed(files: Any, frames: Any, **options: Any) -> dict[str, Speed]:
        ratio = {name: ratios.get(name, 1.0) for name in files}
        return {n: Speed(median_ms=8 / r, ratio=r, low=r - 0.1, high=r + 0.1) for n, r in ratio.items()}

    return compare_speed


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "model.export/export.json").read_text())
    return report


def answers(model: Path, image: np.ndarray) -> dict[str, np.ndarray]:
    """What a file gives to a user of onnxruntime alone, by name, for image uint8 (N, H, W, 3)."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": image}), strict=True))


def frame_of(run: Run, split: str = "val") -> np.ndarray:
    """uint8 (96, 128, 3) BGR."""
    image = cv2.imread(str(run.target.parent / "images" / split / "0.png"))
    assert image is not None
    return image


def says(result: Result, *texts: str) -> None:
    """Whatever the line breaks are."""
    words = " ".join(result.output.split())
    for text in texts:
        assert text in words, (text, words)
