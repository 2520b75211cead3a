"""What an ONNX file says of itself, read without any ONNX package and before any library is given the file.

An ONNX file is one protobuf message, ``ModelProto`` of ``onnx.proto``: fields of (number, wire type, value),
some of which are messages again. This reads the metadata and looks for weights kept in other files, and
steps over everything else by its length, so that hundreds of megabytes of weights cost nothing.
"""

from __future__ import annotations

import functools
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import ModelFileError

MAX_METADATA_BYTES = 1 << 20
"""Of all keys and texts together: a spec with 255 long class names has a tenth of it."""
_MAX_METADATA_ENTRIES = 1000
NEWEST_OPSET = 30
"""Later than those of which anything here could know; exported files are of opset 18 to 21."""
_MAX_NESTING = 64
"""Of graphs in attributes of nodes of graphs; networks have none or one."""

# Field numbers of onnx.proto.
_METADATA_PROPS, _KEY, _TEXT = 14, 1, 2
_OPSET_IMPORT, _DOMAIN, _VERSION = 8, 1, 2
_EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 13, 14, 1
_PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Message -> the fields in which it holds messages that lead to a tensor."""


def read_onnx_metadata(path: Path) -> dict[str, str]:
    """The metadata of an ONNX file, key to text.

    Raises ModelFileError if the file is cut off or no ONNX file, if its metadata are not text or above
    `MAX_METADATA_BYTES`, if its opset is above `NEWEST_OPSET`, and if any of its tensors lies in another
    file: a model of this project is one file, and the name of the other one could be any path here.
    """
    try:
        found = os.stat(path)
        stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        return dict(_read(path, stamp))
    except Damaged as error:
        raise ModelFileError(
            f"{path} is not a usable ONNX file, or damaged ({error}). Export it again: cpsl-export RUN"
        ) from error
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror}. Check the path and the disk") from error


@functools.lru_cache(maxsize=1)
def _read(path: Path, stamp: tuple[int, ...]) -> dict[str, str]:
    """``stamp``: of the file as it is now. To open a model is to ask twice: what runs it best, what it is."""
    with open(path, "rb") as file:
        if file.seek(0, 2) == 0:
            raise Damaged("it is empty")
        # Not closed but dropped: parts of it live in the frames of an error that is on its way.
        return _metadata(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


class Damaged(Exception):
    """Why a file cannot be read, in words for the error that tells of it."""


def _metadata(data: memoryview) -> dict[str, str]:
    entries: dict[str, str] = {}
    size = count = 0
    for number, value in fields(data):
        if number == _METADATA_PROPS and isinstance(value, memoryview):
            size, count = size + len(value), count + 1
            if size > MAX_METADATA_BYTES or count > _MAX_METADATA_ENTRIES:
                raise Damaged(f"its metadata are above {MAX_METADATA_BYTES:,} bytes")
            texts = dict(fields(value))
            entries[_text(texts.get(_KEY))] = _text(texts.get(_TEXT))
        elif number == _OPSET_IMPORT and isinstance(value, memoryview):
            _check_opset(dict(fields(value)))
    _refuse_external_tensors(data, "model", 0)
    return entries


def _check_opset(opset: dict[int, int | memoryview]) -> None:
    version = opset.get(_VERSION, 0)
    known = isinstance(version, int) and version <= NEWEST_OPSET
    if _text(opset.get(_DOMAIN)) in ("", "ai.onnx") and not known:
        raise Damaged(f"it is of opset {version}, and {NEWEST_OPSET} is the newest that can be read")


def _refuse_external_tensors(data: memoryview, kind: str, depth: int) -> None:
    if depth > _MAX_NESTING:
        raise Damaged(f"its graphs are nested deeper than {_MAX_NESTING}")
    parts = _PARTS.get(kind, {})
    for number, value in fields(data):
        if kind == "tensor":
            if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value == _EXTERNAL):
                raise Damaged(f"it keeps weights in another file{_location(number, value)}")
        elif number in parts and isinstance(value, memoryview):
            _refuse_external_tensors(value, parts[number], depth + 1)


def _location(number: int, value: int | memoryview) -> str:
    if number != _EXTERNAL_DATA or not isinstance(value, memoryview):
        return ""
    return f", {str(_text(dict(fields(value)).get(_TEXT)))[:80]!r}"


def _text(value: int | memoryview | None) -> str:
    try:
        return bytes(value).decode("utf-8") if isinstance(value, memoryview) else ""
    except UnicodeDecodeError as error:
        raise Damaged("its metadata are not UTF-8 text") from error


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of a message's fields: whole numbers as they are, all others as their bytes."""
    at, end = 0, len(data)
    while at < end:
        # Numbers below 128 are one byte, and nearly all of tens of thousands are: read without a call.
        if (tag := data[at]) < 0x80:
            at += 1
        else:
            tag, at = _varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise Damaged("it is not a protobuf message")
        if wire_type == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire_type == 2:
            if at < end and (length := data[at]) < 0x80:
                at += 1
            else:
                length, at = _varint(data, at)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise Damaged("it is not a protobuf message")
        if length > end - at:
            raise Damaged("it is cut off")
        yield number, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A whole number of 7 bits a byte, the lowest first, and where the next field begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise Damaged("it is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise Damaged("it is not a protobuf message")
