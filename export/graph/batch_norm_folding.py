"""Batch norms that no convolution precedes, moved into the convolutions behind them.

In eval mode a batch norm is ``y = scale x + shift`` per channel. A convolution takes it up exactly if every
reader of ``y`` is one: the scale into the weights of its input channels, the shift, summed over the kernel,
into its bias. Zero padding is put around ``y`` and would be around ``x``, so that padded ones do not. Through
a max pool, whose padding is minus infinity, a growing function passes, which needs ``scale > 0``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from .editing import LOGITS, GraphEditor, bias_of, is_convolution, is_unpadded


def fold_batch_norms(graph: GraphEditor, nodes: Sequence[NodeProto]) -> int:
    """Move those of ``nodes`` that can move; how many did."""
    folded = 0
    for norm in [node for node in nodes if node.op_type == "BatchNormalization"]:
        scale, shift = affine(graph, norm)
        behind = _behind(graph, norm.output[0], scale)
        if not behind or norm.output[0] == LOGITS:
            continue
        for convolution in behind:
            _absorb(graph, convolution, scale, shift)
        graph.bypass(norm)
        folded += 1
    return folded


def affine(graph: GraphEditor, norm: NodeProto) -> tuple[np.ndarray, np.ndarray]:
    """``y = scale x + shift`` of a batch norm in eval mode, float64 (C,) each."""
    gamma, beta, mean, var = (graph.array(name).astype(np.float64) for name in norm.input[1:5])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    scale = gamma / np.sqrt(var + epsilon)
    return scale, beta - mean * scale


def _behind(graph: GraphEditor, value: str, scale: np.ndarray) -> list[NodeProto]:
    """The convolutions that read ``value``, through max pools too; none if anything else does."""
    found = []
    for node in graph.readers(value):
        if node.op_type == "MaxPool" and (scale > 0).all() and len(node.output) == 1:
            deeper = _behind(graph, node.output[0], scale)
            if not deeper:
                return []
            found += deeper
        elif is_convolution(graph, node) and is_unpadded(node):
            found.append(node)
        else:
            return []
    return found


def _absorb(graph: GraphEditor, convolution: NodeProto, scale: np.ndarray, shift: np.ndarray) -> None:
    weight = graph.array(convolution.input[1]).astype(np.float64)
    added = weight.sum(axis=tuple(range(2, weight.ndim))) @ shift
    scaled = weight * scale.reshape(1, -1, *[1] * (weight.ndim - 2))
    graph.set_parameters(convolution, scaled, bias_of(graph, convolution) + added)
