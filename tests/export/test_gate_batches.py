"""Files that take several frames are judged in batches of different ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exported_files import Export, says
from gate_files import SIZE, gate_file, model_and_spec
from onnx import helper, numpy_helper

import cpsl_deploy
from cpsl_deploy.export import workshop
from cpsl_deploy.export.gate.batches import Asked, in_batches
from cpsl_deploy.export.gate.frames import Frames, generated_frames
from cpsl_deploy.export.gate.reference import make_reference
from cpsl_deploy.export.request import ExportRequest
from cpsl_deploy.export.trials import Tribunal
from cpsl_deploy.segmenter import Segmenter

MODEL, SPEC = model_and_spec()


def mixed_up(proto: onnx.ModelProto, place: int = 0, *, first_right: int = 0) -> onnx.ModelProto:
    """Every frame of a batch gets the labels of the one at ``place``, except the ``first_right`` ones."""
    next(n for n in proto.graph.node if "labels" in n.output).output[0] = "right"
    numbers = numpy_helper.from_array(np.array([place], np.int64), "place")
    proto.graph.initializer.append(numbers)
    proto.graph.node.extend(
        [
            helper.make_node("Shape", ["right"], ["count"], start=0, end=1),
            helper.make_node("Expand", ["place", "count"], ["places"]),
            helper.make_node("Gather", ["right", "places"], ["mixed" if first_right else "labels"], axis=0),
        ]
    )
    if first_right:
        ends = {"zero": [0], "few": [first_right], "many": [1 << 30]}
        proto.graph.initializer.extend(
            numpy_helper.from_array(np.array(v, np.int64), k) for k, v in ends.items()
        )
        proto.graph.node.extend(
            [
                helper.make_node("Slice", ["right", "zero", "few", "zero"], ["kept"]),
                helper.make_node("Slice", ["mixed", "few", "many", "zero"], ["others"]),
                helper.make_node("Concat", ["kept", "others"], ["labels"], axis=0),
            ]
        )
    return proto


def judged(proto: onnx.ModelProto, folder: Path, count: int = 3, batch: int = 2) -> Any:
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    frames = Frames.of(list(generated_frames(SIZE, count)), described=f"{count} frames")
    tribunal = Tribunal(make_reference(MODEL, SPEC, frames), ExportRequest(batch=batch))
    return tribunal.judge_file(folder / "m.onnx")


def test_a_right_file_passes_whatever_its_batch(tmp_path: Path) -> None:
    for batch in (1, 2, 4):
        verdict = judged(gate_file(MODEL, SPEC, batch=batch), tmp_path)
        assert verdict.passed and len(verdict.frame_agreement) == 3


@pytest.mark.parametrize("batch", [2, 3])
def test_frames_of_a_batch_that_get_the_firsts_labels(tmp_path: Path, batch: int) -> None:
    verdict = judged(mixed_up(gate_file(MODEL, SPEC, batch=batch)), tmp_path, count=4)
    assert not verdict.passed and verdict.frame_agreement[0] == 1 and verdict.frame_agreement[1] < 0.9


def test_places_that_only_repeated_frames_get_to_are_looked_at(tmp_path: Path) -> None:
    """2 frames in a batch of 4: the first two places are right."""
    verdict = judged(mixed_up(gate_file(MODEL, SPEC, batch=4), 0, first_right=2), tmp_path, count=2)
    assert verdict.agreement.share > 0.999 and not verdict.passed
    assert "may not depend on its place in a batch of 4" in verdict.broken[0]


@pytest.mark.parametrize("batch", ["2", "free"])
def test_the_command_refuses_a_file_that_mixes_up_its_batch(
    export: Export, folder: Path, monkeypatch: pytest.MonkeyPatch, batch: str
) -> None:
    real = workshop.export_onnx

    def planted(model: Any, spec: Any, path: Path, **options: Any) -> Path:
        made = onnx.load(real(model, spec, path, **options))
        path.write_bytes(mixed_up(made).SerializeToString())
        return path

    export("--batch", batch, "--size", "96x128")
    monkeypatch.setattr(workshop, "export_onnx", planted)
    says(export("--batch", batch, "--size", "96x128", code=3), "with one frame, each agrees with torch")
    assert (folder / "model.refused/gate_worst_frame.png").is_file()


def test_there_is_one_inference_for_each_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.onnx").write_bytes(gate_file(MODEL, SPEC, batch=3).SerializeToString())
    with cpsl_deploy.load(tmp_path / "m.onnx") as segmenter:
        given: list[int] = []
        real = segmenter.backend.infer
        monkeypatch.setattr(segmenter.backend, "infer", lambda image: given.append(len(image)) or real(image))
        frames = list(generated_frames(SIZE, 5))
        assert len(list(Asked(segmenter).labels(frames))) == 5 and given == [3, 3]


def test_batches_are_of_one_size_and_in_order() -> None:
    images = [np.full((side, 4, 3), i, np.uint8) for i, side in enumerate((4, 4, 4, 8, 4))]
    batches = [[int(image[0, 0, 0]) for image in batch] for batch in in_batches(images, 2)]
    assert batches == [[0, 1], [2], [3], [4]]


@pytest.mark.parametrize(
    ("batch", "least", "most", "wanted"),
    [(3, 1, None, 3), (None, 1, None, 2), (None, 4, 8, 4), (None, 1, 1, 1), (1, 1, None, 1)],
)
def test_frames_at_once(batch: int | None, least: int, most: int | None, wanted: int) -> None:
    class Backend:
        spec = SPEC
        contract = None

    backend = Backend()
    vars(backend).update(batch=batch, least_batch=least, most_batch=most)
    assert Asked(Segmenter(backend, "a file")).at_once == wanted  # type: ignore[arg-type]
