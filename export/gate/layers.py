"""How much noise each layer of a file in lower precision adds, against the float32 file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from .probe import Probe, value_names

KINDS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators that lower precisions change: the layers."""
_AT_ONCE = 16
"""Values kept of one run, so that the features of a whole network are never all in memory."""
_HIGHEST_DB = 200.0


@dataclass(frozen=True, kw_only=True)
class LayerNoise:
    """What one layer gives in both files."""

    name: str
    """Of its node in the float32 file."""
    operator: str
    value: str
    """The name, in both files, of what it gives, its activation included where that is part of it."""
    sqnr_db: float
    """Power of the float32 values over the power of the difference, in decibel; 200 where there is none."""
    added: float
    """Noise over signal that this layer adds to what it is given, 0 and up: a layer after a noisy one is not
    blamed for it."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
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
    values = {node.name: _shared_value(node, original, value_names(candidate)) for node in layers}
    shared = [value for value in values.values() if value is not None]
    noise: dict[str, float] = {}
    for start in range(0, len(shared), _AT_ONCE):
        names = shared[start : start + _AT_ONCE]
        noise |= _noise_over_signal(
            Probe(original, inner=names), Probe(candidate, inner=names), names, frames
        )
    given = _given(original, noise)
    found = [
        LayerNoise(
            name=node.name,
            operator=node.op_type,
            value=value,
            sqnr_db=_decibel(noise[value]),
            added=max(0.0, noise[value] - given[node.output[0]]),
        )
        for node in layers
        if (value := values[node.name]) is not None and value in noise
    ]
    return sorted(found, key=lambda layer: -layer.added), len(layers) - len(found)


def _shared_value(node: onnx.NodeProto, graph: onnx.ModelProto, there: set[str]) -> str | None:
    """What the node gives, by a name that the candidate has, too: its own, or its activation's where that has
    been taken into the node, as quantisers do."""
    value = node.output[0]
    if value in there:
        return value
    readers = [reader for reader in graph.graph.node if value in reader.input]
    if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip") and readers[0].output[0] in there:
        return readers[0].output[0]
    return None


def _noise_over_signal(
    original: Probe, candidate: Probe, names: Sequence[str], frames: Sequence[np.ndarray]
) -> dict[str, float]:
    signal, noise = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    comparable = set(names)
    for frame in frames:
        right, got = original.values(frame, names), candidate.values(frame, names)
        for name in names:
            if right[name].shape != got[name].shape:
                comparable.discard(name)
                continue
            value = right[name].astype(np.float64)
            signal[name] += float((value**2).sum())
            noise[name] += float(((got[name].astype(np.float64) - value) ** 2).sum())
    return {name: noise[name] / max(signal[name], 1e-30) for name in names if name in comparable}


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
