"""Exported files keep to operators that TensorRT and OpenVINO take: every network, and planted breaches."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_networks import CLASS_NAMES, Small, small_model, spec_for
from onnx import TensorProto, helper

from cpsl_deploy.contract import OUTPUTS, Contract
from cpsl_deploy.errors import ModelFileError
from cpsl_deploy.export.graph.onnx_file import onnx_model
from cpsl_deploy.export.graph.operators import OPERATORS, check_operators
from cpsl_deploy.export.precision import int8
from cpsl_deploy.export.precision.int8 import Quantiser
from cpsl_deploy.train.models import ARCHITECTURES, build, deeplabv2
from cpsl_deploy.train.models.base import SegmenterOutput

SIZE = (64, 96)


@functools.cache
def network(name: str) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(name, len(CLASS_NAMES)).eval()


@functools.cache
def model(name: str, *, size: tuple[int, int] | None, precision: str) -> onnx.ModelProto:
    contract = Contract(outputs=OUTPUTS, precision=precision)
    fixed = size is not None
    made = network(name)
    return onnx_model(made, spec_for(made), contract=contract, size=size, batch=1 if fixed else None)


KINDS = [
    ("squeezenet_fpn", SIZE, "fp32"),
    ("squeezenet_fpn", None, "fp16"),
    ("ddrnet23_slim", SIZE, "fp32"),
    ("ddrnet23_slim", None, "fp16"),
    ("deeplabv2_resnet101", None, "fp16"),
    ("deeplabv2_resnet101_bn_clr", SIZE, "fp32"),
]


def test_every_registered_network_is_among_the_kinds() -> None:
    assert {name for name, _, _ in KINDS} == ARCHITECTURES.keys()


@pytest.mark.parametrize(("name", "size", "precision"), KINDS)
def test_every_registered_network(
    name: str, size: tuple[int, int] | None, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepLab with one block of each kind: the others only repeat their operators."""
    monkeypatch.setattr(deeplabv2, "_BLOCKS", (1, 1, 1, 2))
    proto = model(name, size=size, precision=precision)
    assert check_operators(proto) == []
    used = {node.op_type for node in proto.graph.node}
    assert used <= OPERATORS.keys() and not used & {"GatherND", "Gather", "Loop", "If", "ScatterND"}
    assert ("Shape" in used) == (size is None)
    # In the small network each batch norm moves into a convolution; in DDRNet's pyramid a ReLU is between.
    assert ("BatchNormalization" in used) == (name in ("ddrnet23_slim", "deeplabv2_resnet101_bn_clr"))
    assert proto.graph.node[0].op_type == "Cast"
    assert [n.op_type for n in proto.graph.node if "image" in n.input] == ["Cast"]
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 18)]
    # Every weight is there once, in the precision asked for.
    parameters = sum(p.numel() for p in network(name).parameters())
    size_of_one = 2 if precision == "fp16" else 4
    stored = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    assert 0.95 < stored / (size_of_one * parameters) < 1.02


@pytest.mark.parametrize("scheme", ["cpu", "tensorrt"])
@pytest.mark.parametrize("name", ["squeezenet_fpn", "ddrnet23_slim"])
def test_int8_of_both_schemes(name: str, scheme: str) -> None:
    """With all layers in integers, and with every second one kept in float."""
    frames = list(np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8))
    quantiser = Quantiser(model(name, size=SIZE, precision="fp32"), frames, scheme=scheme, method="minmax")
    for keep in ((), quantiser.layers[::2]):
        proto = quantiser.model(keep)
        assert check_operators(proto) == []
        assert "QuantizeLinear" in {node.op_type for node in proto.graph.node} <= OPERATORS.keys()


def test_int8_of_other_operators_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = list(np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8))
    quantiser = Quantiser(model("squeezenet_fpn", size=SIZE, precision="fp32"), frames)
    insert = int8.insert

    def planted(*arguments: Any, **options: Any) -> onnx.ModelProto:
        made = insert(*arguments, **options)
        pool = next(n for n in made.graph.node if n.op_type == "MaxPool")
        made.graph.node.append(helper.make_node("NonZero", [pool.output[0]], ["where"], "planted"))
        return made

    monkeypatch.setattr(int8, "insert", planted)
    with pytest.raises(ModelFileError, match=r"NonZero 'planted' is not in the list .* Keep it in fp32"):
        quantiser.model()


@pytest.mark.parametrize("name", ["squeezenet_fpn", "ddrnet23_slim"])
def test_half_precision_agrees(name: str) -> None:
    """In onnxruntime on a CPU; the half-precision file takes any size and batch."""
    frames = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    answers = []
    for size, precision in ((SIZE, "fp32"), (None, "fp16")):
        content = model(name, size=size, precision=precision).SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        answers.append(session.run(["labels", "logits"], {"image": frames}))
    (labels, logits), (half_labels, half_logits) = answers
    assert half_logits.dtype == np.float32
    assert (labels == half_labels).mean() >= 0.99 and len(np.unique(labels)) > 1
    assert 0 < np.abs(logits - half_logits).max() < 0.05 * np.abs(logits).max()


def test_only_the_network_is_half() -> None:
    proto = onnx_model(small_model(), spec_for(small_model()), contract=Contract(precision="fp16"), size=SIZE)
    types = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        got = {
            types[name] for name in node.input if types.get(name) in (TensorProto.FLOAT, TensorProto.FLOAT16)
        }
        if node.op_type in ("Conv", "Relu", "AveragePool"):
            assert got == {TensorProto.FLOAT16}
        if node.op_type in ("MatMul", "ArgMax") or "normalised" in node.output:
            assert got == {TensorProto.FLOAT}


def test_openvino_takes_them() -> None:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    for size, precision in ((SIZE, "fp32"), (None, "fp16")):
        proto = model("squeezenet_fpn", size=size, precision=precision)
        compiled = core.compile_model(
            core.read_model(proto.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        labels, confidence, logits = compiled(np.zeros((1, *SIZE, 3), np.uint8)).values()
        assert labels.shape == confidence.shape == (1, *SIZE) and logits.dtype == np.float32


def tiny(nodes: list[onnx.NodeProto], *, result: int = TensorProto.FLOAT, opset: int = 18) -> onnx.ModelProto:
    """uint8 ``image`` (1, 4, 4, 3) -> ``out``, with constants ``axes`` = [1] and ``sizes``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 4, 4, 3])],
        [helper.make_tensor_value_info("out", result, None)],
        [
            helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
            helper.make_tensor("sizes", TensorProto.INT64, [4], [1, 8, 8, 3]),
            helper.make_tensor("one", TensorProto.INT64, [], [1]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


CAST = helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (
            [helper.make_node("Transpose", ["image"], ["y"]), helper.make_node("Cast", ["y"], ["out"], to=1)],
            "UINT8",
        ),
        ([CAST, helper.make_node("GatherND", ["x", "axes"], ["out"])], "GatherND '' is not in the list"),
        ([CAST, helper.make_node("Relu", ["x"], ["out"], domain="com.microsoft")], "com.microsoft::Relu"),
        ([CAST, helper.make_node("Squeeze", ["x"], ["out"])], "axes must be given"),
        (
            [CAST, helper.make_node("Resize", ["x", "", "", "sizes"], ["out"], mode="cubic")],
            "mode cubic with half_pixel",
        ),
        (
            [CAST, helper.make_node("Resize", ["x", "", "", "sizes"], ["out"], mode="linear", antialias=1)],
            "antialiasing",
        ),
        (
            [CAST, helper.make_node("MaxPool", ["x"], ["out", "at"], kernel_shape=[1, 1])],
            "only the first output",
        ),
        (
            [CAST, helper.make_node("MaxPool", ["x"], ["out"], kernel_shape=[2, 2], dilations=[2, 2])],
            "pools are not dilated",
        ),
        (
            [
                CAST,
                helper.make_node("ArgMax", ["x"], ["i"], axis=3),
                helper.make_node("Mul", ["i", "one"], ["j"]),
                helper.make_node("Cast", ["j"], ["out"], to=1),
            ],
            "whole numbers computed from pixels",
        ),
        (
            [CAST, helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Cast", ["s"], ["out"], to=1)],
            "constant",
        ),
        (
            [
                CAST,
                helper.make_node("Cast", ["x"], ["d"], to=11),
                helper.make_node("Cast", ["d"], ["out"], to=1),
            ],
            "DOUBLE",
        ),
    ],
)
def test_breaches_are_named(nodes: list[onnx.NodeProto], message: str) -> None:
    assert message in "\n".join(check_operators(tiny(nodes)))


def test_another_opset_is_a_breach() -> None:
    nodes = [CAST, helper.make_node("Relu", ["x"], ["out"])]
    assert check_operators(tiny(nodes)) == []
    assert "opset 17" in check_operators(tiny(nodes, opset=17))[0]


def test_a_network_with_an_operator_of_its_own_is_refused() -> None:
    class Sorting(Small):
        def forward(self, image: torch.Tensor) -> SegmenterOutput:
            features, logits = super().forward(image)
            return SegmenterOutput(features, logits.cumsum(1))

    with pytest.raises(ModelFileError, match=r"of Sorting does not: CumSum .+ is not in the list"):
        onnx_model(Sorting().eval(), spec_for(Sorting()), size=SIZE)
