"""Concats taken apart: what lies behind them is computed of each part instead of a copy of all.

A convolution of joined channels is the sum of the convolutions of its parts, an activation and a max pool of
them are the joined ones of its parts. A runtime adds the sum on the way, in the second convolution; the copy
it would have made is the largest thing that a fire module (SqueezeNet) writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto, helper

from .editing import GraphEditor, is_convolution, is_unpadded


def move_activations(graph: GraphEditor, nodes: Sequence[NodeProto]) -> int:
    """ReLU of a Concat becomes a Concat of ReLUs, each of which joins the convolution before it; how many."""
    moved = 0
    for concat in [node for node in nodes if node.op_type == "Concat"]:
        readers = graph.readers(concat.output[0])
        alone = all(len(graph.readers(value)) == 1 for value in concat.input)
        if len(readers) != 1 or readers[0].op_type != "Relu" or not alone:
            continue
        activation = readers[0]
        active = [f"{activation.output[0]}.{i}" for i in range(len(concat.input))]
        new = [
            helper.make_node("Relu", [value], [output], f"{activation.name}.{i}")
            for i, (value, output) in enumerate(zip(concat.input, active, strict=True))
        ]
        graph.insert_before(concat, new)
        concat.input[:] = active
        graph.bypass(activation)
        moved += 1
    return moved


def split_concats(graph: GraphEditor, nodes: Sequence[NodeProto]) -> int:
    """Take apart those of ``nodes`` whose readers are convolutions without padding, through max pools too,
    and have few outputs: what the sums move is then less than what the copy did. How many were."""
    split = 0
    for concat in [node for node in nodes if node.op_type == "Concat"]:
        parts = list(concat.input)
        channels = [_channels(graph, value) for value in parts]
        behind = _behind(graph, concat.output[0])
        sums = sum(graph.constants()[one.input[1]].dims[0] for one in behind) * (len(parts) - 1)
        axis = next(a.i for a in concat.attribute if a.name == "axis")
        if axis != 1 or not behind or 0 in channels or sums >= sum(channels):
            continue
        _split_readers(graph, concat.output[0], parts, channels)
        graph.graph.node.remove(concat)
        split += 1
    return split


def _channels(graph: GraphEditor, value: str) -> int:
    """How many a convolution gives, through its ReLU too; 0 for whatever else a value is."""
    maker = graph.maker(value)
    if maker is not None and maker.op_type == "Relu":
        maker = graph.maker(maker.input[0])
    if maker is None or not is_convolution(graph, maker):
        return 0
    return int(graph.constants()[maker.input[1]].dims[0])


def _behind(graph: GraphEditor, value: str) -> list[NodeProto]:
    """The convolutions that read ``value``, through max pools too; none if anything else does."""
    found = []
    for node in graph.readers(value):
        pool = node.op_type == "MaxPool" and len(node.output) == 1
        plain = is_convolution(graph, node) and is_unpadded(node)
        deeper = _behind(graph, node.output[0]) if pool else [node] if plain else []
        if not deeper:
            return []
        found += deeper
    return found


def _split_readers(graph: GraphEditor, value: str, parts: list[str], channels: list[int]) -> None:
    for node in graph.readers(value):
        made = [f"{node.output[0]}.{i}" for i in range(len(parts))]
        new = [_part(node, part, output, i) for i, (part, output) in enumerate(zip(parts, made, strict=True))]
        if node.op_type == "MaxPool":
            graph.insert_before(node, new)
            _split_readers(graph, node.output[0], made, channels)
        else:
            _share_weights(graph, node, new, channels)
            for i in range(1, len(parts)):
                last = node.output[0] if i == len(parts) - 1 else f"{made[i]}.sum"
                first = made[0] if i == 1 else f"{made[i - 1]}.sum"
                new.append(helper.make_node("Add", [first, made[i]], [last], f"{node.name}.sum.{i}"))
            graph.insert_before(node, new)
        graph.graph.node.remove(node)


def _part(node: NodeProto, value: str, output: str, index: int) -> NodeProto:
    part = NodeProto()
    part.CopyFrom(node)
    part.name, part.input[0], part.output[0] = f"{node.name}.{index}", value, output
    return part


def _share_weights(
    graph: GraphEditor, convolution: NodeProto, new: list[NodeProto], channels: list[int]
) -> None:
    """Each part has the weights of its channels, by names of their own; the first one has the bias."""
    weight, end = graph.array(convolution.input[1]), 0
    module = convolution.input[1].removesuffix(".weight")
    for i, (part, count) in enumerate(zip(new, channels, strict=True)):
        name = f"{module}.{i}.weight"
        graph.add(name, weight[:, end : end + count].copy())
        part.input[1] = name
        if i:
            del part.input[2:]
        end += count
