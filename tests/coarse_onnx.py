"""A segmentation model whose logits are coarser than the frame, as real ones are, small enough to follow.

image uint8 (N, H, W, 3) -> Cast -> Transpose -> mean of 8x8 pixels -> 1x1 Conv -> logits
logits -> Resize -> ArgMax -> Cast -> labels uint8 (N, H, W)
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_onnx import CLASS_COLOURS, CLASS_NAMES, tiny_spec

from cpsl_deploy.contract import Contract
from cpsl_deploy.spec import METADATA_KEY

STRIDE = 8


def write_coarse_onnx(
    path: Path,
    size: tuple[int, int],
    *,
    outputs: tuple[str, ...] = ("labels",),
    batch: int | None = 1,
    name: str = "logits",
    extra: onnx.NodeProto | None = None,
) -> Path:
    """``name``: of the value that is the logits. ``extra``: a node more, at the end."""
    colours = np.array(CLASS_COLOURS, np.float32)[:, ::-1]
    small = [side // STRIDE for side in size]
    constants = {
        "weight": (2 * colours / 255)[:, :, None, None],
        "bias": -(colours**2).sum(1) / 255,
        "scales": np.array([1, 1, STRIDE, STRIDE], np.float32),
    }
    pool = {"kernel_shape": [STRIDE] * 2, "strides": [STRIDE] * 2}
    nodes = [
        helper.make_node("Cast", ["image"], ["float_image"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float_image"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["means"], **pool),
        helper.make_node("Conv", ["means", "weight", "bias"], [name]),
        helper.make_node("Resize", [name, "", "scales"], ["dense"], mode="linear"),
        helper.make_node("ArgMax", ["dense"], ["classes"], axis=1, keepdims=0),
        helper.make_node("Cast", ["classes"], ["labels"], to=TensorProto.UINT8),
        helper.make_node("Sub", ["classes", "classes"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["confidence"], to=TensorProto.UINT8),
        *([extra] if extra else []),
    ]
    count = batch or "N"
    ports = {
        "labels": (TensorProto.UINT8, [count, *size]),
        "confidence": (TensorProto.UINT8, [count, *size]),
        "logits": (TensorProto.FLOAT, [count, len(CLASS_NAMES), *small]),
    }
    graph = helper.make_graph(
        nodes,
        "coarse",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [count, *size, 3])],
        [helper.make_tensor_value_info(output, *ports[output]) for output in outputs],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    spec = dataclasses.replace(tiny_spec(size), stride=STRIDE)
    helper.set_model_props(model, {METADATA_KEY: spec.to_json(), **Contract(outputs=outputs).to_metadata()})
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path
