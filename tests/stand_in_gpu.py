"""The parts of cuda.bindings.runtime and tensorrt that an inference calls, in host memory.

An "engine" is a file that says its size, ``96x160``, and labels every pixel with its first channel;
``profile 96x160`` is one whose profile allows that size only, ``profile 96x160 200x200`` allows all between.
"""

from __future__ import annotations

import ctypes
import enum
import types

import numpy as np


class cudaError_t(enum.Enum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2


class cudaMemcpyKind(enum.Enum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class Cuda:
    """Every call returns (status, result...) as cuda.bindings does."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind

    def __init__(self) -> None:
        self.allocated: dict[int, ctypes.Array] = {}
        self.streams: set[int] = set()
        self.fail = ""

    def cudaMalloc(self, size: int) -> tuple:
        if self.fail == "cudaMalloc":
            return cudaError_t.cudaErrorMemoryAllocation, None
        return self.cudaMallocHost(size)

    def cudaMallocHost(self, size: int) -> tuple:
        memory = (ctypes.c_uint8 * size)()
        self.allocated[ctypes.addressof(memory)] = memory
        return cudaError_t.cudaSuccess, ctypes.addressof(memory)

    def cudaFree(self, address: int) -> tuple:
        del self.allocated[address]
        return (cudaError_t.cudaSuccess,)

    cudaFreeHost = cudaFree

    def cudaStreamCreate(self) -> tuple:
        self.streams.add(7)
        return cudaError_t.cudaSuccess, 7

    def cudaStreamDestroy(self, stream: int) -> tuple:
        self.streams.remove(stream)
        return (cudaError_t.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple:
        assert stream in self.streams
        return (cudaError_t.cudaSuccess,)

    def cudaMemcpyAsync(self, to: int, origin: int, size: int, kind: cudaMemcpyKind, stream: int) -> tuple:
        assert len(self.allocated[to]) == len(self.allocated[origin]) == size and stream in self.streams
        ctypes.memmove(to, origin, size)
        return (cudaError_t.cudaSuccess,)


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class Context:
    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "image" and shape == (1, *self.size, 3)
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        pixels = self.size[0] * self.size[1]
        image, labels = (
            np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(self.addresses[name]))
            for name, count in (("image", 3 * pixels), ("labels", pixels))
        )
        labels[:] = image[::3]
        return True


class Engine:
    num_io_tensors = 2

    def __init__(self, text: str) -> None:
        sizes = [word.split("x") for word in text.removeprefix("profile").split()]
        self.sizes = [(int(height), int(width)) for height, width in sizes]
        self.size = (-1, -1) if text.startswith("profile") else self.sizes[0]

    def get_tensor_name(self, index: int) -> str:
        return ("image", "labels")[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "image" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return "UINT8"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (1, *self.size, 3) if name == "image" else (1, *self.size)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        least, most = (1, *self.sizes[0], 3), (1, *self.sizes[-1], 3)
        return [least, least, most]

    def create_execution_context(self) -> Context:
        return Context(self.sizes[0])


class Runtime:
    def __init__(self, logger: object) -> None:
        pass

    def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
        return Engine(data.decode()) if b"x" in data else None


class Logger:
    WARNING = 2

    def __init__(self, level: int) -> None:
        pass


def tensorrt_module() -> types.ModuleType:
    module = types.ModuleType("tensorrt")
    module.__version__ = "10.16.1"
    module.nptype = lambda data_type: np.uint8
    module.TensorIOMode, module.Runtime, module.Logger = TensorIOMode, Runtime, Logger
    return module
