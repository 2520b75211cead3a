"""Exports refused by the budget or by what is in the way, or interrupted: what is told, and what stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from export_networks import Small
from exported_files import ANYTHING, Export, report_of, says
from finished_run import Run
from torch import Tensor
from torch.nn import functional

from cpsl_deploy.export import workshop
from cpsl_deploy.export.graph.onnx_file import export_onnx
from cpsl_deploy.train.models.base import SegmenterOutput

# ---- the budget


@pytest.mark.parametrize(
    ("limit", "broken"),
    [
        (("--min-agreement", 1), "at least 100.000% of the pixels"),
        (("--max-iou-drop", 0), "the mean IoU may fall by 0 points and falls by"),
        (("--max-class-iou-drop", 0), "may fall by 0 points and falls by"),
    ],
)
def test_each_limit_of_the_budget_refuses(
    export: Export, folder: Path, finished: Run, limit: tuple[str, object], broken: str
) -> None:
    """Against the model's own labels, of which every change is a loss."""
    usual = ("--output-stride", 4, "--frames", finished.target.parent / "images/val")
    export(*usual, *ANYTHING)
    before = (folder / "model.onnx").read_bytes()
    result = export(*usual, *ANYTHING, *limit, code=3)  # the last of two is taken
    says(result, broken, "The file was not put in place", str(folder / "model.refused/export.md"))
    refused = json.loads((folder / "model.refused/export.json").read_text())
    assert refused["chosen"] is None and len(refused["candidates"][0]["broken"]) >= 1
    assert (folder / "model.onnx").read_bytes() == before


def test_the_default_budget_is_wider_without_labels(
    export: Export, folder: Path, finished: Run, tmp_path: Path
) -> None:
    export("--precision", "int8")
    labelled = report_of(folder)["candidates"][0]
    assert labelled["iou_against"] == "ground truth"
    assert labelled["budget"] == {"min_agreement": 0.95, "max_iou_drop": 1, "max_class_iou_drop": 2}
    photos = shutil.copytree(finished.target.parent / "images/val", tmp_path / "photos")
    export("--precision", "int8", "--frames", photos)
    plain = report_of(folder)["candidates"][0]
    assert plain["iou_against"] == "torch model"
    assert plain["budget"] == {"min_agreement": 0.95, "max_iou_drop": 5, "max_class_iou_drop": 10}


class OneSize(Small):
    """The mean over a map of 24x32 as a sum: right for frames of 96x128 alone."""

    def forward(self, image: Tensor) -> SegmenterOutput:
        x = functional.relu(self.body(self.stem(image)))
        wide = functional.interpolate(self.pool(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        x = x - wide - x.sum((2, 3), keepdim=True) / (24 * 32)
        return SegmenterOutput(x, self.classifier(x))


def test_a_file_that_is_wrong_at_another_size_is_refused(
    export: Export, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_one_size(model: Small, *arguments: Any, **options: Any) -> Path:
        other = OneSize(model.num_classes).eval()
        other.load_state_dict(model.state_dict())
        return export_onnx(other, *arguments, **options)

    monkeypatch.setattr(workshop, "export_onnx", of_one_size)
    before = sorted(path.name for path in folder.iterdir())
    result = export(code=3)
    says(result, "with labels, at 49x65)", "Responsible: the step network", "fix that with --size")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*before, "model.refused"])
    assert "at 49x65" in (folder / "model.refused/export.md").read_text()
    assert (folder / "model.refused/gate_worst_frame.png").is_file()
    export("--size", "96x128")
    assert (folder / "model.onnx").is_file() and not (folder / "model.refused").exists()


# ---- what is in the way


@pytest.mark.parametrize("name", ["model.export", "model.refused"])
def test_a_folder_of_someone_elses_is_not_touched(export: Export, folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "thesis.tex").write_text("mine")
    says(export("--size", "96x128", code=2), name, "is something else. Give another name with -o")
    assert (folder / name / "thesis.tex").read_text() == "mine" and not (folder / "model.onnx").exists()
    assert [path.name for path in (folder / name).iterdir()] == ["thesis.tex"]


def test_a_file_laid_beside_a_refusal_stays(export: Export, folder: Path) -> None:
    export("--size", "96x128", "--output-stride", 4, "--min-agreement", 1, code=3)
    (folder / "model.refused/notes.txt").write_text("mine")
    export("--size", "96x128")
    assert [path.name for path in (folder / "model.refused").iterdir()] == ["notes.txt"]


def test_a_folder_where_the_file_should_be(export: Export, folder: Path) -> None:
    (folder / "model.onnx").mkdir()
    says(export("--overwrite", code=2), "is a folder. Give another name with -o")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--precision", "int8", "--calibration", "gone"), "gone"),
        (("--frames", "gone"), "gone"),
    ],
)
def test_paths_that_are_not_there(
    export: Export, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(folder)
    says(export(*arguments, code=2), told)
    assert not (folder / "model.onnx").exists()


def test_an_interruption_says_what_is_in_place(
    export: Export, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cpsl_deploy.export.exporter.hold_trials", interrupt)
        says(export("--size", "96x128", code=130), "interrupted. The export was not finished; what was there")
    assert not (folder / "model.onnx").exists()
    with monkeypatch.context() as patch:
        patch.setattr("cpsl_deploy.export.exporter.write_repository", interrupt)
        told = export("--size", "96x128", "--triton", folder / "served", code=130)
    says(told, f"exported file {folder / 'model.onnx'} and its report are in place")
    assert (folder / "model.onnx").is_file()
