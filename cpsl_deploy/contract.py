"""The contract of a model file: what it takes and what it gives, as its metadata state it.

The entries are plain text under keys of their own, so that a user of any runtime can read them; the model
itself is described by the spec (`cpsl_deploy.spec`), beside them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .errors import ModelFileError

COLOUR_ORDERS = ("BGR", "RGB")
LABELS, CONFIDENCE, LOGITS = OUTPUTS = ("labels", "confidence", "logits")
"""What a file can give, in this order:

- ``labels`` uint8 (N, H/s, W/s): index of the most likely class, s = `Contract.output_stride`, rounded up;
- ``confidence`` uint8 (N, H/s, W/s): softmax probability of that class, 255 for 1;
- ``logits`` float32 (N, classes, h, w): at the network's stride, for those who post-process themselves.
"""
PRECISIONS = ("fp32", "fp16", "int8")
MAX_SIDE = 1 << 15
"""Pixels. A file that fixes a longer side, outside or inside, is refused before it asks for its memory."""


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a model file takes and gives. Raises ModelFileError if a value breaks its rule."""

    colour_order: str = "BGR"
    """Of the input ``image`` uint8 (N, H, W, 3)."""
    outputs: tuple[str, ...] = (LABELS,)
    """Some of `OUTPUTS`, at least labels or logits."""
    output_stride: int = 1
    """Pixels of the frame per pixel of labels and confidence, on each side: 1 is exact, more is faster."""
    network_size: tuple[int, int] | None = None
    """(height, width) in pixels to which the file itself resizes frames; None: the network sees them as they
    come. Labels are of the frame's size in both cases."""
    precision: str = "fp32"
    """Of the network inside: "fp32", "fp16" or "int8" (with the layers that `cpsl-export` kept higher)."""

    def __post_init__(self) -> None:
        _require("colour_order", self.colour_order in COLOUR_ORDERS, "BGR or RGB", self.colour_order)
        known = tuple(name for name in OUTPUTS if name in self.outputs)
        usable = LABELS in known or LOGITS in known
        rule = f"labels or logits, or both, of {', '.join(OUTPUTS)}, in this order"
        _require("outputs", known == tuple(self.outputs) and usable, rule, ",".join(self.outputs))
        stride_ok = type(self.output_stride) is int and self.output_stride in (1, 2, 4, 8, 16, 32)
        _require("output_stride", stride_ok, "1, 2, 4, 8, 16 or 32", self.output_stride)
        size_ok = self.network_size is None or (
            len(self.network_size) == 2
            and all(type(side) is int and 16 <= side <= MAX_SIDE for side in self.network_size)
        )
        _require("network_size", size_ok, f"HEIGHTxWIDTH, each 16 to {MAX_SIDE}, or free", self.network_size)
        _require("precision", self.precision in PRECISIONS, ", ".join(PRECISIONS), self.precision)

    def to_metadata(self) -> dict[str, str]:
        """Key to text, for a file's metadata."""
        size = "x".join(map(str, self.network_size)) if self.network_size else "free"
        return {
            "colour_order": self.colour_order,
            "outputs": ",".join(self.outputs),
            "output_stride": str(self.output_stride),
            "network_size": size,
            "precision": self.precision,
        }

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], origin: str) -> Contract:
        """Read a contract. ``origin`` names the file in errors. Raises ModelFileError for missing or damaged
        entries; others are not looked at."""
        missing = [key for key in cls().to_metadata() if key not in metadata]
        if missing:
            raise ModelFileError(
                f"{origin} does not say in its metadata what it takes and gives: no {', '.join(missing)}. "
                "Export it again: cpsl-export RUN"
            )
        values = {key: metadata[key] for key in cls().to_metadata()}
        if not all(isinstance(value, str) for value in values.values()):
            raise ModelFileError(f"{origin}: its metadata are texts. Export it again: cpsl-export RUN")
        stride, size = values["output_stride"], values["network_size"]
        sides = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", size)
        try:
            _require(
                "output_stride", re.fullmatch("[0-9]{1,3}", stride) is not None, "a whole number", stride
            )
            _require("network_size", size == "free" or sides is not None, "HEIGHTxWIDTH or free", size)
            return cls(
                colour_order=metadata["colour_order"],
                outputs=tuple(metadata["outputs"].split(",")),
                output_stride=int(stride),
                network_size=(int(sides[1]), int(sides[2])) if sides else None,
                precision=metadata["precision"],
            )
        except ModelFileError as error:
            raise ModelFileError(f"{origin}: {error} Export it again: cpsl-export RUN") from error


def _require(key: str, holds: bool, rule: str, value: Any) -> None:
    if not holds:
        raise ModelFileError(f"a model file's {key} is {rule}; got {str(value)[:80]!r}.")
