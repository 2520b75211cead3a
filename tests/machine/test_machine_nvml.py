"""An NVIDIA GPU by a stand-in for its driver's library."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cpsl_deploy.machine.nvml import find_nvml
from cpsl_deploy.machine.sensors import Sensors


class NVMLError(Exception):
    """As the package's own: no OSError."""


def refuse(*_: object) -> Any:
    raise NVMLError("Not Supported")


def library(monkeypatch: pytest.MonkeyPatch, **replaced: Callable[..., Any]) -> ModuleType:
    """Two GPUs; what each function gives, with some replaced."""
    module = ModuleType("pynvml")
    clocks = {1: 1410, 2: 1215}
    functions: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: ["first", "second"][index] if index < 2 else refuse(),
        "nvmlDeviceGetHandleByUUID": lambda uuid: {"GPU-b": "second"}.get(uuid) or refuse(),
        "nvmlDeviceGetPowerUsage": lambda handle: {"first": 251_500, "second": 60_000}[handle],
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 4_000_000,
        "nvmlDeviceGetClockInfo": lambda handle, kind: clocks[kind],
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=3 << 30),
        "nvmlDeviceGetTemperature": lambda handle, sensor: 71,
        "nvmlDeviceGetTemperatureThreshold": lambda handle, kind: {1: 92}[kind],
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x01 | 0x02 | 0x04 | 0x40,
    }
    for name, function in (functions | replaced).items():
        setattr(module, name, function)
    module.NVMLError = NVMLError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_all_that_a_gpu_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch)
    found, _ = find_nvml({})
    sensors = Sensors(found)
    reading = sensors.read()
    assert reading.power_w == {"gpu": 251.5} and reading.energy_j == {"gpu": 4000.0}
    assert reading.clock_mhz == {"gpu_sm": 1410, "gpu_mem": 1215}
    assert reading.temperature_c == {"gpu": 71} and sensors.temperature_limits_c == {"gpu": 92}
    assert reading.device_bytes == 3 << 30
    assert reading.throttle_reasons == ("GPU: software power cap", "GPU: hardware thermal slowdown"), (
        "idleness and clocks that the user set are no throttling"
    )
    assert sensors.unavailable == ()


@pytest.mark.parametrize(("visible", "power"), [("1,0", 60.0), ("GPU-b", 60.0), ("0", 251.5)])
def test_the_gpu_that_a_program_uses(monkeypatch: pytest.MonkeyPatch, visible: str, power: float) -> None:
    library(monkeypatch)
    found, _ = find_nvml({"CUDA_VISIBLE_DEVICES": visible})
    assert Sensors(found).read().power_w == {"gpu": power}


@pytest.mark.parametrize("visible", ["", "-1", "7"])
def test_no_such_gpu(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    library(monkeypatch)
    found, _ = find_nvml({"CUDA_VISIBLE_DEVICES": visible})
    assert not found.probes and repr(visible) in found.unavailable[0].reason


def test_what_a_gpu_does_not_tell_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, nvmlDeviceGetTotalEnergyConsumption=refuse, nvmlDeviceGetTemperatureThreshold=refuse)
    found, _ = find_nvml({})
    sensors = Sensors(found)
    assert [(one.sensor, one.reason) for one in sensors.unavailable] == [
        ("GPU (NVML) energy", "Not Supported")
    ]
    assert sensors.read().power_w == {"gpu": 251.5} and sensors.temperature_limits_c == {}


def test_the_name_before_driver_535(monkeypatch: pytest.MonkeyPatch) -> None:
    module = library(monkeypatch, nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 0x20)
    del module.nvmlDeviceGetCurrentClocksEventReasons  # type: ignore[attr-defined]
    assert Sensors(find_nvml({})[0]).read().throttle_reasons == ("GPU: software thermal slowdown",)


def test_without_a_driver_or_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, nvmlInit=refuse)
    assert "no NVIDIA driver" in find_nvml({})[0].unavailable[0].reason
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install 'cpsl_deploy[power]'" in find_nvml({})[0].unavailable[0].reason


def test_the_driver_is_let_go_once(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    library(monkeypatch, nvmlShutdown=lambda: closed.append(1))
    found, close = find_nvml({})
    with Sensors(found, close=close) as sensors:
        sensors.close()
    assert closed == [1]
