"""How much noise each layer of a file in lower precision adds, against the float32 file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from ..precision.float_graph import module_of
from .probe import Probe, value_names

KINDS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators that lower precisions change: the layers."""
_AT_ONCE = 16
"""Values kept of one run, so that the features of a whole network are never all in memory."""
_HIGHEST_DB = 200.0

Pair = tuple[str, str]
"""A value's name in the float32 file and in the candidate."""


@dataclass(frozen=True, kw_only=True)
class LayerNoise:
    """What one layer gives in both files."""

    name: str
    """Of its node in the float32 file."""
    parameter: str
    """Of the model, whose weight it has: what people know the layer by. The node's name if it has none."""
    operator: str
    value: str
    """The name in the float32 file of what was compared: what it gives, or the activation after it."""
    sqnr_db: float
    """Power of the float32 values over the power of the difference, in decibel; 200 where there is none."""
    added: float
    """Noise over signal that this layer adds to what it is given, 0 and up: a layer after a noisy one is not
    blamed for it."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "layer": self.parameter,
            "node": self.name,
            "operator": self.operator,
            "sqnr_db": round(self.sqnr_db, 2),
            "added_noise": float(f"{self.added:.4g}"),
        }


def layer_noise(
    original: onnx.ModelProto, candidate: onnx.ModelProto, frames: Sequence[np.ndarray]
) -> tuple[list[LayerNoise], int]:
    """Compare the layers' values of a float32 file and a candidate by name, over frames uint8 (H, W, 3) BGR.

    Returns the layers, the one that adds most noise first, and how many could not be compared, because the
    candidate has no value of that name and shape. Raises ModelFileError for a file that cannot be run.
    """
    layers = [node for node in original.graph.node if node.op_type in KINDS]
    pairs = {node.name: _pair(node, original, candidate) for node in layers}
    shared = [pair for pair in pairs.values() if pair is not None]
    noise: dict[str, float] = {}
    for start in range(0, len(shared), _AT_ONCE):
        some = shared[start : start + _AT_ONCE]
        right = Probe(original, inner=[name for name, _ in some])
        got = Probe(candidate, inner=[name for _, name in some])
        noise |= _noise_over_signal(right, got, some, frames)
    given = _given(original, noise)
    weights = {tensor.name for tensor in original.graph.initializer}
    found = [
        LayerNoise(
            name=node.name,
            parameter=module_of(node) if node.input[1] in weights else node.name,
            operator=node.op_type,
            value=pair[0],
            sqnr_db=_decibel(noise[pair[0]]),
            added=max(0.0, noise[pair[0]] - given[node.output[0]]),
        )
        for node in layers
        if (pair := pairs[node.name]) is not None and pair[0] in noise
    ]
    return sorted(found, key=lambda layer: -layer.added), len(layers) - len(found)


def _pair(node: onnx.NodeProto, original: onnx.ModelProto, candidate: onnx.ModelProto) -> Pair | None:
    """Names of what a layer gives in both files: its own value, or its activation's where a quantiser has
    taken that into the layer. Rounding to unsigned integers is then the activation: it is taken behind that.
    """
    value, there = node.output[0], value_names(candidate)
    if value in there:
        return value, value
    readers = _readers(original, value)
    if len(readers) != 1 or readers[0].op_type not in ("Relu", "Clip") or readers[0].output[0] not in there:
        return None
    active = readers[0].output[0]
    for rounding in _readers(candidate, active):
        for back in _readers(candidate, rounding.output[0]):
            if (rounding.op_type, back.op_type) == ("QuantizeLinear", "DequantizeLinear"):
                return active, back.output[0]
    return active, active


def _readers(proto: onnx.ModelProto, value: str) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if value in node.input]


def _noise_over_signal(
    original: Probe, candidate: Probe, pairs: Sequence[Pair], frames: Sequence[np.ndarray]
) -> dict[str, float]:
    """By the value's name in the original."""
    signal = {name: 0.0 for name, _ in pairs}
    noise = dict(signal)
    comparable = set(signal)
    for frame in frames:
        right = original.values(frame, [name for name, _ in pairs])
        got = candidate.values(frame, [name for _, name in pairs])
        for name, other in pairs:
            if right[name].shape != got[other].shape:
                comparable.discard(name)
                continue
            value = right[name].astype(np.float64)
            signal[name] += float((value**2).sum())
            noise[name] += float(((got[other].astype(np.float64) - value) ** 2).sum())
    return {name: noise[name] / max(signal[name], 1e-30) for name in signal if name in comparable}


def _given(proto: onnx.ModelProto, noise: dict[str, float]) -> dict[str, float]:
    """Per node's output, the most noise over signal among what the node is given, as far as it was measured;
    nodes that were not measured pass theirs on."""
    carried: dict[str, float] = {}
    given: dict[str, float] = {}
    for node in proto.graph.node:
        most = max((carried.get(name, 0.0) for name in node.input), default=0.0)
        for name in node.output:
            given[name] = most
            carried[name] = noise.get(name, most)
    return given


def _decibel(noise_over_signal: float) -> float:
    if noise_over_signal <= 0:
        return _HIGHEST_DB
    return min(_HIGHEST_DB, -10 * float(np.log10(noise_over_signal)))
