"""Exports cut short at every moment, full disks and read-only places: the earlier export stays as it was."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from export_networks import Small, small_model, spec_for

from cpsl_deploy.errors import OutputError
from cpsl_deploy.export import exporter, placing, workshop
from cpsl_deploy.export.exporter import export
from cpsl_deploy.export.request import ExportRequest
from cpsl_deploy.files import atomic_paths, sha256
from cpsl_deploy.train.models import ARCHITECTURES, save_model

# A file that was opened a moment before an interruption is closed by its collection, with a warning.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
SMALLER = ExportRequest(size=(32, 32))


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], bytes]:
    """The ONNX files of two sizes: tracing a network takes seconds."""
    found: dict[tuple[int, int], bytes] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "small", Small)
        folder = write_run(tmp_path_factory.mktemp("traced"))
        for size in ((48, 64), (32, 32)):
            made = export(folder, folder / f"{size[0]}.onnx", request=ExportRequest(size=size))
            found[size] = made.path.read_bytes()
    return found


def write_run(folder: Path) -> Path:
    model = small_model()
    save_model(folder / "model.safetensors", model, spec_for(model))
    return folder


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traced: dict[tuple[int, int], bytes]) -> Path:
    """A run that was exported before."""

    def export_onnx(model: Any, spec: Any, path: Path, *, size: tuple[int, int], **options: Any) -> Path:
        path.write_bytes(traced[size])
        return path

    monkeypatch.setitem(ARCHITECTURES, "small", Small)
    monkeypatch.setattr(workshop, "export_onnx", export_onnx)
    (tmp_path / "run").mkdir()
    export(write_run(tmp_path / "run"), request=ExportRequest(size=(48, 64)))
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def shown(folder: Path) -> dict[str, bytes]:
    """What an interrupted clean-up leaves behind is hidden."""
    files = contents(folder)
    return {name: data for name, data in files.items() if not name.startswith(".") and "/." not in name}


class Interrupt:
    """Raises KeyboardInterrupt in the n-th call or return of or in a function of ``places``."""

    def __init__(self, moment: int, places: tuple[str, ...]) -> None:
        self.moment, self.places = moment, places
        self.events = 0

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if not frame.f_code.co_filename.endswith(self.places):
            return
        self.events += 1
        if self.events == self.moment:
            sys.setprofile(None)
            raise KeyboardInterrupt


def interrupted(moment: int, do: Callable[[], Any], *places: str) -> Interrupt:
    """Do it and interrupt it at a moment."""
    interrupt, before = Interrupt(moment, places), sys.getprofile()
    sys.setprofile(interrupt)
    try:
        do()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(before)
    return interrupt


PUTTING = ("cpsl_deploy/files.py", "export/exporter.py", "export/placing.py", "export/together.py")


def test_an_interrupted_export_leaves_a_file_and_the_report_of_it(run_folder: Path) -> None:
    def again() -> None:
        export(run_folder, request=SMALLER)

    before = contents(run_folder)
    last = interrupted(0, again, *PUTTING).events
    wanted = contents(run_folder)
    assert last > 100 and wanted["model.onnx"] != before["model.onnx"]
    # The report is written in the second half, and in the last events all of it is put in place.
    for moment in [1, *range(last // 2, last - 60, last // 8), *range(last - 60, last, 4)]:
        export(run_folder, request=ExportRequest(size=(48, 64)))
        earlier = shown(run_folder)
        interrupted(moment, again, *PUTTING)
        after = shown(run_folder)
        assert set(after) == set(before), f"at moment {moment}"
        report = json.loads(after["model.export/export.json"])
        assert report["onnx_sha256"] == sha256(run_folder / "model.onnx"), f"at moment {moment}"
        assert after["model.onnx"] in (before["model.onnx"], wanted["model.onnx"])
        if after["model.onnx"] == before["model.onnx"]:
            assert after == earlier, f"at moment {moment}"


STEPS = ("load_model", "make_reference", "hold_trials", "operator_counts", "sha256", "write_json")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("step", STEPS)
def test_an_export_that_fails_in_a_step_changes_nothing(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    module = exporter if hasattr(exporter, step) and step != "write_json" else placing
    real, before = getattr(module, step), contents(run_folder)

    def fail(*arguments: Any, **options: Any) -> Any:
        real(*arguments, **options)
        raise error

    monkeypatch.setattr(module, step, fail)
    with pytest.raises((KeyboardInterrupt, OutputError, OSError)):
        export(run_folder, request=SMALLER)
    assert contents(run_folder) == before


def test_a_read_only_folder_is_a_clear_error(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the refusal is made here."""
    before, mkdir = contents(run_folder), Path.mkdir

    def refuse(self: Path, *arguments: Any, **options: Any) -> None:
        if self.parent == run_folder:
            raise PermissionError(errno.EROFS, "Read-only file system", str(self))
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match=r"cannot write .*Read-only file system\. Choose a writable place"):
        export(run_folder, request=SMALLER)
    assert contents(run_folder) == before


@pytest.mark.parametrize("there", [(), ("a",), ("folder/b",), ("a", "folder/b")])
def test_what_belongs_together_is_put_in_place_together(tmp_path: Path, there: tuple[str, ...]) -> None:
    """At every moment: all old or all new, and nothing stays beside it but what was half made."""

    def both() -> None:
        with atomic_paths(tmp_path / "a", folder=tmp_path / "folder") as (file, folder):
            file.write_text("new")
            (folder / "b").write_text("new")

    old, new = dict.fromkeys(there, b"old"), {"a": b"new", "folder/b": b"new"}
    last = interrupted(0, both, "cpsl_deploy/files.py").events
    assert last > 60 and contents(tmp_path) == new
    for moment in range(1, last):
        with atomic_paths(tmp_path / "a", folder=tmp_path / "folder") as (file, folder):
            for name in there:
                (file if name == "a" else folder / "b").write_text("old")
            file.touch()
        for name in {"a", "folder/b"} - set(there):
            (tmp_path / name).unlink(missing_ok=True)
        if "folder/b" not in there:
            (tmp_path / "folder").rmdir()
        interrupted(moment, both, "cpsl_deploy/files.py")
        assert shown(tmp_path) in (old, new), f"at moment {moment}"
    both()
    assert contents(tmp_path) == new


@pytest.mark.parametrize("failing", ["a", "b"])
def test_a_disk_that_is_full_at_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    (tmp_path / "a").write_text("old")
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name == failing and ".old" not in Path(source).name:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with (
        pytest.raises(OutputError, match="disk is full"),
        atomic_paths(tmp_path / "a", tmp_path / "b") as temporaries,
    ):
        for temporary in temporaries:
            temporary.write_text("new")
    assert contents(tmp_path) == {"a": b"old"}


def test_files_on_a_disk_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*arguments: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    (tmp_path / "a").write_text("old")
    with pytest.raises(OutputError), atomic_paths(tmp_path / "a", tmp_path / "b") as (first, _):
        first.write_text("new")  # and the second is never written
    assert contents(tmp_path) == {"a": b"old"}
    with atomic_paths(tmp_path / "a") as (first,):
        first.write_text("new")
    assert contents(tmp_path) == {"a": b"new"}
