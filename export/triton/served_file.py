"""What a server must know of a model file: its tensors, whether it takes batches, what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from cpsl_deploy.backends.engine_key import PROFILE
from cpsl_deploy.backends.onnx_file import read_onnx_metadata
from cpsl_deploy.backends.tensorrt_backend import read_sidecar
from cpsl_deploy.contract import CONFIDENCE, LABELS, LOGITS, Contract
from cpsl_deploy.errors import InputError, ModelFileError
from cpsl_deploy.spec import METADATA_KEY, ModelSpec

from ..tensorrt.profile import Profile

IMAGE = "image"
"""The one input of every file."""
FREE = -1
"""A side of any length, as Triton's configuration writes it."""
ENGINE_SUFFIXES = (".engine", ".plan")

_DATA_TYPES = {IMAGE: "UINT8", LABELS: "UINT8", CONFIDENCE: "UINT8", LOGITS: "FP32"}
_ONNX_TYPES: dict[int, str] = {onnx.TensorProto.UINT8: "UINT8", onnx.TensorProto.FLOAT: "FP32"}


@dataclass(frozen=True, kw_only=True)
class Port:
    """A tensor of a model file."""

    name: str
    data_type: str
    """As Triton names it, without ``TYPE_``: UINT8 or FP32."""
    shape: tuple[int, ...]
    """With the batch first; `FREE` for a free side."""


@dataclass(frozen=True, kw_only=True)
class ServedFile:
    """A model file seen from a server."""

    path: Path
    spec: ModelSpec
    contract: Contract
    metadata: dict[str, str]
    """What the file, or the JSON file beside an engine, says of itself."""
    image: Port
    outputs: tuple[Port, ...]
    """In the contract's order."""
    typical_size: tuple[int, int]
    """(height, width) in pixels: the fixed size, the spec's where that is free, an engine's best."""
    most_batch: int | None = None
    """The largest batch an engine was built for; None if the file sets no limit."""

    @property
    def is_engine(self) -> bool:
        return self.path.suffix in ENGINE_SUFFIXES

    @property
    def free_batch(self) -> bool:
        """Whether frames may be joined to batches."""
        return self.image.shape[0] == FREE


def read_served_file(path: str | Path) -> ServedFile:
    """Look into an exported ``.onnx`` file, or at what stands beside an ``.engine`` or ``.plan`` file.

    Raises InputError for a file of another kind, ModelFileError if it is missing, damaged, keeps weights in
    other files, or its tensors are not those that its metadata state.
    """
    path = Path(path)
    if path.suffix not in (".onnx", *ENGINE_SUFFIXES):
        raise InputError(
            f"Triton is given an exported .onnx file or an .engine or .plan file of TensorRT; got {path}"
        )
    if not path.is_file():
        raise ModelFileError(f"there is no model file {path}. Export one: cpsl-export RUN")
    served = _engine(path) if path.suffix in ENGINE_SUFFIXES else _onnx(path)
    _check(served)
    return served


def _onnx(path: Path) -> ServedFile:
    spec, contract, metadata = _stated(read_onnx_metadata(path), path)
    try:
        proto = onnx.load(path, load_external_data=False)
        ports = {value.name: _port(value) for value in (*proto.graph.input, *proto.graph.output)}
    except (OSError, DecodeError, UnicodeDecodeError) as error:
        raise ModelFileError(
            f"{path} is not a readable ONNX file: {error}. Export it again: cpsl-export RUN"
        ) from error
    if IMAGE in ports and len(ports[IMAGE].shape) != 4:
        raise ModelFileError(f"{path} takes an {IMAGE} of {len(ports[IMAGE].shape)} dimensions instead of 4.")
    if [value.name for value in proto.graph.input] != [IMAGE] or set(ports) != {IMAGE, *contract.outputs}:
        raise ModelFileError(
            f"{path} states an input {IMAGE} and outputs {', '.join(contract.outputs)}, and its graph has "
            f"{', '.join(sorted(ports))}. Export it again: cpsl-export RUN"
        )
    height, width = (
        usual if side == FREE else side
        for side, usual in zip(ports[IMAGE].shape[1:3], spec.size, strict=False)
    )
    return ServedFile(
        path=path,
        spec=spec,
        contract=contract,
        metadata=metadata,
        image=ports[IMAGE],
        outputs=tuple(ports[name] for name in contract.outputs),
        typical_size=(height, width),
    )


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    sides = tuple(dim.dim_value if dim.dim_value > 0 else FREE for dim in tensor.shape.dim)
    return Port(name=value.name, data_type=_ONNX_TYPES.get(tensor.elem_type, "another"), shape=sides)


def _engine(path: Path) -> ServedFile:
    """What an engine takes is its optimisation profile: a side is free if it has a range."""
    spec, contract, metadata = _stated(read_sidecar(path), path)
    try:
        profile = Profile.from_text(metadata.get(PROFILE, ""))
    except InputError as error:
        raise ModelFileError(
            f"the JSON file beside {path} does not say for which frames the engine was built: {error}. Build "
            "it again: cpsl-export RUN --trt"
        ) from error
    count, height, width = (
        least if least == most else FREE for least, most in zip(profile.min, profile.max, strict=True)
    )
    if count == FREE and profile.min[0] > 1:
        raise ModelFileError(
            f"{path} takes batches of {profile.min[0]} to {profile.max[0]}, and a server must be able to run "
            "one frame alone. Build it with a profile from batch 1 on."
        )
    stride = contract.output_stride
    strided = (count, _divided(height, stride), _divided(width, stride))
    inner = (_divided(side, spec.stride) for side in contract.network_size or (height, width))
    shapes = {LABELS: strided, CONFIDENCE: strided, LOGITS: (count, len(spec.class_names), *inner)}
    return ServedFile(
        path=path,
        spec=spec,
        contract=contract,
        metadata=metadata,
        image=Port(name=IMAGE, data_type="UINT8", shape=(count, height, width, 3)),
        outputs=tuple(
            Port(name=name, data_type=_DATA_TYPES[name], shape=shapes[name]) for name in contract.outputs
        ),
        typical_size=profile.opt[1:],
        most_batch=profile.max[0] if count == FREE else None,
    )


def _divided(side: int, stride: int) -> int:
    return FREE if side == FREE else -(-side // stride)


def _stated(metadata: dict[str, str], path: Path) -> tuple[ModelSpec, Contract, dict[str, str]]:
    if METADATA_KEY not in metadata:
        raise ModelFileError(f"{path} carries no spec: cpsl-export did not write it. Export the model again.")
    spec = ModelSpec.from_json(metadata[METADATA_KEY], str(path))
    return spec, Contract.from_metadata(metadata, str(path)), metadata


def _check(served: ServedFile) -> None:
    """Types and ranks are the contract's, and either all tensors have a free batch or none has."""
    ranks = {IMAGE: 4, LABELS: 3, CONFIDENCE: 3, LOGITS: 4}
    for port in (served.image, *served.outputs):
        free = bool(port.shape) and port.shape[0] == FREE
        if (port.data_type, len(port.shape), free) != (
            _DATA_TYPES[port.name],
            ranks[port.name],
            served.free_batch,
        ):
            raise ModelFileError(
                f"{served.path} is not what cpsl-export writes: its {port.name} is {port.data_type} "
                f"{port.shape}. Export it again: cpsl-export RUN"
            )
    if served.image.shape[3] != 3:
        raise ModelFileError(f"{served.path} takes frames of {served.image.shape[3]} channels instead of 3.")
    classes = [port.shape[1] for port in served.outputs if port.name == LOGITS]
    if classes not in ([], [len(served.spec.class_names)]):
        raise ModelFileError(
            f"{served.path} gives logits of {classes[0]} classes and names {len(served.spec.class_names)}. "
            "Export it again: cpsl-export RUN"
        )
