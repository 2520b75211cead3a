"""What runs a model file: ONNX Runtime, OpenVINO or TensorRT, behind one small interface."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InputError, ModelFileError
from .base import Backend

__all__ = ["BACKENDS", "DEVICES", "ENGINE_SUFFIXES", "Backend", "open_backend"]

BACKENDS = ("onnxruntime", "openvino", "tensorrt")
DEVICES = ("cpu", "cuda")
ENGINE_SUFFIXES = (".engine", ".plan")


def open_backend(
    path: str | os.PathLike[str],
    *,
    backend: str = "auto",
    device: str | None = None,
    threads: int | None = None,
) -> Backend:
    """Open a model file with one of `BACKENDS`.

    ``backend``: "auto" takes onnxruntime for ``.onnx`` and tensorrt for ``.engine`` and ``.plan``.
    ``device``: "cpu" or "cuda"; None is the CPU for an ONNX file and the GPU for an engine.
    ``threads``: CPU threads of one inference, 1 or more; None leaves it to the library.

    Raises InputError for values that break these rules, ModelFileError if the file is missing, damaged or
    of another kind, UnavailableError if the device cannot really be used, MissingExtraError if the
    library is not installed.
    """
    path = Path(path)
    if backend not in ("auto", *BACKENDS):
        raise InputError(f"a backend is auto, {', '.join(BACKENDS)}; got {backend!r}")
    if device not in (None, *DEVICES):
        raise InputError(f"a device is {' or '.join(DEVICES)}; got {device!r}")
    if threads is not None and threads < 1:
        raise InputError(f"threads is 1 or more; got {threads}")
    is_engine = path.suffix in ENGINE_SUFFIXES
    _check_file(path)
    if backend == "auto":
        backend = "tensorrt" if is_engine else "onnxruntime"
    if (backend == "tensorrt") != is_engine:
        raise InputError(
            f"{path.name} cannot be run by {backend}: tensorrt runs {' and '.join(ENGINE_SUFFIXES)} files "
            "(made by cpsl-export --trt), onnxruntime and openvino run .onnx files"
        )
    if backend == "onnxruntime":
        from .onnxruntime_backend import OnnxRuntimeBackend

        return OnnxRuntimeBackend(path, device=device or "cpu", threads=threads)
    if backend == "openvino":
        from .openvino_backend import OpenVinoBackend

        return OpenVinoBackend(path, device=device or "cpu", threads=threads)
    from .tensorrt_backend import TensorRTBackend

    return TensorRTBackend(path, device=device or "cuda")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ModelFileError(f"there is no model file {path}. Make one with: cpsl-export RUN")
    if path.suffix not in (".onnx", *ENGINE_SUFFIXES):
        remedy = "Export it first: cpsl-export RUN" if path.suffix in (".safetensors", ".pth", ".pt") else ""
        raise ModelFileError(
            f"a model to run is an .onnx, .engine or .plan file; got {path.name}. {remedy}".rstrip()
        )
    try:
        open(path, "rb").close()
    except OSError as error:
        raise ModelFileError(
            f"cannot read {path}: {error.strerror}. Check the path and its permissions"
        ) from error
