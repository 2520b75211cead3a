"""What another size than the model's own costs is seen, whether the file resizes inside or is made for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from exported_files import ANYTHING, Export, report_of, says
from gate_files import SIZE, model_and_spec

from cpsl_deploy.contract import Contract
from cpsl_deploy.export.gate.frames import Frames, generated_frames, resized
from cpsl_deploy.export.gate.reference import Reference, make_reference, torch_answer, torch_labels
from cpsl_deploy.export.request import ExportRequest
from cpsl_deploy.export.trials import Tribunal
from cpsl_deploy.metrics import confusion_matrix, iou

MODEL, SPEC = model_and_spec()


@pytest.mark.parametrize("size", [SIZE, (128, 192), (150, 100)])
def test_the_reference_of_a_file_that_resizes_is_the_model_at_its_own_size(size: tuple[int, int]) -> None:
    """The frame brought to as many pixels as in training, the logits to the frame's size."""
    frame = next(generated_frames(size, 1))
    contract = Contract(network_size=(16, 24))
    own, inside = (
        make_reference(
            MODEL, SPEC, Frames.of([frame], described="a frame"), contract=contract, own_size=own
        ).labels[0]
        for own in (True, False)
    )
    assert own.shape == size == inside.shape and (own != inside).mean() > 0.05
    sides = {SIZE: SIZE, (128, 192): SIZE, (150, 100): (96, 64)}[size]
    at_own_size = torch_labels(MODEL, SPEC, resized(frame, sides))
    if size == SIZE:
        np.testing.assert_array_equal(own, at_own_size)
    brought = cv2.resize(at_own_size, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    assert (own == brought).mean() > 0.9, "but for the edges of the classes"


def test_what_a_smaller_network_input_costs_is_refused_and_named(export: Export) -> None:
    result = export("--resize", "24x32", code=3)
    says(result, "the file shows its network 24x32 pixels, and the model's own size is 96x128")
    says(result, "at least 97.000% of the pixels")


def test_a_smaller_network_input_can_be_allowed(export: Export, folder: Path) -> None:
    export("--resize", "24x32", *ANYTHING)
    (candidate,) = report_of(folder)["candidates"]
    assert candidate["agreement"] < 0.97 and candidate["pixels"] == 2 * 96 * 128
    export("--resize", "96x128")
    assert report_of(folder)["candidates"][0]["agreement"] > 0.97


def test_what_a_file_of_another_size_costs_is_told(
    export: Export, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file agrees with the model at the file's size; the model at its own size does not."""
    export("--size", "24x32", *ANYTHING)
    (candidate,) = report_of(folder)["candidates"]
    told = candidate["model_at_own_size"]
    assert candidate["agreement"] > 0.999
    assert (told["own_size"], told["file_size"], told["frames"]) == ([96, 128], [24, 32], 2)
    page = (folder / "model.export/export.md").read_text()
    assert f"The model at its own size, 96x128: {100 * told['mean_iou']['own_size']:.1f} % mean IoU" in page
    export("--size", "96x128")
    assert report_of(folder)["candidates"][0]["model_at_own_size"] is None


def labelled(size: tuple[int, int], original: np.ndarray) -> Reference:
    """One frame whose ground truth is what the model says at its own size."""
    truth = torch_answer(MODEL, SPEC, original, Contract())[0]
    small = cv2.resize(truth, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    frames = Frames.of([resized(original, size)], [small], described="1 frame")
    return make_reference(MODEL, SPEC, dataclasses.replace(frames, original=lambda i: original))


def test_the_drop_is_the_models_own(caplog: pytest.LogCaptureFixture) -> None:
    original, size = next(generated_frames(SIZE, 1)), (32, 48)
    reference = labelled(size, original)
    tribunal = Tribunal(reference, ExportRequest(size=size))
    assert tribunal.sizes is not None and tribunal.sizes.at_own > 0.55 > 0.45 > tribunal.sizes.at_file
    assert tribunal.sizes.at_file == pytest.approx(
        float(np.nanmean(iou(confusion_matrix(reference.truth[0], reference.labels[0], 4))))
    )
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert f"costs {tribunal.sizes.drop:.1f} points: the model at its own size, 64x96" in warning
    caplog.clear()
    Tribunal(reference, ExportRequest(size=size, max_iou_drop=100))
    assert Tribunal(labelled(SIZE, original), ExportRequest(size=(64, 97))).sizes is None
    assert not caplog.records


def test_without_labels_the_sizes_are_named(caplog: pytest.LogCaptureFixture) -> None:
    frames = Frames.of(list(generated_frames((32, 48), 1)), described="1 frame")
    tribunal = Tribunal(make_reference(MODEL, SPEC, frames), ExportRequest(size=(32, 48)))
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert tribunal.sizes is None and "for frames of 32x48, and the model's own size is 64x96" in warning
