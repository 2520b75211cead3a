"""Which layers take the time, as the library tells that runs them: of the graph that it made of the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.graph_cut import up_to_logits
from ..backends.onnxruntime_backend import CPU, CUDA
from ..errors import MissingExtraError, UnavailableError
from .node_profile import NodeRun, profile_file

SLOWEST = 10
EXACT_CUDA = (CUDA, {"use_tf32": 0})
"""As the backend runs it."""
CHILD_TIMEOUT_S = 300
DISCARDED, FRAMES = 3, 12
"""Frames that warm the session up, and frames whose mean counts."""


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """One layer as it runs; libraries make one of several, and name it after one of them."""

    name: str
    operator: str
    """The library's own: ``QLinearConv``, ``FusedConv``."""
    output_shape: tuple[int, ...]
    """Empty where the library does not tell."""
    ms: float
    """Mean over the frames."""
    share: float
    """Of all layers together, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """Of one frame."""

    layers: tuple[LayerTime, ...]
    """The slowest first. Of a GPU, where another process tells of them, `SLOWEST` of them."""
    profile_ms: float
    """All layers together: without what lies between them, and with what profiling costs."""
    library: str
    """Whose profile it is: "onnxruntime" or "openvino"."""

    @property
    def slowest(self) -> tuple[LayerTime, ...]:
        """`SLOWEST` of them, or all if there are no more."""
        return self.layers[:SLOWEST]

    def to_json(self) -> dict[str, Any]:
        """``slowest`` and ``profile_ms`` of a record's section "roofline"."""
        slowest = [{**asdict(layer), "output_shape": list(layer.output_shape)} for layer in self.slowest]
        return {"slowest": slowest, "profile_ms": self.profile_ms}


def profile_layers(
    path: Path, runtime: Mapping[str, Any], frame_size: tuple[int, int], *, frames: int = FRAMES
) -> LayerProfile:
    """The layers of a model file as its backend runs it, frames being noise.

    ``runtime``: the backend's ``describe()``: backend, device, threads, precision, labels_outside.
    ``frame_size``: (height, width) of the frames that the file is given, where it leaves that free.

    Raises UnavailableError for a backend that tells no times of layers; MissingExtraError without the
    library, ModelFileError for a file that it cannot run.
    """
    backend, device = runtime["backend"], runtime["device"]
    if backend == "openvino":
        return _openvino(path, runtime, frame_size, frames)
    if backend != "onnxruntime":
        raise UnavailableError(f"{backend} gives no times of layers here")
    if device != "cpu":
        return _in_child(path, frame_size, frames, CUDA)
    return _onnxruntime(
        path, frame_size, frames, CPU, runtime.get("threads"), bool(runtime.get("labels_outside"))
    )


def _onnxruntime(
    path: Path,
    frame_size: tuple[int, int],
    frames: int,
    provider: str,
    threads: int | None = None,
    labels_outside: bool = False,
) -> LayerProfile:
    run = profile_file(
        path,
        frame_size,
        runs=DISCARDED + frames,
        threads=threads,
        providers=[CPU] if provider == CPU else [EXACT_CUDA, CPU],
        labels_outside=labels_outside,
    )
    if all(node.provider != provider for node in run.nodes):
        raise UnavailableError(f"no layer of {path.name} was run by {provider}")
    return mean_profile(run.nodes, DISCARDED + frames, DISCARDED)


def _in_child(path: Path, frame_size: tuple[int, int], frames: int, provider: str) -> LayerProfile:
    """In a process of its own, in which CUDA finishes each kernel before it goes on.

    Otherwise onnxruntime's clock stops when a kernel was launched. The variable is read when CUDA starts, and
    here it has started long ago (CUDA C++ Programming Guide, environment variables). Not yet run on a GPU.
    """
    arguments = json.dumps([os.fspath(path.resolve()), list(frame_size), frames, provider])
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"from {__name__} import _child; _child()", arguments],
            capture_output=True,
            text=True,
            timeout=CHILD_TIMEOUT_S,
            check=True,
            env={**os.environ, "CUDA_LAUNCH_BLOCKING": "1"},
        )
        found = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
        raise UnavailableError(f"the layers of {path.name} could not be profiled: {reason}") from error
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise UnavailableError(f"the layers of {path.name} could not be profiled: {error}") from error
    layers = (LayerTime(**{**one, "output_shape": tuple(one["output_shape"])}) for one in found["slowest"])
    return LayerProfile(layers=tuple(layers), profile_ms=found["profile_ms"], library="onnxruntime")


def _child() -> None:
    """What the other process does: the profile as JSON on its last line."""
    path, (height, width), frames, provider = json.loads(sys.argv[1])
    if provider == CUDA:
        import onnxruntime

        onnxruntime.preload_dlls()
    print(json.dumps(_onnxruntime(Path(path), (height, width), frames, provider).to_json()))


def mean_profile(nodes: Sequence[NodeRun], runs: int, discarded: int) -> LayerProfile:
    """The layers of the runs of a graph, the first ones ``discarded``.

    ``nodes``: of all runs, one after the other, each with the same nodes in the same order.
    Raises UnavailableError if they do not fall into ``runs`` equal parts.
    """
    if not nodes or len(nodes) % runs:
        raise UnavailableError(f"the profile has {len(nodes)} layers, which are not those of {runs} runs")
    length = len(nodes) // runs
    ms = np.array([node.ms for node in nodes]).reshape(runs, length)[discarded:].mean(axis=0)
    shapes = [node.outputs[0].shape if node.outputs else () for node in nodes[:length]]
    named = [(node.name, node.operator, shape) for node, shape in zip(nodes, shapes, strict=False)]
    return _profile(named, ms, "onnxruntime")


def _profile(
    layers: Sequence[tuple[str, str, tuple[int, ...]]], ms: np.ndarray, library: str
) -> LayerProfile:
    total = float(ms.sum())
    found = tuple(
        LayerTime(
            name=layers[i][0],
            operator=layers[i][1],
            output_shape=layers[i][2],
            ms=float(ms[i]),
            share=float(ms[i]) / total if total else 0.0,
        )
        for i in np.argsort(-ms, kind="stable").tolist()
    )
    return LayerProfile(layers=found, profile_ms=total, library=library)


def _openvino(
    path: Path, runtime: Mapping[str, Any], frame_size: tuple[int, int], frames: int
) -> LayerProfile:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino", f"profiling {path.name}") from error
    properties = {
        "INFERENCE_PRECISION_HINT": runtime["precision"],
        "PERFORMANCE_HINT": "LATENCY",
        "PERF_COUNT": True,
    }
    if runtime.get("threads"):
        properties["INFERENCE_NUM_THREADS"] = runtime["threads"]
    try:
        core = openvino.Core()
        model = (up_to_logits(path) if runtime.get("labels_outside") else None) or path
        compiled = core.compile_model(core.read_model(model), "CPU", properties)
        free = (1, *frame_size, 3)
        sides = compiled.input(0).partial_shape
        shape = [side.get_length() if side.is_static else free[i] for i, side in enumerate(sides)]
        image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        request = compiled.create_infer_request()
        seconds, layers = [], []
        for _ in range(DISCARDED + frames):
            request.infer([image])
            ran = [node for node in request.get_profiling_info() if node.real_time]
            layers = [(node.node_name, node.node_type) for node in ran]
            seconds.append({node.node_name: node.real_time.total_seconds() for node in ran})
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
        raise UnavailableError(f"OpenVINO could not profile {path.name}: {reason}") from error
    counted = seconds[DISCARDED:]
    ms = np.array([1e3 * np.mean([one.get(name, 0.0) for one in counted]) for name, _ in layers])
    shapes = _openvino_shapes(compiled)
    return _profile([(name, kind, shapes.get(name, ())) for name, kind in layers], ms, "openvino")


def _openvino_shapes(compiled: Any) -> dict[str, tuple[int, ...]]:
    """Shape of the first output of each node of what runs, where it is fixed."""
    shapes = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        if node.get_output_size() and node.get_output_partial_shape(0).is_static:
            shapes[node.get_friendly_name()] = tuple(node.get_output_shape(0))
    return shapes
