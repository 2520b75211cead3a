"""The set-up of a Jetson: the base dependencies, without what JetPack brings itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from container_files import stages
from edge_requirements import base, names_of, requirement_lines

from cpsl_deploy.export.tensorrt.versions import OLDEST

ROOT = Path(__file__).parents[1]
JETSON = requirement_lines(ROOT / "requirements/jetson.txt")
FROM_JETPACK = {"opencv-python-headless"}
CUDA = "cuda-bindings"
BOARDS = {"JetPack 6": ("3.10", "12.9.10"), "JetPack 7": ("3.12", "13.5.0")}
"""Its Python, and a version of cuda-bindings for its CUDA."""


def test_the_file_has_the_base_dependencies_but_those_of_jetpack() -> None:
    assert names_of(JETSON) - {CUDA} == names_of(base()) - FROM_JETPACK
    assert all(each.url is None and not each.extras for each in JETSON)


def test_nothing_in_it_replaces_what_jetpack_brings() -> None:
    for name in names_of(JETSON):
        assert not name.startswith(("opencv", "tensorrt", "torch", "onnxruntime", "nvidia")), name


@pytest.mark.parametrize("requirement", base(), ids=lambda requirement: requirement.name)
def test_the_bounds_are_those_of_the_project(requirement: object) -> None:
    here = {each.name: each for each in JETSON}
    name = requirement.name  # type: ignore[attr-defined]
    if name in FROM_JETPACK:
        return
    least = {str(one) for one in requirement.specifier}  # type: ignore[attr-defined]
    assert least <= {str(one) for one in here[name].specifier}


def test_numpy_is_the_one_for_which_jetpacks_opencv_is_built() -> None:
    numpy = next(each for each in JETSON if each.name == "numpy")
    assert numpy.specifier.contains("1.26.4") and not numpy.specifier.contains("2.0.0")


@pytest.mark.parametrize("board", BOARDS)
def test_each_jetpack_gets_the_bindings_of_its_cuda(board: str) -> None:
    python, version = BOARDS[board]
    environment = {"python_version": python}
    (chosen,) = (
        each
        for each in JETSON
        if each.name == CUDA and each.marker is not None and each.marker.evaluate(environment)
    )
    assert chosen.specifier.contains(version)
    others = {other for name, (_, other) in BOARDS.items() if name != board}
    assert not any(chosen.specifier.contains(other) for other in others)


def test_the_page_and_the_container_name_these_files() -> None:
    page = (ROOT / "docs/edge.md").read_text()
    for told in (
        "python3 -m venv --system-site-packages .venv",
        "pip install -r requirements/jetson.txt",
        "pip install --no-deps .",
        "cpsl-export model.onnx --trt",
        "--runtime nvidia",
        f"TensorRT {OLDEST[0]}.{OLDEST[1]}",
    ):
        assert told in page, told
    images = [stage.image for path in (ROOT / "containers").glob("*.Dockerfile") for stage in stages(path)]
    assert all(image in page for image in images), images
