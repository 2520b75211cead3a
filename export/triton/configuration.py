"""``config.pbtxt``: how Triton Inference Server is to serve a model file.

Every field is one of ``inference.ModelConfig`` (triton-inference-server/common, protobuf/model_config.proto),
chosen after docs/user_guide/model_configuration.md and batcher.md of triton-inference-server/server:

- A file with a free batch gets ``max_batch_size`` and dynamic batching; its dims leave the batch out. A file
  of a fixed batch cannot be batched by the server: ``max_batch_size: 0``, and its dims have the batch.
- Inputs and outputs are stated in full: a server with ``--disable-auto-complete-config`` takes it, too.
- Each instance is warmed up at the model's size with one frame and with a full batch, before it is ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cpsl_deploy.errors import InputError
from cpsl_deploy.spec import METADATA_KEY

from .served_file import Port, ServedFile
from .text_format import Name, to_text

MAX_BATCH = 8
"""Frames of one batch, unless told otherwise, where the file and its engine allow it."""
SHA256_KEY = "model_sha256"
"""Parameter with the hash of the served file."""
_MOST = 1024
_HEADER = "# Written by cpsl-export. Message: inference.ModelConfig of Triton Inference Server.\n"


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a model is served. Raises InputError if a value breaks its rule."""

    max_batch: int | None = None
    """Most frames the server joins to one batch, 1 or more; None: 8, or fewer if an engine takes fewer. Only
    for files with a free batch."""
    preferred_batches: tuple[int, ...] = ()
    """Batch sizes that are run at once when they are reached. Triton advises none, but for engines that are
    much faster at some sizes."""
    queue_delay_us: int = 1000
    """Microseconds a frame may wait for others to fill a batch; 0: it never waits."""
    instances: int = 1
    """Copies of the model on each GPU, or on the CPU."""
    gpu: bool | None = None
    """True: GPUs alone; False: the CPU alone; None: the GPUs of the server's machine, or the CPU where there
    is none. An engine is always on a GPU."""
    tensorrt: bool = False
    """Let onnxruntime hand the ONNX file to TensorRT, which builds an engine in minutes at each start."""
    warm_up: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "preferred_batches", tuple(self.preferred_batches))
        _require("batch size", self.max_batch, self.max_batch is None or 1 <= self.max_batch <= _MOST)
        _require("number of instances", self.instances, 1 <= self.instances <= _MOST)
        if not 0 <= self.queue_delay_us <= 10_000_000:
            raise InputError(
                f"a queue delay is 0 to 10,000,000 microseconds (10 seconds); got {self.queue_delay_us}"
            )
        for size in self.preferred_batches:
            _require("preferred batch size", size, 1 <= size <= _MOST)
        if self.tensorrt and self.gpu is not True:
            raise InputError("TensorRT needs a GPU: give gpu=True with tensorrt=True")


def max_batch_size(served: ServedFile, serving: Serving) -> int:
    """The ``max_batch_size`` of a file; 0 if the server cannot join frames to batches. Raises InputError for
    a batch that the file does not take."""
    if not served.free_batch:
        if serving.max_batch is not None or serving.preferred_batches:
            raise InputError(
                f"{served.path} takes batches of exactly {served.image.shape[0]}, so a server cannot join "
                "frames to batches of its choice. Export it with --batch free, or give no batch size."
            )
        return 0
    most = served.most_batch or _MOST
    if serving.max_batch is not None and serving.max_batch > most:
        raise InputError(
            f"{served.path} was built for batches of at most {most}; got {serving.max_batch}. Give less, or "
            "build it for more."
        )
    largest = serving.max_batch or min(MAX_BATCH, most)
    if max(serving.preferred_batches, default=1) > largest:
        raise InputError(
            f"a preferred batch size is at most the largest batch, {largest}; got "
            f"{max(serving.preferred_batches)}"
        )
    return largest


def config_text(name: str, served: ServedFile, serving: Serving, *, sha256: str) -> str:
    """The text of ``config.pbtxt``. ``name``: of the model and its folder; ``sha256``: of the served file.

    Raises InputError if the file cannot be served that way.
    """
    if served.is_engine and (serving.gpu is False or serving.tensorrt):
        raise InputError(
            f"{served.path} is a TensorRT engine, which runs on a GPU and by itself; serve the .onnx file on "
            "the CPU or with tensorrt=True"
        )
    largest = max_batch_size(served, serving)
    kind = "tensorrt_plan" if served.is_engine else "onnxruntime_onnx"
    message: dict[str, Any] = {
        "name": name,
        "platform": kind,
        "backend": "tensorrt" if served.is_engine else "onnxruntime",
        "max_batch_size": largest,
        "input": [_tensor(served.image, largest)],
        "output": [_tensor(port, largest) for port in served.outputs],
        "instance_group": [{"count": serving.instances, "kind": Name(_kind(served, serving))}],
    }
    if largest > 1:
        message["dynamic_batching"] = {
            "preferred_batch_size": serving.preferred_batches,
            "max_queue_delay_microseconds": serving.queue_delay_us,
        }
    if serving.tensorrt:
        message["optimization"] = {
            "execution_accelerators": {"gpu_execution_accelerator": [_tensorrt(served)]}
        }
    if serving.warm_up:
        message["model_warmup"] = [_warm_up(served, count) for count in sorted({1, max(1, largest)})]
    message["parameters"] = _parameters(served, sha256)
    return _HEADER + to_text(message)


def _require(what: str, value: int | None, holds: bool) -> None:
    if not holds:
        raise InputError(f"a {what} is 1 to {_MOST}; got {value}")


def _tensor(port: Port, largest: int) -> dict[str, Any]:
    return {
        "name": port.name,
        "data_type": Name(f"TYPE_{port.data_type}"),
        "dims": _dims(port.shape, largest),
    }


def _dims(shape: Sequence[int], largest: int) -> list[int]:
    """Triton adds the batch by itself where it batches."""
    return list(shape[1:] if largest else shape)


def _kind(served: ServedFile, serving: Serving) -> str:
    if served.is_engine or serving.gpu:
        return "KIND_GPU"
    return "KIND_AUTO" if serving.gpu is None else "KIND_CPU"


def _tensorrt(served: ServedFile) -> dict[str, Any]:
    """As the onnxruntime backend reads it. The mode allows a precision; the file says where it is used."""
    parameters = [{"key": "precision_mode", "value": served.contract.precision.upper()}]
    return {"name": "tensorrt", "parameters": parameters}


def _warm_up(served: ServedFile, count: int) -> dict[str, Any]:
    """Of ``count`` frames, at the fixed size or the size at which the network saw whole images."""
    batched = served.free_batch
    shape = (*served.image.shape[:1], *served.typical_size, 3)
    tensor = {
        "data_type": Name(f"TYPE_{served.image.data_type}"),
        "dims": _dims(shape, int(batched)),
        "random_data": True,
    }
    name = f"{count} of {shape[1]}x{shape[2]}" if batched else f"{shape[1]}x{shape[2]}"
    return {"name": name, "batch_size": count, "inputs": [{"key": served.image.name, "value": tensor}]}


def _parameters(served: ServedFile, sha256: str) -> list[dict[str, Any]]:
    """What the file's metadata say, for clients that ask the server: spec, contract and hashes."""
    keys = (METADATA_KEY, *served.contract.to_metadata(), "weights_sha256")
    engine = ("tensorrt_version", "gpu", "onnx_sha256")
    values = {key: served.metadata[key] for key in (*keys, *engine) if key in served.metadata}
    return [
        {"key": key, "value": {"string_value": value}}
        for key, value in {**values, SHA256_KEY: sha256}.items()
    ]
