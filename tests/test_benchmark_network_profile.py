"""What ``benchmarks/network_profile.py`` says of a network's nodes: both graphs, operators, limits."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("matplotlib")

import network_profile
import network_profile_nodes as nodes
import network_profile_report as report

from cpsl_deploy.bench.node_profile import NodeRun, Tensor
from cpsl_deploy.machine.rates import stated_rates

RATES = stated_rates(matrix_flops=1e9, copy_bytes=1e8)


@pytest.fixture(autouse=True)
def stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_profile, "measure_rates", lambda *_, **__: RATES)
    monkeypatch.setattr(network_profile, "TURNS", 1)


def run(folder: Path, *arguments: str) -> tuple[Any, dict[str, Any], str]:
    """The last line, the record and the tables."""
    fixed = ["--size", "64x128", "--rounds", "2", "--profiled", "2", "--threads", "1", "-o", str(folder)]
    done = CliRunner().invoke(network_profile.main, [*arguments, *fixed], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    record = json.loads((folder / "network_profile.json").read_text())
    assert (folder / "network_profile.png").stat().st_size > 5000
    return json.loads(done.output.splitlines()[-1]), record, (folder / "network_profile.md").read_text()


def test_both_graphs_of_a_network(tmp_path: Path) -> None:
    ways = ("--way", "onnxruntime", "--way", "onnxruntime int8")
    last, record, text = run(tmp_path / "out", "--network", "squeezenet_fpn", *ways)
    assert list(last) == ["squeezenet_fpn"] and list(last["squeezenet_fpn"]) == [
        "onnxruntime",
        "onnxruntime int8",
    ]
    plain, integers = record["networks"][0]["rows"]
    traced, exported = plain["kinds"]["as traced"], plain["kinds"]["exported"]
    assert (
        traced["file_nodes"]["BatchNormalization"] == 8 and "BatchNormalization" not in exported["file_nodes"]
    )
    assert traced["ratio"] == 1 and exported["equal_labels"] > 0.999
    for kind in (traced, exported):
        assert all(node["limit_ms"] >= 0 for node in kind["nodes"])
        assert [n["ms"] for n in kind["nodes"]] == sorted((n["ms"] for n in kind["nodes"]), reverse=True)
    assert any(node["operator"] == "QLinearConv" for node in integers["kinds"]["exported"]["nodes"])
    assert "| Concat | 8 |" in text and "### onnxruntime int8" in text and "Slowest nodes, exported:" in text


def test_a_file_in_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    network, spec = network_profile.network_of(SimpleNamespace(network="squeezenet_fpn", size=(64, 128)), {})
    files = network_profile.make_files(network, spec, tmp_path, int8=False)
    file = files[network_profile.EXPORTED]["fp32"]
    last, record, text = run(tmp_path / "out", "--file", str(file), "--way", "openvino f32")
    (kind,) = record["networks"][0]["rows"][0]["kinds"].values()
    limited = [node for node in kind["nodes"] if node["operator"] == "Convolution"]
    assert len([node for node in limited if node["limit_ms"]]) > len(limited) / 2
    assert str(file) in last and "n/a" in text


def ran(operator: str, *shapes: tuple[int, ...], out: tuple[int, ...], dtype: str = "float") -> NodeRun:
    return NodeRun(
        name="x",
        operator=operator,
        inputs=tuple(Tensor(dtype=dtype, shape=shape) for shape in shapes),
        outputs=(Tensor(dtype=dtype, shape=out),),
        initialiser_bytes=0,
        provider="CPUExecutionProvider",
        ms=1.0,
    )


def test_limits_by_hand() -> None:
    """1 GFLOP/s and 0.1 GB/s: 8 -> 16 channels of 3x3 are 2304 operations a pixel and 96 bytes; 4 -> 4 of
    1x1 are 32 operations and 32 bytes."""
    conv = ran("Conv", (1, 8, 10, 10), (16, 8, 3, 3), out=(1, 16, 10, 10))
    assert nodes._limit_ms(conv, RATES) == pytest.approx(1e3 * 100 * 16 * 144 / 1e9)
    point = ran("FusedConv", (1, 4, 10, 10), (4, 4, 1, 1), out=(1, 4, 10, 10))
    assert nodes._limit_ms(point, RATES) == pytest.approx(1e3 * (3200 + 64) / 1e8)
    scalars = ((), ())
    integers = ran(
        "QLinearConv", (1, 10, 10, 8), *scalars, (16, 8, 3, 3), *scalars, out=(1, 10, 10, 16), dtype="uint8"
    )
    assert nodes._limit_ms(integers, RATES) == pytest.approx(1e3 * 100 * 16 * 144 / 1e9)
    assert nodes._limit_ms(ran("Reshape", (1, 8), out=(8, 1)), RATES) == 0


def test_operators_are_summed() -> None:
    rows = [
        {"operator": "Conv", "ms": 2.0, "limit_ms": 1.0},
        {"operator": "Concat", "ms": 5.0, "limit_ms": None},
        {"operator": "Conv", "ms": 1.0, "limit_ms": 0.5},
    ]
    found = report.operators(rows)
    assert list(found.items()) == [("Concat", (1, 5.0, None)), ("Conv", (2, 3.0, 1.5))]
