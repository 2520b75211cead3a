"""What an export chooses from on this machine and on others."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from click.testing import CliRunner

from cpsl_deploy.export import candidates
from cpsl_deploy.export.candidates import YARDSTICK, Candidate, candidates_here
from cpsl_deploy.run_command import main as cpsl_run


def machine(monkeypatch: pytest.MonkeyPatch, *, gpus: int = 0, packages: tuple[str, ...] = ()) -> None:
    real = importlib.util.find_spec

    def find_spec(name: str, *more: Any) -> Any:
        return (name in packages or None) if name in ("openvino", "tensorrt") else real(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(candidates, "nvidia_gpu_count", lambda: gpus)


def test_a_machine_with_onnxruntime_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, packages=("tensorrt",))  # of no use without a GPU
    found = candidates_here()
    assert [candidate.name for candidate in found] == ["fp32 onnxruntime", "int8 onnxruntime"]
    assert found[0] == YARDSTICK


def test_a_machine_with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=1, packages=("openvino", "tensorrt"))
    found = candidates_here()
    names = [candidate.name for candidate in found]
    assert len(set(names)) == len(names) and found[0] == YARDSTICK
    assert {"fp32 openvino bf16", "int8 openvino f32", "fp16 onnxruntime cuda"} < set(names)
    engines = [candidate for candidate in found if candidate.backend == "tensorrt"]
    assert [engine.precision for engine in engines] == ["fp32", "fp16", "int8"]
    assert {engine.scheme for engine in engines} == {"tensorrt"}
    assert not any(c.precision == "fp16" for c in found if c.device == "cpu")


def test_a_gpu_without_tensorrt_builds_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=1)
    assert "tensorrt" not in {candidate.backend for candidate in candidates_here()}


def test_without_a_gpu_there_is_no_candidate_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=0, packages=("openvino", "tensorrt"))
    assert {candidate.device for candidate in candidates_here()} == {"cpu"}


@pytest.mark.parametrize(
    ("candidate", "arguments"),
    [
        (YARDSTICK, ""),
        (Candidate(precision="fp16", device="cuda"), "--device cuda"),
        (Candidate(backend="openvino", backend_precision="bf16"), "--backend openvino --precision bf16"),
        (Candidate(backend="onnxruntime-tensorrt", device="cuda"), "--backend onnxruntime-tensorrt"),
        (Candidate(backend="tensorrt", device="cuda", scheme="tensorrt"), ""),
    ],
)
def test_arguments_are_those_of_the_command_that_runs_files(candidate: Candidate, arguments: str) -> None:
    assert candidate.arguments == arguments
    printed = CliRunner().invoke(cpsl_run, ["gone.onnx", "gone.png", "-o", "out", *arguments.split()])
    assert "gone" in printed.output and "No such option" not in printed.output
