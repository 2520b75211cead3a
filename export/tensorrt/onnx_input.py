"""The ONNX file an engine is built from, and whether TensorRT's arithmetic can hold what is in it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import ModelFileError
from cpsl_deploy.spec import METADATA_KEY, ModelSpec

from ..graph.onnx_file import read_metadata
from .profile import Free


@dataclass(frozen=True, kw_only=True)
class OnnxInput:
    """A file of this project, read once, so that the hash is of what is built."""

    path: Path
    content: bytes
    sha256: str
    metadata: dict[str, str]
    spec: ModelSpec
    contract: Contract
    shape: Free
    """(batch, height, width) of the input, None where free."""


def read_onnx(path: Path) -> OnnxInput:
    """Read and check a file. Raises ModelFileError if it is damaged, not of this project, or an INT8 file
    that TensorRT cannot hold (see `require_symmetric`)."""
    metadata = read_metadata(path)
    content = path.read_bytes()
    proto = onnx.load_from_string(content)
    contract = Contract.from_metadata(metadata, str(path))
    if contract.precision == "int8":
        require_symmetric(proto, path)
    return OnnxInput(
        path=path,
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        metadata=metadata,
        spec=ModelSpec.from_json(metadata[METADATA_KEY], str(path)),
        contract=contract,
        shape=_shape(proto, path),
    )


def require_symmetric(proto: onnx.ModelProto, path: Path) -> None:
    """Raise ModelFileError unless everything quantised is int8 around 0, as TensorRT demands.

    It has no uint8 activations, no zero points but 0, and no int32 inputs of DequantizeLinear, as which
    onnxruntime's quantiser writes biases unless told otherwise (``QuantizeBias``). Source: "Working with
    Quantized Types" and the ONNX operators' table of TensorRT's documentation.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    problem = next(filter(None, (_asymmetry(node, constants) for node in proto.graph.node)), None)
    if problem:
        raise ModelFileError(
            f"TensorRT takes INT8 files with symmetric int8 values alone, and in {path} {problem}: this file "
            "was quantised for CPUs. Quantise the model for TensorRT: cpsl-export RUN --precision int8 --trt"
        )


def _asymmetry(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> str:
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return ""
    name, data = node.name or node.output[0], constants.get(node.input[0])
    if node.op_type == "DequantizeLinear" and data is not None and data.data_type != onnx.TensorProto.INT8:
        return f"{data.name} is quantised as {_type_name(data)}"
    zero_point = constants.get(node.input[2]) if len(node.input) > 2 else None
    if zero_point is None:
        # Without one ONNX means uint8.
        return f"{name} gives uint8 values" if node.op_type == "QuantizeLinear" else ""
    if zero_point.data_type != onnx.TensorProto.INT8:
        return f"{name} has {_type_name(zero_point)} values"
    centred = not np.any(onnx.numpy_helper.to_array(zero_point))
    return "" if centred else f"{name} has a zero point other than 0"


def _type_name(tensor: onnx.TensorProto) -> str:
    return onnx.TensorProto.DataType.Name(tensor.data_type).lower()


def _shape(proto: onnx.ModelProto, path: Path) -> Free:
    dims = list(proto.graph.input[0].type.tensor_type.shape.dim) if len(proto.graph.input) == 1 else []
    if len(dims) != 4 or dims[3].dim_value != 3:
        raise ModelFileError(
            f"an engine is built from a file with one input (batch, height, width, 3), and {path} has "
            "another. Export it again: cpsl-export RUN"
        )
    batch, height, width = (dim.dim_value or None for dim in dims[:3])
    return batch, height, width
