"""The comparison of an exported file with its model."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from export_networks import small_model, spec_for

from cpsl_deploy.errors import AccuracyError, DataError, ModelFileError
from cpsl_deploy.export.gate.agreement import Agreement, confusion_of
from cpsl_deploy.export.gate.budget import Budget
from cpsl_deploy.export.gate.frames import Frames, generated_frames, half_size, open_frames
from cpsl_deploy.export.gate.judge import judge
from cpsl_deploy.export.gate.probe import Probe
from cpsl_deploy.export.gate.reference import make_reference, torch_labels
from cpsl_deploy.export.graph.onnx_file import export_onnx

NAMES = ("road", "sky", "tree")


def test_shares_by_hand() -> None:
    expected = [np.array([[0, 0, 0, 1]], np.uint8), np.array([[1, 1, 0, 0], [0, 0, 0, 0]], np.uint8)]
    got = [np.array([[0, 0, 1, 1]], np.uint8), np.array([[1, 0, 0, 0], [0, 0, 0, 0]], np.uint8)]
    counts = sum(confusion_of(want, have, 3) for want, have in zip(expected, got, strict=True))
    result = Agreement.from_confusion(NAMES, counts, frames=2)
    assert (result.frames, result.pixels, result.equal) == (2, 12, 10)
    assert result.share == pytest.approx(10 / 12)
    assert result.per_class == pytest.approx({"road": 8 / 9, "sky": 2 / 3})
    assert result.worst_class == ("sky", pytest.approx(2 / 3))
    assert result.as_dict()["worst_class"] == {"name": "sky", "agreement": 0.666667}


def test_label_maps_of_another_shape_are_refused() -> None:
    with pytest.raises(ModelFileError, match=r"frame size \(4, 6\); it gave \(2, 3\)"):
        confusion_of(np.zeros((4, 6), np.uint8), np.zeros((2, 3), np.uint8), 3)


def test_a_file_of_other_weights_is_found_out(tmp_path: Path) -> None:
    model, other = small_model(0), small_model(1)
    spec = spec_for(model)
    probe = Probe(export_onnx(model, spec, tmp_path / "m.onnx", size=spec.size))
    frames = Frames.of(list(generated_frames(spec.size, 2)), described="generated")
    got = [probe.labels(frame) for frame in frames.images()]
    budget = Budget.for_precision("fp32", labelled=False)
    judge(got, make_reference(model, spec, frames), budget).require()
    verdict = judge(got, make_reference(other, spec, frames), budget)
    assert verdict.agreement.share < 0.9
    name, share = verdict.agreement.worst_class
    with pytest.raises(AccuracyError, match=rf"99\.900% .* of 12,288 have it, of {name} {share:.3%}"):
        verdict.require()


def test_a_file_that_does_not_run_is_a_model_file_error(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ModelFileError, match=r"onnxruntime .* cannot run the exported file"):
        Probe(path)


def test_generated_frames_are_the_same_every_time_and_look_like_photos() -> None:
    frames = list(generated_frames((64, 96), 3))
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 3
    assert all(np.array_equal(a, b) for a, b in zip(frames, generated_frames((64, 96), 3), strict=True))
    assert not np.array_equal(frames[0], frames[1])
    grey = frames[0].mean(2)
    neighbours = np.corrcoef(grey[:, :-1].ravel(), grey[:, 1:].ravel())[0, 1]
    assert neighbours > 0.7, "neighbouring pixels of photos are alike"


def test_half_size_is_odd() -> None:
    assert half_size(np.zeros((64, 96, 3), np.uint8)).shape == (33, 49, 3)
    assert half_size(np.zeros((18, 66, 3), np.uint8)).shape == (17, 33, 3)


def test_frames_of_a_folder_come_as_bgr_of_the_size_asked_for(tmp_path: Path) -> None:
    for i in range(6):
        frame = np.zeros((40, 60, 3), np.uint8)
        frame[:] = (10 * i, 100, 200)
        cv2.imwrite(str(tmp_path / f"{i}.png"), frame)
    spec = spec_for(small_model())
    frames = open_frames(tmp_path, spec, (32, 48))
    assert [tuple(frame[0, 0]) for frame in frames.images()] == [(10 * i, 100, 200) for i in (0, 2, 3, 5)]
    assert {frame.shape for frame in frames.images()} == {(32, 48, 3)}
    assert frames.described == f"4 frames of {tmp_path} (train)"
    with pytest.raises(DataError):
        open_frames(tmp_path / "missing", spec, (32, 48))


def test_the_default_frames_are_the_models_target(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 60, 3), 77, np.uint8))
    model = small_model()
    frames = open_frames(None, spec_for(model, provenance={"target": str(tmp_path)}), (32, 48))
    assert len(frames) == 1 and (frames.read(0)[0] == 77).all() and str(tmp_path) in frames.described


def test_a_run_folder_remembers_its_target(tmp_path: Path) -> None:
    """As cpsl-adapt writes it, with the split it trained on."""
    for split, value in (("train", 50), ("val", 99)):
        (tmp_path / "photos" / split).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "photos" / split / "a.png"), np.full((40, 60, 3), value, np.uint8))
    place = {"reference": str(tmp_path / "photos"), "root": None, "split": "val"}
    (tmp_path / "domains.json").write_text(json.dumps({"target": {**place, "count": 1}}))
    spec = spec_for(small_model(), provenance={"target": "gone"})
    frames = open_frames(None, spec, (32, 48), run=tmp_path)
    assert (frames.read(0)[0] == 99).all() and frames.described == f"1 frame of {tmp_path / 'photos'} (val)"
    (tmp_path / "domains.json").write_text("{")
    with pytest.raises(DataError, match=r"domains\.json, which says .* is damaged"):
        open_frames(None, spec, (32, 48), run=tmp_path)


@pytest.mark.parametrize(
    ("provenance", "reason"),
    [({}, "the model does not say"), ({"target": "gone/camera"}, "target gone/camera cannot be read")],
)
def test_generated_frames_are_said_to_be_generated(provenance: dict[str, str], reason: str) -> None:
    spec = spec_for(small_model(), provenance=provenance)
    frames = open_frames(None, spec, (32, 48), count=2)
    assert len(frames) == 2 and frames.described.startswith("2 generated frames, because")
    assert reason in frames.described


def test_the_check_is_not_trained_into_the_model() -> None:
    model = small_model().train()
    before = model.stem[1].running_mean.clone()
    torch_labels(model, spec_for(model), next(generated_frames((32, 48), 1)))
    assert torch.equal(model.stem[1].running_mean, before)
