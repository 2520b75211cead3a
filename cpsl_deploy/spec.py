"""The model spec: everything a runtime must know about a model, travelling inside its file.

It is JSON under the key ``cpsl_deploy`` in the metadata of a safetensors checkpoint and of an ONNX file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral
from typing import Any

from .classes import ClassSpace
from .contract import MAX_SIDE
from .errors import InputError, ModelFileError

METADATA_KEY = "cpsl_deploy"
SPEC_VERSION = 1
MAX_NAME = 200
"""Characters of a name."""
MAX_STRIDE = 1024


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a segmenter was trained with. Raises ModelFileError if a value breaks its rule."""

    architecture: str
    """Name in the model registry, for example ``ddrnet23_slim``."""
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    """RGB colour per class, 0..255."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Subtracted from RGB scaled to 0..1."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Divides after the mean."""
    size: tuple[int, int]
    """(height, width) in pixels at which the network saw whole target images. Frames of other sizes are
    brought to the same number of pixels, keeping their shape."""
    stride: int = 8
    """Pixels of the image per pixel of the logits."""
    align_corners: bool = False
    """How logits are upsampled to the image, and were in training."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the weights come from: source, target, recipe, seed, date, figures."""
    weights_sha256: str = ""
    """Hash of the weights file the model was read from; empty before it was written."""

    def __post_init__(self) -> None:
        for name in ("class_names", "mean", "std", "size"):
            object.__setattr__(self, name, _tuple(name, getattr(self, name)))
        colours = (_tuple("palette", colour) for colour in _tuple("palette", self.palette))
        object.__setattr__(self, "palette", tuple(colours))
        for name in (self.architecture, *self.class_names):
            _require("names", _is_name(name), f"printable text, 1 to {MAX_NAME} long", name)
        parts = [part for colour in self.palette for part in colour]
        _require("palette", all(map(_is_whole, parts)), "whole numbers", self.palette)
        try:
            self.classes  # noqa: B018  validates names and palette
        except InputError as error:
            raise ModelFileError(f"the model's spec is not usable: {error}") from error
        for name in ("mean", "std"):
            numbers = getattr(self, name)
            three = len(numbers) == 3 and all(map(_is_number, numbers))
            _require(name, three, "three finite numbers", numbers)
        _require("std", min(self.std) > 0, "above 0", self.std)
        sides = len(self.size) == 2 and all(_is_whole(v) and 16 <= v <= MAX_SIDE for v in self.size)
        _require("size", sides, f"(height, width), each 16 to {MAX_SIDE}", self.size)
        stride_ok = _is_whole(self.stride) and 1 <= self.stride <= MAX_STRIDE
        _require("stride", stride_ok, f"a whole number from 1 to {MAX_STRIDE}", self.stride)
        _require("align_corners", isinstance(self.align_corners, bool), "true or false", self.align_corners)
        _require("provenance", isinstance(self.provenance, dict), "a table", self.provenance)
        _require("weights_sha256", isinstance(self.weights_sha256, str), "text", self.weights_sha256)

    @property
    def classes(self) -> ClassSpace:
        return ClassSpace(self.class_names, self.palette)

    def to_json(self) -> str:
        return json.dumps({"spec_version": SPEC_VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str, origin: str) -> ModelSpec:
        """Read a spec. ``origin`` names the file in errors. Unknown fields of later versions are ignored."""
        try:
            values = json.loads(text)
            version = values.pop("spec_version")
            if not _is_whole(version):
                raise ValueError("spec_version is not a whole number")
        # A text that nests a thousand lists ends in RecursionError.
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _damaged(origin, error) from error
        if version > SPEC_VERSION:
            raise ModelFileError(
                f"{origin} was written by a newer version (spec {str(version)[:20]}, this one reads "
                f"{SPEC_VERSION}). Upgrade: pip install -U cpsl_deploy"
            )
        known = {f.name for f in fields(cls)}
        try:
            return cls(**{key: value for key, value in values.items() if key in known})
        except (TypeError, ModelFileError) as error:
            raise _damaged(origin, error) from error


def _damaged(origin: str, error: Exception) -> ModelFileError:
    kind = "" if isinstance(error, ModelFileError) else f"{type(error).__name__}: "
    return ModelFileError(f"{origin} has a damaged spec ({kind}{str(error)[:200]}). Export the model again.")


def _tuple(name: str, value: Any) -> tuple[Any, ...]:
    # A text is a sequence, too: of one-letter class names.
    _require(name, isinstance(value, (list, tuple)), "a list", value)
    return tuple(value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e9 <= value <= 1e9


def _require(key: str, holds: bool, rule: str, value: Any) -> None:
    if not holds:
        raise ModelFileError(f"a spec's {key} is {rule}; got {str(value)[:80]!r}")
