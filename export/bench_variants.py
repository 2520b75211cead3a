"""The variants that a trained network has: in torch, and as files of every precision, for `cpsl-bench`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cpsl_deploy.bench.variant_files import asked_of, computed_precision, require_gpu
from cpsl_deploy.bench.variants import Variant
from cpsl_deploy.errors import MissingExtraError
from cpsl_deploy.segmenter import Segmenter, runtime_size
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.models import load_model
from cpsl_deploy.train.models.base import Segmenter as Network

from .candidates import YARDSTICK, Candidate, every_candidate
from .exporter import calibration_frames, find_weights
from .gate.frames import Frames
from .request import ExportRequest
from .torch_backend import TorchBackend, TorchMode
from .workshop import Workshop

Calibration = Callable[[], Sequence[np.ndarray]]
"""Gives frames uint8 (H, W, 3) BGR of the files' size; asked when INT8 is made."""

_COMPARED_ONLY = (
    Candidate(precision="fp16"),
    Candidate(backend="openvino", backend_precision="f16"),
    Candidate(precision="int8", scheme="tensorrt", backend="onnxruntime-tensorrt", device="cuda"),
)
"""What no export would choose, and a comparison is asked about."""

TORCH_MODES = (
    TorchMode(),
    TorchMode(channels_last=True),
    TorchMode(precision="bf16", channels_last=True),
    TorchMode(channels_last=True, compiled=True),
    TorchMode(precision="bf16", channels_last=True, compiled=True),
    TorchMode(device="cuda"),
    TorchMode(device="cuda", cuda_graph=True),
    *(TorchMode(device="cuda", precision=p, channels_last=True) for p in ("fp32", "bf16", "fp16")),
    *(TorchMode(device="cuda", precision=p, channels_last=True, cuda_graph=True) for p in ("bf16", "fp16")),
    *(
        TorchMode(device="cuda", precision=p, channels_last=True, compiled=True)
        for p in ("fp32", "bf16", "fp16")
    ),
    TorchMode(device="cuda", precision="fp16", channels_last=True, compiled=True, cuda_graph=True),
)


def variants_of_run(
    weights: Path, *, frame_size: tuple[int, int], folder: Path, threads: int | None = None
) -> list[Variant]:
    """The variants of a run folder or a ``.safetensors`` file; see `RunVariants` of the core.

    INT8 is calibrated on what the run trained on; where that cannot be read its variants say so when they
    are opened. Raises ModelFileError for a missing or damaged model.
    """
    path = find_weights(weights)
    network, spec = load_model(path)
    size = runtime_size(spec, *frame_size)
    request = ExportRequest(size=size)

    def calibration() -> Sequence[np.ndarray]:
        return calibration_frames(spec, request, path.parent, Frames.of([], described="none"))

    return network_variants(
        network,
        spec,
        size=size,
        folder=folder,
        calibration=calibration,
        threads=threads,
        origin=f"{path} in torch",
    )


def network_variants(
    network: Network,
    spec: ModelSpec,
    *,
    size: tuple[int, int],
    folder: Path,
    calibration: Calibration,
    batch: int = 1,
    threads: int | None = None,
    devices: Sequence[str] = ("cpu", "cuda"),
    origin: str = "the network in torch",
) -> list[Variant]:
    """Every variant of a network on ``devices``, for frames of ``size`` = (height, width), ``batch`` at once.

    Without the CPU, where the yardstick is, torch's own float32 on the GPU comes first. ``folder``: empty,
    for the files, which are made when a variant is opened and are to last as long. INT8 quantises every
    layer: that it keeps to a budget is the export's business. ``origin``: names the network in errors.
    """
    # INT8 as it comes: no budget, so no search for layers to keep.
    workshop = Workshop(
        folder,
        network,
        spec,
        ExportRequest(size=size, batch=batch),
        calibration=calibration,
        judge=lambda path: _Accepted(),  # type: ignore[arg-type, return-value]
    )
    candidates = [c for c in (*every_candidate(), *_COMPARED_ONLY) if c.device in devices]
    files = [_of_file(candidate, workshop, threads) for candidate in candidates]
    in_torch = [
        Variant(
            name=mode.name,
            precision=mode.precision,
            asked={"backend": "torch", "device": mode.device, "precision": mode.precision},
            open=partial(_in_torch, network, spec, mode, size, batch, threads, origin),
        )
        for mode in TORCH_MODES
        if mode.device in devices
    ]
    return _in_order([*files, *in_torch] if YARDSTICK in candidates else [*in_torch, *files])


class _Accepted:
    passed = True


def _of_file(candidate: Candidate, workshop: Workshop, threads: int | None) -> Variant:
    return Variant(
        name=candidate.name,
        precision=computed_precision(
            candidate.precision, candidate.backend, candidate.device, candidate.backend_precision
        ),
        asked=asked_of(candidate.backend, candidate.device, candidate.precision, candidate.backend_precision),
        open=partial(_open, candidate, workshop, threads),
    )


def _open(candidate: Candidate, workshop: Workshop, threads: int | None) -> Segmenter:
    """What cannot be had is told before a file is made for it."""
    if candidate.device == "cuda":
        require_gpu()
    if candidate.backend == "openvino":
        _require("openvino", "openvino", candidate)
    if candidate.backend == "tensorrt":
        _require("tensorrt", "trt", candidate)
    return workshop.open(candidate, threads=threads)


def _require(package: str, extra: str, candidate: Candidate) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, extra, f"running {candidate.name}")


def _in_torch(
    network: Network,
    spec: ModelSpec,
    mode: TorchMode,
    size: tuple[int, int],
    batch: int,
    threads: int | None,
    origin: str,
) -> Segmenter:
    backend = TorchBackend(network, spec, mode, size=size, batch=batch, threads=threads, origin=origin)
    return Segmenter(backend, origin)


def _in_order(variants: Iterable[Variant]) -> list[Variant]:
    """The first one, and then the CPU's before the GPU's."""
    first, *rest = variants
    return [first, *sorted(rest, key=lambda variant: str(variant.asked["device"]))]
