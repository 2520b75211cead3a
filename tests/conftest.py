"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Which way of running a file was the fastest is not remembered in the user's own cache folder."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cpsl_deploy.backends.remembered.cache_folder", lambda: folder)
        yield


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """An ONNX file with dynamic H and W and a spec; see tiny_onnx.py for what it computes."""
    tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)
    return tiny_onnx.write_tiny_onnx(tmp_path / "tiny.onnx")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Sums in one order, and no threads that wait for each other: for tests that train."""
    torch = pytest.importorskip("torch", reason="needs the extra 'train'")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
