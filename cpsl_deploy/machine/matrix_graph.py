"""A matrix product as an ONNX file, written byte by byte: the runtime is installed without the onnx package.

An ONNX file is one protobuf message, ``ModelProto`` of ``onnx.proto``; the numbers below are its fields'.
"""

from __future__ import annotations

import numpy as np

INPUT, OUTPUT = "a", "product"
_IR_VERSION, _OPSET = 8, 17
"""Older than any onnxruntime that is supported."""
_ELEMENT = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "float16": 10}
"""TensorProto.DataType."""


def matrix_product_graph(left: np.ndarray, right: np.ndarray) -> bytes:
    """An ONNX file of ``left @ right``, with the right one inside it as a network's weights are.

    ``left``, ``right``: (n, n), both float32 or both float16, for MatMul; or uint8 and int8, for
    MatMulInteger, whose product is int32.
    """
    integer = left.dtype == np.uint8
    node = _text(1, INPUT) + _text(1, "b") + _text(2, OUTPUT)
    node += _text(3, "product") + _text(4, "MatMulInteger" if integer else "MatMul")
    weights = b"".join(_number(1, side) for side in right.shape)
    weights += _number(2, _ELEMENT[right.dtype.name]) + _text(8, "b") + _field(9, right.tobytes())
    graph = _field(1, node) + _text(2, "matrix_product") + _field(5, weights)
    graph += _field(11, _port(INPUT, left.shape, left.dtype.name))
    shape = (left.shape[0], right.shape[1])
    graph += _field(12, _port(OUTPUT, shape, "int32" if integer else left.dtype.name))
    opset = _text(1, "") + _number(2, _OPSET)
    return _number(1, _IR_VERSION) + _field(7, graph) + _field(8, opset)


def _port(name: str, shape: tuple[int, ...], dtype: str) -> bytes:
    dimensions = b"".join(_field(1, _number(1, side)) for side in shape)
    tensor = _number(1, _ELEMENT[dtype]) + _field(2, dimensions)
    return _text(1, name) + _field(2, _field(1, tensor))


def _text(number: int, value: str) -> bytes:
    return _field(number, value.encode())


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """7 bits a byte, the lowest first."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])
