"""From trained weights to the file that is deployed: ONNX, checked against the model, and TensorRT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exporter import export
    from .request import ExportRequest
    from .result import ExportResult

__all__ = ["ExportRequest", "ExportResult", "export"]

_ROOMS = {"export": "exporter", "ExportRequest": "request", "ExportResult": "result"}


def __getattr__(name: str) -> Any:
    """Public names on first use, because they import torch, which takes seconds."""
    if name in __all__:
        import importlib

        return getattr(importlib.import_module(f".{_ROOMS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
