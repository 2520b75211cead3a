"""Which variants a model has: those of a file by itself, and those that its weights can be made into."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ..backends import ENGINE_SUFFIXES, OPENVINO_PRECISIONS
from ..backends.engine_key import ONNX_SHA256
from ..backends.gpu import gpu_problem
from ..backends.onnx_file import read_onnx_metadata
from ..backends.tensorrt_backend import read_sidecar
from ..backends.ways import ONNXRUNTIME, preferred_way
from ..contract import Contract
from ..errors import MissingExtraError, ModelFileError, UnavailableError
from ..files import sha256
from ..segmenter import Segmenter, find_model, load
from .variants import Variant, unavailable_variant

ENTRY_POINTS = "cpsl_deploy.bench.variants"
"""Group of entry points, each a `RunVariants`: the core does not know torch."""
_OPENVINO_NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}


class RunVariants(Protocol):
    """What an entry point of `ENTRY_POINTS` is."""

    def __call__(
        self, weights: Path, *, frame_size: tuple[int, int], folder: Path, threads: int | None
    ) -> Sequence[Variant]:
        """The variants of a run folder or its ``.safetensors`` file for frames of ``frame_size`` = (height,
        width), the yardstick first. ``folder``: empty, for files made when a variant is opened; it lasts as
        long as the variants. ``threads``: of one inference on the CPU; None leaves it to the library."""
        ...


def variants_of(
    model: str | os.PathLike[str],
    *,
    frame_size: tuple[int, int],
    folder: Path,
    threads: int | None = None,
) -> list[Variant]:
    """The variants of a model, the yardstick first: of a file those of `file_variants`; of a run folder or a
    ``.safetensors`` file those in torch and of the files of every precision, and the run's own file as it is
    deployed. Arguments as of `RunVariants`. Raises ModelFileError if there is no model.
    """
    path = Path(model)
    if not path.is_dir() and path.suffix != ".safetensors":
        no_weights = UnavailableError(
            f"torch and the other precisions are made from a network's weights, which {path.name} is a file "
            "without: name the run folder that it came from"
        )
        return [*file_variants(path, threads=threads), unavailable_variant("torch", no_weights)]
    made: list[Variant] = []
    missing: list[Variant] = []
    entries = importlib.metadata.entry_points(group=ENTRY_POINTS)
    if not entries:
        stale = UnavailableError(
            f"the installed cpsl_deploy names no entry point of {ENTRY_POINTS}: it was installed before "
            "it had one. Install it again: pip install 'cpsl_deploy[export]'"
        )
        missing.append(unavailable_variant("torch", stale))
    for entry in entries:
        try:
            of_run: RunVariants = entry.load()
            made += of_run(path, frame_size=frame_size, folder=folder, threads=threads)
        except (ImportError, MissingExtraError) as error:
            # Without the extra a package such as torch is not there; with it this would be a fault.
            if not isinstance(error, MissingExtraError | ModuleNotFoundError):
                raise
            missing.append(unavailable_variant(f"torch ({entry.name})", _missing(error)))
    if not path.is_dir():
        return [*made, *missing]
    if made:
        return [*made[:1], *_deployed(path, threads), *made[1:], *missing]
    return [*file_variants(find_model(path), threads=threads), *missing]


def file_variants(path: Path, *, threads: int | None = None) -> list[Variant]:
    """Every backend, device and OpenVINO precision for an ONNX file, onnxruntime on the CPU first; the engine
    beside it if that was built from it. Of an engine: itself. Raises ModelFileError for a damaged file."""
    if path.suffix in ENGINE_SUFFIXES:
        return [_engine_variant(read_sidecar(path).get("precision", "fp32"), partial(_open_engine, path))]
    precision = Contract.from_metadata(read_onnx_metadata(path), str(path)).precision
    found = [_file_variant(path, precision, "onnxruntime", threads=threads)]
    found += [
        _file_variant(path, precision, "openvino", computed_in=hint, threads=threads)
        for hint in OPENVINO_PRECISIONS
    ]
    found += [
        _file_variant(path, precision, backend, device="cuda", threads=threads)
        for backend in ("onnxruntime", "onnxruntime-tensorrt")
    ]
    return [*found, _engine_variant(precision, partial(_open_engine_beside, path))]


def variant_name(kind: str, backend: str, device: str = "cpu", computed_in: str | None = None) -> str:
    """``fp32 onnxruntime``, ``fp16 onnxruntime cuda``, ``int8 openvino bf16``. ``kind``: of the file.
    ``computed_in``: what OpenVINO computes in."""
    return " ".join(filter(None, (kind, backend, "" if device == "cpu" else device, computed_in)))


def computed_precision(precision: str, backend: str, device: str, computed_in: str | None = None) -> str:
    """`Variant.precision` of a file of one of `contract.PRECISIONS`; arguments as of `variant_name`."""
    if backend == "onnxruntime" and device == "cpu" and precision == "fp16" and _on_x86():
        # It has no kernels of it there, and puts casts to float32 around what it runs.
        return "fp32"
    name = _OPENVINO_NAMES[computed_in or "f32"]
    if computed_in is None or (precision == "int8" and name == "fp32"):
        return precision
    return f"int8+{name}" if precision == "int8" else name


def _on_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64", "i686")


def asked_of(backend: str, device: str, precision: str, computed_in: str | None = None) -> dict[str, Any]:
    """`Variant.asked` of a file of one of `contract.PRECISIONS`."""
    return {"backend": backend, "device": device, "precision": computed_in or precision}


def require_gpu() -> None:
    """Raises UnavailableError without one: told before files are made for it, which takes long."""
    if problem := gpu_problem():
        raise UnavailableError(f"it runs on an NVIDIA GPU, and {problem}")


def _file_variant(
    path: Path,
    precision: str,
    backend: str,
    *,
    device: str = "cpu",
    computed_in: str | None = None,
    threads: int | None,
) -> Variant:
    return Variant(
        name=variant_name(precision, backend, device, computed_in),
        precision=computed_precision(precision, backend, device, computed_in),
        asked=asked_of(backend, device, precision, computed_in),
        open=partial(load, path, backend=backend, device=device, threads=threads, precision=computed_in),
    )


def _engine_variant(precision: str, open_engine: Any) -> Variant:
    return Variant(
        name=variant_name(precision, "tensorrt", "cuda"),
        precision=precision,
        asked={"backend": "tensorrt", "device": "cuda"},
        open=open_engine,
    )


def _open_engine(path: Path) -> Segmenter:
    require_gpu()
    return load(path)


def _open_engine_beside(path: Path) -> Segmenter:
    require_gpu()
    engines = [path.with_suffix(suffix) for suffix in ENGINE_SUFFIXES]
    wanted = sha256(path)
    for engine in filter(Path.is_file, engines):
        if read_sidecar(engine).get(ONNX_SHA256) == wanted:
            return load(engine)
    raise UnavailableError(
        f"there is no engine beside {path.name} that was built from it. Build one: cpsl-export RUN --trt"
    )


def _deployed(folder: Path, threads: int | None) -> Iterator[Variant]:
    """The run's own file, as it says that it is best run."""
    try:
        path = find_model(folder)
    except ModelFileError as error:
        yield unavailable_variant("as deployed", UnavailableError(str(error)))
        return
    metadata = read_onnx_metadata(path)
    precision = Contract.from_metadata(metadata, str(path)).precision
    prefers = preferred_way(metadata) or ONNXRUNTIME
    variant = _file_variant(
        path,
        precision,
        prefers.backend,
        device=prefers.device,
        computed_in=prefers.precision,
        threads=threads,
    )
    yield dataclasses.replace(variant, name=f"{path.name} as deployed ({variant.name})")


def _missing(error: ImportError | MissingExtraError) -> UnavailableError:
    if isinstance(error, MissingExtraError):
        return error
    return MissingExtraError(error.name or "torch", "export", "running a network in torch")
