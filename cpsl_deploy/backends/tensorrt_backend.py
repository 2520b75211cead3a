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
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CpslError, MissingExtraError, ModelFileError, UnavailableError
from ..files import write_json
from .base import INPUT_NAME, OUTPUT_NAME, Backend, check_signature
from .gpu import nvidia_gpu_count


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
    """A TensorRT engine with static sizes, one stream, page-locked host buffers for all frames."""

    name = "tensorrt"

    def __init__(self, path: Path, *, device: str = "cuda") -> None:
        """Open an engine. Raises UnavailableError without a GPU, MissingExtraError without TensorRT and
        cuda-bindings, ModelFileError if the engine or its JSON file is missing, damaged or was built by
        another TensorRT version or for another GPU."""
        self.metadata = read_sidecar(path)
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
            raise MissingExtraError(error.name or "tensorrt", "trt", f"running {path.name}") from error

        self.device = device
        self._version = tensorrt.__version__
        self._cuda = _Cuda(runtime)
        self._engine: Any = None
        self._context: Any = None
        self._image: Any = None
        self._labels: Any = None
        try:
            self._prepare(tensorrt, path)
        except CpslError:
            self.close()
            raise

    def _prepare(self, tensorrt: Any, path: Path) -> None:
        self._engine = self._deserialize(tensorrt, path)
        inputs, outputs = self._ports(tensorrt)
        self.static_size = check_signature(str(path), inputs, outputs)
        if self.static_size is None:
            raise ModelFileError(
                f"{path} was built for free sizes; engines here have one size. Build it again: "
                "cpsl-export RUN --trt --size HEIGHTxWIDTH"
            )
        height, width = self.static_size
        self._context = self._engine.create_execution_context()
        self._context.set_input_shape(INPUT_NAME, (1, height, width, 3))
        self._stream = self._cuda.stream()
        self._image = self._cuda.buffer((1, height, width, 3))
        self._labels = self._cuda.buffer((1, height, width))
        self._context.set_tensor_address(INPUT_NAME, self._image.device)
        self._context.set_tensor_address(OUTPUT_NAME, self._labels.device)

    def infer_impl(self, frame: np.ndarray) -> np.ndarray:
        np.copyto(self._image.host, frame)
        self._cuda.to_device(self._image, self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise UnavailableError("TensorRT could not run the engine; its own log above says why")
        self._cuda.to_host(self._labels, self._stream)
        self._cuda.synchronize(self._stream)
        return self._labels.host.copy()

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
            self._image = self._labels = None
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
            ports[self._engine.get_tensor_mode(name)][name] = (data_type, self._shape(name))
        return ports[tensorrt.TensorIOMode.INPUT], ports[tensorrt.TensorIOMode.OUTPUT]

    def _shape(self, name: str) -> tuple[int, ...]:
        """Free sides are -1, unless the engine's profile allows one size only, which is then the shape."""
        shape = tuple(self._engine.get_tensor_shape(name))
        if name == INPUT_NAME and -1 in shape:
            least, _, most = (tuple(limit) for limit in self._engine.get_tensor_profile_shape(name, 0))
            return least if least == most else shape
        return shape


class _Buffer:
    """Page-locked host memory and device memory of one size."""

    def __init__(self, host: np.ndarray, host_address: int, device: int) -> None:
        self.host, self.host_address, self.device = host, host_address, device


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

    def buffer(self, shape: tuple[int, ...]) -> _Buffer:
        size = int(np.prod(shape))
        host_address = int(self._call("cudaMallocHost", size))
        self._allocated.callback(self._call, "cudaFreeHost", host_address)
        device = int(self._call("cudaMalloc", size))
        self._allocated.callback(self._call, "cudaFree", device)
        host = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(host_address)).reshape(shape)
        return _Buffer(host, host_address, device)

    def to_device(self, buffer: _Buffer, stream: Any) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", buffer.device, buffer.host_address, buffer.host.nbytes, kind, stream)

    def to_host(self, buffer: _Buffer, stream: Any) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", buffer.host_address, buffer.device, buffer.host.nbytes, kind, stream)

    def synchronize(self, stream: Any) -> None:
        self._call("cudaStreamSynchronize", stream)

    def close(self) -> None:
        self._allocated.close()
