"""Trees of dataclasses from TOML and back: how a recipe's file is read and written, whatever a recipe has."""

from __future__ import annotations

import dataclasses
import json
import sys
import typing
from pathlib import Path
from types import UnionType
from typing import Any

from cpsl_deploy.errors import RecipeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Tree = typing.TypeVar("Tree")


def read_toml(path: Path) -> dict[str, Any]:
    """Raises RecipeError for a file that is not valid TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}. Correct the file.") from error


def parse_override(text: str) -> tuple[str, Any]:
    """``key.path=value``, the value in TOML's notation or a bare word."""
    key, equals, value = text.partition("=")
    if not equals:
        raise RecipeError(
            f"an override is written key=value, for example self_labelling.iterations=200; got {text!r}"
        )
    try:
        return key.strip(), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def place(values: dict[str, Any], key: str, value: Any) -> None:
    """Replace a value of what was read by its full name. Raises RecipeError for a part of a single value."""
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise RecipeError(f"{key!r} names a part of {section!r}, which is a single value")
    values[last] = value


def build(kind: type[Tree], values: dict[str, Any], where: str = "") -> Tree:
    """A dataclass from a dict. Raises RecipeError, with the key's full name, for what does not fit.

    ``where``: the section's name with a dot behind it; empty for the whole.
    """
    hints = typing.get_type_hints(kind)
    unknown = [key for key in values if key not in hints]
    if unknown:
        known = ", ".join(hints)
        raise RecipeError(
            f"unknown recipe key {where + unknown[0]!r}; {where.rstrip('.') or 'a recipe'} has: {known}"
        )
    given = {key: _convert(hints[key], value, where + key) for key, value in values.items()}
    try:
        return kind(**given)
    except TypeError as error:
        raise RecipeError(f"recipe section {where.rstrip('.') or 'top level'}: {error}") from error


def _convert(kind: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise RecipeError(f"recipe key {name!r} is a section, not the single value {value!r}")
        return build(typing.cast(type, kind), value, name + ".")
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise RecipeError(f"recipe key {name!r} is a list of {len(kinds)} values; got {value!r}")
        return tuple(_convert(k, v, name) for k, v in zip(kinds, value, strict=True))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (
        isinstance(kind, UnionType)
        or not isinstance(value, kind)
        or (kind is int and isinstance(value, bool))
    ):
        raise RecipeError(f"recipe key {name!r} is of type {kind.__name__}; got {value!r}")
    return value


def write(tree: Any) -> str:
    """Every value of a dataclass as TOML that ``build`` makes an equal one of."""
    lines: list[str] = []

    def section(value: Any, path: str) -> None:
        nested = []
        if path:
            lines.append(f"\n[{path}]")
        for f in dataclasses.fields(value):
            item = getattr(value, f.name)
            if dataclasses.is_dataclass(item):
                nested.append((f.name, item))
            else:
                lines.append(f"{f.name} = {_toml_value(item)}")
        for name, item in nested:
            section(item, f"{path}.{name}" if path else name)

    section(tree, "")
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
