"""ONNX files on the CPU or an NVIDIA GPU by ONNX Runtime, the GPU by its CUDA or its TensorRT provider."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..contract import LOGITS
from ..errors import MissingExtraError, ModelFileError, OutputError, UnavailableError
from .base import INPUT_NAME, Backend
from .cpu_threads import STOP_SPINNING, inference_threads
from .gpu import nvidia_gpu_count
from .onnx_file import read_onnx_metadata
from .onnxruntime_pooled import PooledRun
from .onnxruntime_transfers import BoundRun

log = logging.getLogger(__name__)

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_EXACT_CUDA = (CUDA, {"use_tf32": 0})
"""float32 files compute in float32: TF32, onnxruntime's default, has 10 bits."""
ENGINE_CACHE = "onnxruntime-tensorrt"
"""Folder beside the model in which the TensorRT provider keeps its engines and kernel times."""

_NETWORK_OPERATORS = frozenset(
    {"Conv", "FusedConv", "ConvInteger", "QLinearConv", "Gemm", "FusedGemm", "MatMul", "QGemm"}
)
"""What a network spends its time in. One of these on the CPU means that the GPU was not used."""
_OUT_OF_MEMORY = ("allocate memory", "bad_alloc", "out of memory", "BFCArena", "CUDA failure 2")


class OnnxRuntimeBackend(Backend):
    """ONNX Runtime. A GPU that is asked for and not really used is an UnavailableError: ONNX Runtime itself
    would go on, slowly, on the CPU."""

    name = "onnxruntime"

    def __init__(
        self, path: Path, *, device: str = "cpu", threads: int | None = None, whole_graph: bool = False
    ) -> None:
        """Open an ONNX file. See `open_backend` for the arguments and errors."""
        self._whole_graph = whole_graph
        self.device, self._threads = device, threads
        self._session: Any = None
        self._bound: BoundRun | None = None
        self._pooled: PooledRun | None = None
        self._provider = self._provider_for(device)
        self.describe_file(str(path), read_onnx_metadata(path))
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as state
        except ImportError as error:
            extra = "gpu" if device == "cuda" else "cpu"
            raise MissingExtraError("onnxruntime", extra, f"running {path.name}") from error

        # ONNX Runtime's errors have no common base class of their own, and some of its failures, such as
        # memory that cannot be had or names that are no UTF-8, come as Python's.
        own = tuple(e for e in vars(state).values() if isinstance(e, type) and issubclass(e, Exception))
        self._errors: tuple[type[Exception], ...] = (
            *own,
            RuntimeError,
            ValueError,
            MemoryError,
            OverflowError,
            IndexError,
        )
        self._version = onnxruntime.__version__
        if device == "cuda":
            _check_gpu(onnxruntime, self._provider)
        try:
            with _scratch_folder(device) as folder:
                self._open(onnxruntime, path, folder)
        except BaseException:
            self.close()
            raise

    def _provider_for(self, device: str) -> str:
        return CUDA if device == "cuda" else CPU

    def _providers(self, path: Path) -> list[Any]:
        """As a session takes them, the preferred one first."""
        return [_EXACT_CUDA, CPU] if self.device == "cuda" else [CPU]

    def _open(self, onnxruntime: Any, path: Path, profile_folder: str | None) -> None:
        options = onnxruntime.SessionOptions()
        # Errors come as exceptions, too; but why a GPU's provider did not start is in the log alone.
        options.log_severity_level = 3 if self.device == "cuda" else 4
        model: str | bytes = str(path)
        if self.device == "cpu":
            model = self.prefer_labels_outside(path, allowed=not self._whole_graph) or model
            self._threads = inference_threads(self._threads)
            options.add_session_config_entry(STOP_SPINNING, "1")
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        if profile_folder is not None:
            options.enable_profiling = True
            options.profile_file_prefix = os.path.join(profile_folder, "profile")
        try:
            # A provider that fails in a run would be replaced by the CPU in silence. One that cannot start
            # is replaced, too, which is looked at below and told better than the error would be.
            session = onnxruntime.InferenceSession(
                model,
                options,
                providers=self._providers(path),
                enable_fallback=int(self.device == "cuda"),
            )
            session.disable_fallback()
            inputs, outputs = (
                {port.name: (_data_type(port.type), tuple(port.shape)) for port in ports}
                for ports in (session.get_inputs(), session.get_outputs())
            )
        except self._errors as error:
            raise ModelFileError(
                f"{path} is not a usable ONNX file, or damaged ({_first_line(error)}). Export it again: "
                "cpsl-export RUN"
            ) from error
        if self._provider not in session.get_providers():
            raise UnavailableError(
                f"device {self.device!r} was asked for and ONNX Runtime {self._version} could not start "
                f"{self._provider}; it offers {', '.join(session.get_providers())}. Check that "
                "the CUDA and cuDNN libraries its release notes ask for are installed"
                f"{', and TensorRT' if self._provider == TENSORRT else ''}, or use --device cpu"
            )
        self._session = session
        self.check_ports(inputs, outputs)
        self._output_names = [LOGITS] if self.labels_outside else list(self.contract.outputs)
        if self.device == "cuda":
            self._bound = BoundRun(session, self._output_names, self.device)
        else:
            self._pooled = PooledRun(session, self._output_names)
        self._nodes = self._warm_up() if profile_folder is not None else None

    def _warm_up(self) -> dict[str, int]:
        """Run one frame under the profiler: how many nodes each provider ran. Raises UnavailableError if the
        network itself was not all run by the GPU."""
        height, width = self.static_size or self.contract.network_size or self.spec.size
        self.infer(np.zeros((self.batch or 1, height, width, 3), np.uint8))
        profile = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        return require_on_gpu(profile, self._provider, self.origin)

    def infer_impl(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        try:
            if self._pooled is not None:
                return self._pooled.run(frames)
            outputs = self._session.run(self._output_names, {INPUT_NAME: frames})
        except self._errors as error:
            raise _run_error(self.origin, frames.shape, error) from error
        return dict(zip(self._output_names, outputs, strict=True))

    def infer_timed_impl(self, frames: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        if self._bound is None:
            return super().infer_timed_impl(frames)
        try:
            return self._bound.run(frames)
        except self._errors as error:
            raise _run_error(self.origin, frames.shape, error) from error

    def synchronise(self) -> None:
        if self._bound is not None:
            self._bound.synchronise()

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {
            "backend": self.name,
            "version": self._version,
            "device": self.device,
            "provider": self._provider,
            "threads": self._threads,
            "precision": self.contract.precision,
            "labels_outside": self.labels_outside,
        }
        return described if self._nodes is None else {**described, "nodes_by_provider": self._nodes}

    def close(self) -> None:
        super().close()
        self._session = self._bound = self._pooled = None


class OnnxRuntimeTensorRTBackend(OnnxRuntimeBackend):
    """ONNX Runtime with its TensorRT provider, and CUDA for what that does not take.

    The first load builds engines, for minutes; they are kept in `ENGINE_CACHE` beside the model, under names
    that ONNX Runtime makes of the graph, the TensorRT version and the GPU.
    """

    name = "onnxruntime-tensorrt"

    def _provider_for(self, device: str) -> str:
        if device != "cuda":
            raise UnavailableError(
                f"onnxruntime-tensorrt runs on an NVIDIA GPU; for device {device!r} use --backend onnxruntime"
            )
        return TENSORRT

    def _providers(self, path: Path) -> list[Any]:
        cache = path.resolve().parent / ENGINE_CACHE
        try:
            cache.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"engines are kept beside the model and {cache} cannot be made ({error.strerror}). Copy the "
                "model to a folder that can be written to"
            ) from error
        return [(TENSORRT, tensorrt_options(self.contract.precision, cache)), _EXACT_CUDA, CPU]


def tensorrt_options(precision: str, cache: Path) -> dict[str, Any]:
    """The TensorRT provider's options for a file of one of `contract.PRECISIONS`."""
    return {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": True,
        "trt_fp16_enable": precision == "fp16",
        "trt_int8_enable": precision == "int8",
    }


def nodes_by_provider(profile: list[dict[str, Any]]) -> dict[str, int]:
    """How many nodes of the graph each provider ran, of a profile that ONNX Runtime wrote of its runs.

    ``profile``: the parsed JSON document of ``InferenceSession.end_profiling``. A node that ran twice counts
    once; a graph that TensorRT took over is one node.
    """
    return dict(Counter(provider for provider, _, _ in _nodes(profile)))


def require_on_gpu(profile: list[dict[str, Any]], provider: str, origin: str) -> dict[str, int]:
    """`nodes_by_provider` of a run that was to be ``provider``'s.

    Raises UnavailableError if that provider ran nothing, or if convolutions or matrix products, which are the
    network itself, ran on the CPU. Other operators there are told in the log: ONNX Runtime leaves the
    arithmetic of shapes to the CPU, and has no CUDA kernel for a few others.
    """
    counts = nodes_by_provider(profile)
    on_cpu = Counter(operator for where, operator, _ in _nodes(profile) if where == CPU)
    heavy = {operator: count for operator, count in on_cpu.items() if operator in _NETWORK_OPERATORS}
    if not counts.get(provider) or heavy:
        ran = ", ".join(f"{count} nodes on {where}" for where, count in sorted(counts.items())) or "nothing"
        what = f", {_listed(heavy)} of them on the CPU" if heavy else ""
        raise UnavailableError(
            f"{provider} was asked for and is not what runs {origin}: {ran}{what}. Another version of "
            "onnxruntime-gpu may take these operators; or use --device cpu"
        )
    if on_cpu:
        log.info("%s: %s runs %d nodes; on the CPU: %s", origin, provider, counts[provider], _listed(on_cpu))
    return counts


def _nodes(profile: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """(provider, operator, name) of each node that ran."""
    found = set()
    for event in profile:
        details = event.get("args", {})
        if event.get("cat") == "Node" and "provider" in details:
            found.add((details["provider"], details.get("op_name", ""), event.get("name", "")))
    return found


def _listed(operators: dict[str, int]) -> str:
    return ", ".join(f"{count} {operator}" for operator, count in sorted(operators.items()))


@contextlib.contextmanager
def _scratch_folder(device: str) -> Iterator[str | None]:
    """A folder for the profile of the first run; the CPU, which nothing replaces, needs no proof."""
    if device == "cpu":
        yield None
        return
    folder = tempfile.mkdtemp(prefix="cpsl-profile-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_error(origin: str, shape: tuple[int, ...], error: Exception) -> Exception:
    reason = _first_line(error)
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY):
        return UnavailableError(
            f"memory for frames {shape} through {origin} is not to be had ({reason}). Give fewer or smaller "
            "frames, or a file with --output-stride"
        )
    return ModelFileError(
        f"{origin} cannot be run on frames {shape} ({reason}). The file is damaged or not for this size; "
        "export it again: cpsl-export RUN"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def _check_gpu(onnxruntime: Any, provider: str) -> None:
    if nvidia_gpu_count() == 0:
        raise UnavailableError(
            "device 'cuda' was asked for and the NVIDIA driver offers no GPU here. Check nvidia-smi, or use "
            "--device cpu"
        )
    if provider not in onnxruntime.get_available_providers():
        raise UnavailableError(
            f"device 'cuda' was asked for and this build of onnxruntime ({onnxruntime.__version__}) has no "
            f"{provider}. Replace it (both together break): pip uninstall onnxruntime, then "
            "pip install 'cpsl_deploy[gpu]'"
        )
    if hasattr(onnxruntime, "preload_dlls"):  # 1.21 and later: finds CUDA's libraries installed by pip
        onnxruntime.preload_dlls()


def _data_type(onnx_type: str) -> str:
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)
