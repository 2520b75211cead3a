"""The nodes of a model as its library runs them, each with its time and its limit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cpsl_deploy.bench.graph_cost import graph_cost
from cpsl_deploy.bench.layer_profile import DISCARDED, profile_layers
from cpsl_deploy.bench.node_profile import NodeRun, profile_file
from cpsl_deploy.bench.operator_flops import WEIGHTED, flops
from cpsl_deploy.bench.roofline import limits
from cpsl_deploy.machine.rates import Rates

_OF_FILE = ("/WithoutBiases",)
"""What OpenVINO appends to the name of a file's node."""


def profile(
    path: Path, runtime: Mapping[str, Any], size: tuple[int, int], rates: Rates, *, frames: int
) -> list[dict[str, Any]]:
    """Name, operator, output_shape, ms and limit_ms of each node, the slowest first.

    ``runtime``: the backend's ``describe()``. ``limit_ms`` is None where OpenVINO's name of a node is none of
    the file's: several in one, or one of its own.
    """
    if runtime["backend"] == "onnxruntime":
        nodes = _onnxruntime(path, runtime, size, rates, frames)
    else:
        nodes = _openvino(path, runtime, size, rates, frames)
    return sorted(nodes, key=lambda node: -node["ms"])


def _onnxruntime(
    path: Path, runtime: Mapping[str, Any], size: tuple[int, int], rates: Rates, frames: int
) -> list[dict[str, Any]]:
    """The median over the frames; limits are of the nodes as they run, whatever was fused."""
    runs = DISCARDED + frames
    outside = bool(runtime.get("labels_outside"))
    ran = profile_file(path, size, runs=runs, threads=runtime["threads"], labels_outside=outside).nodes
    length = len(ran) // runs
    ms = np.median(np.array([node.ms for node in ran]).reshape(runs, length)[DISCARDED:], axis=0)
    return [
        {
            "name": node.name,
            "operator": node.operator,
            "output_shape": list(node.outputs[0].shape) if node.outputs else [],
            "ms": float(value),
            "limit_ms": _limit_ms(node, rates),
        }
        for node, value in zip(ran, ms, strict=False)
    ]


def _limit_ms(node: NodeRun, rates: Rates) -> float:
    """Operations by the rate of matrix products, or bytes by that of memory."""
    if node.operator == "Reshape":
        return 0.0  # another name for the same bytes
    integers = node.operator.startswith("QLinear")
    operator = node.operator.removeprefix("QLinear").removeprefix("Fused")
    inputs = node.inputs
    if integers and operator in WEIGHTED:
        inputs = (inputs[0], inputs[3])  # a scale and a zero point behind the first
    work = flops(dataclasses.replace(node, operator=operator, inputs=inputs)) if operator in WEIGHTED else 0
    moved = sum(tensor.bytes for tensor in (*node.inputs, *node.outputs))
    by_work = work / rates.matrix_rate("int8" if integers else "f32").flops_per_s
    return 1e3 * max(by_work, moved / rates.copy.bytes_per_s)


def _openvino(
    path: Path, runtime: Mapping[str, Any], size: tuple[int, int], rates: Rates, frames: int
) -> list[dict[str, Any]]:
    """The mean over the frames; limits are of the file's node of that name."""
    counted = limits(graph_cost(path, size), rates, runtime["precision"]).layers
    known = {one.layer.name: one.limit_ms for one in counted if one.bound != "fused"}

    def limit(name: str) -> float | None:
        for ending in _OF_FILE:
            name = name.removesuffix(ending)
        return known.get(name)

    return [
        {
            "name": layer.name,
            "operator": layer.operator,
            "output_shape": list(layer.output_shape),
            "ms": layer.ms,
            "limit_ms": limit(layer.name),
        }
        for layer in profile_layers(path, runtime, size, frames=frames).layers
    ]
