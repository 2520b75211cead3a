"""A TensorRT engine built from an exported ONNX file.

One path serves TensorRT 10 and 11: the network is strongly typed, so the precision is the ONNX file's own
(an engine of a float32 file computes in float32, with TF32 where the GPU has it). The engine belongs to the
GPU model and the TensorRT version it was built with; both stand in the JSON file beside it.

This module's build was checked for its API names against the Python bindings of TensorRT 10.16 and 11.4;
it has not been run on a GPU yet.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpsl_deploy.backends.gpu import nvidia_gpu_count
from cpsl_deploy.backends.tensorrt_backend import write_sidecar
from cpsl_deploy.errors import MissingExtraError, ModelFileError, UnavailableError
from cpsl_deploy.files import sha256, write_bytes
from cpsl_deploy.spec import METADATA_KEY, ModelSpec

from ..graph.onnx_file import read_metadata

_log = logging.getLogger(__name__)

ENGINE_SUFFIX = ".engine"
TIMING_CACHE = "tensorrt.timing"
"""File beside the engine with measured kernel times: a second build on the same GPU takes seconds."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A built engine and what its sidecar says."""

    path: Path
    sidecar: Path
    """JSON: the ONNX file's metadata, ``onnx_sha256``, ``size``, ``tensorrt_version`` and ``gpu``."""
    build_s: float


def build_engine(
    onnx_path: str | Path, engine_path: str | Path | None = None, *, size: tuple[int, int] | None = None
) -> Engine:
    """Build an engine for the GPU of this machine, in minutes.

    ``engine_path``: by default the ONNX file's name with ``.engine``. ``size``: (height, width) of the frames
    the engine takes; needed only if the ONNX file leaves it free, and then the spec's size by default.

    Raises UnavailableError without a GPU or TensorRT, ModelFileError if TensorRT refuses the file,
    OutputError if the engine cannot be written. The ONNX file is never touched.
    """
    onnx_path = Path(onnx_path)
    engine_path = Path(engine_path) if engine_path else onnx_path.with_suffix(ENGINE_SUFFIX)
    gpu, trt = _require_gpu(onnx_path), _require_tensorrt(onnx_path)
    _log.info("building a TensorRT engine of %s; this takes minutes", onnx_path)
    metadata = read_metadata(onnx_path)
    started = time.perf_counter()
    logger, progress = _logger(trt), _progress(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    _parse(trt, network, onnx_path, logger)
    config = builder.create_builder_config()
    config.progress_monitor = progress
    spec = ModelSpec.from_json(metadata[METADATA_KEY], str(onnx_path))
    size = _fix_size(builder, network, config, size or spec.size)
    cache_path = engine_path.with_name(TIMING_CACHE)
    _use_timing_cache(config, cache_path)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ModelFileError(
            f"TensorRT {trt.__version__} cannot build an engine of {onnx_path} for {gpu}; its own messages "
            "are above. Free GPU memory, or use the ONNX file, which is in place."
        )
    facts = {
        "onnx_sha256": sha256(onnx_path),
        "size": f"{size[0]}x{size[1]}",
        "tensorrt_version": trt.__version__,
        "gpu": gpu,
    }
    write_bytes(cache_path, bytes(config.get_timing_cache().serialize()))
    write_bytes(engine_path, bytes(serialized))
    sidecar = write_sidecar(engine_path, {**metadata, **facts})
    return Engine(path=engine_path, sidecar=sidecar, build_s=time.perf_counter() - started)


def _require_gpu(onnx_path: Path) -> str:
    # Before anything of TensorRT: creating its objects without a GPU ends the process.
    if nvidia_gpu_count() == 0:
        raise UnavailableError(
            "a TensorRT engine is built on the NVIDIA GPU it will run on, and no GPU with a working driver "
            "was found here (nvidia-smi should list one). Export with --trt on the machine with the GPU, or "
            f"run the ONNX file, which is in place, with onnxruntime or OpenVINO: {onnx_path}"
        )
    return _gpu_name()


def _require_tensorrt(onnx_path: Path) -> Any:
    try:
        return importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        purpose = f"building a TensorRT engine (the ONNX file is in place: {onnx_path})"
        raise MissingExtraError("tensorrt", "trt", purpose) from error
    except ImportError as error:
        raise UnavailableError(
            f"TensorRT is installed and does not load: {error}. Install it again with its libraries: "
            f"pip install --force-reinstall 'cpsl_deploy[trt]'. The ONNX file is in place: {onnx_path}."
        ) from error


def _network_flags(trt: Any) -> int:
    """Strongly typed, and explicit batch where there is still another kind: TensorRT 11 dropped the flag."""
    flags = trt.NetworkDefinitionCreationFlag
    names = ("STRONGLY_TYPED", "EXPLICIT_BATCH")
    return sum(1 << int(getattr(flags, name)) for name in names if hasattr(flags, name))


def _parse(trt: Any, network: Any, onnx_path: Path, logger: Any) -> None:
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_path.read_bytes()):
        errors = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
        raise ModelFileError(f"TensorRT {trt.__version__} cannot read {onnx_path}: {errors}")


def _fix_size(builder: Any, network: Any, config: Any, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the engine. A free size is fixed by a profile with only that size in it."""
    image = network.get_input(0)
    shape = tuple(image.shape)
    if -1 not in shape:
        return shape[1], shape[2]
    profile = builder.create_optimization_profile()
    fixed = (1, *size, 3)
    profile.set_shape(image.name, min=fixed, opt=fixed, max=fixed)
    config.add_optimization_profile(profile)
    return size


def _use_timing_cache(config: Any, path: Path) -> None:
    """Kernel times of earlier builds, unless another GPU or TensorRT version measured them."""
    stored = path.read_bytes() if path.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(stored), ignore_mismatch=False):
        _log.info("TensorRT: %s is of another GPU or version and is measured anew", path)
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _gpu_name() -> str:
    """Of the first GPU, asked of the driver that ``nvidia_gpu_count`` has found and initialised."""
    driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    name = ctypes.create_string_buffer(256)
    return name.value.decode() if driver.cuDeviceGetName(name, len(name), 0) == 0 else "an unknown GPU"


def _logger(trt: Any) -> Any:
    """TensorRT's messages as this module's log records. A class made late: its base needs the package."""
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
        trt.ILogger.INFO: logging.INFO,
    }

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            _log.log(levels.get(severity, logging.DEBUG), "TensorRT: %s", message)

    return Logger()


def _progress(trt: Any) -> Any:
    """The build's phases as log records at level INFO."""

    class Progress(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            _log.info("TensorRT: %s, %d steps", phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True

        def phase_finish(self, phase_name: str) -> None:
            _log.info("TensorRT: %s done", phase_name)

    return Progress()
