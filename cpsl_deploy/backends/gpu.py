"""Whether there is an NVIDIA GPU, asked of the driver itself.

The libraries cannot be asked: onnxruntime-gpu lists CUDA on machines without a GPU, and creating a TensorRT
runtime on one ends the process.
"""

from __future__ import annotations

import ctypes
import sys


def nvidia_gpu_count() -> int:
    """How many NVIDIA GPUs the driver offers this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
