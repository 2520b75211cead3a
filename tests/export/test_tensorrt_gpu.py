"""What is said of the GPU: by a driver compiled for the test, and by stand-ins for drivers that fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stand_in_tensorrt import Driver

from cpsl_deploy.backends import gpu
from cpsl_deploy.errors import UnavailableError

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return flags ? 1 : RESULT; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return ordinal ? 101 : 0; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, "Stub GPU", length); return device != 40; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 12 : attribute == 76 ? 1 : -1; return device != 40; }
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuGetErrorName(int result, const char **name) {
    *name = result == 803 ? "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH" : 0; return result == 803 ? 0 : 1; }
"""
NVML = """
#include <string.h>
static int opened;
int nvmlInit_v2(void) { opened++; return RESULT; }
int nvmlShutdown(void) { opened--; return 0; }
int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    if (!opened || length < 80) return 7;
    strncpy(version, "595.10.02", length); return 0; }
"""
ASK = """
import dataclasses, json
from cpsl_deploy.backends import gpu
count = gpu.nvidia_gpu_count()
facts = dataclasses.asdict(gpu.nvidia_gpu()) if count else {}
print(json.dumps([count, gpu.gpu_problem(), facts]))
"""


needs_gcc = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("gcc"), reason="needs gcc on Linux to compile a driver"
)


@needs_gcc
@pytest.mark.parametrize("result", [0, 803])
def test_a_compiled_driver_is_asked_as_cuda_h_has_it(tmp_path: Path, result: int) -> None:
    compile_library(DRIVER, tmp_path / "libcuda.so.1", result)
    # An empty file in front of one that this machine may have.
    (tmp_path / "libnvidia-ml.so.1").touch()
    count, problem, facts = asked_in(tmp_path)
    if result:
        assert count == 0 and "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803); the driver was updated" in problem
    else:
        assert (count, problem) == (1, "")
        assert facts == {
            "name": "Stub GPU",
            "compute_capability": "12.1",
            "cuda_version": "13.2",
            "driver_version": "CUDA 13.2",
        }


@needs_gcc
@pytest.mark.parametrize(("result", "version"), [(0, "595.10.02"), (9, "CUDA 13.2")])
def test_a_compiled_nvml_tells_the_drivers_own_version(tmp_path: Path, result: int, version: str) -> None:
    """9 is NVML_ERROR_DRIVER_NOT_LOADED."""
    compile_library(DRIVER, tmp_path / "libcuda.so.1", 0)
    compile_library(NVML, tmp_path / "libnvidia-ml.so.1", result)
    facts = asked_in(tmp_path)[2]
    assert (facts["driver_version"], facts["cuda_version"]) == (version, "13.2")


def compile_library(source: str, library: Path, result: int) -> None:
    code = library.with_suffix(".c")
    code.write_text(source)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", f"-DRESULT={result}", str(code), "-o", str(library)], check=True
    )


def asked_in(folder: Path) -> Any:
    """What a process with the libraries of a folder says: GPUs, problem, facts."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    asked = subprocess.run(
        [sys.executable, "-c", ASK], check=True, env=environment, stdout=subprocess.PIPE
    ).stdout
    return json.loads(asked)


@pytest.mark.parametrize("missing", [OSError("no library"), AttributeError("no function")])
def test_without_nvml_the_version_of_cuda_stands_in_and_says_so(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, missing: Exception
) -> None:
    assert gpu.nvidia_gpu().driver_version == "580.95.05" and driver.opened == 0

    def fail() -> None:
        raise missing

    monkeypatch.setattr(gpu, "_nvml", fail)
    assert gpu.nvidia_gpu().driver_version == "CUDA 13.0"


def test_without_a_driver_its_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_library", lambda: "libno-such-driver.so.1")
    assert gpu.nvidia_gpu_count() == 0
    with pytest.raises(UnavailableError, match=r"libno-such-driver\.so\.1 was not found.*--gpus all"):
        gpu.nvidia_gpu()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (100, r"CUDA_ERROR_NO_DEVICE \(100\); check CUDA_VISIBLE_DEVICES"),
        (999, r"CUDA error 999; .*nvidia-smi"),
    ],
)
def test_a_driver_that_does_not_start_says_why(
    monkeypatch: pytest.MonkeyPatch, result: int, message: str
) -> None:
    driver = Driver()
    driver.result = result
    monkeypatch.setattr(gpu, "_driver", lambda: driver)
    assert gpu.nvidia_gpu_count() == 0
    with pytest.raises(UnavailableError, match=message):
        gpu.nvidia_gpu()


def test_a_driver_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    driver.count = 0
    monkeypatch.setattr(gpu, "_driver", lambda: driver)
    assert "no GPU: check CUDA_VISIBLE_DEVICES" in gpu.gpu_problem()
