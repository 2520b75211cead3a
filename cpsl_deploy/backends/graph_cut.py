"""An ONNX file without what comes after its logits, for a CPU, where labels are made faster outside.

In a graph every logit of the frame is interpolated before the argmax; `dense_argmax` interpolates the few
that can change a label, which no ONNX operator can say. Exported files hold the network's logits under the
name of that output, whatever they give. The file is read as in `onnx_file`, and written again field by field.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path

from ..contract import LOGITS
from .onnx_file import fields

# Field numbers of onnx.proto.
_GRAPH = 7
_NODE, _INITIALISER, _OUTPUT, _VALUE = 1, 5, 12, 13
_NODE_INPUT, _NODE_OUTPUT, _NODE_ATTRIBUTE = 1, 2, 5
_ATTRIBUTE_GRAPHS = (6, 11)
_TENSOR_NAME, _VALUE_NAME, _VALUE_TYPE = 8, 1, 2
_TENSOR_TYPE, _ELEMENT_TYPE, _SHAPE, _AXIS, _FLOAT = 1, 1, 2, 1, 1

Field = tuple[int, "int | memoryview"]


def up_to_logits(path: Path) -> bytes | None:
    """The model of a checked file with `LOGITS` as its only output, and with the nodes that this needs; None
    if there is no such value inside, or the graph has graphs inside its nodes."""
    with open(path, "rb") as file:
        model = list(fields(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))))
    graphs = [value for number, value in model if number == _GRAPH]
    if len(graphs) != 1 or not isinstance(graphs[0], memoryview):
        return None
    graph = _cut(list(fields(graphs[0])))
    if graph is None:
        return None
    return _message((number, graph if number == _GRAPH else value) for number, value in model)


def _cut(graph: list[Field]) -> bytes | None:
    kept, needed = _needed([value for number, value in graph if number == _NODE])
    if not kept:
        return None
    output = _message([(_VALUE_NAME, LOGITS.encode()), (_VALUE_TYPE, _FLOAT_TENSOR)])
    parts: list[tuple[int, int | memoryview | bytes]] = [(_NODE, node) for node in kept]
    for number, value in graph:
        if number in (_INITIALISER, _VALUE, _OUTPUT):
            name = _name(value, _TENSOR_NAME if number == _INITIALISER else _VALUE_NAME)
            if number != _INITIALISER and name == LOGITS.encode():
                output = bytes(value)  # type: ignore[arg-type]
            elif number != _OUTPUT and name in needed:
                parts.append((number, value))
        elif number != _NODE:
            parts.append((number, value))
    return _message([*parts, (_OUTPUT, output)])


def _needed(nodes: list[int | memoryview]) -> tuple[list[memoryview], set[bytes]]:
    """The nodes that the logits come from, in their order, and the names of all values that those read or
    write; none where the logits cannot be found or followed."""
    needed, kept = {LOGITS.encode()}, []
    for node in reversed(nodes):
        assert isinstance(node, memoryview)
        parts = list(fields(node))
        if any(_holds_graph(value) for number, value in parts if number == _NODE_ATTRIBUTE):
            return [], set()
        written = {bytes(value) for number, value in parts if number == _NODE_OUTPUT}  # type: ignore[arg-type]
        if written & needed:
            kept.append(node)
            needed |= written
            needed |= {bytes(value) for number, value in parts if number == _NODE_INPUT}  # type: ignore[arg-type]
    return kept[::-1], needed


def _holds_graph(attribute: int | memoryview) -> bool:
    assert isinstance(attribute, memoryview)
    return any(number in _ATTRIBUTE_GRAPHS for number, _ in fields(attribute))


def _name(message: int | memoryview, field: int) -> bytes:
    assert isinstance(message, memoryview)
    return next((bytes(value) for number, value in fields(message) if number == field), b"")  # type: ignore[arg-type]


def _message(parts: Iterable[tuple[int, int | memoryview | bytes]]) -> bytes:
    """Of fields (number, value): whole numbers, and bytes for everything else."""
    written: list[bytes | memoryview] = []
    for number, value in parts:
        if isinstance(value, int):
            written += [_varint(number << 3), _varint(value)]
        else:
            written += [_varint(number << 3 | 2), _varint(len(value)), value]
    return b"".join(written)


def _varint(value: int) -> bytes:
    low = bytearray()
    while value > 0x7F:
        low.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*low, value])


_FOUR_FREE_AXES = _message([(_AXIS, b"")] * 4)
_FLOAT_TENSOR = _message([(_TENSOR_TYPE, _message([(_ELEMENT_TYPE, _FLOAT), (_SHAPE, _FOUR_FREE_AXES)]))])
