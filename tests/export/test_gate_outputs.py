"""Confidence and logits are held against torch's, too: a file whose labels alone are right is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_networks import small_model, spec_for
from exported_files import ANYTHING, Export, report_of, says
from gate_files import reference_of, scene
from onnx import numpy_helper
from torch import Tensor

import cpsl_deploy
from cpsl_deploy.contract import CONFIDENCE, LOGITS, OUTPUTS, Contract
from cpsl_deploy.errors import InputError
from cpsl_deploy.export import workshop
from cpsl_deploy.export.gate.frames import Frames, generated_frames
from cpsl_deploy.export.gate.outputs import OutputCheck, check_outputs
from cpsl_deploy.export.gate.reference import make_reference
from cpsl_deploy.export.graph import deploy_graph
from cpsl_deploy.export.graph.onnx_file import export_onnx

SIZE = (64, 96)
MODEL = small_model()
SPEC = spec_for(MODEL, size=SIZE)
REFERENCE = make_reference(MODEL, SPEC, Frames.of(list(generated_frames(SIZE, 3)), described="frames"))


def constant(logits: Tensor) -> Tensor:
    """Half sure of everything."""
    return torch.full_like(logits.amax(3), 128.0)


def checked(path: Path, precision: str = "fp32", **contract: Any) -> dict[str, OutputCheck]:
    options = {"outputs": OUTPUTS, "precision": precision, **contract}
    export_onnx(MODEL, SPEC, path, contract=Contract(**options), size=SIZE, batch=2)
    with cpsl_deploy.load(path) as segmenter:
        return {check.name: check for check in check_outputs(segmenter, REFERENCE, precision)}


@pytest.mark.parametrize(
    "contract",
    [
        {},
        {"colour_order": "RGB", "output_stride": 4},
        {"network_size": (48, 80)},
        {"outputs": (CONFIDENCE, LOGITS)},
        {"precision": "fp16"},
    ],
    ids=str,
)
def test_right_outputs_pass_by_far(tmp_path: Path, contract: dict[str, Any]) -> None:
    found = checked(tmp_path / "m.onnx", **contract)
    assert found.keys() == {CONFIDENCE, LOGITS} and all(check.passed for check in found.values())
    if contract.get("precision") == "fp16":
        assert found[CONFIDENCE].value < 1 and found[LOGITS].value > 40
    else:
        assert found[CONFIDENCE].value == 1 and found[LOGITS].value > 90


def test_outputs_by_themselves(tmp_path: Path) -> None:
    assert checked(tmp_path / "m.onnx", outputs=("labels",)) == {}
    assert checked(tmp_path / "m.onnx", outputs=("labels", CONFIDENCE)).keys() == {CONFIDENCE}
    assert checked(tmp_path / "m.onnx", outputs=(LOGITS,)).keys() == {LOGITS}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_constant_confidence_is_refused_in_every_precision(
    export: Export, folder: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    real = export_onnx  # not the fixture's, which would keep the planted file

    monkeypatch.setattr(workshop, "export_onnx", real)
    monkeypatch.setattr(deploy_graph, "winners_probability", constant)
    options = ("--outputs", "labels,confidence", "--precision", precision, "--size", "96x128", *ANYTHING)
    says(export(*options, code=3), "the confidence m", "of 255 on")
    page = (folder / "model.refused/export.md").read_text()
    assert "**failed**: the confidence m" in page and not (folder / "model.onnx").exists()


def scaled(proto: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """The logits that are given are others than those that decide."""
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(factor), "factor"))
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = "deciding" if name == "logits" else name
        for i, name in enumerate(node.output):
            node.output[i] = "deciding" if name == "logits" else name
    proto.graph.node.append(onnx.helper.make_node("Mul", ["deciding", "factor"], ["logits"]))
    return proto


@pytest.mark.parametrize(("precision", "factor"), [("fp32", 1.002), ("fp16", 0.95), ("int8", 0.5)])
def test_logits_of_another_scale_are_refused(
    export: Export, folder: Path, monkeypatch: pytest.MonkeyPatch, precision: str, factor: float
) -> None:
    real, write = workshop.export_onnx, workshop.Quantiser.write

    def wrong_export(model: Any, spec: Any, path: Path, **options: Any) -> Path:
        made = onnx.load(real(model, spec, path, **options))
        if precision != "int8":
            path.write_bytes(scaled(made, factor).SerializeToString())
        return path

    def wrong_write(self: Any, output: Path, keep: Any = ()) -> None:
        write(self, output, keep)
        Path(output).write_bytes(scaled(onnx.load(output), factor).SerializeToString())

    monkeypatch.setattr(workshop, "export_onnx", wrong_export)
    monkeypatch.setattr(workshop.Quantiser, "write", wrong_write)
    options = ("--outputs", "labels,logits", "--precision", precision, "--size", "96x128", *ANYTHING)
    says(export(*options, code=3), "the logits must be torch's with a signal-to-noise ratio")


def test_the_report_tells_how_far_they_are(export: Export, folder: Path) -> None:
    export("--outputs", "labels,confidence,logits", "--precision", "int8", *ANYTHING)
    (candidate,) = report_of(folder)["candidates"]
    assert candidate["outputs"][CONFIDENCE]["measure"] == "mean_levels"
    assert candidate["outputs"][LOGITS]["value"] > 15 and candidate["outputs"][LOGITS]["passed"]
    page = (folder / "model.export/export.md").read_text()
    assert "logits: signal-to-noise ratio" in page and "levels of 255 off on average (at most 12.75)" in page


def test_frames_that_a_batch_mixes_up_are_seen(tmp_path: Path) -> None:
    """The second frame's logits are the first's."""
    path = export_onnx(
        MODEL, SPEC, tmp_path / "m.onnx", contract=Contract(outputs=(LOGITS,)), size=SIZE, batch=2
    )
    proto = onnx.load(path)
    next(n for n in proto.graph.node if LOGITS in n.output).output[0] = "right"
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.int64), "first"))
    proto.graph.node.append(onnx.helper.make_node("Gather", ["right", "first"], [LOGITS], axis=0))
    path.write_bytes(proto.SerializeToString())
    with cpsl_deploy.load(path) as segmenter:
        (check,) = check_outputs(segmenter, REFERENCE, "fp32")
        assert not check.passed and check.value < 20
        with pytest.raises(InputError, match="the reference has none"):
            check_outputs(segmenter, reference_of(scene()), "fp32")
