"""What a start costs, counted in modules: the help of every command, opening a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cpsl_deploy import ModelFileError, load
from cpsl_deploy.backends import onnx_file
from cpsl_deploy.backends.onnx_file import read_onnx_metadata
from cpsl_deploy.data.check_command import main as cpsl_check
from cpsl_deploy.data.footage import DEFAULT_FRAMES

COMMANDS = {
    "cpsl-adapt": "cpsl_deploy.train.command",
    "cpsl-bench": "cpsl_deploy.bench.command",
    "cpsl-check": "cpsl_deploy.data.check_command",
    "cpsl-demo": "cpsl_deploy.export.demo_command",
    "cpsl-drift": "cpsl_deploy.drift.command",
    "cpsl-export": "cpsl_deploy.export.command",
    "cpsl-run": "cpsl_deploy.run_command",
}
PACKAGES = {"click", "cpsl_deploy"}
"""That a help may import, beside the standard library."""
OWN = {
    "cpsl_deploy",
    "cpsl_deploy.backend_names",
    "cpsl_deploy.bench",
    "cpsl_deploy.command_line",
    "cpsl_deploy.contract",
    "cpsl_deploy.data",
    "cpsl_deploy.drift",
    "cpsl_deploy.errors",
    "cpsl_deploy.export",
    "cpsl_deploy.export.file_command",
    "cpsl_deploy.files",
    "cpsl_deploy.lazy",
    "cpsl_deploy.train",
}
"""Of this project, beside the command's own."""
SLOW = {"asyncio", "concurrent", "email", "http", "importlib.metadata", "multiprocessing", "ssl", "xml"}
"""Of the standard library, and never needed for a help."""

MODULES = "import json, sys\nprint('\\n' + json.dumps(sorted(sys.modules)))"
EMPTY = "import click\nclick.command()(lambda: None)(['--help'], standalone_mode=False)\n"


def modules_after(code: str, *arguments: object) -> set[str]:
    """What a fresh interpreter has imported when it has run the code."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{code}\n{MODULES}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def of_click() -> set[str]:
    return modules_after(EMPTY)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_what_it_shows_and_no_more(command: str, of_click: set[str]) -> None:
    module = COMMANDS[command]
    code = f"from {module} import main\nmain(['--help'], standalone_mode=False)"
    more = modules_after(code) - of_click
    own = {name for name in more if name.partition(".")[0] == "cpsl_deploy"}
    assert own <= OWN | {module}
    assert len(own) <= 10
    others = {name.partition(".")[0] for name in more - own}
    assert others - sys.stdlib_module_names <= PACKAGES
    assert not (more & SLOW or others & SLOW)


def test_the_default_that_help_shows_is_the_one_in_use() -> None:
    (frames,) = [option for option in cpsl_check.params if option.name == "frames"]
    assert f"[default: {DEFAULT_FRAMES}]" in str(frames.to_info_dict()["help"])


def test_public_names_of_data_come_when_asked_for() -> None:
    before = modules_after("import cpsl_deploy.data as data\nassert 'open_dataset' in dir(data)")
    assert "cv2" not in before and "cpsl_deploy.data.open" not in before
    after = modules_after("from cpsl_deploy.data import Dataset, dataset_splits, open_dataset")
    assert {"cpsl_deploy.data.open", "cpsl_deploy.data.dataset"} <= after


TO_FIRST_LABELS = """
import sys, cpsl_deploy, numpy
with cpsl_deploy.load(sys.argv[1]) as segmenter:
    segmenter.predict(numpy.zeros((64, 96, 3), numpy.uint8))
"""


def test_first_labels_need_the_runtime_and_no_more(tiny_model: Path) -> None:
    more = modules_after(TO_FIRST_LABELS, tiny_model) - modules_after("import cv2, numpy, onnxruntime")
    own = {name for name in more if name.partition(".")[0] == "cpsl_deploy"}
    parts = {name.split(".")[1] for name in own if "." in name}
    assert not parts & {"bench", "data", "drift", "run", "sinks", "sources", "streams"}
    assert not {name.partition(".")[0] for name in more - own} & SLOW
    assert not more & {"av", "hashlib", "rich", "yaml", "importlib.metadata", "openvino"}


def test_a_file_is_parsed_once_for_one_opening(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_model.read_bytes())
    before = onnx_file._read.cache_info()
    load(path).close()
    after = onnx_file._read.cache_info()
    assert after.misses - before.misses == 1 and after.hits > before.hits


def test_another_file_in_its_place_is_read_again(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    data = tiny_model.read_bytes()
    path.write_bytes(data)
    metadata = read_onnx_metadata(path)
    metadata["outputs"] = "changed by whoever was given it"
    assert read_onnx_metadata(path)["outputs"] == "labels"
    path.write_bytes(data[:-1])
    with pytest.raises(ModelFileError, match="cut off"):
        read_onnx_metadata(path)
