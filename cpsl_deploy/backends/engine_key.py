"""What an engine belongs to: the parts of its key, as they stand in the JSON file beside it.

An engine is compiled for one GPU and one TensorRT version; on others it does not load, loads slowly, or gives
something else. So the key is compared before the file is opened, part by part, and the answer is in words.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from ..errors import ModelFileError
from ..files import sha256
from .gpu import Gpu, nvidia_gpu

_log = logging.getLogger(__name__)

ONNX_SHA256, ENGINE_SHA256 = "onnx_sha256", "engine_sha256"
PROFILE, WORKSPACE = "profile", "workspace_gib"
_TENSORRT, _GPU, _COMPUTE = "tensorrt_version", "gpu", "compute_capability"
_DRIVER, _CUDA = "driver_version", "driver_cuda_version"
BINDING_PARTS = (_TENSORRT, _GPU, _COMPUTE)
"""Without one of these an engine does not run."""
# NVIDIA's compatibility guide (docs.nvidia.com/deploy/cuda-compatibility): the driver is backward compatible,
# so what was compiled under one goes on running under later ones, and within a major version of CUDA under
# earlier ones. TensorRT's page "Engine Compatibility" names its version and the GPU, no driver. So an update
# is no reason to stop a vehicle; it is one to build again, because the kernels were chosen by timing.
DRIVER_PARTS = (_DRIVER, _CUDA)
"""With another of these it runs, if TensorRT does, and may not be the best."""
_TITLES = {
    ONNX_SHA256: "the ONNX file (SHA-256)",
    _TENSORRT: "the TensorRT version",
    _GPU: "the GPU",
    _COMPUTE: "the GPU's compute capability",
    _DRIVER: "the driver",
    _CUDA: "the CUDA version of the driver",
    PROFILE: "the profile of frame sizes",
    WORKSPACE: "the workspace limit in GiB",
}
_DIGITS_OF_HASH = 12


def machine_key(gpu: Gpu, tensorrt_version: str) -> dict[str, str]:
    """The parts of a key that this machine decides, by their names in the JSON file."""
    return {
        _TENSORRT: tensorrt_version,
        _GPU: gpu.name,
        _COMPUTE: gpu.compute_capability,
        _DRIVER: gpu.driver_version,
        _CUDA: gpu.cuda_version,
    }


def changed_parts(recorded: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """For every part of ``present`` that ``recorded`` has otherwise, or lacks, a phrase that says so."""
    return [
        f"{_TITLES[part]} was {_shown(part, recorded.get(part))} and is {_shown(part, value)}"
        for part, value in present.items()
        if recorded.get(part) != value
    ]


def require_own_engine(
    engine: str | os.PathLike[str], metadata: Mapping[str, str], tensorrt_version: str
) -> None:
    """Raise ModelFileError unless an engine is whole and was built with this GPU and TensorRT; for another
    driver there is a warning in the log.

    ``metadata``: of the JSON file beside it. Parts that it does not record, because somebody else wrote it,
    are left to TensorRT. Raises UnavailableError if parts are recorded and the driver names no GPU.
    """
    recorded = {part: metadata[part] for part in (*BINDING_PARTS, *DRIVER_PARTS) if part in metadata}
    if recorded:
        key = machine_key(nvidia_gpu(), tensorrt_version)
        binding, driver = (
            changed_parts(recorded, {part: key[part] for part in parts if part in recorded})
            for parts in (BINDING_PARTS, DRIVER_PARTS)
        )
        if binding:
            raise ModelFileError(
                f"the engine {engine} was built on another machine or before an update: "
                f"{'; '.join(binding + driver)}. An engine runs where it was built: build it again here with "
                "cpsl-export RUN --trt"
            )
        if driver:
            _log.warning(
                "the engine %s was built with another driver: %s. It is run; build it again when there is "
                "time: cpsl-export RUN --trt",
                engine,
                "; ".join(driver),
            )
    # A damaged engine can end the process instead of raising.
    if ENGINE_SHA256 in metadata and sha256(engine) != metadata[ENGINE_SHA256]:
        raise ModelFileError(
            f"the engine {engine} is not the file that {os.fspath(engine)}.json describes: it is damaged, or "
            "one of the two was replaced. Build it again: cpsl-export RUN --trt"
        )


def _shown(part: str, value: str | None) -> str:
    if value is None:
        return "not recorded"
    return value[:_DIGITS_OF_HASH] if part == ONNX_SHA256 else value
