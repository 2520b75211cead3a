"""One NVIDIA GPU by its driver's library NVML (package nvidia-ml-py, module pynvml).

Source: NVIDIA's NVML API reference: power in mW, energy in mJ since the driver was loaded, memory in bytes,
clocks in MHz, and the reasons why clocks are lower than they could be as a set of bits.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

from .probe import Found, Probe, Quantity

SENSOR = "GPU (NVML)"
GPU = "gpu"
_NOT_INSTALLED = (
    "the package nvidia-ml-py is not installed. Install it with: pip install 'cpsl_deploy[power]'"
)
_SM, _MEMORY = 1, 2  # nvmlClockType_t
_CORE_SENSOR, _SLOWDOWN = 0, 1  # nvmlTemperatureSensors_t, nvmlTemperatureThresholds_t

REASONS = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""nvmlClocksEventReason*, those that throttle. Idleness (0x1), clocks that the user set (0x2), clocks kept
equal among GPUs (0x10) and the display's (0x100) are no throttling."""


def find_nvml(environment: Mapping[str, str] | None = None) -> tuple[Found, Callable[[], None]]:
    """Probes of the GPU that a program uses by default, and what to call in the end.

    That GPU is the first that ``CUDA_VISIBLE_DEVICES`` names, by number or by UUID, else number 0 (in the
    order of the bus: with GPUs of several kinds CUDA may count them in another order, unless
    ``CUDA_DEVICE_ORDER=PCI_BUS_ID``).
    """
    found = Found()
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        return found.miss(SENSOR, _NOT_INSTALLED), _nothing
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        return found.miss(SENSOR, f"no NVIDIA driver answers ({error})"), _nothing
    close = partial(_shut_down, library)
    wanted = (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES", "0")
    first = wanted.split(",")[0].strip()
    try:
        handle = (
            library.nvmlDeviceGetHandleByIndex(int(first))
            if first.isdigit()
            else library.nvmlDeviceGetHandleByUUID(first)
        )
    except library.NVMLError as error:
        return found.miss(SENSOR, f"there is no GPU {first!r} ({error})"), close
    _add_probes(found, library, handle)
    return found, close


def _nothing() -> None:
    """There is nothing to close."""


def _shut_down(library: ModuleType) -> None:
    try:
        library.nvmlShutdown()
    except library.NVMLError:
        return  # it is shut down already


def _add_probes(found: Found, library: ModuleType, handle: Any) -> None:
    readings: list[tuple[str, Quantity, Callable[[], dict[str, float]]]] = [
        ("power", "power_w", lambda: {GPU: library.nvmlDeviceGetPowerUsage(handle) / 1e3}),
        ("energy", "energy_j", lambda: {GPU: library.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3}),
        ("SM clock", "clock_mhz", lambda: {"gpu_sm": library.nvmlDeviceGetClockInfo(handle, _SM)}),
        (
            "memory clock",
            "clock_mhz",
            lambda: {"gpu_mem": library.nvmlDeviceGetClockInfo(handle, _MEMORY)},
        ),
        ("memory", "device_bytes", lambda: {GPU: library.nvmlDeviceGetMemoryInfo(handle).used}),
        ("throttle reasons", "throttle_reasons", lambda: _reasons(library, handle)),
    ]
    for name, quantity, read in readings:
        found.try_probe(
            Probe(sensor=f"{SENSOR} {name}", quantity=quantity, read=partial(_translated, library, read))
        )
    found.try_probe(
        Probe(
            sensor=f"{SENSOR} temperature",
            quantity="temperature_c",
            read=partial(
                _translated,
                library,
                lambda: {GPU: library.nvmlDeviceGetTemperature(handle, _CORE_SENSOR)},
            ),
            limits_c=_limit(library, handle),
        )
    )


def _translated(library: ModuleType, read: Callable[[], dict[str, float]]) -> dict[str, float]:
    """A reading whose failure is an OSError, as of any other sensor."""
    try:
        return {name: float(value) for name, value in read().items()}
    except library.NVMLError as error:
        raise OSError(str(error)) from error


def _reasons(library: ModuleType, handle: Any) -> dict[str, float]:
    # The function was renamed with driver 535; the bits are the same.
    ask = getattr(library, "nvmlDeviceGetCurrentClocksEventReasons", None)
    ask = ask or library.nvmlDeviceGetCurrentClocksThrottleReasons
    bits = ask(handle)
    return {f"GPU: {name}": 1.0 for bit, name in REASONS.items() if bits & bit}


def _limit(library: ModuleType, handle: Any) -> dict[str, float]:
    try:
        return {GPU: float(library.nvmlDeviceGetTemperatureThreshold(handle, _SLOWDOWN))}
    except library.NVMLError:
        return {}
