"""What an export chooses from on this machine and on others."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from click.testing import CliRunner

from cpsl_deploy.contract import Contract
from cpsl_deploy.export import candidates
from cpsl_deploy.export.candidates import YARDSTICK, Candidate, candidates_here, contract_of
from cpsl_deploy.run_command import main as cpsl_run


def machine(monkeypatch: pytest.MonkeyPatch, *, gpus: int = 0, packages: tuple[str, ...] = ()) -> None:
    real = importlib.util.find_spec

    def find_spec(name: str, *more: Any) -> Any:
        return (name in packages or None) if name in ("openvino", "tensorrt") else real(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(candidates, "nvidia_gpu_count", lambda: gpus)


def test_a_machine_with_onnxruntime_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, packages=("tensorrt",))  # of no use without a GPU
    names = [candidate.name for candidate in candidates_here(Contract())]
    assert names == [
        "fp32 onnxruntime",
        "fp32 logits onnxruntime",
        "int8 onnxruntime",
        "int8 logits onnxruntime",
    ]
    assert candidates_here(Contract())[0] == YARDSTICK


def test_a_machine_with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=1, packages=("openvino", "tensorrt"))
    found = candidates_here(Contract())
    names = [candidate.name for candidate in found]
    assert len(set(names)) == len(names) == 17 and found[0] == YARDSTICK
    assert {"fp32 openvino bf16", "int8 logits openvino f32", "fp16 onnxruntime cuda"} < set(names)
    engines = [candidate for candidate in found if candidate.backend == "tensorrt"]
    assert [engine.precision for engine in engines] == ["fp32", "fp16", "int8"]
    assert {engine.scheme for engine in engines} == {"tensorrt"}
    assert not any(c.precision == "fp16" for c in found if c.device == "cpu")


@pytest.mark.parametrize("wanted", [{"outputs": ("labels", "logits")}, {"output_stride": 4}])
def test_files_of_logits_are_tried_where_labels_alone_are_wanted(
    monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any]
) -> None:
    machine(monkeypatch)
    assert [c.name for c in candidates_here(Contract(**wanted))] == ["fp32 onnxruntime", "int8 onnxruntime"]


def test_without_a_gpu_there_is_no_candidate_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=0, packages=("openvino", "tensorrt"))
    assert {candidate.device for candidate in candidates_here(Contract())} == {"cpu"}


@pytest.mark.parametrize(
    ("candidate", "arguments"),
    [
        (YARDSTICK, ""),
        (Candidate(precision="fp16", device="cuda"), "--device cuda"),
        (Candidate(backend="openvino", backend_precision="bf16"), "--backend openvino --precision bf16"),
        (Candidate(backend="tensorrt", device="cuda", scheme="tensorrt"), ""),
    ],
)
def test_arguments_are_those_of_the_command_that_runs_files(candidate: Candidate, arguments: str) -> None:
    assert candidate.arguments == arguments
    printed = CliRunner().invoke(cpsl_run, ["gone.onnx", "gone.png", "-o", "out", *arguments.split()])
    assert "gone" in printed.output and "No such option" not in printed.output


def test_the_contract_follows_the_candidate_and_else_what_is_wanted() -> None:
    wanted = Contract(colour_order="RGB", output_stride=2, network_size=(64, 96))
    assert contract_of(YARDSTICK, wanted) == wanted
    made = contract_of(Candidate(precision="int8", logits_only=True), wanted)
    assert (made.precision, made.outputs) == ("int8", ("logits",))
    assert (made.colour_order, made.output_stride, made.network_size) == ("RGB", 2, (64, 96))
