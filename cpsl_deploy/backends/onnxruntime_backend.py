"""ONNX files on the CPU or an NVIDIA GPU by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MissingExtraError, ModelFileError, UnavailableError
from .base import INPUT_NAME, OUTPUT_NAME, Backend, check_signature
from .gpu import nvidia_gpu_count

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeBackend(Backend):
    """ONNX Runtime. A GPU that is asked for and not really used is an UnavailableError: ONNX Runtime itself
    would go on, slowly, on the CPU."""

    name = "onnxruntime"

    def __init__(self, path: Path, *, device: str = "cpu", threads: int | None = None) -> None:
        """Open an ONNX file. See `open_backend` for the arguments and errors."""
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as state
        except ImportError as error:
            extra = "gpu" if device == "cuda" else "cpu"
            raise MissingExtraError("onnxruntime", extra, f"running {path.name}") from error

        # ONNX Runtime's errors have no common base class of their own.
        errors = tuple(e for e in vars(state).values() if isinstance(e, type) and issubclass(e, Exception))
        self.device = device
        self._version = onnxruntime.__version__
        self._threads = threads
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        if device == "cuda":
            _check_cuda(onnxruntime)
        providers = [_PROVIDERS[device]] if device == "cpu" else [_PROVIDERS[device], _PROVIDERS["cpu"]]
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except errors as error:
            reason = str(error).splitlines()[0]
            raise ModelFileError(
                f"{path} is not a usable ONNX file, or damaged ({reason}). Export it again: cpsl-export RUN"
            ) from error
        if _PROVIDERS[device] not in session.get_providers():
            raise UnavailableError(
                f"device {device!r} was asked for and ONNX Runtime {self._version} could not start "
                f"{_PROVIDERS[device]}; it offers {', '.join(session.get_providers())}. Check that "
                "the CUDA and cuDNN libraries its release notes ask for are installed, or use --device cpu"
            )
        self._session = session
        self.metadata = dict(session.get_modelmeta().custom_metadata_map)
        self.static_size = check_signature(
            str(path),
            {i.name: (_data_type(i.type), tuple(i.shape)) for i in session.get_inputs()},
            {o.name: (_data_type(o.type), tuple(o.shape)) for o in session.get_outputs()},
        )

    def infer_impl(self, frame: np.ndarray) -> np.ndarray:
        return self._session.run([OUTPUT_NAME], {INPUT_NAME: frame})[0]

    def describe(self) -> dict[str, Any]:
        return {
            "backend": self.name,
            "version": self._version,
            "device": self.device,
            "provider": _PROVIDERS[self.device],
            "threads": self._threads,
            "precision": "as in the file",
        }

    def close(self) -> None:
        super().close()
        self._session = None


def _check_cuda(onnxruntime: Any) -> None:
    if nvidia_gpu_count() == 0:
        raise UnavailableError(
            "device 'cuda' was asked for and the NVIDIA driver offers no GPU here. Check nvidia-smi, or use "
            "--device cpu"
        )
    if _PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        raise UnavailableError(
            f"device 'cuda' was asked for and this build of onnxruntime ({onnxruntime.__version__}) has no "
            "CUDA. Replace it (both together break): pip uninstall onnxruntime, then "
            "pip install 'cpsl_deploy[gpu]'"
        )
    if hasattr(onnxruntime, "preload_dlls"):  # 1.21 and later: finds CUDA's libraries installed by pip
        onnxruntime.preload_dlls()


def _data_type(onnx_type: str) -> str:
    return onnx_type.removeprefix("tensor(").removesuffix(")")
