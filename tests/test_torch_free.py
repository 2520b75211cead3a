"""Importing, running and the command line never load torch, and importing alone loads next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import pytest

HEAVY = ("torch", "onnxruntime", "openvino", "cv2", "numpy", "rich", "matplotlib")


def run_python(code: str, *arguments: object) -> str:
    """What the code prints in a fresh interpreter in which importing torch is an error."""
    guard = "import sys; sys.modules['torch'] = None\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", guard + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light() -> None:
    loaded = run_python(
        f"import cpsl_deploy, sys; print([name for name in {HEAVY} if sys.modules.get(name) is not None])"
    )
    assert loaded.strip() == "[]"


def test_run_without_torch(tmp_path: Path, tiny_model: Path) -> None:
    from tiny_onnx import street

    cv2.imwrite(str(tmp_path / "street.png"), street()[..., ::-1])
    printed = run_python(
        "import sys; from cpsl_deploy.run import run\n"
        "print(run(sys.argv[1], sys.argv[2], sys.argv[3], threads=1).frames)",
        tiny_model,
        tmp_path / "street.png",
        tmp_path / "out",
    )
    assert printed.strip() == "1"
    assert (tmp_path / "out/street.overlay.png").is_file()


@pytest.mark.parametrize("module", ["cpsl_deploy.run_command"])
def test_help_without_torch_or_a_runtime(module: str) -> None:
    printed = run_python(
        f"import sys; sys.modules['onnxruntime'] = None; from {module} import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "assert sys.modules.get('cv2') is None"
    )
    assert "Usage:" in printed and "MODEL" in printed
