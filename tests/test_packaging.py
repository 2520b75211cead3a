"""The wheel has everything, installs into a clean environment, and works there."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pytest
from packaging.requirements import Requirement
from tiny_onnx import nearest_colour, street, write_tiny_onnx

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {"cpsl_deploy": "cpsl_deploy", "train": "cpsl_deploy/train", "export": "cpsl_deploy/export"}
"""Folder of code at the top level -> where it is imported from."""

TOP_LEVEL = {
    ".ci", ".dockerignore", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "benchmarks",
    "constraints.txt", "containers", "cpsl_deploy", "docs", "export", "pyproject.toml", "requirements",
    "tests", "train",
}  # fmt: skip

COMMANDS = ("cpsl-adapt", "cpsl-bench", "cpsl-check", "cpsl-demo", "cpsl-drift", "cpsl-export", "cpsl-run")


def source_files(folder: Path) -> list[Path]:
    """Every file of a folder of code, relative to it; caches and the two symlinks are left out."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.name == "__pycache__" or path.name.startswith(".") or path.is_symlink():
            continue
        found += [path, *source_files(path)] if path.is_dir() else [path]
    return [path for path in found if path.is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves a build folder, whose old files would enter the next wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in SOURCES:
        shutil.copytree(
            ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, tree)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new virtual environment with the wheel in it.

    Its other packages are those of the running interpreter, over a path file: the entries of such a folder's
    own path files do not count there, so an editable install of this project cannot step in.
    """
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False, symlinks=True)
    scheme, place = "nt" if os.name == "nt" else "posix_prefix", {"base": str(folder)}
    scripts, packages = (Path(sysconfig.get_path(name, scheme, place)) for name in ("scripts", "purelib"))
    pip("install", "--no-deps", "--no-index", wheel, python=scripts / "python")
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "others.pth").write_text("\n".join(others))
    return scripts


def pip(*arguments: object, python: Path | None = None) -> None:
    target = ["--python", str(python)] if python else []
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *target, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def run(command: list[object], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=folder)


def test_the_wheel_is_the_tree(wheel: Path) -> None:
    """A subpackage that pyproject.toml does not list is left out in silence."""
    expected = {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, place in SOURCES.items()
        for path in source_files(ROOT / folder)
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in packed} == {"cpsl_deploy"}
    assert packed == expected
    assert {"cpsl_deploy/train/__init__.py", "cpsl_deploy/export/graph/deploy_graph.py"} <= packed
    assert any(name.endswith(".toml") for name in packed), "the recipes"


def test_the_wheel_names_the_commands_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        information = {Path(name).name: name for name in archive.namelist() if ".dist-info/" in name}
        entry_points = configparser.ConfigParser()
        entry_points.read_string(archive.read(information["entry_points.txt"]).decode())
    assert tuple(sorted(entry_points["console_scripts"])) == COMMANDS
    assert "LICENSE" in information


def test_the_installed_package_runs_a_model_without_torch(clean: Path, tmp_path: Path) -> None:
    write_tiny_onnx(tmp_path / "tiny.onnx")
    cv2.imwrite(str(tmp_path / "street.png"), street()[..., ::-1])
    script = """
import sys
sys.modules["torch"] = None  # importing it would raise
import cv2, numpy, cpsl_deploy, cpsl_deploy.bench
with cpsl_deploy.load("tiny.onnx") as segmenter:
    numpy.save("labels.npy", segmenter.predict(cv2.imread("street.png")).labels)
print(cpsl_deploy.__file__, cpsl_deploy.__version__)
"""
    done = run([clean / "python", "-c", script], tmp_path)
    assert done.returncode == 0, done.stderr
    place, number = done.stdout.split()
    assert Path(place).is_relative_to(clean.parent), "the installed package, not the checkout"
    assert number == version("cpsl_deploy")
    assert np.array_equal(np.load(tmp_path / "labels.npy"), nearest_colour(street()))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_installed_commands_start(clean: Path, tmp_path: Path, command: str) -> None:
    done = run([clean / command, "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: {command}")
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_prints_the_pip_command(clean: Path, tmp_path: Path) -> None:
    script = 'import sys; sys.modules["torch"] = None; from cpsl_deploy.export.command import main; main()'
    done = run([clean / "python", "-c", script, "model.safetensors"], tmp_path)
    assert done.returncode == 2
    assert "pip install 'cpsl_deploy[export]'" in done.stderr and "Traceback" not in done.stderr


def test_the_top_level_has_the_names_agreed_on() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files belong to the project is not known")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name.partition("/")[0] for name in listed.stdout.split("\0") if name} == TOP_LEVEL


@pytest.mark.parametrize("name", ["train", "export"])
def test_the_checkout_imports_the_two_folders_over_relative_links(name: str) -> None:
    link = ROOT / "cpsl_deploy" / name
    assert link.is_symlink() and link.readlink() == Path("..", name)


def test_the_set_up_installs_versions_the_package_allows() -> None:
    """For each dependency and extra of the set-up there is a pin, and it satisfies pyproject.toml."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"==[^,*]+", str(pin.specifier)) for pin in pins), "a pin is one version"
    text = (ROOT / "pyproject.toml").read_text()
    tables = re.findall(r"^(dependencies|cpu|train|export|dev) = (\[.*?\])$", text, re.M | re.S)
    assert len(tables) == 5
    for requirement in (Requirement(r) for _, table in tables for r in re.findall(r'"(.+?)"', table)):
        found = [pin for pin in pins if pin.name.lower() == requirement.name.lower()]
        assert found, f"constraints.txt has no pin for {requirement.name}"
        for pin in found:
            assert next(iter(pin.specifier)).version in requirement.specifier
