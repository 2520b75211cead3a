"""What the torch model says of the comparison frames, and which frames those are."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from gate_files import SIZE, gate_file, model_and_spec
from tiny_domains import CLASSES, write_domain
from tiny_onnx import write_tiny_onnx

import cpsl_deploy
from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import InputError
from cpsl_deploy.export.gate.frames import Frames, generated_frames, open_frames
from cpsl_deploy.export.gate.probe import Probe
from cpsl_deploy.export.gate.reference import MARGIN_EDGES, count_margins, decided, make_reference


def frames_of(count: int = 2) -> Frames:
    return Frames.of(list(generated_frames(SIZE, count)), described="generated")


def test_margins_by_hand() -> None:
    """Logits that need no upsampling: labels and margins are what NumPy sorts out."""
    logits = np.random.default_rng(0).normal(size=(1, 5, 6, 7)).astype(np.float32)
    logits[0, :, 0, 0] = [3, 1, 3, 0, 0]
    labels, margins = decided(torch.from_numpy(logits.copy()), (6, 7), align_corners=False)
    ordered = np.sort(logits[0], axis=0)
    np.testing.assert_array_equal(labels, logits[0].argmax(0))
    np.testing.assert_allclose(margins, ordered[-1] - ordered[-2], atol=2e-3)
    assert (labels.dtype, margins.dtype, margins[0, 0]) == (np.uint8, np.float16, 0)


def test_margins_too_large_for_half_precision_stay_numbers() -> None:
    logits = torch.tensor([0.0, 1e6]).reshape(1, 2, 1, 1)
    assert np.isfinite(decided(logits, (1, 1), align_corners=False)[1]).all()


def test_the_bins_of_margins() -> None:
    counts = count_margins(np.array([0, 0.009, 0.02, 0.05, 0.1, 0.2, 2, 3, 1000], np.float32))
    assert counts.tolist() == [2, 1, 1, 2, 0, 1, 2] and len(counts) == len(MARGIN_EDGES) - 1


def test_a_right_file_agrees_with_the_reference() -> None:
    model, spec = model_and_spec()
    seen: list[tuple[int, int]] = []
    reference = make_reference(model, spec, frames_of(), progress=lambda *step: seen.append(step))
    assert seen == [(1, 2), (2, 2)] and not reference.has_truth
    probe = Probe(gate_file(model, spec))
    for said, frame in zip(reference.labels, reference.frames.images(), strict=True):
        assert (said == probe.labels(frame)).mean() > 0.999
    assert len(np.unique(reference.labels[0])) > 2, "a map of one class would show nothing"
    assert reference.margin_counts().sum() == 2 * SIZE[0] * SIZE[1]


@pytest.mark.parametrize("order", ["BGR", "RGB"])
@pytest.mark.parametrize("stride", [1, 4])
def test_the_reference_follows_the_files_contract(order: str, stride: int) -> None:
    model, spec = model_and_spec()
    contract = Contract(colour_order=order, output_stride=stride)
    reference = make_reference(model, spec, frames_of(1), contract=contract)
    got = Probe(gate_file(model, spec, contract=contract)).labels(next(reference.frames.images()))
    assert reference.labels[0].shape == (SIZE[0] // stride, SIZE[1] // stride) == reference.truth[0].shape
    assert (reference.labels[0] == got).mean() > 0.999


def test_a_file_of_logits_and_one_of_a_larger_batch_are_compared_too() -> None:
    model, spec = model_and_spec()
    frame = next(generated_frames(SIZE, 1))
    right = Probe(gate_file(model, spec)).labels(frame)
    logits = gate_file(model, spec, contract=Contract(outputs=("logits",)))
    assert [o.name for o in logits.graph.output] == ["logits"]
    assert (Probe(logits).labels(frame) == right).mean() > 0.999
    np.testing.assert_array_equal(Probe(gate_file(model, spec, batch=3)).labels(frame), right)


def test_the_model_is_left_in_its_mode_and_frames_are_needed() -> None:
    model, spec = model_and_spec()
    model.train()
    make_reference(model, spec, frames_of(1))
    assert model.training
    with pytest.raises(InputError, match="one frame or more"):
        make_reference(model, spec, Frames.of([], described="none"))


def test_labelled_frames_are_all_taken_and_joined_by_name(tmp_path: Path) -> None:
    domain = write_domain(tmp_path / "camera", hue=240, extra_class="bus", val=True)
    palette = ((1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4))
    model, spec = model_and_spec(class_names=("tree", "car", "sky", "road"), palette=palette)
    frames = open_frames(domain, spec, (48, 64), count=1)
    assert frames.described == f"2 frames of {domain} (val) with labels" and frames.has_truth
    image, truth = frames.read(0)
    raw = cv2.imread(str(tmp_path / "camera/labels/val/0.png"), cv2.IMREAD_UNCHANGED)
    assert truth is not None and (image.shape, truth.shape) == ((48, 64, 3), (48, 64))
    # road, sky, car are 0, 1, 2 in the file and 3, 2, 1 in the model; every second pixel is kept.
    assert set(np.unique(truth)) == {1, 2, 3} and CLASSES == ("road", "sky", "car")
    halves = [np.array([3, 2, 1])[raw[i::2, j::2]] for i in (0, 1) for j in (0, 1)]
    assert any(np.array_equal(truth, half) for half in halves)
    assert make_reference(model, spec, frames).has_truth


def test_labels_without_a_common_class_are_none(tmp_path: Path) -> None:
    domain = write_domain(tmp_path / "camera", hue=240, val=True)
    _, spec = model_and_spec(class_names=("a", "b", "c", "d"))
    frames = open_frames(domain, spec, SIZE, count=1)
    assert not frames.has_truth and frames.read(0)[1] is None and "with labels" not in frames.described


def test_a_runs_labelled_validation_comes_before_what_it_trained_on(tmp_path: Path) -> None:
    domain = str(write_domain(tmp_path / "camera", hue=240, val=True))
    sides = {side: {"reference": domain, "root": None, "split": s} for side, s in
             (("target", "train"), ("validation", "val"))}  # fmt: skip
    (tmp_path / "domains.json").write_text(json.dumps(sides))
    _, spec = model_and_spec()
    assert "(val) with labels" in open_frames(None, spec, SIZE, run=tmp_path).described
    (tmp_path / "domains.json").write_text(json.dumps({**sides, "validation": None}))
    assert "(train) with labels" in open_frames(None, spec, SIZE, run=tmp_path).described


@pytest.mark.parametrize("size", [(96, 160), (95, 161), (270, 480), (33, 500), (350, 90)])
def test_frames_of_free_sizes_are_resized_as_the_runtime_does(tmp_path: Path, size: tuple[int, int]) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((*size, 3), np.uint8))
    with cpsl_deploy.load(write_tiny_onnx(tmp_path / "m.onnx", size=(96, 160))) as segmenter:
        frame, _ = open_frames(tmp_path, segmenter.spec, None).read(0)
        assert frame.shape[:2] == segmenter.input_size(*size)
        assert (frame.shape[:2] == size) == (size in [(96, 160), (95, 161)])
