"""The container files: what they copy is there, what they install is what pyproject.toml says, and no torch.

No image is built here. docs/edge.md says what of them was carried out by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from container_files import Stage, instructions, is_sent, stages
from edge_requirements import PROJECT, names_of, requirement_lines, with_extras
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "containers").glob("*.Dockerfile"))
PACKAGES = {"cpsl_deploy", "train", "export"}
INSTALLING = [(path, stage) for path in FILES for stage in stages(path) if "pip install" in str(stage)]
RUNNING = [(path, stage) for path in FILES for stage in stages(path) if any(stage.values("ENTRYPOINT"))]


def ids(found: list[tuple[Path, Stage]]) -> list[str]:
    return [f"{path.stem}-{stage.name}" for path, stage in found]


def test_there_is_one_for_each_machine() -> None:
    assert [path.name for path in FILES] == ["jetson.Dockerfile", "x86.Dockerfile"]
    names = [stage.name for stage in stages(ROOT / "containers/x86.Dockerfile")]
    assert names[-1] == "cpu" and "gpu" in names, "the last stage is what is built without --target"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_stage_begins_with_an_image_and_its_tag(path: Path) -> None:
    named: set[str | None] = set()
    for stage in stages(path):
        assert stage.image in named or re.fullmatch(r"[a-z0-9./-]+:[a-z]*[0-9][A-Za-z0-9._-]+", stage.image)
        named.add(stage.name)
        assert all(origin is None or origin in named for _, _, origin in stage.copied)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_copied_is_there_and_sent(path: Path) -> None:
    for stage in stages(path):
        for sources, target, origin in stage.copied:
            if origin is not None:
                continue
            for source in sources:
                assert (ROOT / source).exists() and is_sent(ROOT, source), source
            assert len(sources) == 1 or target.endswith("/")


def test_models_data_and_runs_are_not_sent() -> None:
    for path in (
        "runs/a/model.onnx",
        "data/x.png",
        ".git/config",
        "tests/test_x.py",
        "model.engine",
        ".venv/x",
    ):
        assert not is_sent(ROOT, path), path
    assert not is_sent(ROOT, "cpsl_deploy/__pycache__") and not is_sent(ROOT, "train/a/__pycache__/b.pyc")
    for path in ("cpsl_deploy/run.py", "train/recipes/own.toml", "requirements/jetson.txt", "README.md"):
        assert is_sent(ROOT, path), path


@pytest.mark.parametrize(("path", "stage"), INSTALLING, ids=ids(INSTALLING))
def test_the_package_is_installed_whole_and_pinned(path: Path, stage: Stage) -> None:
    sources = {source for sources, _, origin in stage.copied if origin is None for source in sources}
    assert {"pyproject.toml", PROJECT["readme"], "LICENSE", "constraints.txt"} | PACKAGES <= sources
    (command,) = (value for value in stage.values("RUN") if "pip install" in value)
    installs = re.findall(r"pip install (.*?)(?: && |$)", command)
    assert all("--no-cache-dir" in line for line in installs)
    assert all("constraints.txt" in line or "--no-deps" in line for line in installs)


@pytest.mark.parametrize("stage", [s for p, s in INSTALLING if p.stem == "x86"], ids=lambda stage: stage.name)
def test_the_extras_are_those_of_the_project_and_bring_no_torch(stage: Stage) -> None:
    extras = stage.arguments["EXTRAS"].split(",")
    brought = names_of(with_extras(extras))
    assert not {"torch", "onnx", "onnxscript", "matplotlib"} & brought
    assert len({"onnxruntime", "onnxruntime-gpu"} & brought) == 1, "they break each other"
    (command,) = (value for value in stage.values("RUN") if "pip install" in value)
    assert command.count('".[$EXTRAS]"') == 1


def test_the_gpu_stage_pins_what_its_cuda_decides() -> None:
    pinned = requirement_lines(ROOT / "containers/gpu-constraints.txt")
    wanted = {each.name: each for each in with_extras(["gpu", "trt"])}
    for pin in pinned:
        (version,) = (each.version for each in pin.specifier)
        assert wanted[pin.name].specifier.contains(version), pin
    assert {pin.name for pin in pinned} == {"onnxruntime-gpu", "tensorrt-cu13"}
    images = [stage.image for stage in stages(ROOT / "containers/x86.Dockerfile") if "gpu" in str(stage.name)]
    assert len(set(images)) == 1 and images[0].startswith("nvidia/cuda:13.")


def test_the_jetson_keeps_jetpacks_packages() -> None:
    (stage,) = stages(ROOT / "containers/jetson.Dockerfile")
    command = stage.values("RUN")[-1]
    assert "--system-site-packages" in command and "-r requirements/jetson.txt" in command
    assert "--no-deps ." in command and "EXTRAS" not in str(stage)
    more = stage.arguments["MORE"].strip('"').split()
    assert set(more) == {Requirement(text).name for text in PROJECT["optional-dependencies"]["preview"]}
    assert "grep -v '^numpy=='" in command, "the pinned NumPy is too new for JetPack's OpenCV"


@pytest.mark.parametrize(("path", "stage"), RUNNING, ids=ids(RUNNING))
def test_what_runs_is_cpsl_run_of_nobody_special(path: Path, stage: Stage) -> None:
    assert json.loads(stage.values("ENTRYPOINT")[0]) == ["cpsl-run"] and "cpsl-run" in PROJECT["scripts"]
    assert stage.values("USER") == ["1000:1000"]
    environment = dict(word.split("=", 1) for word in stage.values("ENV")[-1].split())
    assert environment["PATH"] == "/opt/cpsl/bin:$PATH"
    # Nothing but /tmp and volumes is written: the rest may be read-only.
    assert environment["HOME"] == "/tmp" and environment["CPSL_CACHE"].startswith("/tmp/")
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"


def test_a_line_that_is_no_instruction_is_found(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM a:1\nRUN a \\\n    && b\n# a comment\nRUM c\n")
    with pytest.raises(ValueError, match="Dockerfile:5: no instruction: 'RUM c'"):
        instructions(tmp_path / "Dockerfile")
    (tmp_path / "Dockerfile").write_text("FROM a:1\nRUN a \\\n    # why\n    && b\n")
    assert [(each.value, each.line) for each in instructions(tmp_path / "Dockerfile")] == [
        ("a:1", 1),
        ("a && b", 2),
    ]
