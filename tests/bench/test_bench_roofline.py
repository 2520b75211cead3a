"""The roofline's arithmetic on layers made by hand, and what there is no roofline of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_onnx import write_tiny_onnx

from cpsl_deploy.backends.tensorrt_backend import write_sidecar
from cpsl_deploy.bench import roofline as module
from cpsl_deploy.bench.graph_cost import GraphCost, LayerCost
from cpsl_deploy.bench.record import record_schema
from cpsl_deploy.bench.roofline import limits, measure_roofline, roofline_fraction
from cpsl_deploy.errors import InputError, UnavailableError
from cpsl_deploy.files import sha256
from cpsl_deploy.machine.copy_rate import CopyRate
from cpsl_deploy.machine.matrix_rate import MatrixRate
from cpsl_deploy.machine.rates import Rates, stated_rates

CPU = {"backend": "onnxruntime", "device": "cpu", "threads": 1, "precision": "fp32"}


def layer(flops: int, moved: int, precision: str = "f32", parameter_bytes: int = 0) -> LayerCost:
    return LayerCost(
        name="layer",
        operator="Conv",
        output_shape=(1, 2, 3, 4),
        flops=flops,
        bytes=moved,
        parameters=parameter_bytes // 4,
        parameter_bytes=parameter_bytes,
        precision=precision,
    )


def cost(*layers: LayerCost, frame_bytes: int = 1000) -> GraphCost:
    return GraphCost(layers=layers, frame_size=(10, 10), frame_bytes=frame_bytes)


def rates(copy_bytes: float, **matrix: float) -> Rates:
    return Rates(
        matrix={name: MatrixRate(flops_per_s=rate, how=name) for name, rate in matrix.items()},
        copy=CopyRate(bytes_per_s=copy_bytes, how="by hand"),
    )


def test_the_greater_of_the_two_times_is_a_layers_limit() -> None:
    """At 10^9 operations and 10^8 bytes a second a byte costs as much as ten operations."""
    found = limits(cost(layer(2_000_000, 100_000), layer(2_000_000, 300_000)), rates(1e8, f32=1e9), "fp32")
    assert [one.bound for one in found.layers] == ["compute", "memory"]
    assert [one.limit_ms for one in found.layers] == pytest.approx([2.0, 3.0])
    assert found.layer_limit_ms == pytest.approx(5.0)
    assert found.compulsory_limit_ms == pytest.approx(4.0)  # all operations; nothing but the frame moves


def test_what_nothing_can_spare_is_frame_labels_and_parameters() -> None:
    found = limits(
        cost(layer(10, 50, parameter_bytes=400_000), frame_bytes=100_000), rates(1e8, f32=1e9), "fp32"
    )
    assert found.compulsory_limit_ms == pytest.approx(5.0)


def test_each_layer_has_the_rate_of_its_precision() -> None:
    """A quantised file with one layer left in float32, whatever else the backend could compute in."""
    graph = cost(layer(4_000_000, 0, "int8"), layer(1_000_000, 0, "f32"))
    machine = rates(1e8, f32=1e9, bf16=2e9, int8=4e9)
    for word, expected, last in (("int8", 2.0, "f32"), ("f32", 2.0, "f32"), ("bf16", 1.5, "bf16")):
        found = limits(graph, machine, word)
        assert [one.precision for one in found.layers] == ["int8", last] and found.precision == "int8"
        assert found.layer_limit_ms == found.compulsory_limit_ms == pytest.approx(expected)


def test_bytes_are_those_of_what_is_computed_in() -> None:
    graph = cost(layer(0, 400_000), layer(0, 100_000, "int8"))
    assert [one.bytes for one in limits(graph, rates(1e8, f32=1e9, int8=1e9), "fp32").layers] == [
        400_000,
        100_000,
    ]
    assert limits(graph, rates(1e8, bf16=1e9, int8=1e9), "bf16").layers[0].bytes == 200_000


def test_without_the_rate_there_is_no_limit() -> None:
    with pytest.raises(UnavailableError, match="in int8 was not measured"):
        limits(cost(layer(1, 1, "int8")), rates(1e8, f32=1e9), "int8")
    with pytest.raises(UnavailableError, match="'fp8'"):
        limits(cost(layer(1, 1)), rates(1e8, f32=1e9), "fp8")


def test_a_section_of_a_record(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    path = write_tiny_onnx(tmp_path / "m.onnx")
    found = measure_roofline(path, CPU, (96, 160), 2.0, rates=stated_rates(matrix_flops=1e9, copy_bytes=1e9))
    section = found.to_json()
    schema = record_schema()
    jsonschema.validate(section, {**schema["properties"]["roofline"], "$defs": schema["$defs"]})
    assert json.loads(json.dumps(section, allow_nan=False)) == section
    pixels = 96 * 160
    assert section["graph"] == "m.onnx" and section["parameters"] == 16
    work = (4 * 8 + 1) * pixels  # convolution and largest, and the sum that makes the tiny file's confidence
    assert section["flops"] == work and section["rates"]["stated"] is True
    # Both of the former move more than they compute; the sum counts as fused.
    moved = 4 * 7 * pixels + 64 + 24 * pixels
    assert section["bytes"] == moved
    assert section["layer_limit_ms"] == pytest.approx(1e-6 * moved)
    assert section["fraction"] == pytest.approx(section["layer_limit_ms"] / 2)
    assert section["compulsory_fraction"] == pytest.approx(1e-6 * (work - pixels) / 2)
    fused = [one for one in section["layers"] if one["bound"] == "fused"]
    assert [(one["flops"], one["limit_ms"]) for one in fused] == [(pixels, 0)]
    assert section["slowest"] and section["profile_ms"] > 0


def test_a_fraction_alone(tmp_path: Path) -> None:
    path = write_tiny_onnx(tmp_path / "m.onnx")
    machine = stated_rates(matrix_flops=1e9, copy_bytes=1e9)
    fast, slow = (roofline_fraction(path, CPU, (96, 160), ms, rates=machine) for ms in (1.0, 4.0))
    assert fast is not None and slow is not None and fast == pytest.approx(4 * slow)
    assert fast == pytest.approx(measure_roofline(path, CPU, (96, 160), 1.0, rates=machine).fraction)
    assert roofline_fraction(tmp_path / "absent.onnx", CPU, (96, 160), 1.0, rates=machine) is None
    assert roofline_fraction(path, {**CPU, "precision": "fp8"}, (96, 160), 1.0, rates=machine) is None


def test_the_machine_is_measured_with_the_models_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def measured(precisions: list[str], *, threads: int | None = None) -> Rates:
        asked.append((list(precisions), threads))
        return rates(1e9, f32=1e9, bf16=1e9)

    monkeypatch.setattr(module, "measure_rates", measured)
    path = write_tiny_onnx(tmp_path / "m.onnx")
    measure_roofline(path, {**CPU, "threads": 3}, (96, 160), 1.0)
    measure_roofline(path, {**CPU, "precision": "bf16"}, (96, 160), 1.0, threads=5)
    assert asked == [(["f32"], 3), (["bf16"], 5)]


def test_a_gpu_needs_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [])
    path = write_tiny_onnx(tmp_path / "m.onnx")
    gpu = {**CPU, "backend": "tensorrt", "device": "cuda"}
    with pytest.raises(UnavailableError, match="--matrix-tflops and --copy-gbs"):
        measure_roofline(path, gpu, (96, 160), 1.0)
    found = measure_roofline(
        path, gpu, (96, 160), 1.0, rates=stated_rates(matrix_flops=1e12, copy_bytes=1e11)
    )
    assert found.to_json()["slowest"] == [] and found.to_json()["profile_ms"] is None


def test_a_fraction_that_cannot_be_is_noted(tmp_path: Path) -> None:
    path = write_tiny_onnx(tmp_path / "m.onnx")
    machine = stated_rates(matrix_flops=1e9, copy_bytes=1e9)
    limit = measure_roofline(path, CPU, (96, 160), 1.0, rates=machine).fraction
    assert measure_roofline(path, CPU, (96, 160), limit, rates=machine).notes() == []
    (note,) = measure_roofline(path, CPU, (96, 160), limit / 4, rates=machine).notes()
    assert "0.25 of the time" in note


def test_on_a_busy_machine_no_fraction_is_sound(tmp_path: Path) -> None:
    path = write_tiny_onnx(tmp_path / "m.onnx")
    slowed = MatrixRate(flops_per_s=1e9, how="by hand", disturbed=True)
    machine = Rates(matrix={"f32": slowed}, copy=CopyRate(bytes_per_s=1e9, how="by hand"))
    found = measure_roofline(path, CPU, (96, 160), 1e3, rates=machine)
    (note,) = found.notes()
    assert note.startswith("The machine was busy while its rates were measured")
    assert found.to_json()["rates"]["disturbed"] is True
    assert roofline_fraction(path, CPU, (96, 160), 1.0, rates=machine) is None


def test_a_device_is_measured_by_what_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Entry:
        def load(self) -> Any:
            return lambda precisions, device: rates(1e9, **dict.fromkeys(precisions, 1e9))

    class Broken:
        def load(self) -> Any:
            raise ModuleNotFoundError("No module named 'torch'")

    path = write_tiny_onnx(tmp_path / "m.onnx")
    gpu = {**CPU, "backend": "tensorrt", "device": "cuda"}
    found = [Broken(), Entry()]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found)
    assert measure_roofline(path, gpu, (96, 160), 1.0).limits.precision == "f32"
    found.pop()
    with pytest.raises(UnavailableError, match="No module named 'torch'"):
        measure_roofline(path, gpu, (96, 160), 1.0)


def test_an_engine_is_counted_from_its_onnx_file(tmp_path: Path) -> None:
    path, engine = write_tiny_onnx(tmp_path / "m.onnx"), tmp_path / "m.engine"
    engine.write_bytes(b"engine")
    runtime = {"backend": "tensorrt", "device": "cuda", "precision": "fp32"}
    machine = stated_rates(matrix_flops=1e12, copy_bytes=1e11)
    write_sidecar(engine, {"onnx_sha256": sha256(path)})
    assert measure_roofline(engine, runtime, (96, 160), 1.0, rates=machine).graph == "m.onnx"
    write_sidecar(engine, {"onnx_sha256": "another"})
    with pytest.raises(UnavailableError, match="not the file from which"):
        measure_roofline(engine, runtime, (96, 160), 1.0, rates=machine)
    path.unlink()
    with pytest.raises(UnavailableError, match=r"m\.onnx beside it"):
        measure_roofline(engine, runtime, (96, 160), 1.0, rates=machine)


def test_a_time_is_above_zero(tmp_path: Path) -> None:
    path = write_tiny_onnx(tmp_path / "m.onnx")
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="above 0 ms"):
            measure_roofline(path, CPU, (96, 160), wrong)
