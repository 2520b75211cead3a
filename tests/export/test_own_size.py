"""What another size than the model's own costs is seen, whether the file resizes inside or is made for it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from exported_files import ANYTHING, Export, report_of, says
from gate_files import SIZE, model_and_spec

from cpsl_deploy.contract import Contract
from cpsl_deploy.export.gate.frames import Frames, generated_frames, resized
from cpsl_deploy.export.gate.reference import make_reference, torch_labels

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


def test_a_smaller_network_input_can_be_allowed(export: Export, folder: object) -> None:
    export("--resize", "24x32", *ANYTHING)
    (candidate,) = report_of(folder)["candidates"]  # type: ignore[arg-type]
    assert candidate["agreement"] < 0.97 and candidate["pixels"] == 2 * 96 * 128
    export("--resize", "96x128")
    assert report_of(folder)["candidates"][0]["agreement"] > 0.97  # type: ignore[arg-type]
