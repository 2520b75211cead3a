"""TensorRT engines on an NVIDIA GPU (optional extra ``trt``).

Written against the API documentation of TensorRT 10 and 11 and of cuda-bindings 13, whose names it uses were
checked against these packages. No engine has been run with it on a GPU yet.

An engine cannot hold a spec, so a JSON file beside it does: ``model.engine`` and ``model.engine.json``, with
the same keys as the metadata of the ONNX file.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CpslError, InputError, ModelFileError, UnavailableError
from ..files import write_json
from .base import DEVICE_TO_HOST, HOST_TO_DEVICE, INPUT_NAME, Backend
from .engine_key import require_own_engine
from .gpu import nvidia_gpu_count
from .tensorrt_remedy import missing_package


def sidecar_path(engine: str | os.PathLike[str]) -> Path:
    """Where the metadata of an engine file is: ``<engine>.json``."""
    return Path(f"{os.fspath(engine)}.json")


def write_sidecar(engine: str | os.PathLike[str], metadata: dict[str, str]) -> Path:
    """Write the metadata of an engine file, with the keys of the ONNX file it was built from.

    Further keys, for example ``tensorrt_version`` and ``gpu``, make the error message for an engine that
    does not load more helpful. Returns the path written.
    """
    path = sidecar_path(engine)
    write_json(path, metadata)
    return path


def read_sidecar(engine: str | os.PathLike[str]) -> dict[str, str]:
    """Read what `write_sidecar` wrote. Raises ModelFileError if it is missing or damaged."""
    path = sidecar_path(engine)
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFileError(
            f"the engine {engine} has no {path.name} beside it, which says what its labels mean. Copy both "
            "files, or build the engine again: cpsl-export RUN --trt"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"{path} cannot be read ({error}). Build the engine again: cpsl-export RUN --trt"
        ) from error
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelFileError(f"{path} is not a table of texts. Build the engine again: cpsl-export RUN --trt")
    return metadata


class TensorRTBackend(Backend):
    """A TensorRT engine, one stream, page-locked host buffers for the largest input of its profile.

    Free sides and a free batch are free within the engine's first optimisation profile.
    """

    name = "tensorrt"

    def __init__(self, path: Path, *, device: str = "cuda") -> None:
        """Open an engine. Raises UnavailableError without a GPU, without TensorRT or without
        cuda-bindings (`missing_package`), ModelFileError if the engine or its JSON file is missing,
        damaged or was built by another TensorRT version or for another GPU."""
        self.describe_file(str(path), read_sidecar(path))
        # First of all: creating a TensorRT runtime without a GPU does not raise, it ends the process.
        if device != "cuda" or nvidia_gpu_count() == 0:
            wanted = "was asked for" if device != "cuda" else "has no GPU: the NVIDIA driver offers none"
            raise UnavailableError(
                f"a TensorRT engine runs on an NVIDIA GPU, and device {device!r} {wanted}. Run the .onnx "
                "file it was built from with --device cpu instead"
            )
        try:
            import tensorrt
            from cuda.bindings import runtime
        except ImportError as error:
            raise missing_package(error.name or "tensorrt", f"running {path.name}") from error

        self.device = device
        self._version = tensorrt.__version__
        self._cuda = _Cuda(runtime)
        self._engine: Any = None
        self._context: Any = None
        self._image: _Buffer | None = None
        self._outputs: dict[str, _Buffer] = {}
        try:
            self._prepare(tensorrt, path)
        except CpslError:
            self.close()
            raise

    def _prepare(self, tensorrt: Any, path: Path) -> None:
        require_own_engine(path, self.metadata, self._version)
        self._engine = self._deserialize(tensorrt, path)
        inputs, outputs = self._ports(tensorrt)
        self.check_ports(inputs, outputs)
        self._least, self._most = self._input_range()
        self.size_limits = (self._least[1], self._least[2]), (self._most[1], self._most[2])
        self.least_batch, self.most_batch = self._least[0], self._most[0]
        self._context = self._engine.create_execution_context()
        self._stream = self._cuda.stream()
        self._shape: tuple[int, ...] = ()
        self._set_shape(self._most)
        self._image = self._cuda.buffer(self._most, np.dtype(np.uint8))
        self._context.set_tensor_address(INPUT_NAME, self._image.device)
        for name in self.contract.outputs:
            buffer = self._cuda.buffer(self._output_shape(name), np.dtype(outputs[name][0]))
            self._outputs[name] = buffer
            self._context.set_tensor_address(name, buffer.device)

    def _set_shape(self, shape: tuple[int, ...]) -> None:
        if shape == self._shape:
            return
        fits = all(
            low <= side <= high for low, side, high in zip(self._least, shape, self._most, strict=True)
        )
        if not fits or not self._context.set_input_shape(INPUT_NAME, shape):
            raise InputError(
                f"this engine takes frames (N, H, W, 3) from {self._least} to {self._most}; got {shape}. "
                "Resize them, or build an engine for them: cpsl-export RUN --trt"
            )
        self._shape = shape

    def _output_shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(self._context.get_tensor_shape(name))
        if min(shape, default=0) < 1:
            raise ModelFileError(
                f"the size of {name} is not known before {self.origin} has run: TensorRT gives {shape} for "
                f"frames {self._shape}. Build the engine again: cpsl-export RUN --trt"
            )
        return shape

    def infer_impl(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        self._upload(frames)
        self._execute()
        return self._download()

    def infer_timed_impl(self, frames: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """The copies between the caller's memory and the page-locked one are part of the transfers."""
        started_ns = time.perf_counter_ns()
        self._upload(frames)
        self.synchronise()
        uploaded_ns = time.perf_counter_ns()
        self._execute()
        self.synchronise()
        executed_ns = time.perf_counter_ns()
        outputs = self._download()
        downloaded_ns = time.perf_counter_ns()
        return outputs, {
            HOST_TO_DEVICE: (uploaded_ns - started_ns) / 1e6,
            DEVICE_TO_HOST: (downloaded_ns - executed_ns) / 1e6,
        }

    def synchronise(self) -> None:
        if not self._closed:
            self._cuda.synchronize(self._stream)

    def _upload(self, frames: np.ndarray) -> None:
        assert self._image is not None  # only when closed, and then nothing comes here
        self._set_shape(frames.shape)
        np.copyto(self._image.part(frames.shape), frames)
        self._cuda.to_device(self._image, frames.nbytes, self._stream)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            raise UnavailableError("TensorRT could not run the engine; its own log above says why")

    def _download(self) -> dict[str, np.ndarray]:
        parts = {name: buffer.part(self._output_shape(name)) for name, buffer in self._outputs.items()}
        for name, part in parts.items():
            self._cuda.to_host(self._outputs[name], part.nbytes, self._stream)
        self._cuda.synchronize(self._stream)
        return {name: part.copy() for name, part in parts.items()}

    def describe(self) -> dict[str, Any]:
        return {
            "backend": self.name,
            "version": self._version,
            "device": self.device,
            "threads": None,
            "precision": self.metadata.get("precision", "as in the file"),
            "built_with": self.metadata.get("tensorrt_version", "unknown"),
        }

    def close(self) -> None:
        if not self._closed:
            # TensorRT wants the context gone before its engine, and both before the memory they use; the
            # views of host memory must not outlive it either.
            self._context = None
            self._engine = None
            self._image = None
            self._outputs = {}
            self._cuda.close()
        super().close()

    def _deserialize(self, tensorrt: Any, path: Path) -> Any:
        self._logger = tensorrt.Logger(tensorrt.Logger.WARNING)
        self._runtime = tensorrt.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            version = self.metadata.get("tensorrt_version", "of an unknown version")
            gpu = self.metadata.get("gpu", "an unknown GPU")
            raise ModelFileError(
                f"TensorRT {self._version} cannot load {path}: an engine works only with the version and the "
                f"kind of GPU it was built with, here TensorRT {version} on {gpu}. Build it again on "
                "this machine: cpsl-export RUN --trt"
            )
        return engine

    def _ports(self, tensorrt: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        ports: dict[Any, dict[str, Any]] = {tensorrt.TensorIOMode.INPUT: {}, tensorrt.TensorIOMode.OUTPUT: {}}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            data_type = np.dtype(tensorrt.nptype(self._engine.get_tensor_dtype(name))).name
            ports[self._engine.get_tensor_mode(name)][name] = (data_type, self._port_shape(name))
        return ports[tensorrt.TensorIOMode.INPUT], ports[tensorrt.TensorIOMode.OUTPUT]

    def _port_shape(self, name: str) -> tuple[int, ...]:
        """Free sides are -1. Those of the input for which the engine's profile allows one value are fixed."""
        if name != INPUT_NAME:
            return tuple(self._engine.get_tensor_shape(name))
        return tuple(low if low == high else -1 for low, high in zip(*self._input_range(), strict=True))

    def _input_range(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Least and largest (N, H, W, 3) that the engine takes."""
        shape = tuple(self._engine.get_tensor_shape(INPUT_NAME))
        if -1 not in shape:
            return shape, shape
        least, _, most = self._engine.get_tensor_profile_shape(INPUT_NAME, 0)
        return tuple(least), tuple(most)


class _Buffer:
    """Page-locked host memory and device memory of one size, in bytes."""

    def __init__(self, host: np.ndarray, host_address: int, device: int, data_type: np.dtype) -> None:
        self.host, self.host_address, self.device, self.data_type = host, host_address, device, data_type

    def part(self, shape: tuple[int, ...]) -> np.ndarray:
        """The beginning of the host memory as an array of ``shape``."""
        size = int(np.prod(shape)) * self.data_type.itemsize
        return self.host[:size].view(self.data_type).reshape(shape)


class _Cuda:
    """The few CUDA calls an inference needs, each checked, and everything freed by `close`."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._allocated = contextlib.ExitStack()

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *results = getattr(self._runtime, name)(*arguments)
        if status != self._runtime.cudaError_t.cudaSuccess:
            raise UnavailableError(
                f"CUDA failed in {name}: {status.name}. Check nvidia-smi: the GPU's memory may be full or "
                "its driver older than this CUDA"
            )
        return results[0] if results else None

    def stream(self) -> Any:
        stream = self._call("cudaStreamCreate")
        self._allocated.callback(self._call, "cudaStreamDestroy", stream)
        return stream

    def buffer(self, shape: tuple[int, ...], data_type: np.dtype) -> _Buffer:
        size = int(np.prod(shape)) * data_type.itemsize
        host_address = int(self._call("cudaMallocHost", size))
        self._allocated.callback(self._call, "cudaFreeHost", host_address)
        device = int(self._call("cudaMalloc", size))
        self._allocated.callback(self._call, "cudaFree", device)
        host = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(host_address))
        return _Buffer(host, host_address, device, data_type)

    def to_device(self, buffer: _Buffer, size: int, stream: Any) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", buffer.device, buffer.host_address, size, kind, stream)

    def to_host(self, buffer: _Buffer, size: int, stream: Any) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", buffer.host_address, buffer.device, size, kind, stream)

    def synchronize(self, stream: Any) -> None:
        self._call("cudaStreamSynchronize", stream)

    def close(self) -> None:
        self._allocated.close()
