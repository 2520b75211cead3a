"""What pyproject.toml and files of requirements ask for."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT: dict[str, Any] = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def base() -> list[Requirement]:
    return [Requirement(text) for text in PROJECT["dependencies"]]


def with_extras(extras: Iterable[str]) -> list[Requirement]:
    """Raises KeyError for an extra that the project does not have."""
    more = [text for extra in extras for text in PROJECT["optional-dependencies"][extra]]
    return base() + [Requirement(text) for text in more]


def requirement_lines(path: Path) -> list[Requirement]:
    lines = (line.partition(" #")[0].strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def names_of(requirements: Iterable[Requirement]) -> set[str]:
    return {canonicalize_name(each.name) for each in requirements}
