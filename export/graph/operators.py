"""Which ONNX operators an exported file may use, so that compilers for the edge take it as it is.

The list holds what TensorRT 10 and 11 and OpenVINO all take, with the data types and under the restrictions
that these state:

- TensorRT 10: ``docs/operators.md`` of onnx/onnx-tensorrt, release 10.15 (opset 9 to 24);
- TensorRT 11: the "ONNX Opset Guide" of its documentation (opset 9 to 25; operators as in operators.md) and
  the notes of its releases, which only add to the parser: 11.0 Swish, 11.5 Squeeze without axes;
- OpenVINO: ``src/frontends/onnx/docs/supported_ops.md`` of openvinotoolkit/openvino, where each of these is
  listed for opset 18 or below without limitation.

What they say beyond names, and is checked here: TensorRT knows uint8 only as what enters and leaves a
network, so that nothing but a Cast touches it; ArgMax gives int64, which may only be cast to float; Resize
is nearest or linear, without antialiasing; pools have no dilation; Squeeze, Unsqueeze and reductions have
constant axes. Not checked: that a linear Resize changes none but the last three axes ("Resize" in TensorRT's
operator reference), and that a quantised value's zero point is 0, as TensorRT wants it and files for CPUs do
not have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
from onnx import NodeProto, TensorProto

OPSET = 18
"""What torch's exporter writes whatever is asked for below it, and all of the above read."""

_FLOAT = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})
_INDEX = frozenset({TensorProto.INT32, TensorProto.INT64})
_QUANTISED = frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32})

OPERATORS: dict[str, frozenset[int]] = {
    # What networks are made of, and what moves values about.
    **dict.fromkeys(
        (
            *("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "InstanceNormalization"),
            *("AveragePool", "GlobalAveragePool", "MaxPool", "Resize"),
            *("Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Sigmoid", "Tanh"),
            *("Add", "Sub", "Mul", "Div", "Max", "Min", "Neg", "Pow", "Reciprocal", "Round", "Sqrt"),
            *("Erf", "Exp", "Softmax", "Softplus", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"),
            *("Concat", "Constant", "Expand", "Flatten", "Identity", "Pad", "Reshape", "Slice", "Split"),
            *("Squeeze", "Transpose", "Unsqueeze"),
        ),
        _FLOAT,
    ),
    "Gather": _FLOAT,
    "Shape": _FLOAT,
    "ArgMax": _FLOAT | {TensorProto.INT64},
    "Cast": _FLOAT | {TensorProto.INT64, TensorProto.UINT8},
    # TensorRT: INT8 with a zero point of 0; uint8 activations are for CPUs and OpenVINO.
    "QuantizeLinear": _FLOAT | _QUANTISED,
    "DequantizeLinear": _FLOAT | _QUANTISED,
}
"""Operator -> element types (``onnx.TensorProto``) of the pixels, features and weights it takes and gives.
Sizes, axes and the like, which are made of shapes and constants, may besides be INT64 everywhere."""

_WITH_AXES = ("Squeeze", "Unsqueeze", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")
_RESIZE_COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")


def check_operators(proto: onnx.ModelProto) -> list[str]:
    """What in ``proto`` TensorRT or OpenVINO might refuse, a sentence each, with the node's name.

    Empty for a file that both take. Whole numbers may be computed from shapes alone, which only files with
    a free side or batch need: ``Shape`` and what is made of its outputs and of constants.
    """
    found = [
        f"opset {entry.version} of {entry.domain or 'ONNX'}: exported files use opset {OPSET} of ONNX alone"
        for entry in proto.opset_import
        if entry.domain not in ("", "ai.onnx") or entry.version != OPSET
    ]
    for node in proto.graph.node:
        if node.op_type not in OPERATORS or node.domain:
            name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            found.append(
                f"{name} {node.name!r} is not in the list of operators that TensorRT and OpenVINO take; "
                "write it with others"
            )
    if found:  # what is unknown has no types to check
        return found
    graph = _Graph(proto)
    return [
        f"{node.op_type} {node.name!r}: {text}"
        for node in proto.graph.node
        for rule in _RULES
        for text in rule(node, graph)
    ]


class _Graph:
    """What the rules ask about values: types, constants, shape values, who reads them."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        graph = onnx.shape_inference.infer_shapes(proto).graph
        self.types = {
            value.name: value.type.tensor_type.elem_type
            for value in (*graph.input, *graph.output, *graph.value_info)
        }
        self.types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        self.ports = {value.name for value in (*graph.input, *graph.output)}
        self.free = any(dim.dim_param for value in graph.input for dim in value.type.tensor_type.shape.dim)
        self.constants = {tensor.name for tensor in graph.initializer}
        self.constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
        self.readers: dict[str, list[NodeProto]] = {}
        self.shapes = set(self.constants)
        """Values made of shapes and constants alone."""
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            if node.op_type == "Shape" or all(name in self.shapes for name in node.input if name):
                self.shapes.update(node.output)


def _value_types(node: NodeProto, graph: _Graph) -> Iterator[str]:
    allowed = OPERATORS[node.op_type]
    for name in (*node.input, *node.output):
        got = graph.types.get(name, 0)
        if got and got not in allowed and not (got in _INDEX and name in graph.shapes):
            yield f"value {name!r} is {TensorProto.DataType.Name(got)}, which TensorRT does not take here"


def _bytes_inside(node: NodeProto, graph: _Graph) -> Iterator[str]:
    for name in node.output:
        inside = graph.types.get(name) == TensorProto.UINT8 and name not in graph.ports
        if inside and node.op_type != "QuantizeLinear":
            yield f"uint8 value {name!r} inside; TensorRT knows uint8 only at a network's ends: cast to float"


def _integer_arithmetic(node: NodeProto, graph: _Graph) -> Iterator[str]:
    for name in node.output:
        if graph.types.get(name) not in _INDEX or name in graph.shapes:
            continue
        to_float = all(reader.op_type == "Cast" for reader in graph.readers.get(name, []))
        if node.op_type != "ArgMax" or not to_float or name in graph.ports:
            yield f"whole numbers computed from pixels in {name!r}; compute in float, and cast ArgMax at once"


def _shapes_in_fixed_files(node: NodeProto, graph: _Graph) -> Iterator[str]:
    if node.op_type == "Shape" and not graph.free:
        yield "a shape is asked for in a file whose sizes are all fixed; make it a constant"


def _axes(node: NodeProto, graph: _Graph) -> Iterator[str]:
    if node.op_type in _WITH_AXES and (len(node.input) < 2 or node.input[1] not in graph.constants):
        yield "axes must be given, as a constant"


def _resize(node: NodeProto, graph: _Graph) -> Iterator[str]:
    if node.op_type != "Resize":
        return
    values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    mode = values.get("mode", b"nearest").decode()
    coordinates = values.get("coordinate_transformation_mode", b"half_pixel").decode()
    if mode not in ("nearest", "linear") or coordinates not in _RESIZE_COORDINATES:
        yield f"mode {mode} with {coordinates} coordinates; use linear with half pixels or aligned corners"
    if values.get("antialias") or values.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        yield "antialiasing and aspect ratio policies are not taken; resize plainly"


def _pools(node: NodeProto, graph: _Graph) -> Iterator[str]:
    if node.op_type not in ("AveragePool", "MaxPool"):
        return
    dilations = next((list(a.ints) for a in node.attribute if a.name == "dilations"), [1])
    if set(dilations) != {1}:
        yield f"dilations {dilations}; pools are not dilated"


def _one_output(node: NodeProto, graph: _Graph) -> Iterator[str]:
    if node.op_type in ("MaxPool", "BatchNormalization") and len(node.output) > 1:
        yield "only the first output is taken; export the model in eval mode"


_RULES: tuple[Callable[[NodeProto, _Graph], Iterator[str]], ...] = (
    _value_types,
    _bytes_inside,
    _integer_arithmetic,
    _shapes_in_fixed_files,
    _axes,
    _resize,
    _pools,
    _one_output,
)
