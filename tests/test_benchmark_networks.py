"""What ``benchmarks/networks.py`` makes of every network in every way: cells, what is kept, what is shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("matplotlib")

import networks
import networks_report
import torch
from export_networks import Small, small_model, spec_for
from networks_cell import Cell, network_of

from cpsl_deploy.backends import gpu
from cpsl_deploy.errors import InputError
from cpsl_deploy.export import torch_backend
from cpsl_deploy.train.models import ARCHITECTURES, save_model

SKIP = "int8,fp16,openvino,compiled,bf16"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "small", Small)
    monkeypatch.setattr(torch_backend.torch.cuda, "is_available", lambda: False)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cells are measured in this process; returns their names as they are."""
    measured: list[str] = []
    real = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        if "--cell" not in command:
            return real(command, **options)
        measured.append(command[-1])
        done = CliRunner().invoke(networks.main, command[2:])
        return SimpleNamespace(returncode=done.exit_code, stderr=done.output)

    monkeypatch.setattr(subprocess, "run", run)
    return measured


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str, code: int = 0) -> Result:
    given = ["--networks", "small", "--rounds", "5", "--threads", "1", "-o", str(folder), *arguments]
    monkeypatch.setattr(sys, "argv", ["networks.py", *given])
    done = CliRunner().invoke(networks.main, given)
    assert done.exit_code == code, done.output
    return done


def test_cells_are_measured_once_and_shown(
    tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--sizes", "64x96", "--batches", "1,2", "--skip", SKIP)
    first = call(monkeypatch, tmp_path, *arguments)
    names = ["small-64x96-b1-cpu", "small-64x96-b2-cpu"]
    assert here == names
    again = call(monkeypatch, tmp_path, *arguments)
    assert here == names, "what is there is kept"

    said = json.loads(first.stdout.splitlines()[-1])
    assert json.loads(again.stdout.splitlines()[-1]) == said
    shown = ["fp32 onnxruntime", "fp32 torch", "fp32 torch channels_last"]
    assert {title: list(rows) for title, rows in said.items()} == {
        "small, 64x96, cpu": shown,
        "small, 64x96, batch 2, cpu": shown,
    }
    written = json.loads((tmp_path / "networks.json").read_text())
    cells = {cell["cell"]["batch"]: cell for cell in written["cells"]}
    assert cells[2]["variants"]["rounds"] == 5 and cells[2]["random_weights"] is True
    assert all(row["roofline_fraction"] > 0 for row in cells[1]["variants"]["rows"])
    assert cells[1]["parameters"] == sum(p.numel() for p in Small(19).parameters())
    assert cells[1]["machine"]["cores"] >= 1 and cells[1]["versions"]["torch"] == torch.__version__
    page = (tmp_path / "networks.md").read_text()
    assert "## small, 64x96, batch 2, cpu" in page and f"left out by --skip {SKIP}" in page
    assert (tmp_path / "networks.png").read_bytes().startswith(b"\x89PNG")


def test_other_settings_are_not_mixed(
    tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--sizes", "64x96", "--skip", f"{SKIP},channels_last")
    call(monkeypatch, tmp_path, *arguments)
    done = call(monkeypatch, tmp_path, *arguments, "--seconds", "7", code=2)
    assert "another seconds: [120.0], now [7.0]" in " ".join(done.output.split())


def test_a_cell_that_is_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = SimpleNamespace(returncode=-9, stderr="")
    monkeypatch.setattr(subprocess, "run", lambda command, **options: killed)
    done = call(monkeypatch, tmp_path, "--sizes", "64x96")
    assert "ended with -9" in json.loads(done.stdout.splitlines()[-1])["small, 64x96, cpu"]
    assert "Not measured: its process ended with -9" in (tmp_path / "networks.md").read_text()


def test_a_mistake_in_the_command_ends_it(tmp_path: Path, here: list[str], monkeypatch: Any) -> None:
    done = call(monkeypatch, tmp_path, "--sizes", "64x96", "--data", str(tmp_path / "gone.yaml"), code=2)
    assert "gone.yaml" in done.output
    assert not list((tmp_path / "cells").iterdir())


def test_without_a_gpu_its_cells_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Any:
        raise OSError("no driver")

    monkeypatch.setattr(gpu, "_driver", absent)
    done = call(monkeypatch, tmp_path, "--device", "cuda", code=2)
    assert "NVIDIA" in done.output


def test_a_run_brings_its_weights_and_the_cell_its_size(tmp_path: Path) -> None:
    model = small_model(seed=3)
    save_model(tmp_path / "model.safetensors", model, spec_for(model, size=(96, 128)))
    cell = Cell(network="small", size=(64, 96), batch=1, device="cpu")
    network, spec = network_of(cell, {"small": tmp_path})
    assert spec.size == (64, 96) and spec.class_names == spec_for(model).class_names
    assert torch.equal(network.classifier.weight, model.classifier.weight)
    first, second = (network_of(cell, {})[0] for _ in range(2))
    assert torch.equal(first.classifier.weight, second.classifier.weight), "the same random weights each time"
    other = Cell(network="squeezenet_fpn", size=(64, 96), batch=1, device="cpu")
    with pytest.raises(InputError, match="holds a small, and --run names it for squeezenet_fpn"):
        network_of(other, {"squeezenet_fpn": tmp_path})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batches", "1,0"), "whole numbers from 1"),
        (("--sizes", "64"), "HEIGHTxWIDTH"),
        (("--networks", "none"), "networks are squeezenet_fpn"),
        (("--run", "none=x"), "NETWORK=RUN"),
    ],
)
def test_what_is_no_cell_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    assert message in " ".join(call(monkeypatch, tmp_path, *arguments, code=2).output.split())


def test_scores_come_with_a_run_and_data(
    tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from finished_run import finished_run

    run = finished_run(tmp_path)
    arguments = ("--sizes", "96x128", "--skip", f"{SKIP},channels_last", "--run", f"small={run.folder.path}")
    call(monkeypatch, tmp_path / "out", *arguments, "--data", str(run.target), "--images", "1")
    record = json.loads((tmp_path / "out/cells/small-96x128-b1-cpu.json").read_text())
    rows = record["variants"]["rows"]
    assert [row["miou"] for row in rows] == [rows[0]["miou"]] * 2 and rows[0]["miou"] is not None
    assert record["images"] == 1 and not record["random_weights"]
    assert "trained weights; 5 rounds, scored on 1 images" in networks_report.markdown([record])
