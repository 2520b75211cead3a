"""Protocol buffers' text format, as far as a model's configuration needs it.

Written here because the message definitions come with ``tritonclient``, which an export must not need; a test
parses what is written with them. Format: protobuf.dev/reference/protobuf/textformat-spec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_INDENT = "  "


class Name(str):
    """A value that is written without quotes: the name of an enumeration's member."""


def to_text(message: Mapping[str, Any]) -> str:
    """A message as text, one field a line, in the order given.

    Field -> bool, int, str, `Name`, another message, or a list of these for a repeated field; a map is a list
    of messages with ``key`` and ``value``. An empty list writes nothing. Raises TypeError for anything else.
    """
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Mapping[str, Any]) -> Iterator[str]:
    for field, value in message.items():
        if isinstance(value, Mapping):
            yield from _block(field, value)
        elif not isinstance(value, Sequence) or isinstance(value, str):
            yield f"{field}: {_scalar(value)}"
        elif value and all(isinstance(item, Mapping) for item in value):
            for item in value:
                yield from _block(field, item)
        elif value:
            yield f"{field}: [ {', '.join(_scalar(item) for item in value)} ]"


def _block(field: str, message: Mapping[str, Any]) -> Iterator[str]:
    yield f"{field} {{"
    yield from (_INDENT + line for line in _lines(message))
    yield "}"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Name | int):
        return str(value)
    if isinstance(value, str):
        return f'"{_escaped(value)}"'
    raise TypeError(f"text format has no way here to write a {type(value).__name__}")


def _escaped(text: str) -> str:
    """In ASCII; what is not printable is written as octal escapes of its UTF-8 bytes."""
    named = {ord('"'): '\\"', ord("\\"): "\\\\"}
    return "".join(
        named.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}") for byte in text.encode()
    )
