"""The NVIDIA GPU of this machine, asked of the driver itself.

The libraries cannot be asked: onnxruntime-gpu lists CUDA on machines without a GPU, and creating a TensorRT
runtime on one ends the process. The names and numbers are those of the CUDA driver API (``cuda.h``) and of
NVML (``nvml.h``), which alone tells the driver's own version.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

from ..errors import UnavailableError

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""
_VERSION_LENGTH = 80
"""NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE."""
_REMEDIES = {
    34: "the library found is the CUDA toolkit's stub: take its folder out of LD_LIBRARY_PATH",
    100: "check CUDA_VISIBLE_DEVICES, and that a container was started with --gpus all",
    803: "the driver was updated while it was in use: restart the machine",
}
"""By CUresult: CUDA_ERROR_STUB_LIBRARY, _NO_DEVICE, _SYSTEM_DRIVER_MISMATCH."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What an engine depends on. As texts, because they are only compared and shown."""

    name: str
    """For example ``NVIDIA Jetson AGX Orin``."""
    compute_capability: str
    """``major.minor``, for example ``8.7``."""
    cuda_version: str
    """The newest CUDA version that the driver serves, for example ``13.0``. Its bug-fix releases share it."""
    driver_version: str
    """The driver's own, for example ``580.95.05``. Where NVML, which tells it, is missing (some Jetsons,
    containers without the driver's utilities) what it serves stands in for it: ``CUDA 13.0``."""


def nvidia_gpu_count() -> int:
    """How many NVIDIA GPUs the driver offers this process; 0 without a driver."""
    count = ctypes.c_int(0)
    try:
        driver = _driver()
    except OSError:
        return 0
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def nvidia_gpu(index: int = 0) -> Gpu:
    """The GPU of that number, as CUDA counts them. Raises UnavailableError if the driver offers none."""
    if problem := gpu_problem():
        raise UnavailableError(f"an NVIDIA GPU is needed, and {problem}")
    driver = _driver()
    device, version = ctypes.c_int(), ctypes.c_int()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    for result in (
        driver.cuDeviceGet(ctypes.byref(device), index),
        driver.cuDeviceGetName(name, len(name), device),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
        driver.cuDriverGetVersion(ctypes.byref(version)),
    ):
        if result != 0:
            raise UnavailableError(
                f"the NVIDIA driver does not describe GPU {index}: {_error_text(driver, result)}. "
                "Check nvidia-smi."
            )
    cuda_version = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major.value}.{minor.value}",
        cuda_version=cuda_version,
        driver_version=_driver_version() or f"CUDA {cuda_version}",
    )


def gpu_problem() -> str:
    """Why no GPU can be used, for an error message: what is missing and what to do. Empty if one can."""
    try:
        driver = _driver()
    except OSError:
        return (
            f"the NVIDIA driver is not installed ({_library()} was not found). Install it, or start the "
            "container with --gpus all, so that nvidia-smi lists the GPU"
        )
    if (result := driver.cuInit(0)) != 0:
        remedy = _REMEDIES.get(result, "check that nvidia-smi lists the GPU")
        return f"the NVIDIA driver does not start: {_error_text(driver, result)}; {remedy}"
    count = ctypes.c_int(0)
    if (result := driver.cuDeviceGetCount(ctypes.byref(count))) != 0:
        return f"the NVIDIA driver does not list its GPUs: {_error_text(driver, result)}"
    return "" if count.value else f"the NVIDIA driver offers this process no GPU: {_REMEDIES[100]}"


def _driver_version() -> str:
    """Of the driver itself, as NVML tells it; empty if it does not."""
    version = ctypes.create_string_buffer(_VERSION_LENGTH)
    try:
        nvml = _nvml()
        if nvml.nvmlInit_v2() != 0:
            return ""
        try:
            told = nvml.nvmlSystemGetDriverVersion(version, ctypes.c_uint(_VERSION_LENGTH)) == 0
        finally:
            nvml.nvmlShutdown()
    except (OSError, AttributeError):  # no library, or one that lacks a function
        return ""
    return version.value.decode(errors="replace") if told else ""


def _nvml() -> Any:
    return ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")


def _driver() -> Any:
    return ctypes.CDLL(_library())


def _library() -> str:
    return "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def _error_text(driver: Any, result: int) -> str:
    name = ctypes.c_char_p()
    known = driver.cuGetErrorName(result, ctypes.byref(name)) == 0 and name.value
    return f"{name.value.decode()} ({result})" if known and name.value else f"CUDA error {result}"
