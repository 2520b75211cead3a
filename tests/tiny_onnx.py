"""A segmentation model small enough to check by hand: each pixel gets the class of the nearest colour.

    image uint8 (N, H, W, 3) -> Cast -> Transpose -> 1x1 Conv -> ArgMax -> Cast -> labels uint8 (N, H, W)

With another output stride the image is thinned first, every so many pixels one, beginning with the first.

The logit of class k is ``2 c_k.x - |c_k|^2``, the largest where the squared distance of the pixel x to the
colour c_k is the smallest. `nearest_colour` computes the same in NumPy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cpsl_deploy.contract import Contract
from cpsl_deploy.spec import METADATA_KEY, ModelSpec

CLASS_NAMES = ("road", "sky", "tree", "car")
CLASS_COLOURS = ((110, 110, 110), (170, 200, 235), (50, 90, 40), (160, 30, 30))
"""RGB of a typical pixel of each class: what the model compares with."""
PALETTE = ((128, 64, 128), (70, 130, 180), (107, 142, 35), (0, 0, 142))


def tiny_spec(size: tuple[int, int] = (96, 160)) -> ModelSpec:
    return ModelSpec(
        architecture="nearest_colour",
        class_names=CLASS_NAMES,
        palette=PALETTE,
        size=size,
        stride=1,
        provenance={"source": "by hand"},
    )


def tiny_metadata(size: tuple[int, int] = (96, 160), **contract: str) -> dict[str, str]:
    """The metadata of the model file; ``contract`` replaces values of its contract."""
    return {METADATA_KEY: tiny_spec(size).to_json(), **Contract().to_metadata(), **contract}


def write_tiny_onnx(
    path: Path,
    *,
    size: tuple[int, int] = (96, 160),
    static: bool = False,
    batch: int | None = 1,
    colour_order: str = "BGR",
    outputs: tuple[str, ...] = ("labels",),
    output_stride: int = 1,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write the model. ``static`` fixes H and W to ``size``, ``batch`` None frees N; ``metadata`` replaces
    the usual entries. ``confidence`` is the label plus 100, so that a test can tell where it came from."""
    model = tiny_proto(size, static, batch, colour_order, outputs, output_stride)
    if metadata is None:
        contract = Contract(colour_order=colour_order, outputs=outputs, output_stride=output_stride)
        metadata = {METADATA_KEY: tiny_spec(size).to_json(), **contract.to_metadata()}
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


def tiny_proto(
    size: tuple[int, int],
    static: bool,
    batch: int | None,
    colour_order: str,
    outputs: tuple[str, ...],
    stride: int,
) -> onnx.ModelProto:
    order = slice(None, None, -1) if colour_order == "BGR" else slice(None)
    colours = np.array(CLASS_COLOURS, np.float32)[:, order]
    constants = {
        "weight": (2 * colours)[:, :, None, None],
        "bias": -(colours**2).sum(1),
        "starts": np.zeros(2, np.int64),
        "ends": np.full(2, 1 << 30, np.int64),
        "axes": np.array([1, 2], np.int64),
        "steps": np.full(2, stride, np.int64),
        "hundred": np.array(100, np.int64),
    }
    nodes = [
        helper.make_node("Slice", ["image", "starts", "ends", "axes", "steps"], ["thin"]),
        helper.make_node("Cast", ["thin"], ["float_image"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float_image"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weight", "bias"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["classes"], axis=1, keepdims=0),
        helper.make_node("Cast", ["classes"], ["labels"], to=TensorProto.UINT8),
        helper.make_node("Add", ["classes", "hundred"], ["more"]),
        helper.make_node("Cast", ["more"], ["confidence"], to=TensorProto.UINT8),
    ]
    count = batch or "N"
    height, width = size if static else ("H", "W")
    few = [-(-side // stride) for side in size] if static else ["h", "w"]
    ports = {
        "labels": (TensorProto.UINT8, [count, *few]),
        "confidence": (TensorProto.UINT8, [count, *few]),
        "logits": (TensorProto.FLOAT, [count, len(CLASS_NAMES), *few]),
    }
    graph = helper.make_graph(
        nodes,
        "nearest_colour",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [count, height, width, 3])],
        [helper.make_tensor_value_info(name, *ports[name]) for name in outputs],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def nearest_colour(rgb: np.ndarray) -> np.ndarray:
    """Labels uint8 (H, W) of an RGB image uint8 (H, W, 3), without the model."""
    difference = rgb.astype(np.int64)[..., None, :] - np.array(CLASS_COLOURS, np.int64)
    return np.argmin((difference**2).sum(-1), axis=-1).astype(np.uint8)


def street(height: int = 96, width: int = 160) -> np.ndarray:
    """An RGB image of bands of the four class colours (sky, tree, road) and a car in the middle."""
    image = np.empty((height, width, 3), np.uint8)
    image[: height // 3] = CLASS_COLOURS[1]
    image[height // 3 : height // 2] = CLASS_COLOURS[2]
    image[height // 2 :] = CLASS_COLOURS[0]
    image[height // 2 : 3 * height // 4, width // 4 : width // 2] = CLASS_COLOURS[3]
    return image
