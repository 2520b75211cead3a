"""An engine beside an exported file is of this file, or somebody else's and left alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from export_networks import Small, small_model
from exported_files import ANYTHING, Export, says
from stand_in_tensorrt import Driver, FakeTensorRT

import cpsl_deploy
from cpsl_deploy.backends.tensorrt_backend import write_sidecar
from cpsl_deploy.export import workshop
from cpsl_deploy.export.graph.onnx_file import export_onnx
from cpsl_deploy.export.tensorrt.engine import ensure_engine
from cpsl_deploy.export.tensorrt.ownership import built_from, remove_stale_engine
from cpsl_deploy.files import sha256
from cpsl_deploy.train.models import load_model, save_model

SMALLER = ("--size", "32x48", *ANYTHING)


@pytest.fixture
def engines(folder: Path, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """One opens as the ONNX file of the run."""
    real = cpsl_deploy.load

    def load(path: Path, **options: Any) -> Any:
        if path.suffix == ".engine":
            return real(folder / "model.onnx", device="cpu")
        return real(path, **options)

    monkeypatch.setattr(cpsl_deploy, "load", load)
    return trt


def pair(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("model.engine*") if path.is_file()}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [r for r in caplog.records if r.levelno >= logging.WARNING and "drift" not in r.name]
    return [record.getMessage() for record in records if record.name.startswith("cpsl_deploy")]


def test_an_engine_of_other_weights_does_not_stay_beside_the_new_file(
    export: Export, folder: Path, engines: FakeTensorRT, caplog: pytest.LogCaptureFixture
) -> None:
    export("--trt", *ANYTHING)
    weights = folder / "model.safetensors"
    model, spec = load_model(weights)
    save_model(weights, small_model(5, model.num_classes), spec)
    caplog.clear()
    export("--overwrite", *ANYTHING)
    assert pair(folder) == {}
    (said,) = warnings(caplog)
    assert f"{folder / 'model.engine'} was built from an earlier ONNX file, and was removed" in said
    assert f"cpsl-export {folder} -o {folder / 'model.onnx'} --trt" in said


def test_an_engine_of_this_file_stays(
    export: Export, folder: Path, engines: FakeTensorRT, caplog: pytest.LogCaptureFixture
) -> None:
    export("--trt", "--size", "96x128")
    before = pair(folder)
    export("--size", "96x128")
    assert pair(folder) == before and len(before) == 2 and not warnings(caplog)
    assert built_from(folder / "model.engine") == sha256(folder / "model.onnx")


def test_the_engine_of_a_new_file_says_what_it_replaces(
    export: Export, folder: Path, engines: FakeTensorRT, caplog: pytest.LogCaptureFixture
) -> None:
    export("--trt", *ANYTHING)
    export("--trt", *SMALLER)
    (said,) = warnings(caplog)
    assert "building the TensorRT engine" in said and "the ONNX file (SHA-256) was" in said
    assert pair(folder)["model.engine"] == b"engine 2"
    assert built_from(folder / "model.engine") == sha256(folder / "model.onnx")


@pytest.mark.parametrize("failing", ["no gpu", "build"])
def test_a_new_file_whose_engine_fails_has_none_of_an_earlier_file(
    export: Export, folder: Path, engines: FakeTensorRT, driver: Driver, failing: str
) -> None:
    export("--trt", *ANYTHING)
    if failing == "build":
        engines.builds = False
    else:
        driver.count = 0
    export("--trt", *SMALLER, code=2)
    assert pair(folder) == {} and (folder / "model.onnx").is_file()


def test_a_refused_file_leaves_the_earlier_file_and_its_engine(
    export: Export, folder: Path, engines: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    export("--trt", "--size", "96x128")
    before = pair(folder)

    def other_weights(model: Small, *arguments: Any, **options: Any) -> Path:
        return export_onnx(small_model(5, model.num_classes), *arguments, **options)

    monkeypatch.setattr(workshop, "export_onnx", other_weights)
    export("--size", "32x48", code=3)
    assert pair(folder) == before and len(before) == 2


def lay_file(folder: Path) -> None:
    (folder / "model.engine").write_bytes(b"mine")


def lay_folder(folder: Path) -> None:
    (folder / "model.engine").mkdir()


def lay_notes(folder: Path) -> None:
    (folder / "model.engine.json").write_text('{"note": "mine"}')


def lay_others(folder: Path) -> None:
    """Of somebody who followed the README of the runtime, without cpsl-export."""
    lay_file(folder)
    write_sidecar(folder / "model.engine", {"cpsl_deploy": "{}"})


FOREIGN = [lay_file, lay_folder, lay_notes, lay_others]


@pytest.mark.parametrize("lay", FOREIGN)
def test_what_no_export_wrote_is_told_at_once_and_stays(
    export: Export, folder: Path, engines: FakeTensorRT, lay: Callable[[Path], None]
) -> None:
    lay(folder)
    before = pair(folder)
    result = export("--trt", "--overwrite", code=2)
    says(result, "a TensorRT engine is to be written to", "is not of cpsl-export", "another name with -o")
    assert pair(folder) == before and not (folder / "model.onnx").exists()
    assert engines.calls["builds"] == 0
    export("--size", "96x128")
    assert pair(folder) == before, "an export without an engine has nothing to do with it"


def test_auto_asks_too_where_an_engine_may_win(export: Export, folder: Path, engines: FakeTensorRT) -> None:
    lay_file(folder)
    says(export("--auto", code=2), "a TensorRT engine is to be written to")


def test_what_took_the_place_of_an_engine_stays(
    onnx_path: Path, trt: FakeTensorRT, caplog: pytest.LogCaptureFixture
) -> None:
    engine = ensure_engine(onnx_path).path
    engine.write_bytes(b"mine")
    remove_stale_engine(engine, "another", remedy="cpsl-export RUN --trt")
    assert engine.read_bytes() == b"mine" and not warnings(caplog)


def test_an_engine_that_cannot_be_removed_is_told(
    onnx_path: Path, trt: FakeTensorRT, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ensure_engine(onnx_path).path

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    remove_stale_engine(engine, "another", remedy="cpsl-export RUN --trt")
    monkeypatch.undo()
    (said,) = warnings(caplog)
    assert "cannot be removed" in said and "Read-only" in said
    assert json.loads(Path(f"{engine}.json").read_text())["engine_sha256"] == sha256(engine)
