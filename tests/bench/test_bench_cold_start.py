"""Cold starts in fresh processes, and what is said of those that fail."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import pytest
from bench_backends import grey

from cpsl_deploy import errors
from cpsl_deploy.backends import gpu
from cpsl_deploy.bench.cold_start import measure_cold_start
from cpsl_deploy.bench.frames import EncodedFrame
from cpsl_deploy.errors import DataError, InputError, MissingExtraError, ModelFileError, UnavailableError

PNG = cv2.imencode(".png", grey(100, (96, 160)))[1].tobytes()
FRAME = EncodedFrame(name="grey", read=lambda: PNG)
PARTS = ("process_ms", "import_ms", "load_ms", "first_frame_ms")


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a shell script the Python interpreter."""

    def become(script: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return become


def test_parts_add_up_and_belong_to_what_they_say(tiny_model: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "sitecustomize.py").write_text("import time; time.sleep(0.15)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "late"))
    calls: list[tuple[str, int, int]] = []
    found = measure_cold_start(tiny_model, FRAME, runs=2, progress=lambda *call: calls.append(call))
    section = found.to_json()
    assert section["runs"] == 2 and all(len(section[name]) == 2 and min(section[name]) > 0 for name in PARTS)
    for i, total in enumerate(section["to_first_labels_ms"]):
        assert total == pytest.approx(sum(section[name][i] for name in PARTS))
    assert min(section["process_ms"]) >= 150  # a fresh interpreter each time
    assert calls == [("cold start", 0, 2), ("cold start", 1, 2), ("cold start", 2, 2)]


def test_modules_in_the_current_folder_are_left_alone(tiny_model: Path, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    for name in ("json", "numpy", "onnxruntime", "cpsl_deploy"):
        (folder / f"{name}.py").write_text("raise SystemExit('not this one')\n")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(folder)
    assert measure_cold_start(tiny_model, FRAME, runs=1).runs == 1


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"backend": "openvino", "precision": "f99"}, InputError, "OpenVINO precision"),
        pytest.param(
            {"device": "cuda"},
            UnavailableError,
            "no GPU here",
            marks=pytest.mark.skipif(gpu.nvidia_gpu_count() > 0, reason="this machine has an NVIDIA GPU"),
        ),
    ],
)
def test_what_loading_raises_is_raised_here(tiny_model: Path, arguments, kind, words) -> None:
    with pytest.raises(kind, match=words) as caught:
        measure_cold_start(tiny_model, FRAME, **arguments)
    assert type(caught.value) is kind


def test_a_missing_model_and_a_frame_that_is_none(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no model file .*nothing\.onnx"):
        measure_cold_start(tmp_path / "nothing.onnx", FRAME)
    with pytest.raises(DataError, match=r"a\.png is not an image"):
        measure_cold_start(tiny_model, EncodedFrame(name="a", origin="a.png", read=lambda: b"text"))


def test_every_error_of_the_project_comes_back_as_what_it_was(tiny_model: Path, interpreter) -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    for kind in kinds:
        interpreter(
            f'''echo noise; echo '{{"error": "{kind.__name__}", "message": "why: {kind.__name__}"}}' '''
        )
        expected = UnavailableError if kind is MissingExtraError else kind
        with pytest.raises(expected, match=f"^why: {kind.__name__}$") as caught:
            measure_cold_start(tiny_model, FRAME)
        assert type(caught.value) is expected
    assert len(kinds) > 8


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("kill -SEGV $$", "was ended by SIGSEGV"),
        ("echo 'no memory left' >&2; exit 3", "ended with exit code 3 and no labels: no memory left"),
        ("echo '[1]'", "ended with exit code 0 and no labels"),
    ],
)
def test_a_process_that_dies(tiny_model: Path, interpreter, script: str, words: str) -> None:
    interpreter(script)
    with pytest.raises(UnavailableError, match=f"{words}.*cpsl_deploy.load"):
        measure_cold_start(tiny_model, FRAME)


def test_a_process_that_hangs(tiny_model: Path, interpreter) -> None:
    interpreter("exec sleep 30")
    with pytest.raises(UnavailableError, match=r"not done after 0\.2 s"):
        measure_cold_start(tiny_model, FRAME, timeout_s=0.2)


def test_no_runs_are_refused(tiny_model: Path) -> None:
    with pytest.raises(InputError, match="1 or more"):
        measure_cold_start(tiny_model, FRAME, runs=0)
