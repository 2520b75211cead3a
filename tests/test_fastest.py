"""``load`` with no backend named: the fastest allowed way, measured once and then remembered."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import cpsl_deploy
from cpsl_deploy import backends
from cpsl_deploy.backends import fastest, remembered
from cpsl_deploy.backends.ways import ONNXRUNTIME, ways_metadata
from cpsl_deploy.cache_folder import cache_folder
from cpsl_deploy.errors import InputError, ModelFileError, UnavailableError
from cpsl_deploy.run_command import main as cpsl_run

tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)
from timed_ways import BF16, Machine, export  # noqa: E402  # it needs that package, too

LOGGER = "cpsl_deploy.backends.fastest"
"""The command lowers its level, for the rest of the process."""


@pytest.fixture(autouse=True)
def both_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both are here, at some version, and nothing is remembered yet."""
    monkeypatch.setattr(fastest, "is_installed", lambda backend: True)
    monkeypatch.setattr(fastest, "_versions", lambda package: [f"{package}-1.dist-info"])
    monkeypatch.setattr(remembered, "cache_folder", cache_folder)
    monkeypatch.setenv("CPSL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return export(tmp_path / "model.onnx", BF16)


def test_the_fastest_is_picked_and_said_in_one_line(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    with caplog.at_level(logging.INFO, LOGGER):
        picked = machine.start(path)
    assert picked.name == "openvino bf16"
    assert machine.closed == ["onnxruntime", "openvino f32"]
    (line,) = [record.getMessage() for record in caplog.records]
    for part in (str(path), "run with openvino bf16", "the fastest of 3", "5.0 ms", "20.0 ms", "--backend"):
        assert part in line
    assert "the fastest of 3" in picked.choice


def test_it_is_measured_in_turns_on_a_frame_with_borders_in_little_time(path: Path) -> None:
    machine = Machine()
    machine.start(path)
    assert len(set(machine.inferences[:3])) == 3
    first_of_a_round = machine.inferences[3::6]
    assert len(set(first_of_a_round)) == 3
    assert machine.now < fastest.BUDGET_S + 0.3
    assert machine.frames.shape == (1, 96, 160, 3) and machine.frames.std() > 20
    slow = Machine(**{"onnxruntime": 3000.0, "openvino f32": 2000.0, "openvino bf16": 1000.0})
    assert slow.start(path, threads=1).name == "openvino bf16"
    assert len(slow.inferences) == 6


def test_the_second_start_measures_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    machine.start(path)
    caplog.clear()
    with caplog.at_level(logging.INFO, LOGGER):
        assert machine.start(path).name == "openvino bf16"
    assert machine.opened == ["openvino bf16"] and not machine.inferences
    assert len(caplog.records) == 1 and "measured here on 20" in caplog.text


def test_another_thread_count_library_core_or_file_is_measured_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine()

    def measured(**asked: int) -> bool:
        machine.start(path, **asked)
        return bool(machine.inferences)

    assert measured() and not measured()
    assert measured(threads=1) and not measured(threads=1) and not measured()
    monkeypatch.setattr(fastest, "_versions", lambda package: [f"{package}-2.dist-info"])
    assert measured() and not measured()
    monkeypatch.setattr("cpsl_deploy.machine.cores.usable_cores", lambda: 0.5)
    assert measured() and not measured()
    monkeypatch.setattr("cpsl_deploy.machine.cpu_name.cpu_name", lambda: "another")
    assert measured() and not measured()
    export(path, BF16, weights="others")
    assert measured() and not measured()


def test_what_was_not_judged_is_never_picked(tmp_path: Path) -> None:
    machine = Machine()
    assert machine.start(export(tmp_path / "model.onnx")).name == "openvino f32"
    assert "openvino bf16" not in machine.opened
    # Not even if the memory says so.
    file = tmp_path / "cache" / remembered.FILE_NAME
    file.write_text(file.read_text().replace('"picked": "openvino f32"', '"picked": "openvino bf16"'))
    assert machine.start(tmp_path / "model.onnx").name == "openvino f32"
    assert "openvino bf16" not in machine.opened


def test_what_computes_exactly_wins_where_rounding_gains_nothing(path: Path) -> None:
    assert Machine(**{"openvino f32": 5.2}).start(path).name == "openvino f32"
    assert Machine(**{"openvino f32": 5.2, "onnxruntime": 5.1}).start(path, threads=1).name == "onnxruntime"


def test_one_way_alone_is_not_measured(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "is_installed", lambda backend: backend == "onnxruntime")
    machine = Machine()
    assert machine.start(path).name == "onnxruntime" and not machine.inferences
    assert not (path.parent / "cache").exists()


@pytest.mark.parametrize("how", ["missing", "broken"])
def test_a_way_that_fails_is_left_out(path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    getattr(machine, how)["openvino bf16"] = UnavailableError("no bf16 here")
    with caplog.at_level(logging.DEBUG, LOGGER):
        assert machine.start(path).name == "openvino f32"
    assert "openvino bf16 is left out: no bf16 here" in caplog.text
    assert sorted([*machine.closed, "openvino f32"]) == sorted(machine.opened)


@pytest.mark.parametrize("how", ["missing", "broken"])
def test_where_every_way_fails_the_error_says_why(path: Path, how: str) -> None:
    machine = Machine()
    getattr(machine, how).update(dict.fromkeys(machine.milliseconds, ModelFileError("damaged")))
    with pytest.raises(ModelFileError, match="damaged"):
        machine.start(path)
    assert machine.closed == machine.opened


def test_a_pick_that_cannot_be_opened_any_more_is_measured_again(path: Path) -> None:
    machine = Machine()
    machine.start(path)
    machine.missing["openvino bf16"] = UnavailableError("gone")
    assert machine.start(path).name == "openvino f32"
    assert machine.start(path).name == "openvino f32" and not machine.inferences


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"picked": "openvino bf16"', '"picked": 3'),
        lambda text: json.dumps(dict.fromkeys(json.loads(text))),
        lambda text: text.replace('"openvino bf16": 5', '"openvino bf16": "5"'),
        lambda text: text.replace('"on": "', '"off": "'),
    ],
)
def test_a_damaged_memory_is_measured_again(path: Path, damage: Callable[[str], str]) -> None:
    machine = Machine()
    machine.start(path)
    file = remembered.remembered_file()
    assert file is not None
    damaged = damage(file.read_text())
    assert damaged != file.read_text()
    file.write_text(damaged)
    assert machine.start(path).name == "openvino bf16" and machine.inferences
    assert machine.start(path).name == "openvino bf16" and not machine.inferences


def test_a_memory_that_cannot_be_written_costs_a_line_of_debugging(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (path.parent / "file").write_text("")
    monkeypatch.setenv("CPSL_CACHE", str(path.parent / "file/cache"))
    machine = Machine()
    with caplog.at_level(logging.DEBUG, "cpsl_deploy.backends.remembered"):
        assert machine.start(path).name == "openvino bf16"
    told = [record for record in caplog.records if "cannot be kept" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.DEBUG]
    assert machine.start(path).name == "openvino bf16" and machine.inferences


def test_without_a_home_it_is_measured_at_every_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(remembered, "cache_folder", homeless)
    machine = Machine()
    for _ in range(2):
        assert machine.start(path).name == "openvino bf16" and machine.inferences


def test_the_memory_does_not_grow_without_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST_ENTRIES", 2)
    machine = Machine()
    for threads in (1, 2, 3):
        machine.start(path, threads=threads)
    machine.start(path, threads=2)
    assert not machine.inferences
    machine.start(path, threads=1)
    assert machine.inferences


def test_a_file_beside_it_is_taken_if_it_is_of_the_same_model(tmp_path: Path, path: Path) -> None:
    int8 = export(tmp_path / "model.int8.onnx", precision="int8")
    stride = export(tmp_path / "model.coarse.onnx", precision="int8", output_stride="4")
    other = export(tmp_path / "model.other.onnx", precision="int8", weights="others")
    unjudged = tiny_onnx.write_tiny_onnx(
        tmp_path / "model.old.onnx", metadata={**tiny_onnx.tiny_metadata(), "weights_sha256": "w"}
    )
    damaged = tmp_path / "model.damaged.onnx"
    damaged.write_bytes(b"no model")
    machine = Machine(**{"onnxruntime of model.int8.onnx": 2.0})
    picked = machine.start(path, int8, stride, other, unjudged, damaged)
    assert picked.name == "onnxruntime of model.int8.onnx"
    assert len(machine.opened) == 4
    machine.batches["onnxruntime of model.int8.onnx"] = 2
    assert machine.start(path, int8, threads=1).name == "openvino bf16"
    assert "onnxruntime of model.int8.onnx" in machine.closed


def test_a_file_that_lacks_what_the_model_carries_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    metadata = {**tiny_onnx.tiny_metadata(), "weights_sha256": "w", **ways_metadata((ONNXRUNTIME,))}
    tiny_onnx.write_tiny_onnx(path, metadata={**metadata, "drift": "{}"})
    beside = export(tmp_path / "model.int8.onnx", precision="int8")
    machine = Machine(**{"onnxruntime of model.int8.onnx": 2.0})
    assert machine.start(path, beside).name == "openvino f32"


def test_what_is_asked_for_is_never_measured(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_choice(*_: object, **__: object) -> None:
        raise AssertionError("something was chosen")

    monkeypatch.setattr(fastest, "open_fastest", no_choice)
    for asked in ({"backend": "onnxruntime"}, {"device": "cpu"}):
        with cpsl_deploy.load(path, **asked) as segmenter:
            assert segmenter.backend.name == "onnxruntime" and segmenter.describe()["choice"] is None
    with pytest.raises(InputError, match="precision of the file"):
        cpsl_deploy.load(path, precision="bf16")


def test_files_beside_it_are_for_whoever_names_the_folder(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = export(path.with_name("model.int8.onnx"), precision="int8")
    asked: list[list[Path]] = []

    def open_fastest(path: Path, others: list[Path], *, open_way: Any, **_: object) -> Any:
        asked.append(list(others))
        return open_way(beside if others else path, ONNXRUNTIME)

    monkeypatch.setattr(backends, "is_installed", lambda backend: True)
    monkeypatch.setattr(fastest, "open_fastest", open_fastest)
    for named, taken in ((path, path), (path.parent, beside)):
        with cpsl_deploy.load(named) as segmenter:
            assert segmenter.origin == str(taken)
    assert asked == [[], [beside]]


def test_onnxruntime_and_openvino_really(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.undo()
    monkeypatch.setenv("CPSL_CACHE", str(path.parent / "cache"))
    monkeypatch.setattr(remembered, "cache_folder", cache_folder)
    frame = np.random.default_rng(1).integers(0, 256, (96, 160, 3), np.uint8)
    with caplog.at_level(logging.INFO, LOGGER), cpsl_deploy.load(path, threads=1) as first:
        described, labels = first.describe(), first.predict(frame).labels
    assert "measured now" in described["choice"] and "openvino" in caplog.text
    with cpsl_deploy.load(path, threads=1) as second:
        assert second.describe()["backend"] == described["backend"]
        assert "measured here on" in second.describe()["choice"]
        np.testing.assert_array_equal(second.predict(frame).labels, labels)
    (entry,) = json.loads((path.parent / "cache" / remembered.FILE_NAME).read_text()).values()
    assert set(entry["milliseconds"]) >= {"onnxruntime", "openvino f32"}
    assert entry["libraries"]["openvino"]
    caplog.clear()
    cv2.imwrite(str(path.parent / "frame.png"), frame)
    done = CliRunner().invoke(
        cpsl_run,
        [str(path), str(path.parent / "frame.png"), "-o", str(path.parent / "out"), "--threads", "1"],
    )
    assert done.exit_code == 0, done.output
    assert [r.getMessage() for r in caplog.records if "measured here on" in r.getMessage()]
