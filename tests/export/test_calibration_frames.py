"""Which frames a file is judged on and which INT8 is calibrated on: real ones, and not the same."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from exported_files import Export, report_of, says
from finished_run import Run
from gate_files import SIZE, model_and_spec

from cpsl_deploy.errors import DataError
from cpsl_deploy.export.gate.frames import generated_frames, open_frames

MODEL, SPEC = model_and_spec()


def photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i, frame in enumerate(generated_frames((96, 128), count)):
        cv2.imwrite(str(folder / f"{i:02}.png"), frame)
    return folder


@pytest.mark.parametrize("same_name", [True, False], ids=["same name", "another name of the folder"])
def test_without_labels_both_draw_from_the_same_images_and_never_the_same_ones(
    tmp_path: Path, same_name: bool
) -> None:
    folder = photos(tmp_path / "photos", 9)
    judged = open_frames(folder, SPEC, SIZE)
    other = folder if same_name else tmp_path / "link"
    if not same_name:
        other.symlink_to(folder)
    drawn = open_frames(other, SPEC, SIZE, count=32, trained=True, apart_from=judged)
    assert len(judged) == 4 and len(drawn) == 5 and not set(judged.names) & set(drawn.names)
    assert not {p.resolve() for p in judged.files} & {p.resolve() for p in drawn.files}
    for i, name in enumerate(drawn.names):
        own = cv2.resize(cv2.imread(str(folder / f"{name}.png")), SIZE[::-1], interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(drawn.read(i)[0], own)


def test_if_no_image_is_left_that_is_an_error(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 3)
    judged = open_frames(folder, SPEC, SIZE)
    with pytest.raises(DataError, match=r"none but these 3\. Name other images .* --calibration DATA"):
        open_frames(folder, SPEC, SIZE, option="--calibration", apart_from=judged)


def test_the_command_keeps_them_apart(
    export: Export, folder: Path, tmp_path: Path, calibrated_on: list[np.ndarray]
) -> None:
    place = photos(tmp_path / "photos", 7)
    options = ("--frames", place, "--calibration", place, "--precision", "int8")
    export(*options)
    compared = [cv2.imread(str(place / f"{i:02}.png")) for i in (0, 2, 4, 6)]
    assert report_of(folder)["candidates"][0]["frames"] == 4 and len(calibrated_on) == 3
    assert not any(np.array_equal(a, b) for a in compared for b in calibrated_on)
    few = photos(tmp_path / "few", 4)
    says(export("--frames", few, "--calibration", few, "--precision", "int8", code=2), "none but these 4")


@pytest.mark.parametrize("kind", [("--precision", "int8"), ("--auto",)])
def test_int8_wants_real_frames_for_both(
    export: Export, folder: Path, finished: Run, monkeypatch: pytest.MonkeyPatch, kind: tuple[str, ...]
) -> None:
    """And says so before the model is asked about any frame."""
    (folder / "domains.json").unlink()
    monkeypatch.setattr("cpsl_deploy.export.exporter.make_reference", pytest.fail)
    says(export(*kind, code=2), "INT8 is judged on real frames", "4 generated frames", "--frames and --calib")
    told = export(*kind, "--frames", finished.target, code=2)
    says(told, "INT8 is calibrated on real frames", "--calibration DATA", "--frames and --calibration")
    assert not (folder / "model.onnx").exists()


def test_int8_of_images_that_are_named(export: Export, folder: Path, finished: Run) -> None:
    (folder / "domains.json").unlink()
    export("--precision", "int8", "--frames", finished.target, "--calibration", finished.target)
    assert "(val) with labels" in report_of(folder)["candidates"][0]["compared_on"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_other_precisions_are_compared_on_generated_frames_with_a_warning(
    export: Export, folder: Path, caplog: pytest.LogCaptureFixture, precision: str
) -> None:
    options = ("--precision", precision, "--size", "96x128")
    export(*options)
    assert not [r for r in caplog.records if r.levelname == "WARNING" and "generated" in r.getMessage()]
    memory = json.loads((folder / "domains.json").read_text())
    for side in ("target", "validation"):
        memory[side]["reference"] = "gone"
    (folder / "domains.json").write_text(json.dumps(memory))
    export(*options)
    warnings = [r for r in caplog.records if r.levelname == "WARNING" and "drift" not in r.name]
    (warning,) = [r.getMessage() for r in warnings]
    assert "compared with the model on 4 generated frames, because the model's target gone" in warning
