"""A small exported file, written node by node, with what quantising has to treat: for the tests of INT8.

normalised -> a -> b, c -> Concat -> ReLU -> BN -> d -> e + d -> BN -> ReLU -> f -> classifier = logits
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from cpsl_deploy.contract import Contract
from cpsl_deploy.spec import METADATA_KEY, ModelSpec

SIZE = (32, 48)
LAYERS = ["a", "b", "c", "d", "e", "f", "classifier"]
CLASSES = 4


def frames(count: int, seed: int = 0) -> list[np.ndarray]:
    """uint8 (32, 48, 3), smooth enough that neighbours look alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 12, 3)).astype(np.uint8)
    return list(coarse.repeat(4, axis=1).repeat(4, axis=2))


def quantisable(*, outlier: float = 1.0, names: bool = True, **metadata: str) -> ModelProto:
    """The file. ``outlier`` scales one channel between f and the classifier, without changing the logits.

    ``names`` False: as older exports, without the inner values `normalised` and `logits`.
    """
    build = _Builder()
    entry, logits = ("normalised", "logits") if names else ("entry", "scores")
    build.nodes = [
        helper.make_node("Cast", ["image"], ["float"], "cast", to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], "permute", perm=[0, 3, 1, 2]),
        helper.make_node(
            "Mul", ["nchw", build.add("scale", np.full((1, 3, 1, 1), 1 / 64))], ["scaled"], "mul"
        ),
        helper.make_node(
            "Add", ["scaled", build.add("shift", np.full((1, 3, 1, 1), -2.0))], [entry], "shift"
        ),
    ]
    build.conv("a", entry, 3, 8, 3, strides=[2, 2])
    build.node("Relu", ["a"], "relu_a")
    build.conv("b", "relu_a", 8, 8, 1)
    build.conv("c", "relu_a", 8, 8, 3)
    build.node("Concat", ["b", "c"], "cat", axis=1)
    build.node("Relu", ["cat"], "relu_cat")
    build.norm("norm_1", "relu_cat", 16)
    build.conv("d", "norm_1", 16, 8, 1)
    build.conv("e", "d", 8, 8, 3)
    build.node("Add", ["e", "d"], "sum")
    build.norm("norm_2", "sum", 8)
    build.node("Relu", ["norm_2"], "relu_2")
    build.conv("f", "relu_2", 8, 8, 3)
    build.node("Relu", ["f"], "relu_f")
    build.conv("classifier", "relu_f", 8, CLASSES, 1, output=logits)
    build.tensors["f.weight"][0] *= outlier
    build.tensors["f.bias"][0] *= outlier
    build.tensors["classifier.weight"][:, 0] /= outlier
    build.add("sides", np.array([1, CLASSES, *SIZE]), np.int64)
    build.node("Resize", [logits, "", "", "sides"], "large", mode="linear")
    build.node("ArgMax", ["large"], "classes", axis=1, keepdims=0)
    build.node("Cast", ["classes"], "labels", to=onnx.TensorProto.UINT8)
    return build.model(metadata)


class _Builder:
    def __init__(self) -> None:
        self.random = np.random.default_rng(7)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, np.ndarray] = {}

    def add(self, name: str, array: np.ndarray, dtype: type = np.float32) -> str:
        self.tensors[name] = array.astype(dtype)
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: object) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], f"node_{output}", **attributes))

    def conv(
        self,
        name: str,
        value: str,
        given: int,
        out: int,
        side: int,
        *,
        output: str = "",
        **attributes: object,
    ) -> None:
        weight = self.random.normal(0, (2 / (given * side * side)) ** 0.5, (out, given, side, side))
        tensors = [
            self.add(f"{name}.weight", weight),
            self.add(f"{name}.bias", self.random.normal(0, 0.2, out)),
        ]
        pads = [side // 2] * 4
        self.nodes.append(
            helper.make_node("Conv", [value, *tensors], [output or name], name, pads=pads, **attributes)
        )

    def norm(self, name: str, value: str, channels: int) -> None:
        low_high = {"weight": (0.5, 1.5), "bias": (-0.5, 0.5), "mean": (-0.2, 0.5), "var": (0.5, 2)}
        tensors = [
            self.add(f"{name}.{key}", self.random.uniform(*ends, channels)) for key, ends in low_high.items()
        ]
        self.node("BatchNormalization", [value, *tensors], name)

    def model(self, metadata: dict[str, str]) -> ModelProto:
        def uint8(name: str, *shape: int) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, shape)

        graph = helper.make_graph(
            self.nodes,
            "quantisable",
            [uint8("image", 1, *SIZE, 3)],
            [uint8("labels", 1, *SIZE)],
            [numpy_helper.from_array(array, name) for name, array in self.tensors.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        spec = ModelSpec(
            architecture="by_hand",
            class_names=("road", "sky", "tree", "car"),
            palette=((128, 64, 128), (70, 130, 180), (107, 142, 35), (0, 0, 142)),
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            stride=2,
            size=SIZE,
        )
        entries = {METADATA_KEY: spec.to_json(), **Contract().to_metadata(), "weights_sha256": "12ab"}
        helper.set_model_props(model, entries | metadata)
        onnx.checker.check_model(model, full_check=True)
        return model
