"""ONNX files of a two-layer network written node by node, with any mistake of an export planted in them; and
scenes drawn by hand."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from export_networks import spec_for
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.contract import Contract
from cpsl_deploy.export.gate.frames import Frames
from cpsl_deploy.export.gate.reference import Reference
from cpsl_deploy.spec import METADATA_KEY, ModelSpec
from cpsl_deploy.train.models.base import Segmenter, SegmenterOutput

SIZE = (64, 96)
SHAPE = (200, 200)
ROAD, SKY, TREE, CAR = range(4)


class TwoLayers(Segmenter):
    """Conv 3x3 at stride 2, ReLU, conv 1x1, with random weights."""

    feature_channels = 8
    stride = 2
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.2, 0.15)

    def __init__(self, num_classes: int = 4, *, grey_mean: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        if grey_mean:
            self.mean, self.std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.body = nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.classifier = nn.Conv2d(8, num_classes, 1)
        self.eval()
        with torch.no_grad():  # no class wins everywhere
            noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
            self.classifier.bias -= self(noise).logits.mean((0, 2, 3))

    def forward(self, image: Tensor) -> SegmenterOutput:
        features = functional.relu(self.body(image))
        return SegmenterOutput(features, self.classifier(features))

    def head_parameters(self) -> list[nn.Parameter]:
        return list(self.classifier.parameters())


def model_and_spec(**spec: object) -> tuple[TwoLayers, ModelSpec]:
    model = TwoLayers()
    return model, spec_for(model, size=SIZE, **spec)


def gate_file(
    model: TwoLayers,
    spec: ModelSpec,
    *,
    contract: Contract | None = None,
    mean: tuple[float, ...] | None = None,
    entry_in_rgb: bool = False,
    noise: float = 0.0,
    bias: dict[int, float] | None = None,
    coordinates: str = "half_pixel",
    inner: bool = True,
    batch: int = 1,
) -> onnx.ModelProto:
    """The export of ``model``, right by default. ``contract``: also an inner size or another colour order.

    ``mean``: another one is subtracted. ``entry_in_rgb``: neither mean nor first convolution know that the
    frames are BGR. ``noise``: standard deviation of what is added to the body's weights. ``bias``: added to
    the classes' logits inside the network. ``coordinates``: how ONNX upsamples. ``inner``: keep inner values.
    """
    contract = contract or Contract()
    flip = contract.colour_order == "BGR" and not entry_in_rgb
    order = slice(None, None, -1) if flip else slice(None)
    weight = model.body.weight.detach().numpy()[:, order]
    weight = weight + noise * np.random.default_rng(0).standard_normal(weight.shape)
    shift = model.classifier.bias.detach().numpy().copy()
    for k, value in (bias or {}).items():
        shift[k] += value
    constants = {
        "scale": (1 / (255 * np.array(spec.std)))[order].reshape(1, 3, 1, 1),
        "offset": (-np.array(mean or spec.mean) / np.array(spec.std))[order].reshape(1, 3, 1, 1),
        "body_w": weight,
        "body_b": model.body.bias.detach().numpy(),
        "head_w": model.classifier.weight.detach().numpy(),
        "head_b": shift,
    }
    normalised, logits = ("normalised", "logits") if inner else ("entered", "scores")
    stride, (height, width) = contract.output_stride, spec.size
    sides = np.array([batch, len(spec.class_names), -(-height // stride), -(-width // stride)])
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
    ]
    planes = "planes"
    if contract.network_size is not None:
        nodes.append(helper.make_node("Resize", ["planes", "", "", "inside"], ["fitted"], mode="linear"))
        planes = "fitted"
    upsampling = {"mode": "linear", "coordinate_transformation_mode": coordinates}
    nodes += [
        helper.make_node("Mul", [planes, "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], [normalised]),
        helper.make_node(
            "Conv", [normalised, "body_w", "body_b"], ["body"], "body_conv", strides=[2, 2], pads=[1] * 4
        ),
        helper.make_node("Relu", ["body"], ["features"]),
        helper.make_node("Conv", ["features", "head_w", "head_b"], [logits], "head_conv"),
        helper.make_node("Resize", [logits, "", "", "sides"], ["upsampled"], **upsampling),
        helper.make_node("ArgMax", ["upsampled"], ["index"], axis=1, keepdims=0),
        helper.make_node("Cast", ["index"], ["labels"], to=TensorProto.UINT8),
    ]
    initialisers = [
        numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items() if v is not None
    ]
    initialisers.append(numpy_helper.from_array(sides, "sides"))
    inside = np.array([batch, 3, *(contract.network_size or (16, 16))])
    initialisers.append(numpy_helper.from_array(inside, "inside"))
    given = [helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, height, width, 3])]
    shape = [batch, int(sides[2]), int(sides[3])]
    output = [helper.make_tensor_value_info("labels", TensorProto.UINT8, shape)]
    if "logits" in contract.outputs:
        values = helper.make_tensor_value_info(logits, TensorProto.FLOAT, None)
        output = [*(output if "labels" in contract.outputs else []), values]
    graph = helper.make_graph(nodes, "gate", given, output, initialisers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(proto, {METADATA_KEY: spec.to_json(), **contract.to_metadata()})
    return proto


def reference_of(
    labels: np.ndarray, truth: np.ndarray | None = None, margins: np.ndarray | None = None
) -> Reference:
    """One frame on which the torch model said ``labels``; margins of 1 unless given."""
    frame = np.zeros((*labels.shape, 3), np.uint8)
    return Reference(
        spec=model_and_spec()[1],
        contract=Contract(),
        frames=Frames.of([frame], described="1 frame by hand"),
        labels=(labels,),
        margins=(np.ones(labels.shape, np.float16) if margins is None else margins.astype(np.float16),),
        truth=(np.full(labels.shape, IGNORE, np.uint8) if truth is None else truth,),
    )


def scene() -> np.ndarray:
    """Road below sky with trees between, and a car of 1,200 pixels: 3 % of the frame."""
    labels = np.full(SHAPE, ROAD, np.uint8)
    labels[:80], labels[80:120] = SKY, TREE
    labels[150:180, 100:140] = CAR
    return labels
