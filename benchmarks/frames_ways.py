"""The ways of `frames.py` from a JPEG file to the JPEG of its overlay, and their time step by step."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common_practice import CommonPractice

import cpsl_deploy
from cpsl_deploy.errors import MissingExtraError, UnavailableError
from cpsl_deploy.segmenter import FrameBuffers, Inferred, Prediction, Prepared, Segmenter
from cpsl_deploy.spec import ModelSpec

BASELINE = "common practice"
THEIR_NETWORK, OUR_NETWORK = "network alone, common practice's", "network alone, ours"
STEPS = ("read", "pre", "inference", "post", "overlay", "encode")
_PAUSE_S = 0.01
"""onnxruntime's threads spin for some milliseconds after each inference."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a way of ours runs. The files' names are those of `frames_files`."""

    name: str
    file: str
    backend: str = "onnxruntime"
    precision: str | None = None


KINDS = (
    Kind(name="fp32 onnxruntime", file="labels"),
    Kind(name="int8 onnxruntime", file="int8"),
    Kind(name="fp32 openvino", file="labels", backend="openvino", precision="f32"),
    Kind(name="bf16 openvino", file="labels", backend="openvino", precision="bf16"),
    Kind(name="int8 openvino", file="int8", backend="openvino", precision="f32"),
    Kind(name="int8+bf16 openvino", file="int8", backend="openvino", precision="bf16"),
)


class Ours:
    """As `CommonPractice`, with an exported file."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter, self._buffers = segmenter, FrameBuffers()

    def read(self, path: Path) -> np.ndarray:
        return cv2.imread(str(path))

    def pre(self, frame: np.ndarray) -> Prepared:
        return self.segmenter.prepare(frame, buffers=self._buffers)

    def infer(self, prepared: Prepared) -> Inferred:
        return self.segmenter.infer([prepared])[0]

    def post(self, inferred: Inferred) -> Prediction:
        return self.segmenter.finish(inferred)

    def overlay(self, prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
        return prediction.labels, prediction.overlay(0.5, legend=False)

    def encode(self, drawn: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, bytes]:
        return drawn[0], cv2.imencode(".jpg", drawn[1])[1].tobytes()


class Way:
    """One way, and what its frames took."""

    def __init__(self, name: str, steps: Sequence[Callable[[Any], Any]], *, files: Sequence[Any]) -> None:
        self.name, self._steps, self._files = name, tuple(steps), files
        self.wall_ms: list[list[float]] = []
        """Of each step, by timed frame."""
        self.cpu_ms: list[list[float]] = []
        """Of all threads of the process."""

    def run(self, index: int) -> Any:
        """One frame, untimed: its labels and its JPEG."""
        value = self._files[index % len(self._files)]
        for step in self._steps:
            value = step(value)
        return value

    def run_timed(self, index: int) -> None:
        value = self._files[index % len(self._files)]
        wall, cpu = [time.perf_counter()], [time.process_time()]
        for step in self._steps:
            value = step(value)
            wall.append(time.perf_counter())
            cpu.append(time.process_time())
        self.wall_ms.append((1e3 * np.diff(wall)).tolist())
        self.cpu_ms.append((1e3 * np.diff(cpu)).tolist())


def steps_of(way: CommonPractice | Ours) -> list[Callable[[Any], Any]]:
    return [way.read, way.pre, way.infer, way.post, way.overlay, way.encode]


def open_baseline(folder: Path) -> CommonPractice:
    spec = ModelSpec.from_json((folder / "spec.json").read_text(encoding="utf-8"), "spec.json")
    return CommonPractice(
        folder / "common.onnx", palette=spec.palette, size=spec.size, mean=spec.mean, std=spec.std
    )


def open_ours(kind: Kind, folder: Path, threads: int | None = None) -> Ours:
    """Raises UnavailableError or MissingExtraError for what cannot be had here."""
    path = folder / f"{kind.file}.onnx"
    return Ours(cpsl_deploy.load(path, backend=kind.backend, precision=kind.precision, threads=threads))


def network_alone(folder: Path, *, ours: bool) -> Callable[[Path], object]:
    """The graph without upsampling and argmax, in onnxruntime: common practice's, from normalised floats to
    logits at the network's stride, or ours, which casts and normalises, too."""
    if ours:
        segmenter = cpsl_deploy.load(folder / "logits.onnx", backend="onnxruntime")
        frames = np.random.default_rng(0).integers(0, 256, (1, *segmenter.input_size(1, 1), 3), np.uint8)
        return lambda path: segmenter.backend.infer(frames)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "network.onnx"), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).normal(size=session.get_inputs()[0].shape).astype(np.float32)
    return lambda path: session.run(None, {"image": image})


def open_ways(folder: Path, images: Sequence[Path], wanted: str) -> tuple[list[Way], dict[str, str]]:
    """Those whose name has one of the words of ``wanted``, the baseline first and the network alone last; and
    the reason for each that cannot be had."""
    ways = [Way(BASELINE, steps_of(open_baseline(folder)), files=images)]
    missing = {}
    words = [word for word in wanted.split(",") if word]
    for kind in KINDS:
        if words and not any(word in kind.name for word in words):
            continue
        try:
            ways.append(Way(kind.name, steps_of(open_ours(kind, folder)), files=images))
        except (UnavailableError, MissingExtraError) as error:
            missing[kind.name] = str(error)
    for name, ours in ((THEIR_NETWORK, False), (OUR_NETWORK, True)):
        ways.append(Way(name, [network_alone(folder, ours=ours)], files=images))
    return ways, missing


def in_turns(ways: Sequence[Way], *, rounds: int, budget_s: float) -> int:
    """One untimed frame and one timed one of every way in each round, in an order that turns with the rounds.
    Returns the number of rounds: as many as asked for, or as there was time for, 3 at least."""
    for way in ways:
        way.run(0)
    began = time.perf_counter()
    for index in range(rounds):
        if index >= 3 and time.perf_counter() - began > budget_s * index / (index + 1):
            return index
        turn = index % len(ways)
        for way in (*ways[turn:], *ways[:turn]):
            time.sleep(_PAUSE_S)
            way.run(index)  # untimed: what another way left in the caches and of the threads slows it
            way.run_timed(index)
    return rounds


def peak_mb(name: str, folder: Path) -> float:
    """Resident memory of this process at its highest, after three frames of one way, in MB (Linux alone)."""
    images = sorted(folder.glob("frame*.jpg"))
    if name == BASELINE:
        way = Way(name, steps_of(open_baseline(folder)), files=images)
    else:
        (kind,) = [kind for kind in KINDS if kind.name == name]
        way = Way(name, steps_of(open_ours(kind, folder)), files=images)
    for index in range(3):
        way.run(index)
    status = Path("/proc/self/status").read_text(
        encoding="utf-8"
    )  # getrusage counts the parent's memory, too
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def same_result(one: tuple[np.ndarray, bytes], other: tuple[np.ndarray, bytes]) -> dict[str, Any]:
    return {"labels": float((one[0] == other[0]).mean()), "same_jpeg": one[1] == other[1]}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    print(peak_mb(sys.argv[1], Path(sys.argv[2])))
