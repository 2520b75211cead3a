"""What is said of the GPU: by a driver compiled for the test, and by stand-ins for drivers that fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

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
ASK = """
import dataclasses, json
from cpsl_deploy.backends import gpu
count = gpu.nvidia_gpu_count()
facts = dataclasses.asdict(gpu.nvidia_gpu()) if count else {}
print(json.dumps([count, gpu.gpu_problem(), facts]))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("gcc"), reason="needs gcc on Linux to compile a driver"
)
@pytest.mark.parametrize("result", [0, 803])
def test_a_compiled_driver_is_asked_as_cuda_h_has_it(tmp_path: Path, result: int) -> None:
    (tmp_path / "driver.c").write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    gcc = ["gcc", "-shared", "-fPIC", f"-DRESULT={result}", str(tmp_path / "driver.c"), "-o", str(library)]
    subprocess.run(gcc, check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    out = subprocess.run(
        [sys.executable, "-c", ASK], check=True, env=environment, stdout=subprocess.PIPE
    ).stdout
    count, problem, facts = json.loads(out)
    if result:
        assert count == 0 and "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803); the driver was updated" in problem
    else:
        assert (count, problem) == (1, "")
        assert facts == {"name": "Stub GPU", "compute_capability": "12.1", "driver_version": "13.2"}


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
