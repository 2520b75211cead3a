"""The ONNX file an engine is built from, and whether TensorRT's arithmetic can hold what is in it.

Read without the package onnx: engines are built on boards, where nothing of training and exporting is
installed. The numbers are those of ``onnx.proto``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cpsl_deploy.backends.onnx_file import Damaged, fields, read_onnx_metadata
from cpsl_deploy.backends.signature import Description
from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import ModelFileError
from cpsl_deploy.spec import ModelSpec

from .profile import Free

_GRAPH, _NODES, _CONSTANTS, _INPUTS = 7, 1, 5, 11
_NODE_INPUTS, _NODE_OUTPUTS, _NODE_NAME, _OPERATOR = 1, 2, 3, 4
_DATA_TYPE, _INT32_VALUES, _CONSTANT_NAME, _RAW_VALUES = 2, 5, 8, 9
_INPUT_TYPE, _TENSOR_TYPE, _SHAPE, _DIMENSIONS, _LENGTH = 2, 1, 2, 1, 1
_INT8 = 3
_TYPES = {1: "float", 2: "uint8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 10: "float16"}
"""Of TensorProto.DataType, those that a quantised value might have by mistake."""
_LARGEST_LENGTH = 2**31 - 1


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
    metadata = read_onnx_metadata(path)
    described = Description.from_metadata(metadata, str(path))
    content = path.read_bytes()
    if described.contract.precision == "int8":
        require_symmetric(content, path)
    return OnnxInput(
        path=path,
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        metadata=metadata,
        spec=described.spec,
        contract=described.contract,
        shape=_shape(content, path),
    )


def require_symmetric(content: bytes, path: Path) -> None:
    """Raise ModelFileError unless everything quantised in a model is int8 around 0, as TensorRT demands.

    It has no uint8 activations, no zero points but 0, and no int32 inputs of DequantizeLinear, as which
    onnxruntime's quantiser writes biases unless told otherwise (``QuantizeBias``). Source: "Working with
    Quantized Types" and the ONNX operators' table of TensorRT's documentation.
    """
    try:
        problem = next(filter(None, _asymmetries(content)), None)
    except Damaged as error:
        raise ModelFileError(f"{path} is damaged ({error}). Export it again: cpsl-export RUN") from error
    if problem:
        raise ModelFileError(
            f"TensorRT takes INT8 files with symmetric int8 values alone, and in {path} {problem}: this file "
            "was quantised for CPUs. Quantise the model for TensorRT: cpsl-export RUN --precision int8 --trt"
        )


@dataclass(frozen=True)
class _Constant:
    name: str
    data_type: int
    is_zero: bool


def _asymmetries(content: bytes) -> Iterator[str]:
    graph = _messages(memoryview(content), _GRAPH)
    found = [_constant(one) for part in graph for one in _messages(part, _CONSTANTS)]
    constants = {constant.name: constant for constant in found}
    for part in graph:
        for node in _messages(part, _NODES):
            yield _asymmetry(node, constants)


def _asymmetry(node: memoryview, constants: dict[str, _Constant]) -> str:
    operator = "".join(_texts(node, _OPERATOR))
    if operator not in ("QuantizeLinear", "DequantizeLinear"):
        return ""
    inputs = _texts(node, _NODE_INPUTS)
    name = "".join(_texts(node, _NODE_NAME)) or next(iter(_texts(node, _NODE_OUTPUTS)), operator)
    data = constants.get(inputs[0]) if inputs else None
    if operator == "DequantizeLinear" and data is not None and data.data_type != _INT8:
        return f"{data.name} is quantised as {_type_name(data)}"
    zero_point = constants.get(inputs[2]) if len(inputs) > 2 else None
    if zero_point is None:
        # Without one ONNX means uint8.
        return f"{name} gives uint8 values" if operator == "QuantizeLinear" else ""
    if zero_point.data_type != _INT8:
        return f"{name} has {_type_name(zero_point)} values"
    return "" if zero_point.is_zero else f"{name} has a zero point other than 0"


def _constant(tensor: memoryview) -> _Constant:
    data_type, is_zero = 0, True
    for number, value in fields(tensor):
        if number == _DATA_TYPE and isinstance(value, int):
            data_type = value
        elif number in (_INT32_VALUES, _RAW_VALUES):
            # Whole numbers one after another: 0 is the byte 0 in either field.
            is_zero = is_zero and not (any(value) if isinstance(value, memoryview) else value)
    return _Constant("".join(_texts(tensor, _CONSTANT_NAME)), data_type, is_zero)


def _type_name(constant: _Constant) -> str:
    return _TYPES.get(constant.data_type, f"type {constant.data_type}")


def _shape(content: bytes, path: Path) -> Free:
    try:
        inputs = [one for part in _messages(memoryview(content), _GRAPH) for one in _messages(part, _INPUTS)]
        lengths = _lengths(inputs[0]) if len(inputs) == 1 else []
    except Damaged as error:
        raise ModelFileError(f"{path} is damaged ({error}). Export it again: cpsl-export RUN") from error
    if len(lengths) != 4 or lengths[3] != 3:
        raise ModelFileError(
            f"an engine is built from a file with one input (batch, height, width, 3), and {path} has "
            "another. Export it again: cpsl-export RUN"
        )
    return lengths[0], lengths[1], lengths[2]


def _lengths(described: memoryview) -> list[int | None]:
    """Of each axis of an input or output, None where free."""
    messages = [described]
    for number in (_INPUT_TYPE, _TENSOR_TYPE, _SHAPE, _DIMENSIONS):
        messages = [inner for message in messages for inner in _messages(message, number)]
    return [_length(dict(fields(dimension)).get(_LENGTH)) for dimension in messages]


def _length(value: int | memoryview | None) -> int | None:
    """Some writers say -1 for free, which protobuf writes as a very large number."""
    return value if isinstance(value, int) and 0 < value <= _LARGEST_LENGTH else None


def _messages(message: memoryview, number: int) -> list[memoryview]:
    return [value for found, value in fields(message) if found == number and isinstance(value, memoryview)]


def _texts(message: memoryview, number: int) -> list[str]:
    return [bytes(value).decode(errors="replace") for value in _messages(message, number)]
