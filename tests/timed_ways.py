"""A machine on which ways of running a model file take their time, and files that say what passed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tiny_onnx

from cpsl_deploy.backends import fastest
from cpsl_deploy.backends.ways import ONNXRUNTIME, Way, ways_metadata

F32, BF16 = (Way(backend="openvino", precision=precision) for precision in ("f32", "bf16"))


class Machine:
    """One on which every way takes its time, by a clock that only inferences move."""

    def __init__(self, **milliseconds: float) -> None:
        self.milliseconds = {"onnxruntime": 20.0, "openvino f32": 15.0, "openvino bf16": 5.0, **milliseconds}
        self.now = 0.0
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.inferences: list[str] = []
        self.missing: dict[str, Exception] = {}
        self.broken: dict[str, Exception] = {}
        self.batches: dict[str, int] = {}
        self.frames = np.empty(0)

    def clock(self) -> float:
        return self.now

    def open_way(self, path: Path, way: Way) -> Any:
        name = way.name if path.name == "model.onnx" else f"{way.name} of {path.name}"
        if name in self.missing:
            raise self.missing[name]
        self.opened.append(name)

        def infer(frames: np.ndarray) -> None:
            self.frames = frames
            self.inferences.append(name)
            if name in self.broken:
                raise self.broken[name]
            self.now += self.milliseconds[name] / 1e3

        return SimpleNamespace(
            name=name,
            infer=infer,
            close=lambda: self.closed.append(name),
            static_size=None,
            spec=tiny_onnx.tiny_spec(),
            batch=self.batches.get(name, 1),
            choice=None,
        )

    def start(self, path: Path, *others: Path, threads: int | None = None) -> Any:
        """What is picked; the lists are of this start alone."""
        self.opened, self.closed, self.inferences = [], [], []
        return fastest.open_fastest(path, others, threads=threads, open_way=self.open_way, clock=self.clock)


def export(path: Path, *passed: Way, weights: str = "w", **contract: str) -> Path:
    metadata = {
        **tiny_onnx.tiny_metadata(**contract),
        "weights_sha256": weights,
        **ways_metadata((ONNXRUNTIME, *passed)),
    }
    return tiny_onnx.write_tiny_onnx(path, metadata=metadata)
