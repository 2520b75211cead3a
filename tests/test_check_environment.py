"""cpsl-check without data: what this machine and installation can do."""

import dataclasses
import importlib.metadata
import json
import re
import sys
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner

from cpsl_deploy import machine as machine_module
from cpsl_deploy.data import environment
from cpsl_deploy.data.check_command import main

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="reads pyproject.toml with Python 3.11's tomllib")
def test_the_packages_named_are_those_of_the_project():
    import tomllib

    project = tomllib.loads(PYPROJECT.read_text())["project"]

    def names(requirements):
        return {re.split(r"[<>=!;\s]", r)[0] for r in requirements if "python_version" not in r}

    assert set(environment.BASE) == names(project["dependencies"])
    extras = {extra: names(r) for extra, r in project["optional-dependencies"].items() if extra != "dev"}
    assert {extra: set(packages) for extra, packages in environment.EXTRAS.items()} == extras


def test_a_codec_counts_as_usable_only_if_a_video_was_written(capfd):
    assert environment.can_write_video("mjpeg", ".avi")
    assert not environment.can_write_video("none", ".mp4")
    assert capfd.readouterr().err == ""


def test_missing_extras_come_with_their_pip_line(monkeypatch, tmp_path):
    version = importlib.metadata.version

    def without_openvino(name):
        if name == "openvino":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_openvino)
    done = CliRunner().invoke(main, ["-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "extra openvino: openvino missing. Install: pip install 'cpsl_deploy[openvino]'" in done.output
    assert re.search(r"mjpeg\.avi yes", done.output) and "free disk in" in done.output
    found = json.loads((tmp_path / "out" / "environment.json").read_text())
    assert found["missing"]["openvino"] == ["openvino"] and found["machine"]["cores"] >= 1


def test_the_environment_is_described_without_torch():
    import subprocess

    code = "import sys; from cpsl_deploy.data import check_command; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_jetson_is_told_of_its_own_opencv_and_tensorrt_and_of_no_wheel(monkeypatch):
    jetson = machine_module.Jetson(
        board="NVIDIA Jetson AGX Orin Developer Kit",
        module="Jetson AGX Orin (developer kit)",
        l4t="36.4.0",
        jetpack="6.1",
        power_mode="MAXN",
        power_mode_id=0,
        rails=(),
    )
    found = environment.describe_environment()
    assert found.places["cv2"] == cv2.__file__
    on_board = dataclasses.replace(
        found,
        machine=dataclasses.replace(found.machine, jetson=jetson),
        places={"cv2": "/usr/lib/cv2.so", "tensorrt": "/usr/lib/tensorrt/__init__.py"},
        missing={"trt": ("tensorrt-cu13",)},
    )
    monkeypatch.setattr(environment, "describe_environment", lambda: on_board)
    shown = CliRunner().invoke(main, []).output
    assert "Jetson AGX Orin" in shown and "JetPack 6.1" in shown
    assert "cv2 from /usr/lib/cv2.so; tensorrt from /usr/lib/tensorrt" in shown
    assert "tensorrt-cu13 missing" not in shown
