"""What a start costs, counted in modules: the help of every command, opening a model."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cpsl_deploy import backend_names, backends
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


def modules_after(code: str) -> set[str]:
    """What a fresh interpreter has imported when it has run the code."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{code}\n{MODULES}"],
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


def test_names_that_help_shows_are_those_that_work() -> None:
    for name in ("BACKENDS", "DEVICES", "ENGINE_SUFFIXES", "OPENVINO_PRECISIONS"):
        assert getattr(backends, name) == getattr(backend_names, name)
    (frames,) = [option for option in cpsl_check.params if option.name == "frames"]
    assert f"[default: {DEFAULT_FRAMES}]" in str(frames.to_info_dict()["help"])


def test_public_names_of_data_come_when_asked_for() -> None:
    before = modules_after("import cpsl_deploy.data as data\nassert 'open_dataset' in dir(data)")
    assert "cv2" not in before and "cpsl_deploy.data.open" not in before
    after = modules_after("from cpsl_deploy.data import Dataset, dataset_splits, open_dataset")
    assert {"cpsl_deploy.data.open", "cpsl_deploy.data.dataset"} <= after
