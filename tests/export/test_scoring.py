"""The exported file's score in the report of the run it came from."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch", reason="needs the extra 'train'")

from export_networks import Small
from finished_run import SIZE, Run, finished_run
from tiny_domains import CLASSES

from cpsl_deploy.errors import DataError
from cpsl_deploy.export import ExportRequest, export
from cpsl_deploy.export.command import main
from cpsl_deploy.metrics import confusion_matrix, iou
from cpsl_deploy.train.engine.run_folder import RunFolder
from cpsl_deploy.train.evaluation.network_score import label_map
from cpsl_deploy.train.models import ARCHITECTURES, load_model
from cpsl_deploy.train.places import recall


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setitem(ARCHITECTURES, "small", Small)
    return finished_run(tmp_path)


def cpsl_export(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--size", "96x128"], catch_exceptions=False)


def test_a_run_is_scored_by_its_file(run: Run) -> None:
    printed = cpsl_export(run.folder.path)
    assert printed.exit_code == 0, printed.output
    exported = run.folder.results()["exported"]
    assert exported["file"] == "model.onnx"
    # The same by hand, with the network instead of the file.
    model, _ = load_model(run.folder.model)
    domains = recall(run.folder)
    assert domains is not None and domains.validation is not None
    confusion = sum(
        confusion_matrix(
            domains.validation.label(i), label_map(model, domains.validation.image(i), SIZE, "cpu"), 3
        )
        for i in range(2)
    )
    assert exported["iou"] == pytest.approx(list(iou(confusion)), abs=0.01)
    assert exported["mean_iou"] == pytest.approx(iou(confusion).mean(), abs=0.01)
    miou = 100 * exported["mean_iou"]
    assert f"source-only 25.0 %, adapted 25.0 %, this file {miou:.1f} %" in printed.output
    assert "exported" in run.folder.report.read_text()


def test_no_score_leaves_the_run_as_it_was(run: Run) -> None:
    before = run.folder.results_file.read_bytes()
    printed = cpsl_export(run.folder.path, "--no-score")
    assert printed.exit_code == 0, printed.output
    assert run.folder.results_file.read_bytes() == before and not run.folder.report.exists()
    assert "mIoU" not in printed.output


def test_a_stage_is_exported_without_a_score(run: Run) -> None:
    result = export(run.folder.stage_model("warm_up"), request=ExportRequest(size=SIZE))
    assert result.scores == {} and "exported" not in run.folder.results()


def test_images_that_are_gone_are_said_and_cost_nothing_else(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(run.target.parent)
    with caplog.at_level(logging.WARNING):
        result = export(run.folder.path, request=ExportRequest(size=SIZE))
    assert result.path.is_file() and result.scores == {}
    assert "the images of the run" in caplog.text and "cannot be opened any more" in caplog.text


def test_other_images_than_then_are_not_scored(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    for kind in ("images", "labels"):
        (run.target.parent / kind / "val" / "0.png").unlink()
    assert recall(run.folder) is None
    assert "its validation is of other images now" in caplog.text


def test_a_run_is_recalled_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "small", Small)
    monkeypatch.chdir(tmp_path)
    run = finished_run(Path())
    assert not run.source.is_absolute()
    folder = RunFolder(tmp_path / run.folder.path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    domains = recall(folder)
    assert domains is not None and domains.validation is not None
    assert (len(domains.source), len(domains.target), len(domains.validation)) == (6, 6, 2)
    assert domains.classes.names == CLASSES
    assert domains.target_reference == os.path.join(os.path.realpath(tmp_path), "camera", "domain.yaml")


def test_a_target_without_labels_has_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "small", Small)
    run = finished_run(tmp_path, labelled=False)
    domains = recall(run.folder)
    assert domains is not None and domains.validation is None
    assert export(run.folder.path, request=ExportRequest(size=SIZE)).scores == {}


def test_the_palette_is_remembered(run: Run) -> None:
    memory = json.loads(run.folder.domains_file.read_text())
    memory["palette"] = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    run.folder.domains_file.write_text(json.dumps(memory))
    domains = recall(run.folder)
    assert domains is not None and domains.classes.palette == ((1, 2, 3), (4, 5, 6), (7, 8, 9))


def test_a_folder_that_remembers_nothing(tmp_path: Path) -> None:
    assert recall(RunFolder(tmp_path)) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"classes": ["road"]}', '{"classes": 3, "source": 1}'])
def test_damaged_memory_is_told_before_the_export(run: Run, content: str) -> None:
    run.folder.domains_file.write_text(content)
    with pytest.raises(DataError, match=r"domains\.json, which says what the run was made from, is damaged"):
        recall(run.folder)
    printed = cpsl_export(run.folder.path, "--frames", run.target.parent / "images")
    assert printed.exit_code == 2 and "is damaged" in printed.output
    assert not (run.folder.path / "model.onnx").exists()


def test_an_unreadable_label_is_told_before_anything_is_written(run: Run) -> None:
    (run.target.parent / "labels/val/1.png").write_bytes(b"not a PNG")
    before = run.folder.results_file.read_bytes()
    printed = cpsl_export(run.folder.path)
    assert printed.exit_code == 2
    assert "1.png is not a readable image" in printed.output
    assert not (run.folder.path / "model.onnx").exists()
    assert run.folder.results_file.read_bytes() == before
