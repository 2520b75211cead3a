"""A model file that says what it is best run with is run with that, unless something else is asked for."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from cpsl_deploy import load
from cpsl_deploy.backends.preference import METADATA_KEY, Preference

tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)

OPENVINO = Preference(backend="openvino", device="cpu", precision="f32")


def model(folder: Path, text: str) -> Path:
    metadata = {**tiny_onnx.tiny_metadata(), METADATA_KEY: text}
    return tiny_onnx.write_tiny_onnx(folder / "m.onnx", metadata=metadata)


def test_it_goes_through_the_metadata() -> None:
    for preference in (OPENVINO, Preference(backend="onnxruntime", device="cuda", precision=None)):
        assert Preference.from_metadata(preference.to_metadata()) == preference


@pytest.mark.parametrize(
    "text", ["", "openvino", "openvino cpu f64", "torch cpu -", "openvino tpu f32", "a b c d"]
)
def test_what_is_not_known_is_no_preference(tmp_path: Path, text: str) -> None:
    assert Preference.from_metadata({METADATA_KEY: text}) is None
    with load(model(tmp_path, text)) as segmenter:
        assert segmenter.backend.name == "onnxruntime"


def test_the_preferred_library_runs_the_file(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = model(tmp_path, "openvino cpu f32")
    with load(path, threads=1) as segmenter:
        described = segmenter.describe()
    assert (described["backend"], described["precision"], described["threads"]) == ("openvino", "f32", 1)


def test_what_is_asked_for_comes_first(tmp_path: Path) -> None:
    path = model(tmp_path, "openvino cpu f32")
    for asked in ({"backend": "onnxruntime"}, {"device": "cpu"}):
        with load(path, **asked) as segmenter:
            assert segmenter.backend.name == "onnxruntime"


def test_without_the_library_onnxruntime_runs_it_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with caplog.at_level(logging.WARNING), load(model(tmp_path, "openvino cpu f32")) as segmenter:
        assert segmenter.backend.name == "onnxruntime"
    assert "runs slower than it could" in caplog.text and "cpsl_deploy[openvino]" in caplog.text
