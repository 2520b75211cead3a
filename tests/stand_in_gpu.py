"""The parts of cuda.bindings.runtime and tensorrt that an inference calls, in host memory.

An "engine" is a file that says its size, ``96x160``, and labels every pixel with the four classes' share of
its first channel; ``profile 96x160`` is one whose profile allows that size only, ``profile 96x160 4x200x200``
one that allows all between, and 1 to 4 frames.
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
        self.calls: list[str] = []
        """What was asked of the stream, in its order: copies by their kind, and waiting for it."""

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
        self.calls.append("synchronise")
        return (cudaError_t.cudaSuccess,)

    def cudaMemcpyAsync(self, to: int, origin: int, size: int, kind: cudaMemcpyKind, stream: int) -> tuple:
        assert len(self.allocated[to]) == len(self.allocated[origin]) >= size > 0 and stream in self.streams
        ctypes.memmove(to, origin, size)
        self.calls.append(kind.name)
        return (cudaError_t.cudaSuccess,)


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


def label_of(blue: np.ndarray) -> np.ndarray:
    """What the engine makes of the first channel: uint8, 0 to 3."""
    return blue // 64


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "image"
        limits = zip(self.engine.least, shape, self.engine.most, strict=True)
        if not all(low <= side <= high for low, side, high in limits):
            return False
        self.shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return {"image": self.shape, "labels": self.shape[:3], "logits": (self.shape[0], 4, 2, 2)}[name]

    def execute_async_v3(self, stream_handle: int) -> bool:
        pixels = int(np.prod(self.shape[:3]))
        image, labels = (
            np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(self.addresses[name]))
            for name, count in (("image", 3 * pixels), ("labels", pixels))
        )
        labels[:] = label_of(image[::3])
        if "logits" in self.addresses:
            count = 16 * self.shape[0]
            logits = np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.addresses["logits"]))
            logits[:] = np.arange(count)
        return True


class Engine:
    def __init__(self, text: str) -> None:
        words = text.removeprefix("profile").removesuffix("logits").split()
        shapes = [[int(side) for side in word.split("x")] for word in words]
        self.least, self.most = (
            (*([1] if len(sides) == 2 else []), *sides, 3) for sides in (shapes[0], shapes[-1])
        )
        self.shape = (-1, -1, -1, 3) if text.startswith("profile") else self.least
        self.names = ("image", "labels", *(["logits"] if text.endswith("logits") else []))

    @property
    def num_io_tensors(self) -> int:
        return len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "image" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return "FLOAT" if name == "logits" else "UINT8"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return {"image": self.shape, "labels": self.shape[:3], "logits": (self.shape[0], 4, -1, -1)}[name]

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        assert -1 in self.shape, "an engine without free sides may have no profile"
        return [self.least, self.least, self.most]

    def create_execution_context(self) -> Context:
        return Context(self)


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
    module.nptype = {"UINT8": np.uint8, "FLOAT": np.float32}.get
    module.TensorIOMode, module.Runtime, module.Logger = TensorIOMode, Runtime, Logger
    return module
