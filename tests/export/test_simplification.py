"""Cheaper graphs: what moves, what must not, and that logits stay as they were."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_networks import CLASS_NAMES, spec_for
from onnx import ModelProto, TensorProto, helper, numpy_helper

from cpsl_deploy.export.graph import onnx_file, simplification
from cpsl_deploy.export.graph.editing import GraphEditor
from cpsl_deploy.export.graph.simplification import simplify
from cpsl_deploy.export.precision.float_graph import module_of
from cpsl_deploy.train.models import build

HEIGHT, WIDTH = 20, 28


class Builder:
    """A file node by node: ``normalised`` (1, 3, H, W) comes first, ``logits`` last."""

    def __init__(self, dtype: type = np.float32) -> None:
        self.random = np.random.default_rng(3)
        self.dtype = np.dtype(dtype)
        self.tensors: dict[str, np.ndarray] = {}
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        self.nodes = [
            helper.make_node("Cast", ["image"], ["float"], "cast", to=kind),
            helper.make_node("Transpose", ["float"], ["nchw"], "permute", perm=[0, 3, 1, 2]),
            helper.make_node("Mul", ["nchw", self.constant("scale", np.full(1, 1 / 64))], ["scaled"], "mul"),
            helper.make_node(
                "Add", ["scaled", self.constant("shift", np.full(1, -2))], ["normalised"], "add"
            ),
        ]

    def constant(self, name: str, values: np.ndarray) -> str:
        self.tensors[name] = np.asarray(values, self.dtype)
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], f"node_{output}", **attributes))
        return output

    def conv(
        self,
        value: str,
        output: str,
        given: int,
        out: int,
        side: int = 1,
        *,
        bias: bool = True,
        **attributes: Any,
    ) -> str:
        weight = self.random.normal(0, (2 / (given * side * side)) ** 0.5, (out, given, side, side))
        names = [self.constant(f"network.{output}.weight", weight)]
        if bias:
            names.append(self.constant(f"network.{output}.bias", self.random.normal(0, 0.5, out)))
        return self.node("Conv", [value, *names], output, **attributes)

    def norm(self, value: str, output: str, channels: int, *, lowest: float = 0.3) -> str:
        scale = self.random.uniform(0.3, 2, channels)
        scale[0] = lowest
        drawn = [scale, *(self.random.uniform(*ends, channels) for ends in ((-1, 1), (-1, 1), (0.2, 3)))]
        names = [self.constant(f"{output}.{i}", values) for i, values in enumerate(drawn)]
        return self.node("BatchNormalization", [value, *names], output)

    def pool(self, value: str, output: str) -> str:
        return self.node("MaxPool", [value], output, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])

    def model(self, size: tuple[Any, Any] = (HEIGHT, WIDTH)) -> ModelProto:
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        graph = helper.make_graph(
            self.nodes,
            "by_hand",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, *size, 3])],
            [helper.make_tensor_value_info("logits", kind, [None] * 4)],
            [numpy_helper.from_array(array, name) for name, array in self.tensors.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


def counts(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def logits(model: ModelProto, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """As the file computes them node by node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    image = np.random.default_rng(5).integers(0, 256, (1, *size, 3), np.uint8)
    return session.run(["logits"], {"image": image})[0]


def assert_same(simpler: ModelProto, model: ModelProto) -> None:
    onnx.checker.check_model(simpler, full_check=True)
    want, have = logits(model), logits(simpler)
    np.testing.assert_allclose(have, want, rtol=0, atol=2e-6 * np.abs(want).max())


def norm_with_readers(lowest: float, *, pooled: bool) -> ModelProto:
    """A batch norm that a strided 1x1, an unpadded 3x3 without bias, and maybe a pool before a 1x1 read."""
    b = Builder()
    relu = b.node("Relu", [b.conv("normalised", "first", 3, 6, 3, pads=[1] * 4)], "relu")
    norm = b.norm(relu, "norm", 6, lowest=lowest)
    b.conv(norm, "strided", 6, 4, strides=[2, 2])
    b.conv(norm, "wide", 6, 4, 3, bias=False)
    means = [b.node("ReduceMean", [value], f"mean_{value}") for value in ("strided", "wide")]
    if pooled:
        b.conv(b.pool(b.pool(norm, "pool"), "again"), "deep", 6, 4)
        means.append(b.node("ReduceMean", ["deep"], "mean_deep"))
    scene = b.node("Sum", means, "scene")
    b.node("Add", ["strided", scene], "logits")
    return b.model()


@pytest.mark.parametrize(
    ("lowest", "pooled", "folds"),
    [(0.3, False, True), (0.3, True, True), (-0.8, False, True), (-0.8, True, False), (0.0, True, False)],
)
def test_a_batch_norm_moves_into_all_its_readers_or_stays(lowest: float, pooled: bool, folds: bool) -> None:
    model = norm_with_readers(lowest, pooled=pooled)
    before = model.SerializeToString()
    simpler = simplify(model)
    assert model.SerializeToString() == before, "the given one stays as it was"
    assert (simpler is not model) == folds
    assert counts(simpler)["BatchNormalization"] == (0 if folds else 1)
    assert_same(simpler, model)
    weights = {node.input[1] for node in simpler.graph.node if node.op_type == "Conv"}
    assert weights >= {"network.strided.weight", "network.wide.weight"}, "names tell the layers"
    assert not {t.name for t in simpler.graph.initializer} & {f"norm.{i}" for i in range(4) if folds}


@pytest.mark.parametrize("reader", ["padded", "automatic", "depthwise", "sum", "relu", "last"])
def test_a_batch_norm_stays_before_what_cannot_take_it_up(reader: str) -> None:
    b = Builder()
    relu = b.node("Relu", [b.conv("normalised", "first", 3, 6, 3, pads=[1] * 4)], "relu")
    norm = b.norm(relu, "logits" if reader == "last" else "norm", 6)
    plain = "" if reader == "last" else b.conv(norm, "plain", 6, 6)
    if reader == "padded":
        other = b.conv(norm, "other", 6, 6, 3, pads=[1] * 4)
    elif reader == "automatic":
        other = b.conv(norm, "other", 6, 6, 3, auto_pad="SAME_UPPER")
    elif reader == "depthwise":
        other = b.node(
            "Conv", [norm, b.constant("network.d.weight", np.ones((6, 1, 1, 1)))], "other", group=6
        )
    else:
        other = b.node("Relu", [norm], "other") if reader == "relu" else norm
    if plain:
        b.node("Add", [plain, other], "logits")
    model = b.model()
    assert simplify(model) is model


def test_weights_that_another_layer_shares_stay_its_own() -> None:
    b = Builder()
    first = b.conv("normalised", "first", 3, 6)
    norm = b.norm(b.node("Relu", [first], "relu"), "norm", 6)
    folded = b.conv(norm, "folded", 6, 6)
    shared = ["network.folded.weight", "network.folded.bias"]
    again = b.node("Conv", [b.node("Relu", [folded], "relu_1"), *shared], "again")
    b.node("Relu", [again], "logits")
    model = b.model()
    simpler = simplify(model)
    assert counts(simpler)["BatchNormalization"] == 0
    assert_same(simpler, model)


@pytest.mark.parametrize(
    ("inner", "outer", "merges"),
    [
        (dict(out=6, side=3, pads=[1] * 4, strides=[2, 2]), {}, True),
        (dict(out=6, bias=False), dict(bias=False), True),
        (dict(out=1), {}, False),
        (dict(out=6, side=3), dict(strides=[2, 2]), False),
        (dict(out=6, side=3), dict(side=3), False),
        (dict(out=6, side=3), dict(pads=[1] * 4), False),
    ],
)
def test_convolutions_without_anything_between_them_become_one(
    inner: dict[str, Any], outer: dict[str, Any], merges: bool
) -> None:
    """Where that is less work: not through one channel, and not where the second one skips or sees more."""
    b = Builder()
    relu = b.node("Relu", [b.conv("normalised", "first", 3, 8, 3)], "relu")
    b.conv(b.conv(relu, "inner", 8, **inner), "logits", inner["out"], 4, **outer)
    model = b.model()
    simpler = simplify(model)
    assert counts(simpler)["Conv"] == (2 if merges else 3)
    assert_same(simpler, model)


def test_a_feature_that_something_else_reads_is_not_merged_away() -> None:
    b = Builder()
    inner = b.conv("normalised", "inner", 3, 6)
    b.node("Add", [b.conv(inner, "outer", 6, 6), inner], "logits")
    model = b.model()
    assert simplify(model) is model


def fire(*, squeeze: int = 3, side: int = 1, dtype: type = np.float32, alone: bool = True) -> Builder:
    """Joined and activated channels that a convolution and a pool before one read."""
    b = Builder(dtype)
    b.conv("normalised", "left", 3, 6)
    b.conv("normalised", "right", 3, 4, 3, pads=[1] * 4)
    cat = b.node("Relu", [b.node("Concat", ["left", "right"], "cat", axis=1)], "relu")
    norm = b.norm(cat, "norm", 10)
    skip = b.conv(norm, "skip", 10, squeeze, side)
    deep = b.conv(b.pool(norm, "pool"), "deep", 10, squeeze)
    b.node("Add", [skip, b.node("ReduceMean", [deep if alone else "left"], "mean")], "logits")
    return b


@pytest.mark.parametrize("free", [False, True])
def test_joined_channels_are_taken_apart(free: bool) -> None:
    model = fire().model()
    simpler = simplify(model, free_concats=free)
    found = counts(simpler)
    assert found["BatchNormalization"] == 0 and found["Relu"] == 2
    assert (found["Concat"], found["MaxPool"], found["Conv"]) == ((1, 1, 4) if free else (0, 2, 6))
    makers = {node.output[0]: node.op_type for node in simpler.graph.node}
    assert all(makers[n.input[0]] == "Conv" for n in simpler.graph.node if n.op_type == "Relu")
    assert_same(simpler, model)


def test_channels_stay_joined_where_sums_would_move_more() -> None:
    model = fire(squeeze=8).model()
    simpler = simplify(model)
    assert counts(simpler)["Concat"] == 1
    assert_same(simpler, model)


@pytest.mark.parametrize("lowest", [0.5, -0.5])
def test_three_parts_and_another_axis(lowest: float) -> None:
    b = Builder()
    parts = [b.conv("normalised", f"part_{i}", 3, 4 + i) for i in range(3)]
    cat = b.norm(b.node("Relu", [b.node("Concat", parts, "cat", axis=1)], "relu"), "norm", 15, lowest=lowest)
    squeezed = b.node("Relu", [b.conv(cat, "squeezed", 15, 2)], "relu_1")
    rows = b.node("Concat", [squeezed, squeezed], "rows", axis=2)
    b.conv(rows, "logits", 2, 1)
    model = b.model()
    simpler = simplify(model)
    assert counts(simpler)["Concat"] == 1 and counts(simpler)["Add"] == counts(model)["Add"] + 2
    assert_same(simpler, model)


def test_half_precision_stays_half() -> None:
    model = fire(dtype=np.float16).model()
    simpler = simplify(model)
    assert counts(simpler)["Concat"] == 0
    assert {tensor.data_type for tensor in simpler.graph.initializer} == {TensorProto.FLOAT16}
    want, have = (logits(one).astype(np.float32) for one in (model, simpler))
    np.testing.assert_allclose(have, want, rtol=0, atol=1e-2 * np.abs(want).max())


def test_free_sizes() -> None:
    model = fire().model(("height", "width"))
    simpler = simplify(model)
    assert counts(simpler)["Concat"] == 0
    for size in ((16, 24), (33, 17)):
        np.testing.assert_allclose(logits(simpler, size), logits(model, size), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrong", [1.01, float("nan")])
def test_a_graph_that_would_answer_differently_is_left_out(
    wrong: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def folding(graph: Any, nodes: Any) -> int:
        weight = next(t for t in graph.graph.initializer if t.name == "network.skip.weight")
        weight.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(wrong), weight.name)
        )
        return 1

    monkeypatch.setattr(simplification, "fold_batch_norms", folding)
    model = fire().model()
    assert simplify(model) is model
    assert "as it was traced" in caplog.text


@pytest.mark.parametrize("name", ["squeezenet_fpn", "ddrnet23_slim"])
def test_registered_networks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their labels stay, and each layer can be told by the name of its weight."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build(name, len(CLASS_NAMES)).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for values, ends in (
                    (module.weight, (0.5, 1.5)),
                    (module.bias, (-0.5, 0.5)),
                    (module.running_mean, (-0.5, 0.5)),
                    (module.running_var, (0.5, 2)),
                ):
                    assert values is not None
                    torch.nn.init.uniform_(values, *ends)
    traced = []
    monkeypatch.setattr(onnx_file, "simplify", lambda m, **how: traced.append(m) or simplify(m, **how))
    simpler = onnx_file.onnx_model(network, spec_for(network), size=(64, 128))
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 128, 3), np.uint8)
    labels = []
    for model in (traced[0], simpler):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        labels.append(session.run(["labels"], {"image": image})[0])
    assert (labels[0] == labels[1]).mean() > 0.999 and len(np.unique(labels[0])) > 1
    modules = {name for name, _ in network.named_modules()}
    layers = {module_of(node) for node in simpler.graph.node if node.op_type == "Conv"}
    assert all(layer in modules or layer.rsplit(".", 1)[0] in modules for layer in layers)
    if name == "squeezenet_fpn":
        # Two layers read the channels that the skip takes: it pays to join them.
        network_nodes = GraphEditor(simpler).between("normalised", "logits")
        assert [n.op_type for n in network_nodes if n.op_type in ("BatchNormalization", "Concat")] == [
            "Concat"
        ]
        assert counts(simpler)["MaxPool"] == 4 and "decoder.fuse.3" not in layers
    else:
        assert simpler is traced[0]
