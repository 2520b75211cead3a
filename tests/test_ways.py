"""A model file that says what it is best run with, and what else it passed the export's gate with."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from cpsl_deploy import load
from cpsl_deploy.backends.ways import (
    ONNXRUNTIME,
    PASSED_KEY,
    PREFERRED_KEY,
    Way,
    allowed_ways,
    preferred_way,
    ways_metadata,
)

tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)

F32, BF16 = (Way(backend="openvino", precision=precision) for precision in ("f32", "bf16"))
CUDA = Way(backend="onnxruntime", device="cuda")


def model(folder: Path, text: str) -> Path:
    metadata = {**tiny_onnx.tiny_metadata(), PREFERRED_KEY: text}
    return tiny_onnx.write_tiny_onnx(folder / "m.onnx", metadata=metadata)


def test_ways_go_through_the_metadata() -> None:
    for way in (F32, CUDA):
        said = ways_metadata((ONNXRUNTIME, BF16), way)
        assert preferred_way(said) == way
        assert allowed_ways({**said, "precision": "int8"}) == (ONNXRUNTIME, BF16)
    assert preferred_way(ways_metadata((ONNXRUNTIME,))) is None


def test_float32_ways_of_a_float32_file_are_allowed_and_come_first() -> None:
    said = {"precision": "fp32", **ways_metadata((BF16, CUDA, ONNXRUNTIME))}
    assert allowed_ways(said) == (ONNXRUNTIME, F32, BF16)
    assert allowed_ways({**said, "precision": "int8"}) == (BF16, ONNXRUNTIME)


def test_a_lossy_way_that_was_not_judged_is_not_allowed() -> None:
    assert allowed_ways({"precision": "fp32", **ways_metadata((ONNXRUNTIME,))}) == (ONNXRUNTIME, F32)
    assert allowed_ways({"precision": "int8", **ways_metadata((ONNXRUNTIME,))}) == (ONNXRUNTIME,)
    assert allowed_ways({"precision": "fp32"}) == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "openvino",
        "openvino cpu f64",
        "torch cpu -",
        "openvino tpu f32",
        "a b c d",
        "onnxruntime cpu bf16",
    ],
)
def test_what_is_not_known_is_no_way(tmp_path: Path, text: str) -> None:
    assert preferred_way({PREFERRED_KEY: text}) is None
    assert allowed_ways({"precision": "int8", PASSED_KEY: text}) == ()
    with load(model(tmp_path, text)) as segmenter:
        assert segmenter.backend.name == "onnxruntime"


def test_the_preferred_library_runs_the_file(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = model(tmp_path, F32.words)
    with load(path, threads=1) as segmenter:
        described = segmenter.describe()
    assert (described["backend"], described["precision"], described["threads"]) == ("openvino", "f32", 1)


def test_what_is_asked_for_comes_first(tmp_path: Path) -> None:
    path = model(tmp_path, F32.words)
    for asked in ({"backend": "onnxruntime"}, {"device": "cpu"}):
        with load(path, **asked) as segmenter:
            assert segmenter.backend.name == "onnxruntime"


def test_without_the_library_onnxruntime_runs_it_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with caplog.at_level(logging.WARNING), load(model(tmp_path, F32.words)) as segmenter:
        assert segmenter.backend.name == "onnxruntime"
    assert "runs slower than it could" in caplog.text and "cpsl_deploy[openvino]" in caplog.text
