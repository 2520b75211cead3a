"""Floating-point operations of a node, by its operator, from the shapes of what it takes and gives.

A multiplication and an addition are two operations. Attributes are not known here, so three rules are of
thumb; they concern layers with a thousandth of a network's work:

- pooling: one per input element, as windows without overlap have it (MaxPool, AveragePool, Reduce*, Global*);
- Resize: seven per output element, four products and three sums of bilinear interpolation;
- Softmax: five per element (largest, difference, exponential, sum, quotient).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .node_profile import NodeRun, Tensor

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
NORMALISATION = frozenset({"BatchNormalization", "InstanceNormalization", "LayerNormalization"})
ELEMENTWISE = frozenset({
    "Abs", "Add", "And", "Ceil", "Clip", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu",
    "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "LeakyRelu", "Less", "LessOrEqual", "Log",
    "Max", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu",
    "Round", "Sigmoid", "Sign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "Where", "Xor",
})  # fmt: skip
"""One operation per output element, an exponential like an addition, as is usual."""
MOVES = frozenset({
    "Cast", "CastLike", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "DequantizeLinear",
    "Dropout", "Expand", "Flatten", "Gather", "GatherND", "Identity", "Pad", "QuantizeLinear", "Range",
    "Reshape", "Shape", "Size", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose",
    "Unsqueeze",
})  # fmt: skip
"""No arithmetic: other shapes, places and data types of the same values. Quantising belongs to the layer that
computes in integers."""
_REDUCTIONS = frozenset({
    "ArgMax", "ArgMin", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum",
})  # fmt: skip


def flops(node: NodeRun) -> int:
    """Operations of one run of a node of an ONNX graph; one per output element of an unknown operator."""
    if node.operator in MOVES or not node.outputs or not node.inputs:
        return 0
    outputs = node.outputs[0].elements
    first = node.inputs[0].elements
    if node.operator in WEIGHTED:
        return _weighted(node.operator, node.inputs, node.outputs[0])
    if node.operator in _REDUCTIONS:
        return first
    if node.operator == "Resize":
        return 7 * outputs
    if node.operator in ("Softmax", "LogSoftmax"):
        return 5 * outputs
    if node.operator in NORMALISATION:
        return 2 * outputs  # at inference: a scale and a shift
    return outputs


def _weighted(operator: str, inputs: Sequence[Tensor], output: Tensor) -> int:
    weights = inputs[1]
    bias = output.elements if len(inputs) > 2 else 0
    if operator == "Conv":
        # weights (Cout, Cin / groups, kernel...): each output is that many products, and as many sums.
        return 2 * output.elements * math.prod(weights.shape[1:]) + bias
    if operator == "ConvTranspose":
        # weights (Cin, Cout / groups, kernel...): each input is spread to that many outputs.
        return 2 * inputs[0].elements * math.prod(weights.shape[1:]) + bias
    if operator == "Gemm":
        # Either matrix may be transposed; (M, K) by (K, N) has M K and K N elements, the output M N.
        inner = math.isqrt(inputs[0].elements * weights.elements // output.elements)
        return 2 * output.elements * inner + bias
    return 2 * output.elements * inputs[0].shape[-1]
