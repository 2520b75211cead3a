"""What runs a model file: ONNX Runtime, OpenVINO or TensorRT, behind one small interface."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from ..backend_names import BACKENDS, DEVICES, ENGINE_SUFFIXES, OPENVINO_PRECISIONS
from ..errors import InputError, ModelFileError, UnavailableError
from .base import Backend
from .onnx_file import read_onnx_metadata
from .ways import ONNXRUNTIME, Way, allowed_ways, is_installed, preferred_way

_log = logging.getLogger(__name__)

__all__ = ["BACKENDS", "DEVICES", "ENGINE_SUFFIXES", "OPENVINO_PRECISIONS", "Backend", "open_backend"]


def open_backend(
    path: str | os.PathLike[str],
    *,
    backend: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    others: Sequence[Path] = (),
    whole_graph: bool = False,
) -> Backend:
    """Open a model file with one of `BACKENDS`.

    ``backend``: "auto" takes tensorrt for ``.engine`` and ``.plan``. For ``.onnx``, if no device and no
    precision are asked for, it takes the fastest way on this machine of those that passed the export's gate,
    which the file names: measured at the first start, in a second or two, and remembered; see `fastest`. A
    file that prefers a GPU (``cpsl-export --auto``) is run there; one that names nothing by onnxruntime. What
    is preferred and not to be had is a warning in the log.
    ``device``: "cpu" or "cuda"; None is the GPU for an engine and for onnxruntime-tensorrt, else the CPU.
    ``threads``: CPU threads of one inference, 1 or more; None leaves it to the library.
    ``precision``: for openvino one of `OPENVINO_PRECISIONS`, None is "f32"; the others have the file's.
    ``others``: files that "auto" may take instead, if an export made them of the same weights.
    ``whole_graph``: take labels from the file's own graph, as other runtimes do, also on a CPU, where they
    are made of its logits otherwise: to judge the file. "auto" is onnxruntime then.

    Raises InputError for values that break these rules, ModelFileError if the file is missing, damaged or
    of another kind, UnavailableError if the device or precision cannot really be used, MissingExtraError if
    the library is not installed, OutputError if onnxruntime-tensorrt cannot keep its engines.
    """
    path = Path(path)
    _check_arguments(backend, device, threads, precision)
    is_engine = path.suffix in ENGINE_SUFFIXES
    _check_file(path)
    if backend == "auto" and device is None and precision is None and not (is_engine or whole_graph):
        return _open_auto(path, others, threads)
    if backend == "auto":
        backend = "tensorrt" if is_engine else "onnxruntime"
    if (backend == "tensorrt") != is_engine:
        raise InputError(
            f"{path.name} cannot be run by {backend}: tensorrt runs {' and '.join(ENGINE_SUFFIXES)} files "
            "(made by cpsl-export --trt), the others run .onnx files"
        )
    if precision is not None and backend != "openvino":
        raise InputError(
            f"{backend} computes in the precision of the file, and {precision!r} was asked for. Export a "
            "file of another precision, or use --backend openvino"
        )
    if backend.startswith("onnxruntime"):
        from .onnxruntime_backend import OnnxRuntimeBackend, OnnxRuntimeTensorRTBackend

        if backend == "onnxruntime":
            return OnnxRuntimeBackend(path, device=device or "cpu", threads=threads, whole_graph=whole_graph)
        return OnnxRuntimeTensorRTBackend(path, device=device or "cuda", threads=threads)
    if backend == "openvino":
        from .openvino_backend import OpenVinoBackend

        return OpenVinoBackend(
            path,
            device=device or "cpu",
            threads=threads,
            precision=precision or "f32",
            whole_graph=whole_graph,
        )
    from .tensorrt_backend import TensorRTBackend

    return TensorRTBackend(path, device=device or "cuda")


def _open_auto(path: Path, others: Sequence[Path], threads: int | None) -> Backend:
    """What a file prefers is no request: what cannot be used is told, and something else runs the file."""

    def open_way(file: Path, way: Way) -> Backend:
        return open_backend(
            file, backend=way.backend, device=way.device, threads=threads, precision=way.precision
        )

    metadata = read_onnx_metadata(path)
    preferred = preferred_way(metadata)
    here = [way for way in allowed_ways(metadata) if is_installed(way.backend)]
    if preferred is not None and preferred not in (ONNXRUNTIME, *here):
        try:
            return open_way(path, preferred)
        except UnavailableError as error:
            _log.warning(
                "%s runs slower than it could: it prefers what is not to be had here: %s", path, error
            )
    if len(here) < 2 and not others:
        return open_way(path, here[0] if here else ONNXRUNTIME)
    from .fastest import open_fastest

    return open_fastest(path, others, threads=threads, open_way=open_way, clock=time.perf_counter)


def _check_arguments(backend: str, device: str | None, threads: int | None, precision: str | None) -> None:
    if backend not in ("auto", *BACKENDS):
        raise InputError(f"a backend is auto, {', '.join(BACKENDS)}; got {backend!r}")
    if device not in (None, *DEVICES):
        raise InputError(f"a device is {' or '.join(DEVICES)}; got {device!r}")
    if threads is not None and threads < 1:
        raise InputError(f"threads is 1 or more; got {threads}")
    if precision not in (None, *OPENVINO_PRECISIONS):
        raise InputError(f"an OpenVINO precision is {', '.join(OPENVINO_PRECISIONS)}; got {precision!r}")


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
