"""Imports point one way: export -> train -> core, and the core never imports torch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FORBIDDEN = {
    "cpsl_deploy": ("torch", "torchvision", "onnxscript", "cpsl_deploy.train", "cpsl_deploy.export"),
    "train": ("cpsl_deploy.export",),
    "export": (),
}
"""Top-level folder -> what nothing in it may import, not even inside a function or for type checking."""


def python_files(folder: str) -> list[Path]:
    """Those of one part: the links from the core to the other two are not followed."""
    return [
        path
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(ROOT / folder))
    ]


def package_of(path: Path) -> str:
    """The package a file is in, as imported."""
    parts = path.relative_to(ROOT).parent.parts
    return ".".join(parts if parts[0] == "cpsl_deploy" else ("cpsl_deploy", *parts))


def imported(source: str, package: str) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of all that a module imports, anywhere in it.

    ``from . import train`` gives the package and ``package.train``: which of the two is meant is not seen.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def breaches(source: str, package: str, forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"line {line} imports {name}"
        for line, name in imported(source, package)
        if any(name == bad or name.startswith(f"{bad}.") for bad in forbidden)
    ]


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_point_one_way(folder: str) -> None:
    files = python_files(folder)
    assert files
    found = {
        str(path.relative_to(ROOT)): lines
        for path in files
        if (lines := breaches(path.read_text(encoding="utf-8"), package_of(path), FORBIDDEN[folder]))
    }
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "import torch.nn.functional as F",
        "from torch import Tensor",
        "def f():\n    import torch",
        "from cpsl_deploy import train",
        "from .. import export",
        "from ..train.models import build",
        "import importlib\nimportlib.import_module('cpsl_deploy.train')",
    ],
)
def test_the_check_sees_each_way_to_import(source: str) -> None:
    assert breaches(source, "cpsl_deploy.data", FORBIDDEN["cpsl_deploy"])


@pytest.mark.parametrize(
    "source", ["import torchless", "from . import training", "from .export import x", "x = 'torch'"]
)
def test_the_check_sees_no_more_than_that(source: str) -> None:
    assert not breaches(source, "cpsl_deploy.data", FORBIDDEN["cpsl_deploy"])


def test_the_packages_are_named_as_they_are_imported() -> None:
    assert package_of(ROOT / "train" / "models" / "base.py") == "cpsl_deploy.train.models"
    assert package_of(ROOT / "cpsl_deploy" / "data" / "open.py") == "cpsl_deploy.data"


def test_the_map_of_train_names_everything_in_it() -> None:
    there = {
        path.stem for path in (ROOT / "train").iterdir() if path.suffix == ".py" and path.stem != "__init__"
    }
    there |= {f"{path.parent.name}/" for path in (ROOT / "train").glob("*/__init__.py")}
    text = ast.get_docstring(ast.parse((ROOT / "train" / "__init__.py").read_text(encoding="utf-8")))
    assert text is not None
    named = set(re.findall(r"``([a-z_]+/?)``", text.partition("Where things are")[2]))
    assert named - {"adapt"} == there
