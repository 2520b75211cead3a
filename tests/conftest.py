"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """An ONNX file with dynamic H and W and a spec; see tiny_onnx.py for what it computes."""
    tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)
    return tiny_onnx.write_tiny_onnx(tmp_path / "tiny.onnx")
