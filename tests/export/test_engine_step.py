"""``cpsl-export --trt``: an engine is judged before it takes the place of anything.

Engines are built by the stand-in for TensorRT. None can run: what opens as an engine is the ONNX file of the
run, or one with other weights where the test plants a bad engine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from exported_files import ANYTHING, Export, report_of, says
from stand_in_tensorrt import Driver, FakeTensorRT

import cpsl_deploy
from cpsl_deploy.errors import UnavailableError
from cpsl_deploy.export import together
from cpsl_deploy.files import sha256
from cpsl_deploy.train.engine.progress import LineWatcher


class Engines:
    """How engines open. ``opened``: those that were, and what was in the run folder at that moment."""

    def __init__(self) -> None:
        self.good = True
        self.fail: BaseException | None = None
        self.opened: list[tuple[Path, dict[str, bytes]]] = []


@pytest.fixture
def engines(folder: Path, trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engines:
    real, engines = cpsl_deploy.load, Engines()

    def load(path: Path, **options: Any) -> Any:
        if path.suffix != ".engine":
            return real(path, **options)
        assert path.is_file()
        engines.opened.append((path, pair(folder)))
        if engines.fail:
            raise engines.fail
        return real(folder / "model.onnx" if engines.good else other_weights(folder, tmp_path), device="cpu")

    monkeypatch.setattr(cpsl_deploy, "load", load)
    return engines


def other_weights(folder: Path, place: Path) -> Path:
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4 and not tensor.name.startswith("_"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, place / "other.onnx")
    return place / "other.onnx"


def pair(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(folder).items() if name.startswith("model.engine")}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def change_driver(driver: Driver) -> None:
    driver.own_version = "590.44.01"


def test_an_engine_is_put_in_place_with_its_report(
    export: Export, folder: Path, engines: Engines, trt: FakeTensorRT
) -> None:
    says(export("--trt"), f"engine {folder / 'model.engine'} (built in")
    ((opened, there),) = engines.opened
    assert opened.parent != folder and there == {}, "judged before it is in place"
    assert not opened.parent.exists()
    assert pair(folder)["model.engine"] == b"engine 1"
    sidecar = json.loads((folder / "model.engine.json").read_text())
    assert sidecar["engine_sha256"] == sha256(folder / "model.engine")
    assert sidecar["onnx_sha256"] == sha256(folder / "model.onnx")
    assert report_of(folder)["engine"]["file"] == "model.engine" and report_of(folder)["engine"]["passed"]
    says(export("--trt"), "(up to date)")
    assert engines.opened[1][0] == folder / "model.engine" and trt.calls["builds"] == 1
    assert report_of(folder)["engine"]["passed"]


def test_a_refused_engine_leaves_the_earlier_one(
    export: Export, folder: Path, engines: Engines, driver: Driver, trt: FakeTensorRT
) -> None:
    export("--trt")
    before = files(folder)
    change_driver(driver)
    engines.good = False
    result = export("--trt", code=3)
    says(
        result,
        "breaks the budget that the file itself keeps: at least 99.900% of the pixels must have",
        f"It was not put in place; the earlier one stays: {folder / 'model.engine'}.",
        "The ONNX file is in place.",
        str(folder / "model.refused/export.md"),
    )
    assert trt.calls["builds"] == 2 and files(folder) == before
    assert report_of(folder)["engine"] is None, "what stays was built for another driver"
    refused = json.loads((folder / "model.refused/export.json").read_text())
    assert [(c["name"], c["passed"]) for c in refused["candidates"]] == [
        ("fp32 onnxruntime", True),
        ("fp32 tensorrt cuda", False),
    ]
    page = (folder / "model.refused/export.md").read_text()
    assert "**failed**" in page
    assert all(f"({path.name})" in page for path in (folder / "model.refused").glob("*.png"))
    engines.good = True
    export("--trt")
    assert pair(folder)["model.engine"] == b"engine 3" and not (folder / "model.refused").exists()


def test_the_first_engine_is_refused(export: Export, folder: Path, engines: Engines) -> None:
    engines.good = False
    says(export("--trt", code=3), "It was not put in place. The ONNX file is in place.")
    assert pair(folder) == {} and (folder / "model.onnx").is_file()
    export("--trt", *ANYTHING)
    assert pair(folder)["model.engine"] == b"engine 2"


def test_an_engine_that_breaks_a_stricter_budget_stays(
    export: Export, folder: Path, engines: Engines, trt: FakeTensorRT
) -> None:
    engines.good = False
    export("--trt", *ANYTHING)
    before = pair(folder)
    says(export("--trt", code=3), f"It was there before, built for another budget, and stays: {folder}/model")
    assert pair(folder) == before and len(before) == 2 and trt.calls["builds"] == 1


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("error", "code"), [(UnavailableError("the GPU is gone"), 2), (KeyboardInterrupt(), 130)]
)
def test_an_engine_that_could_not_be_judged_is_not_put_in_place(
    export: Export,
    folder: Path,
    engines: Engines,
    driver: Driver,
    error: BaseException,
    code: int,
    there: bool,
) -> None:
    if there:
        export("--trt")
        change_driver(driver)
    before = pair(folder)
    engines.fail = error
    export("--trt", code=code)
    assert pair(folder) == before and len(before) == 2 * there
    assert not engines.opened[-1][0].parent.exists()
    assert (folder / "model.onnx").is_file()


@pytest.mark.parametrize("name", ["model.engine", "model.engine.json", "export.json"])
def test_a_disk_that_is_full_leaves_the_earlier_engine_and_its_report(
    export: Export,
    folder: Path,
    engines: Engines,
    driver: Driver,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    export("--trt")
    change_driver(driver)
    before, real = pair(folder), together.shutil.copyfile
    copied: list[str] = []

    def copyfile(source: Path, target: Path) -> Any:
        if source.name == name and engines.opened[1:]:
            copied.append(name)
            raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(together.shutil, "copyfile", copyfile)
    says(export("--trt", code=2), "disk is full")
    assert copied == [name] and pair(folder) == before and report_of(folder)["engine"] is None


def test_a_profile_beyond_what_a_file_takes_is_told_at_once(export: Export, folder: Path) -> None:
    result = export("--trt", "--profile", "1x64x96,1x96x128,1x192x40000", code=2)
    says(result, "at most 32768; got 192x40000")
    assert "comparing frames" not in result.output and not (folder / "model.onnx").exists()


def test_no_build_is_announced_before_what_is_missing(
    export: Export, folder: Path, engines: Engines, driver: Driver
) -> None:
    driver.count = 0
    result = export("--trt", code=2)
    says(result, "no GPU")
    assert "TensorRT engine, percent" not in result.output and (folder / "model.onnx").is_file()


def test_a_build_is_shown_while_it_lasts(
    export: Export, engines: Engines, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = LineWatcher.stage

    def slowly(monitor: Any) -> bool:
        monitor.phase_start("Building", None, 2)
        monitor.step_complete("Building", 0)
        while not seen:
            pass
        return True

    def stage(self: LineWatcher, name: str, done: int, total: int) -> None:
        real(self, name, done, total)
        if name.startswith("TensorRT"):
            seen.append(name)

    monkeypatch.setattr(LineWatcher, "stage", stage)
    trt.during = slowly
    says(export("--trt"), "TensorRT engine, percent: 100")
    assert len(seen) == 1
