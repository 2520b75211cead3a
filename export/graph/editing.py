"""An ONNX graph that is being rewritten: who makes a value, who reads it, and constants as arrays."""

from __future__ import annotations

from collections.abc import Iterable, MutableSequence, Sequence

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

NORMALISED, LOGITS = "normalised", "logits"
"""Inner values that every exported file names: what enters the network and what leaves it."""


class GraphEditor:
    """Edits ``model`` in place. Its nodes are in topological order, and stay so."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model

    @property
    def graph(self) -> GraphProto:
        return self.model.graph

    def between(self, first: str, last: str) -> list[NodeProto]:
        """The nodes on the ways from one value to another, in graph order."""
        reached, inside = {first}, []
        for node in self.graph.node:
            if reached.intersection(node.input):
                reached.update(node.output)
                inside.append(node)
        return _needed(inside, last)

    def until(self, last: str) -> list[NodeProto]:
        """The nodes that a value is made by, in graph order."""
        return _needed(self.graph.node, last)

    def constants(self) -> dict[str, TensorProto]:
        return {tensor.name: tensor for tensor in self.graph.initializer}

    def array(self, name: str) -> np.ndarray:
        """A constant."""
        return numpy_helper.to_array(self.constants()[name])

    def readers(self, value: str) -> list[NodeProto]:
        return [node for node in self.graph.node if value in node.input]

    def maker(self, value: str) -> NodeProto | None:
        """The node that gives a value; None for what the graph is given."""
        return next((node for node in self.graph.node if value in node.output), None)

    def add(self, name: str, array: np.ndarray) -> None:
        """A new constant."""
        self.graph.initializer.append(numpy_helper.from_array(array, name))

    def insert_before(self, node: NodeProto, new: Iterable[NodeProto]) -> None:
        """Put nodes in front of one that is there."""
        place = list(self.graph.node).index(node)
        for offset, one in enumerate(new):
            self.graph.node.insert(place + offset, one)

    def bypass(self, node: NodeProto) -> None:
        """Remove a node; its readers read its first input."""
        for reader in self.readers(node.output[0]):
            rename(reader.input, {node.output[0]: node.input[0]})
        self.graph.node.remove(node)

    def set_parameters(self, node: NodeProto, weight: np.ndarray, bias: np.ndarray | None) -> None:
        """Give a convolution other numbers, float64, in the data type of its weight.

        They go by the old names, which say to which part of the model they belong, unless another node
        reads those, too.
        """
        dtype = self.array(node.input[1]).dtype
        names = [self._own(node, 1, node.input[1])]
        arrays = [weight]
        if bias is not None:
            given = len(node.input) > 2
            names.append(self._own(node, 2, node.input[2] if given else f"{names[0]}_bias"))
            arrays.append(bias)
        del node.input[1:]
        node.input.extend(names)
        constants = self.constants()
        for name, array in zip(names, arrays, strict=True):
            if name in constants:
                constants[name].CopyFrom(numpy_helper.from_array(array.astype(dtype), name))
            else:
                self.add(name, array.astype(dtype))

    def _own(self, node: NodeProto, place: int, name: str) -> str:
        """A name for the constant that a node reads at a place, which no other node reads."""
        given = len(node.input) > place and node.input[place] == name
        while (name in self.constants() and not given) or any(one != node for one in self.readers(name)):
            name, given = name.removesuffix(".weight") + ".own.weight", False
        return name

    def tidy(self) -> None:
        """Remove constants that nothing reads, and notes on values that there are no longer."""
        used = {name for node in self.graph.node for name in node.input}
        for tensor in [tensor for tensor in self.graph.initializer if tensor.name not in used]:
            self.graph.initializer.remove(tensor)
        made = {name for node in self.graph.node for name in node.output}
        for value in [value for value in self.graph.value_info if value.name not in made]:
            self.graph.value_info.remove(value)


def _needed(nodes: Sequence[NodeProto], value: str) -> list[NodeProto]:
    needed, kept = {value}, []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]


def bias_of(graph: GraphEditor, convolution: NodeProto) -> np.ndarray:
    """(outputs,) float64, zeros for a convolution without."""
    if len(convolution.input) > 2:
        return graph.array(convolution.input[2]).astype(np.float64)
    return np.zeros(graph.constants()[convolution.input[1]].dims[0])


def is_convolution(graph: GraphEditor, node: NodeProto) -> bool:
    """Whether a node is a convolution with weights in the file that sees all channels."""
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    return node.op_type == "Conv" and groups == 1 and node.input[1] in graph.constants()


def is_unpadded(node: NodeProto) -> bool:
    """Whether a convolution reads nothing but its input: a shift of that is then a shift of its output."""
    attributes = {a.name: a for a in node.attribute}
    padded = "pads" in attributes and any(attributes["pads"].ints)
    automatic = "auto_pad" in attributes and attributes["auto_pad"].s not in (b"NOTSET", b"VALID")
    return not (padded or automatic)


def rename(names: MutableSequence[str], new: dict[str, str]) -> None:
    """Replace names in a node's repeated field of names."""
    for index, name in enumerate(names):
        if name in new:
            names[index] = new[name]
