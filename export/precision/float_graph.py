"""The float graph that is quantised: where its network begins and ends, and the rewrites that integers want.

Every rewrite is exact in real arithmetic; float rounding differs. What they remove, a quantised graph would
otherwise compute in float between two conversions.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from cpsl_deploy.errors import ModelFileError

from ..graph.batch_norm_folding import affine, fold_batch_norms
from ..graph.concat_splitting import move_activations
from ..graph.editing import LOGITS, NORMALISED, GraphEditor


class FloatGraph(GraphEditor):
    """An fp32 export taken apart. The given model is copied and stays as it was.

    Raises ModelFileError if the file is not one that can be quantised: no network between two known values,
    a free size, or weights that are not float32.
    """

    def __init__(self, model: ModelProto, origin: str = "the model") -> None:
        super().__init__(ModelProto())
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

    def network(self) -> list[NodeProto]:
        """The nodes between `normalised` and `logits`, in graph order."""
        return self.between(self.normalised, self.logits)

    def layers(self) -> list[NodeProto]:
        """The network's Conv and Gemm nodes with constant weights, in graph order."""
        return [n for n in self.network() if n.op_type in ("Conv", "Gemm") and n.input[1] in self.constants()]

    def up_to_logits(self) -> ModelProto:
        """The file without upsampling and argmax: frame in, logits out."""
        model = ModelProto()
        model.CopyFrom(self.model)
        nodes = self.until(self.logits)
        needed = {name for node in nodes for name in node.input}
        for field in (model.graph.node, model.graph.output, model.graph.initializer):
            del field[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(t for t in self.graph.initializer if t.name in needed)
        model.graph.output.append(helper.make_tensor_value_info(self.logits, TensorProto.FLOAT, None))
        return model

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
        fold_batch_norms(self, self.network())
        move_activations(self, self.network())
        if integers:
            self._batch_norms_to_depthwise()
            self._means_to_pools()
        self._infer_shapes()
        if integers:
            self._widen_normalisation()
        self.tidy()

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

    def _batch_norms_to_depthwise(self) -> None:
        for norm in [n for n in self.network() if n.op_type == "BatchNormalization"]:
            scale, shift = affine(self, norm)
            names = [f"{norm.name}.weight.folded", f"{norm.name}.bias.folded"]
            self.add(names[0], scale.reshape(-1, 1, 1, 1).astype(np.float32))
            self.add(names[1], shift.astype(np.float32))
            depthwise = helper.make_node(
                "Conv",
                [norm.input[0], *names],
                [norm.output[0]],
                norm.name,
                group=len(scale),
                kernel_shape=[1, 1],
            )
            norm.CopyFrom(depthwise)

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
                        self.add(f"{node.name}.wide", array.repeat(shape[3], axis=3))
                        node.input[index] = f"{node.name}.wide"


def module_of(node: NodeProto) -> str:
    """Which part of the model a layer came from, by the name of its weight in an exported file."""
    weight = node.input[1] if len(node.input) > 1 else ""
    return weight.split("network.", 1)[-1].removesuffix(".weight")
