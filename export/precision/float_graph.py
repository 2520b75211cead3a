"""The float graph that is quantised: where its network begins and ends, and the rewrites that integers want.

Every rewrite is exact in real arithmetic; float rounding differs. What they remove, a quantised graph would
otherwise compute in float between two conversions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from cpsl_deploy.errors import ModelFileError

NORMALISED, LOGITS = "normalised", "logits"
"""Inner values that every exported file names: what enters the network and what leaves it."""


class FloatGraph:
    """An fp32 export taken apart. The given model is copied and stays as it was.

    Raises ModelFileError if the file is not one that can be quantised: no network between two known values,
    a free size, or weights that are not float32.
    """

    def __init__(self, model: ModelProto, origin: str = "the model") -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.origin = origin
        self._require_static()
        for index, node in enumerate(self.graph.node):
            node.name = node.name or f"{node.op_type}_{index}"
        repeated = [name for name, count in Counter(n.name for n in self.graph.node).items() if count > 1]
        if repeated:
            raise ModelFileError(f"nodes are named one by one, and {origin} has two {repeated[0]!r}.")
        self.normalised, self.logits = self._boundary()
        self.parameters = {n.name: module_of(n) for n in self.graph.node if len(n.input) > 1}
        """Which part of the model a node came from, by the name of its weight."""

    @property
    def graph(self) -> GraphProto:
        return self.model.graph

    def network(self) -> list[NodeProto]:
        """The nodes between `normalised` and `logits`, in graph order."""
        reached, inside = {self.normalised}, []
        for node in self.graph.node:
            if reached.intersection(node.input):
                reached.update(node.output)
                inside.append(node)
        needed, kept = {self.logits}, []
        for node in reversed(inside):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        return kept[::-1]

    def layers(self) -> list[NodeProto]:
        """The network's Conv and Gemm nodes with constant weights, in graph order."""
        return [n for n in self.network() if n.op_type in ("Conv", "Gemm") and n.input[1] in self.constants()]

    def constants(self) -> dict[str, TensorProto]:
        return {tensor.name: tensor for tensor in self.graph.initializer}

    def up_to_logits(self) -> ModelProto:
        """The file without upsampling and argmax: frame in, logits out."""
        model = ModelProto()
        model.CopyFrom(self.model)
        needed, nodes = {self.logits}, []
        for node in reversed(self.graph.node):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.append(node)
        for field in (model.graph.node, model.graph.output, model.graph.initializer):
            del field[:]
        model.graph.node.extend(nodes[::-1])
        model.graph.initializer.extend(t for t in self.graph.initializer if t.name in needed)
        model.graph.output.append(helper.make_tensor_value_info(self.logits, TensorProto.FLOAT, None))
        return model

    def readers(self, value: str) -> list[NodeProto]:
        return [node for node in self.graph.node if value in node.input]

    def array(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self.constants()[name])

    def shape(self, value: str) -> tuple[int, ...]:
        """Of an inner value or a constant; () if shape inference does not know it."""
        if value in self.constants():
            return tuple(self.constants()[value].dims)
        for info in (*self.graph.value_info, *self.graph.output, *self.graph.input):
            if info.name == value:
                return tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
        return ()

    def prepare(self, *, integers: bool) -> None:
        """Rewrite the network for quantising; names of Conv and Gemm nodes stay.

        Batch norms that follow no convolution move into the convolutions after them, and activations in
        front of the Concat that feeds them. With ``integers``, for runtimes with one integer kernel per
        operator, batch norms that cannot move become 1x1 depthwise convolutions, and means over the image
        GlobalAveragePool.
        """
        self._move_batch_norms()
        self._move_activations()
        if integers:
            self._batch_norms_to_depthwise()
            self._means_to_pools()
        self._infer_shapes()
        if integers:
            self._widen_normalisation()
        used = {name for node in self.graph.node for name in node.input}
        unused = [tensor for tensor in self.graph.initializer if tensor.name not in used]
        for tensor in unused:
            self.graph.initializer.remove(tensor)

    def _infer_shapes(self) -> None:
        del self.graph.value_info[:]
        try:
            inferred = onnx.shape_inference.infer_shapes(self.model, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            raise ModelFileError(
                f"the operators of {self.origin} do not fit together: {str(error).splitlines()[0]}. Export "
                "the model again: cpsl-export RUN"
            ) from error
        self.model.CopyFrom(inferred)

    def _require_static(self) -> None:
        if len(self.graph.input) != 1:
            raise ModelFileError(
                f"{self.origin} has {len(self.graph.input)} inputs instead of one, the image."
            )
        fixed = [dim.HasField("dim_value") for dim in self.graph.input[0].type.tensor_type.shape.dim]
        if not all(fixed[1:]):
            raise ModelFileError(
                "INT8 wants a file of a fixed size, because activations are calibrated at it; "
                f"{self.origin} takes any. Export it with one: --size HxW"
            )

    def _boundary(self) -> tuple[str, str]:
        values = {name for node in self.graph.node for name in node.output}
        if NORMALISED in values and LOGITS in values:
            return NORMALISED, LOGITS
        convolutions = [node for node in self.graph.node if node.op_type == "Conv"]
        resizes = [node for node in self.graph.node if node.op_type == "Resize"]
        if not convolutions or not resizes:
            raise ModelFileError(
                f"a network is quantised between its values {NORMALISED!r} and {LOGITS!r}, and "
                f"{self.origin} names neither. Export it again: cpsl-export RUN"
            )
        return convolutions[0].input[0], resizes[-1].input[0]

    # Batch norms

    def _move_batch_norms(self) -> None:
        for norm in [n for n in self.network() if n.op_type == "BatchNormalization"]:
            scale, shift = self._affine(norm)
            behind = self._behind(norm.output[0], scale)
            if not behind or norm.output[0] == self.logits:
                continue
            for convolution in behind:
                self._absorb(convolution, scale, shift)
            self._bypass(norm)

    def _affine(self, norm: NodeProto) -> tuple[np.ndarray, np.ndarray]:
        """``y = scale x + shift`` of a batch norm in eval mode, float64 (C,) each."""
        gamma, beta, mean, var = (self.array(name).astype(np.float64) for name in norm.input[1:5])
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        scale = gamma / np.sqrt(var + epsilon)
        return scale, beta - mean * scale

    def _behind(self, value: str, scale: np.ndarray) -> list[NodeProto]:
        """The convolutions that read ``value``, through max pools too; none if anything else does.

        Max pooling commutes with a growing function alone, and zero padding is not zero before a shift.
        """
        found = []
        for node in self.readers(value):
            if node.op_type == "MaxPool" and (scale > 0).all() and len(node.output) == 1:
                deeper = self._behind(node.output[0], scale)
                if not deeper:
                    return []
                found += deeper
            elif node.op_type == "Conv" and self._plain(node):
                found.append(node)
            else:
                return []
        return found

    def _plain(self, node: NodeProto) -> bool:
        attributes = {a.name: a for a in node.attribute}
        padded = "pads" in attributes and any(attributes["pads"].ints)
        automatic = "auto_pad" in attributes and attributes["auto_pad"].s not in (b"NOTSET", b"VALID")
        grouped = "group" in attributes and attributes["group"].i != 1
        return not (padded or automatic or grouped) and node.input[1] in self.constants()

    def _absorb(self, convolution: NodeProto, scale: np.ndarray, shift: np.ndarray) -> None:
        weight = self.array(convolution.input[1]).astype(np.float64)
        added = weight.sum(axis=tuple(range(2, weight.ndim))) @ shift
        bias = self.array(convolution.input[2]) if len(convolution.input) > 2 else 0.0
        names = [f"{convolution.name}.weight.folded", f"{convolution.name}.bias.folded"]
        self._add(names[0], weight * scale.reshape(1, -1, *[1] * (weight.ndim - 2)))
        self._add(names[1], bias + added)
        del convolution.input[1:]
        convolution.input.extend(names)

    def _batch_norms_to_depthwise(self) -> None:
        for norm in [n for n in self.network() if n.op_type == "BatchNormalization"]:
            scale, shift = self._affine(norm)
            names = [f"{norm.name}.weight.folded", f"{norm.name}.bias.folded"]
            self._add(names[0], scale.reshape(-1, 1, 1, 1))
            self._add(names[1], shift)
            depthwise = helper.make_node(
                "Conv",
                [norm.input[0], *names],
                [norm.output[0]],
                norm.name,
                group=len(scale),
                kernel_shape=[1, 1],
            )
            norm.CopyFrom(depthwise)

    # Activations, means

    def _move_activations(self) -> None:
        """ReLU of a Concat becomes a Concat of ReLUs, each of which joins the convolution before it."""
        for concat in [n for n in self.network() if n.op_type == "Concat"]:
            readers = self.readers(concat.output[0])
            alone = all(len(self.readers(value)) == 1 for value in concat.input)
            if len(readers) != 1 or readers[0].op_type != "Relu" or not alone:
                continue
            activation = readers[0]
            moved = []
            for index, value in enumerate(concat.input):
                output = f"{activation.output[0]}.{index}"
                moved.append(helper.make_node("Relu", [value], [output], f"{activation.name}.{index}"))
                concat.input[index] = output
            place = list(self.graph.node).index(concat)
            for node in reversed(moved):
                self.graph.node.insert(place, node)
            self._bypass(activation)

    def _means_to_pools(self) -> None:
        for mean in [n for n in self.network() if n.op_type == "ReduceMean" and len(n.input) == 2]:
            keeps = all(a.i == 1 for a in mean.attribute if a.name == "keepdims")
            axes = sorted(self.array(mean.input[1]).tolist()) if mean.input[1] in self.constants() else []
            if keeps and axes in ([2, 3], [-2, -1]):
                mean.CopyFrom(
                    helper.make_node("GlobalAveragePool", [mean.input[0]], [mean.output[0]], mean.name)
                )

    def _widen_normalisation(self) -> None:
        """Constants (1, C, 1, 1) of the normalisation become (1, C, 1, W).

        onnxruntime's integer convolutions want channels last, and it moves the change of layout in front of
        the normalisation, which then works on three numbers at a time: a seventh of the time at 512x1024.
        """
        network = {node.name for node in self.network()}
        for node in [n for n in self.graph.node if n.name not in network and n.op_type in ("Mul", "Add")]:
            shape = self.shape(node.output[0])
            for index, name in enumerate(node.input):
                if name in self.constants() and len(shape) == 4:
                    array = self.array(name)
                    if array.dtype == np.float32 and array.shape == (1, shape[1], 1, 1):
                        self._add(f"{node.name}.wide", array.repeat(shape[3], axis=3))
                        node.input[index] = f"{node.name}.wide"

    # Editing

    def _add(self, name: str, array: np.ndarray) -> None:
        self.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))

    def _bypass(self, node: NodeProto) -> None:
        """Remove a node; its readers read its input."""
        for reader in self.readers(node.output[0]):
            rename(reader.input, {node.output[0]: node.input[0]})
        self.graph.node.remove(node)


def rename(names: Sequence[str], new: dict[str, str]) -> None:
    """Replace names in a node's repeated field of names."""
    for index, name in enumerate(names):
        if name in new:
            names[index] = new[name]  # type: ignore[index]


def module_of(node: NodeProto) -> str:
    """Which part of the model a layer came from, by the name of its weight in an exported file."""
    weight = node.input[1] if len(node.input) > 1 else ""
    return weight.split("network.", 1)[-1].removesuffix(".weight")
