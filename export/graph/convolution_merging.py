"""Two convolutions with nothing between them, the second of 1x1, made one where that is less work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from .editing import GraphEditor, bias_of, is_convolution, is_unpadded


def merge_convolutions(graph: GraphEditor, nodes: Sequence[NodeProto]) -> int:
    """Merge pairs of ``nodes``; how many. What remains has the second one's name and output.

    The product of their matrices, in float64: the classifier after a feature layer without activation.
    """
    merged = 0
    by_output = {node.output[0]: node for node in nodes if is_convolution(graph, node)}
    for second in list(by_output.values()):
        first = by_output.get(second.input[0])
        if first is None or len(graph.readers(second.input[0])) != 1 or not _is_pointwise(graph, second):
            continue
        inner, outer = (graph.array(node.input[1]).astype(np.float64) for node in (first, second))
        outer = outer[:, :, 0, 0]
        weight = np.einsum("oi,i...->o...", outer, inner)
        if weight.size > inner.size + outer.size:
            continue
        bias = bias_of(graph, second) + outer @ bias_of(graph, first)
        second.input[0] = first.input[0]
        del second.attribute[:]
        second.attribute.extend(first.attribute)
        graph.set_parameters(second, weight, bias)
        graph.graph.node.remove(first)
        merged += 1
    return merged


def _is_pointwise(graph: GraphEditor, node: NodeProto) -> bool:
    steps = next((list(a.ints) for a in node.attribute if a.name == "strides"), [1, 1])
    kernel = list(graph.constants()[node.input[1]].dims[2:])
    return kernel == [1, 1] and set(steps) == {1} and is_unpadded(node)
