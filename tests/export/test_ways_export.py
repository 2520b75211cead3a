"""What an exported file says of the ways in which it may be run: those that passed the gate, no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from export_networks import small_model
from exported_files import ANYTHING, Export, planted, report_of, says

import cpsl_deploy
from cpsl_deploy.backends.ways import ONNXRUNTIME, Way, allowed_ways, preferred_way
from cpsl_deploy.errors import UnavailableError
from cpsl_deploy.export import request, trials, ways
from cpsl_deploy.export.candidates import YARDSTICK, Candidate
from cpsl_deploy.export.graph.onnx_file import export_onnx, read_metadata
from cpsl_deploy.export.workshop import Workshop

F32, BF16 = (Way(backend="openvino", precision=precision) for precision in ("f32", "bf16"))
MACHINE = [
    YARDSTICK,
    Candidate(precision="int8"),
    *(
        Candidate(precision=precision, backend="openvino", backend_precision=hint)
        for precision in ("fp32", "int8")
        for hint in ("f32", "bf16")
    ),
]


class OpenVino:
    """A stand-in: every file is opened by onnxruntime, and with OpenVINO's bf16 as it is told here."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.bf16: Callable[[Workshop, Path], Path] = lambda workshop, file: file

    def open(self, workshop: Workshop, candidate: Candidate, **_: Any) -> Any:
        self.opened.append(candidate.name)
        file = workshop.file(candidate)
        if candidate.backend_precision == "bf16":
            file = self.bf16(workshop, file)
        return cpsl_deploy.load(file, backend="onnxruntime", device="cpu")


@pytest.fixture
def openvino(monkeypatch: pytest.MonkeyPatch) -> OpenVino:
    library = OpenVino()
    monkeypatch.setattr(
        Workshop, "open", lambda self, candidate, **more: library.open(self, candidate, **more)
    )
    for module in (request, ways):
        monkeypatch.setattr(module, "candidates_here", lambda: MACHINE)
    return library


def another_model(workshop: Workshop, file: Path) -> Path:
    wrong = file.with_name("wrong.onnx")
    with cpsl_deploy.load(file, backend="onnxruntime") as right:
        return export_onnx(
            small_model(7, len(right.classes)), right.spec, wrong, size=right.backend.static_size
        )


def no_bf16(workshop: Workshop, file: Path) -> Path:
    raise UnavailableError("this processor has no bf16")


def test_a_plain_export_also_judges_bf16(export: Export, folder: Path, openvino: OpenVino) -> None:
    result = export("--size", "96x128", "--no-drift", "--no-score")
    says(result, "auto takes the fastest, where it runs, of onnxruntime (100.000%), openvino bf16 (100.000%)")
    # OpenVINO's f32 computes what onnxruntime does.
    assert openvino.opened == ["fp32 onnxruntime", "fp32 openvino bf16"]
    said = read_metadata(folder / "model.onnx")
    assert allowed_ways(said) == (ONNXRUNTIME, F32, BF16) and preferred_way(said) is None
    names = [(way["name"], way["passed"]) for way in report_of(folder)["ways"]]
    assert names == [("onnxruntime", True), ("openvino bf16", True)]
    assert "onnxruntime, openvino bf16" in (folder / "model.export/export.md").read_text()


def test_what_breaks_the_budget_is_not_said(export: Export, folder: Path, openvino: OpenVino) -> None:
    openvino.bf16 = another_model
    says(export("--size", "96x128", "--no-drift", "--no-score"), "not within budget: never taken")
    assert allowed_ways(read_metadata(folder / "model.onnx")) == (ONNXRUNTIME, F32)
    way = report_of(folder)["ways"][1]
    assert way["name"] == "openvino bf16" and not way["passed"] and way["broken"]


def test_what_does_not_run_here_is_told_and_left_out(
    export: Export, folder: Path, openvino: OpenVino
) -> None:
    openvino.bf16 = no_bf16
    says(
        export("--size", "96x128", "--no-drift", "--no-score"),
        "openvino bf16 is left out: this processor has no bf16",
    )
    assert allowed_ways(read_metadata(folder / "model.onnx")) == (ONNXRUNTIME, F32)
    assert len(report_of(folder)["ways"]) == 1


def test_int8_is_judged_in_every_way(export: Export, folder: Path, openvino: OpenVino) -> None:
    openvino.bf16 = another_model
    export("--precision", "int8", "--size", "96x128", "--no-drift", "--no-score")
    assert allowed_ways(read_metadata(folder / "model.onnx")) == (ONNXRUNTIME, F32)
    assert [way["passed"] for way in report_of(folder)["ways"]] == [True, True, False]


def test_auto_says_what_else_passed_with_the_chosen_file(
    export: Export, folder: Path, openvino: OpenVino, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "compare_speed", planted({"int8 openvino bf16": 3.0}))
    export("--auto", "--no-drift", "--no-score", *ANYTHING)
    said = read_metadata(folder / "model.onnx")
    assert preferred_way(said) == BF16
    assert said["precision"] == "int8" and allowed_ways(said) == (BF16, ONNXRUNTIME, F32)
    assert len(openvino.opened) == len(set(openvino.opened)) + len(MACHINE)  # judged once, then timed
