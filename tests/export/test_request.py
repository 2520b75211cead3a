"""What an export can be asked for, and what does not go together."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import InputError
from cpsl_deploy.export import request
from cpsl_deploy.export.candidates import Candidate
from cpsl_deploy.export.request import ExportRequest
from cpsl_deploy.export.tensorrt.profile import Profile
from cpsl_deploy.spec import ModelSpec

SPEC = ModelSpec(architecture="small", class_names=("a", "b"), palette=((0, 0, 0), (1, 1, 1)), size=(64, 96))
INT8 = Contract(precision="int8")
ONE_SIZE = Profile.from_text("1x32x48,1x32x48,4x32x48")
SIZES = Profile.from_text("1x32x48,1x64x96,1x128x192")


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ({}, None),
        ({"contract": Contract(precision="fp16")}, None),
        ({"contract": INT8}, (64, 96)),
        ({"auto": True}, (64, 96)),
        ({"trt": True}, (64, 96)),
        ({"size": (32, 32)}, (32, 32)),
        ({"size": (32, 32), "contract": INT8}, (32, 32)),
        ({"trt": True, "profile": SIZES}, None),
        ({"trt": True, "profile": ONE_SIZE, "batch": None}, (32, 48)),
        ({"auto": True, "profile": ONE_SIZE, "batch": None}, (32, 48)),
        ({"trt": True, "profile": Profile.fixed(32, 48), "contract": INT8}, (32, 48)),
    ],
)
def test_the_frame_size_of_the_file(values: dict[str, Any], size: tuple[int, int] | None) -> None:
    assert ExportRequest(**values).file_size(SPEC) == size


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"auto": True, "contract": INT8}, "auto chooses the precision, and int8 is asked for"),
        ({"auto": True, "trt": True}, "auto tries TensorRT engines by itself"),
        ({"scheme": "tensorrt"}, "goes with the precision int8; got fp32"),
        ({"calibration": "photos"}, "calibration is for INT8, and a file in fp32 has none"),
        ({"scheme": "gpu"}, "INT8 is made for cpu or tensorrt; got 'gpu'"),
        ({"calibration_frames": 0}, "1 frame or more; got 0"),
        ({"min_agreement": 99.0}, "share from 0 to 1.*got 99"),
        ({"max_iou_drop": -1.0}, "max_iou_drop is in points.*got -1"),
        ({"profile": SIZES}, "a profile is for building a TensorRT engine. Give --trt"),
        ({"workspace_gib": 1.0}, "a limit of the workspace is for building"),
        ({"trt": True, "workspace_gib": 0.0}, "above 0 and up to 1024 GiB; got 0"),
        ({"auto": True, "workspace_gib": float("nan")}, "above 0 and up to 1024 GiB; got nan"),
        ({"contract": INT8, "trt": True, "scheme": "cpu"}, "TensorRT takes no INT8 file .* for the CPU"),
        ({"trt": True, "profile": ONE_SIZE}, "a batch of 1 only, and the profile asks for 1 to 4"),
        ({"trt": True, "profile": SIZES, "size": (64, 96)}, "a height of 64 only.* asks for 32 to 128"),
        ({"trt": True, "profile": SIZES, "batch": 2}, "a batch of 2 only, and the profile asks for 1"),
        ({"trt": True, "profile": SIZES, "contract": INT8}, "with INT8 the file has one frame size"),
        ({"auto": True, "profile": SIZES}, "with auto the file has one frame size"),
    ],
)
def test_what_does_not_go_together_is_told_at_once(values: dict[str, Any], rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        ExportRequest(**values)


@pytest.mark.parametrize(
    ("values", "scheme"),
    [
        ({"contract": INT8}, "cpu"),
        ({"contract": INT8, "trt": True}, "tensorrt"),
        ({"contract": INT8, "scheme": "tensorrt"}, "tensorrt"),
    ],
)
def test_a_single_candidate_is_what_was_asked_for(values: dict[str, Any], scheme: str) -> None:
    (candidate,) = ExportRequest(**values).candidates()
    assert (candidate.precision, candidate.scheme) == ("int8", scheme)
    assert (candidate.backend, candidate.device) == ("onnxruntime", "cpu")


def test_a_server_runs_nothing_in_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Candidate(), Candidate(backend="openvino", backend_precision="f32")
    monkeypatch.setattr(request, "candidates_here", lambda: list(usual))
    auto = ExportRequest(auto=True)
    assert auto.candidates() == list(usual) and auto.candidates(served=True) == [Candidate()]


@pytest.mark.parametrize(
    ("contract", "precision", "labelled", "budget"),
    [
        (Contract(), "fp32", True, (0.999, 1, 2)),
        (Contract(), "fp32", False, (0.999, 1, 2)),
        (Contract(), "int8", True, (0.95, 1, 2)),
        (Contract(), "int8", False, (0.95, 5, 10)),
        (Contract(output_stride=4), "fp32", True, (0.95, 1, 2)),
        (Contract(output_stride=4), "fp32", False, (0.95, 5, 10)),
        (Contract(network_size=(64, 96)), "fp32", False, (0.97, 5, 10)),
    ],
)
def test_default_budgets(
    contract: Contract, precision: str, labelled: bool, budget: tuple[float, float, float]
) -> None:
    found = ExportRequest(contract=contract).budget(precision, labelled=labelled)
    assert (found.min_agreement, found.max_iou_drop, found.max_class_iou_drop) == budget


def test_a_given_limit_replaces_its_default_alone() -> None:
    found = ExportRequest(max_class_iou_drop=7.5).budget("int8", labelled=True)
    assert (found.min_agreement, found.max_iou_drop, found.max_class_iou_drop) == (0.95, 1, 7.5)
    assert ExportRequest(min_agreement=0.0).budget("fp32", labelled=True).min_agreement == 0, "zero is given"


BAD = [
    (["--outputs", "nonsense"], "--outputs are some of labels, confidence, logits", "'nonsense'"),
    (["--outputs", "confidence"], "labels or logits among them", "'confidence'"),
    (["--outputs", "labels,labels"], "--outputs are some of", "'labels,labels'"),
    (["--output-stride", "3"], "is not one of", "'3'"),
    (["--batch", "0"], "from 1 to 1024, or free", "'0'"),
    (["--batch", "9" * 5000], "from 1 to 1024, or free", "'999"),
    (["--colour-order", "GBR"], "is not one of", "'GBR'"),
    (["--resize", "48"], "a size is written HEIGHTxWIDTH", "'48'"),
    (["--size", "²⁰x64"], "a size is written HEIGHTxWIDTH", "'²⁰x64'"),
    (["--size", "9" * 5000 + "x64"], "a size is written HEIGHTxWIDTH", "'999"),
    (["--resize", "64x99999"], "each 16 to 32768", "99999"),
    (["--precision", "fp8"], "is not one of", "'fp8'"),
    (["--precision", "int8", "--auto"], "auto chooses the precision", "int8"),
    (["--int8-for", "gpu"], "is not one of", "'gpu'"),
    (["--calibration-frames", "0"], "x>=1", "0"),
    (["--min-agreement", "99"], "0<=x<=1", "99"),
    (["--max-iou-drop", "101"], "0<=x<=100", "101"),
    (["--max-class-iou-drop", "-1"], "0<=x<=100", "-1"),
    (["--trt", "--profile", "1x2"], "a profile is written BATCHxHEIGHTxWIDTH", "'1x2'"),
    (["--trt", "--profile", "1x64x96,1x64x96,4x64x96"], "Export it with a free batch", "1 to 4"),
    (["--profile", "1x64x96"], "Give --trt", "profile"),
    (["--workspace-gib", "0", "--trt"], "0<x<=1024", "0"),
]


def test_wrong_options_are_told_without_torch() -> None:
    """Each ends with exit code 2 and says rule and value; one process for all of them."""
    code = """
import sys
sys.modules["torch"] = None
from click.testing import CliRunner
from cpsl_deploy.export.command import main
for arguments, *told in eval(sys.argv[1]):
    result = CliRunner().invoke(main, ["gone", *arguments])
    words = " ".join(result.output.split())
    assert result.exit_code == 2, (arguments, result.output, result.exception)
    assert all(text in words for text in told), (arguments, told, words)
result = CliRunner().invoke(main, ["gone"])
assert "pip install 'cpsl_deploy[export]'" in result.output, result.output
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, repr(BAD)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
