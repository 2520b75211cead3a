"""Operations, bytes and parameters of a graph: numbers worked out by hand, and torch's own counter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_onnx import tiny_metadata, write_tiny_onnx

from cpsl_deploy.bench.graph_cost import GraphCost, LayerCost, graph_cost
from cpsl_deploy.bench.node_profile import NodeRun, Tensor, node_runs
from cpsl_deploy.bench.operator_flops import flops
from cpsl_deploy.errors import ModelFileError


def node(operator: str, inputs: list[tuple[int, ...]], output: tuple[int, ...]) -> NodeRun:
    return NodeRun(
        name=operator.lower(),
        operator=operator,
        inputs=tuple(Tensor(dtype="float", shape=shape) for shape in inputs),
        outputs=(Tensor(dtype="float", shape=output),),
        initialiser_bytes=0,
        provider="CPUExecutionProvider",
        ms=0.0,
    )


@pytest.mark.parametrize(
    ("operator", "inputs", "output", "expected"),
    [
        ("Conv", [(1, 6, 8, 10), (4, 6, 3, 3), (4,)], (1, 4, 8, 10), 4 * 80 * (2 * 6 * 9 + 1)),
        ("Conv", [(1, 6, 8, 10), (6, 1, 3, 5)], (1, 6, 4, 5), 2 * 6 * 20 * 15),
        ("ConvTranspose", [(1, 6, 4, 5), (6, 3, 2, 2), (3,)], (1, 3, 8, 10), 2 * 6 * 20 * 12 + 240),
        ("MatMul", [(40, 11), (1, 11, 480)], (1, 40, 480), 2 * 40 * 11 * 480),
        ("Gemm", [(2, 7), (5, 7), (5,)], (2, 5), 2 * 2 * 7 * 5 + 10),
        ("Gemm", [(7, 2), (7, 5)], (2, 5), 2 * 2 * 7 * 5),
        ("MaxPool", [(1, 3, 8, 8)], (1, 3, 4, 4), 192),
        ("ArgMax", [(1, 3, 8, 8)], (1, 8, 8), 192),
        ("Relu", [(1, 3, 8, 8)], (1, 3, 8, 8), 192),
        ("Add", [(1, 3, 8, 8), (1, 3, 1, 1)], (1, 3, 8, 8), 192),
        ("BatchNormalization", [(1, 3, 8, 8), (3,), (3,), (3,), (3,)], (1, 3, 8, 8), 384),
        ("Resize", [(1, 3, 4, 4), (4,)], (1, 3, 8, 8), 7 * 192),
        ("Softmax", [(1, 3, 8, 8)], (1, 3, 8, 8), 5 * 192),
        ("Concat", [(1, 3, 8, 8), (1, 3, 8, 8)], (1, 6, 8, 8), 0),
        ("SomethingNew", [(1, 3, 8, 8)], (1, 2, 2), 4),
    ],
)
def test_operations_by_hand(
    operator: str, inputs: list[tuple[int, ...]], output: tuple[int, ...], expected: int
) -> None:
    assert flops(node(operator, inputs, output)) == expected


def layer(cost: GraphCost, operator: str) -> LayerCost:
    (found,) = [one for one in cost.layers if one.operator == operator]
    return found


@pytest.mark.parametrize("size", [(96, 160), (48, 80)])
def test_a_file_by_hand(tmp_path: Path, size: tuple[int, int]) -> None:
    """1x1 convolution of 3 channels to 4, with a bias, and the largest of the 4."""
    cost = graph_cost(write_tiny_onnx(tmp_path / "m.onnx"), size)
    pixels = math.prod(size)
    assert cost.frame_size == size and cost.frame_bytes == 3 * pixels + pixels
    conv, argmax = layer(cost, "Conv"), layer(cost, "ArgMax")
    assert conv.flops == 4 * pixels * (2 * 3 + 1) and argmax.flops == 4 * pixels
    assert conv.bytes == 4 * (3 + 4) * pixels + 4 * 16  # float32 in and out, 12 weights and 4 biases
    assert argmax.bytes == 4 * 4 * pixels + 8 * pixels  # float32 in, int64 out
    assert (conv.parameters, conv.parameter_bytes, conv.output_shape) == (16, 64, (1, 4, *size))
    assert cost.parameters == 16 and cost.parameter_bytes == 64 and cost.precisions() == ("f32",)
    assert cost.bytes == conv.bytes + argmax.bytes  # what only converts and moves has none of its own


def test_a_fixed_size_is_the_files_own(tmp_path: Path) -> None:
    path = write_tiny_onnx(tmp_path / "m.onnx", size=(32, 48), static=True)
    assert graph_cost(path, (500, 500)).frame_size == (32, 48)


def test_costs_are_those_of_one_frame(tmp_path: Path) -> None:
    one = graph_cost(write_tiny_onnx(tmp_path / "1.onnx"), (48, 80))
    two = graph_cost(write_tiny_onnx(tmp_path / "2.onnx", batch=2), (48, 80))
    assert two.flops == one.flops and two.frame_bytes == one.frame_bytes
    assert layer(two, "Conv").output_shape[0] == 2
    assert (
        layer(two, "Conv").bytes == layer(one, "Conv").bytes - 4 * 16 // 2
    )  # weights are read once for both


def test_a_replaced_file_is_counted_anew(tmp_path: Path) -> None:
    path = write_tiny_onnx(tmp_path / "m.onnx")
    full = graph_cost(path, (96, 160))
    assert graph_cost(path, (96, 160)) is full
    write_tiny_onnx(path, output_stride=2)
    assert layer(graph_cost(path, (96, 160)), "Conv").flops == layer(full, "Conv").flops // 4


def quantised(path: Path, *, kept_float: bool = False) -> Path:
    """image -> planes -> Q -> DQ -> 3x3 Conv, 3 to 8, of int8 weights -> Q -> DQ -> 1x1 Conv -> ArgMax."""
    random = np.random.default_rng(0)
    weights = random.integers(-99, 99, (8, 3, 3, 3)).astype(np.int8)
    tensors = {
        "scale": np.float32(0.5), "zero": np.uint8(0),
        "w": weights, "w_scale": np.full(8, 0.01, np.float32), "w_zero": np.zeros(8, np.int8),
        "b": np.arange(8, dtype=np.int32), "b_scale": np.full(8, 0.005, np.float32),
        "b_zero": np.zeros(8, np.int32), "last": random.random((4, 8, 1, 1)).astype(np.float32),
    }  # fmt: skip
    if kept_float:
        tensors["floats"] = weights.astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("QuantizeLinear", ["planes", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_dq"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["b_dq"], axis=0),
        helper.make_node("Conv", ["dq", "floats" if kept_float else "w_dq", "b_dq"], ["y"], pads=[1] * 4),
        helper.make_node("QuantizeLinear", ["y", "scale", "zero"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "scale", "zero"], ["ydq"]),
        helper.make_node("Conv", ["ydq", "last"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["classes"], axis=1, keepdims=0),
        helper.make_node("Cast", ["classes"], ["labels"], to=TensorProto.UINT8),
    ]
    return written(path, nodes, tensors)


def written(path: Path, nodes: list[Any], tensors: dict[str, Any]) -> Path:
    shape = [1, 16, 24, 3]
    graph = helper.make_graph(
        nodes,
        "by_hand",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, shape[:3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, tiny_metadata((16, 24)))
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_quantised_layer_moves_bytes_of_one(tmp_path: Path) -> None:
    cost = graph_cost(quantised(tmp_path / "q.onnx"), (16, 24))
    first, last = (one for one in cost.layers if one.operator == "Conv")
    pixels = 16 * 24
    assert first.flops == 8 * pixels * (2 * 27 + 1) and first.precision == "int8"
    assert first.bytes == 3 * pixels + 8 * pixels + 216 + 4 * 8  # biases are int32
    assert (first.parameters, first.parameter_bytes) == (224, 248)
    # The last one was left in float32: its weights lie in the file as they are used.
    assert last.precision == "f32" and last.bytes == 4 * (8 + 4) * pixels + 4 * 32
    assert not any("Quantize" in one.operator for one in cost.layers)
    assert cost.precisions() == ("int8", "f32")


def test_a_layer_kept_in_float_is_no_integer_layer(tmp_path: Path) -> None:
    cost = graph_cost(quantised(tmp_path / "q.onnx", kept_float=True), (16, 24))
    first = next(one for one in cost.layers if one.operator == "Conv")
    assert first.precision == "f32" and first.bytes > 4 * (3 + 8) * 16 * 24


def test_a_float16_layer_moves_bytes_of_two(tmp_path: Path) -> None:
    """onnxruntime's CPU has no float16 convolution: it casts around it, which is no work of the graph's."""
    half = np.random.default_rng(0).random((8, 3, 1, 1)).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT16),
        helper.make_node("Transpose", ["f"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "w"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("MaxPool", ["z"], ["pooled"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Cast", ["pooled"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", ["wide"], ["classes"], axis=1, keepdims=0),
        helper.make_node("Cast", ["classes"], ["labels"], to=TensorProto.UINT8),
    ]
    cost = graph_cost(written(tmp_path / "h.onnx", nodes, {"w": half}), (16, 24))
    conv = layer(cost, "Conv")
    assert conv.precision == "f16" and conv.parameter_bytes == 48
    assert layer(cost, "MaxPool").bytes == 2 * 2 * 8 * 16 * 24
    assert not any(one.operator == "Cast" for one in cost.layers)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match="cannot be run"):
        graph_cost(path, (16, 16))
    with pytest.raises(ModelFileError, match="cannot be run"):
        graph_cost(tmp_path / "absent.onnx", (16, 16))


def test_a_profile_without_shapes_is_told() -> None:
    events: list[dict[str, Any]] = [
        {"cat": "Session", "name": "model_run", "args": {}},
        {"cat": "Node", "name": "Conv_fence_before", "args": {"op_name": "Conv"}},
    ]
    assert node_runs(events) == []
    events.append({"cat": "Node", "name": "Conv_kernel_time", "dur": 5, "args": {"provider": "CPU"}})
    with pytest.raises(ModelFileError, match="writes no shapes"):
        node_runs(events)


@pytest.mark.parametrize("name", ["squeezenet_fpn"])
def test_torch_counts_the_same(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from cpsl_deploy.export.graph import onnx_file
    from cpsl_deploy.export.graph.onnx_file import export_onnx
    from cpsl_deploy.spec import ModelSpec
    from cpsl_deploy.train.models import build

    model = build(name, 4).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)  # biases of 0 are left out of a file
    spec = ModelSpec(
        architecture=name,
        class_names=("road", "sky", "tree", "car"),
        palette=((128, 64, 128), (70, 130, 180), (107, 142, 35), (0, 0, 142)),
        mean=model.mean,
        std=model.std,
        stride=model.stride,
        size=(96, 160),
    )
    exported = graph_cost(export_onnx(model, spec, tmp_path / "exported.onnx", size=(96, 160)), (96, 160))
    monkeypatch.setattr(onnx_file, "simplify", lambda proto, **_: proto)
    cost = graph_cost(export_onnx(model, spec, tmp_path / "traced.onnx", size=(96, 160)), (96, 160))
    assert exported.parameters < cost.parameters and exported.flops < cost.flops, "it is simplified"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 96, 160))
    ours = sum(one.flops for one in cost.layers if one.operator == "Conv")
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.01)
    # A convolution without biases and the normalisation after it become one convolution with biases.
    folded = sum(
        module.out_channels
        for module in model.modules()
        if isinstance(module, torch.nn.Conv2d) and module.bias is None
    )
    assert cost.parameters == sum(one.numel() for one in model.parameters()) - folded
    assert cost.parameter_bytes == 4 * cost.parameters
