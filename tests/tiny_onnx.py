"""A segmentation model small enough to check by hand: each pixel gets the class of the nearest colour.

    image uint8 (1, H, W, 3) -> Cast -> Transpose -> 1x1 Conv -> ArgMax -> Cast -> labels uint8 (1, H, W)

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
    colour_order: str = "BGR",
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write the model. ``static`` fixes H and W to ``size``; ``metadata`` replaces the usual entries."""
    order = slice(None, None, -1) if colour_order == "BGR" else slice(None)
    colours = np.array(CLASS_COLOURS, np.float32)[:, order]
    constants = {
        "weight": (2 * colours)[:, :, None, None],
        "bias": -(colours**2).sum(1),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float_image"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float_image"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weight", "bias"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["classes"], axis=1, keepdims=0),
        helper.make_node("Cast", ["classes"], ["labels"], to=TensorProto.UINT8),
    ]
    height, width = size if static else ("H", "W")
    graph = helper.make_graph(
        nodes,
        "nearest_colour",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, height, width, 3])],
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, height, width])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if metadata is None:
        metadata = {
            METADATA_KEY: tiny_spec(size).to_json(),
            **Contract(colour_order=colour_order).to_metadata(),
        }
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


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
