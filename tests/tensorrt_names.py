"""Finds what a source file uses of TensorRT, and compares it with what the bindings offer.

The types of variables are followed through the file: from ``trt.Builder(logger)``, from annotations such as
``config: tensorrt.IBuilderConfig``, from the return types in the bindings' own signatures, and from the
assignments to ``self.something``. What is used of a value whose type is found is compared: that the name is
there, that arguments have these names, and that there are neither too many nor too few.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

API: dict[str, Any] = json.loads((Path(__file__).parent / "export" / "tensorrt_api.json").read_text())
MODULE = ""
"""The type of the package itself."""


def facts(name: str, version: str) -> Any:
    """What a version of the bindings states of ``Class.member``, None if it is not there."""
    found = API["members"].get(name)
    return found.get(version) if isinstance(found, dict) else found


@dataclass(frozen=True)
class Use:
    """One place where a name is used. ``given``: the arguments of a call: how many by position, and the
    names of the others; None if it is not called."""

    name: str
    line: int
    given: tuple[int, tuple[str, ...]] | None = None

    def problem(self, version: str) -> str:
        """What a version of the bindings has against it, or nothing."""
        offered = facts(self.name, version)
        if offered is None:
            return f"line {self.line}: TensorRT {version} has no {self.name}"
        if self.given is None or not isinstance(offered, list):
            return ""
        if any(_accepts(signature, *self.given) for signature in offered):
            return ""
        return f"line {self.line}: {self.name} of TensorRT {version} takes {offered}, not {self.given}"


def _accepts(signature: str, positional: int, keywords: tuple[str, ...]) -> bool:
    names, required = parameters(signature)
    if positional > len(names) or not set(keywords) <= set(names[positional:]):
        return False
    return required <= {*names[:positional], *keywords}


def parameters(signature: str) -> tuple[list[str], set[str]]:
    """The names of a signature's parameters, and which of them have no default."""
    inside = signature[1 : signature.rindex(") ->")]
    parts = [part for part in re.split(r",\s*(?![^\[<]*[\]>])", inside) if part]
    names = [part.partition(":")[0].strip() for part in parts]
    return names, {name for name, part in zip(names, parts, strict=True) if "=" not in part}


def uses(source: str, attributes: dict[str, str] | None = None, others: str = "") -> list[Use]:
    """Everything that ``source`` uses of TensorRT.

    ``attributes``: ``Class.attribute`` and the type of those that cannot be followed, because a function
    without annotation gives them. ``others``: the sources of what it imports.
    """
    functions = {
        node.name: match[1]
        for node in ast.walk(ast.parse(f"{source}\n{others}"))
        if isinstance(node, ast.FunctionDef) and (match := _annotated(node.returns))
    }
    finder = _Finder(attributes or {}, functions)
    # Twice, because a method may use what one below it assigns.
    for _ in range(2):
        finder.found = []
        finder.visit(ast.parse(source))
    return finder.found


def overridden(source: str) -> Iterator[tuple[str, list[str]]]:
    """The methods with which classes of ``source`` override those of TensorRT's, and their parameters."""
    for node in ast.walk(ast.parse(source)):
        bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
        for base in bases:
            if match := re.fullmatch(r"(?:trt|tensorrt)\.(\w+)", base):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef):
                        yield f"{match[1]}.{method.name}", [a.arg for a in method.args.args[1:]]


def _annotated(annotation: ast.expr | None) -> re.Match[str] | None:
    return re.fullmatch(r"(?:trt|tensorrt)\.([\w.]+)", ast.unparse(annotation) if annotation else "")


class _Finder(ast.NodeVisitor):
    def __init__(self, attributes: dict[str, str], functions: dict[str, str]) -> None:
        self.found: list[Use] = []
        self.attributes = dict(attributes)
        self.functions = functions
        self.scope: dict[str, str] = {}
        self.inside = ""

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self.inside = self.inside, node.name
        self.generic_visit(node)
        self.inside = outer

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self.scope = self.scope, dict(self.scope)
        for argument in (*node.args.args, *node.args.kwonlyargs):
            self.scope.pop(argument.arg, None)
            if match := _annotated(argument.annotation):
                self.scope[argument.arg] = match[1]
        self.generic_visit(node)
        self.scope = outer

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._assign(target, node.value)
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._assign(node.target, node.value)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = self._name(node.func)
        if name is not None:
            name += ".__init__" if facts(name, API["versions"][-1]) == "class" else ""
            keywords = tuple(keyword.arg or "**" for keyword in node.keywords)
            self.found.append(Use(name, node.lineno, (len(node.args), keywords)))
            # Base.__init__(self): the instance is no argument of the signature.
            if name.endswith(".__init__") and node.args and ast.unparse(node.args[0]) == "self":
                self.found[-1] = Use(name, node.lineno, (len(node.args) - 1, keywords))
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = self._name(node)
        if name is not None:
            self.found.append(Use(name, node.lineno))
        self.generic_visit(node)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        # A tuple gives its parts, one to one.
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for part, of_part in zip(target.elts, value.elts, strict=True):
                self._assign(part, of_part)
        elif (kind := self._type(value)) is not None:
            name = ast.unparse(target)
            if name.startswith("self."):
                self.attributes[name.replace("self", self.inside, 1)] = kind
            else:
                self.scope[name] = kind

    def _name(self, node: ast.expr) -> str | None:
        """``Class.member``, or the ``Class`` itself, that an expression names."""
        if not isinstance(node, ast.Attribute):
            return None
        owner = self._type(node.value)
        if owner is None or (owner == MODULE and node.attr in ("__name__", "__file__")):
            return None
        return f"{owner}.{node.attr}" if owner else node.attr

    def _type(self, node: ast.expr) -> str | None:
        """The class of an expression's value, or the class that it is, or None if that is not followed."""
        text = ast.unparse(node)
        if text in ("trt", "tensorrt"):
            return MODULE
        if isinstance(node, ast.Name):
            return self.scope.get(node.id)
        if isinstance(node, ast.NamedExpr):
            return self._type(node.value)
        if text.startswith("self.") and isinstance(node, ast.Attribute) and text.count(".") == 1:
            return self.attributes.get(f"{self.inside}.{node.attr}")
        if isinstance(node, ast.Attribute):
            name = self._name(node)
            return name if name and facts(name, API["versions"][-1]) in ("class", "enumeration") else None
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                return self.functions.get(node.func.id)
            name = self._name(node.func)
            signatures = facts(name, API["versions"][-1]) if name else None
            if signatures == "class":
                return name
            given = signatures[0].rpartition("-> ")[2] if isinstance(signatures, list) and signatures else ""
            given = {"IParserError": "ParserError"}.get(given, given)  # the name of the C++ class
            return given if facts(given, API["versions"][-1]) else None
        return None
