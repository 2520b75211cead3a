"""The inputs and outputs of a model file, held against what its metadata say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..contract import CONFIDENCE, LABELS, LOGITS, MAX_SIDE, OUTPUTS, Contract
from ..errors import ModelFileError
from ..spec import METADATA_KEY, ModelSpec

INPUT_NAME = "image"
MAX_BATCH = 1024

Ports = dict[str, tuple[str, tuple[Any, ...]]]
"""Name -> (data type as "uint8", shape with anything but a whole number above 0 for a free side)."""

_KINDS = {LABELS: ("uint8", 3), CONFIDENCE: ("uint8", 3), LOGITS: ("float32", 4)}
"""Output -> data type and number of axes."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a file's metadata say of the model and of the file."""

    spec: ModelSpec
    contract: Contract

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], origin: str) -> Description:
        """Raises ModelFileError if the metadata miss something or are damaged. ``origin`` names the file."""
        if METADATA_KEY not in metadata:
            raise ModelFileError(
                f"{origin} has no {METADATA_KEY!r} entry in its metadata, so what its labels mean is not "
                "known. Make a file that has it with: cpsl-export RUN"
            )
        spec = ModelSpec.from_json(metadata[METADATA_KEY], origin)
        return cls(spec=spec, contract=Contract.from_metadata(metadata, origin))


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What sizes a file takes."""

    batch: int | None
    """Frames of one inference; None if free."""
    size: tuple[int, int] | None
    """(height, width) in pixels; None if both are free."""


def check_signature(origin: str, description: Description, inputs: Ports, outputs: Ports) -> Signature:
    """Hold the ports of an opened file against its description.

    Raises ModelFileError unless there is one input ``image`` uint8 (N, H, W, 3) and the outputs are those of
    the contract, by name, data type, number of axes, batch, and for the logits number of classes.
    """
    contract = description.contract
    rule = (
        f"{origin} is not a model of this project: one has an input {INPUT_NAME!r} uint8 (N, H, W, 3) and, "
        f"as its metadata say, outputs {', '.join(contract.outputs)}"
    )
    remedy = "Make one with: cpsl-export RUN"
    if list(inputs) != [INPUT_NAME] or sorted(outputs) != sorted(contract.outputs):
        raise ModelFileError(
            f"{rule}. This file has inputs {sorted(inputs)} and outputs {sorted(outputs)}. {remedy}"
        )
    input_type, shape = inputs[INPUT_NAME]
    if input_type != "uint8" or len(shape) != 4 or shape[3] != 3:
        raise ModelFileError(f"{rule}. This file takes {input_type} {_text(shape)}. {remedy}")
    batch, height, width = (_fixed(side) for side in shape[:3])
    for name in OUTPUTS:
        if name not in outputs:
            continue
        data_type, out = outputs[name]
        expected, axes = _KINDS[name]
        fits = data_type == expected and len(out) == axes and _fixed(out[0]) in (batch, None)
        if not fits:
            raise ModelFileError(
                f"{origin}: the output {name!r} is {expected} with {axes} axes, the first that of the "
                f"frames ({batch or 'free'}); this file gives {data_type} {_text(out)}. {remedy}"
            )
        if name == LOGITS and _fixed(out[1]) is not None:
            check_class_count(origin, out[1], description.spec)
    if (height is None) != (width is None):
        raise ModelFileError(
            f"{origin} has one free side and one fixed: {_text(shape)}. Export it again, both fixed or both "
            "free"
        )
    size = None if height is None or width is None else (height, width)
    if (size is not None and max(size) > MAX_SIDE) or (batch or 1) > MAX_BATCH:
        raise ModelFileError(
            f"{origin}: fixed sides are {MAX_SIDE} pixels and fixed batches {MAX_BATCH} frames at most; "
            f"this file takes {_text(shape)}. Export it again with a smaller one"
        )
    return Signature(batch=batch, size=size)


def check_class_count(origin: str, channels: int, spec: ModelSpec) -> None:
    """Raises ModelFileError unless logits have one channel for each class of the spec."""
    if channels != len(spec.class_names):
        raise ModelFileError(
            f"{origin} has logits of {channels} classes and its spec names {len(spec.class_names)}. The two "
            "are not of one model; export it again: cpsl-export RUN"
        )


def _fixed(side: Any) -> int | None:
    return side if isinstance(side, int) and side > 0 else None


def _text(shape: tuple[Any, ...]) -> str:
    return "(" + ", ".join(str(side) if _fixed(side) else "free" for side in shape) + ")"
