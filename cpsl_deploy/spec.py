"""The model spec: everything a runtime must know about a model, travelling inside its file.

It is JSON under the key ``cpsl_deploy`` in the metadata of a safetensors checkpoint and of an ONNX file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .classes import ClassSpace
from .errors import InputError, ModelFileError

METADATA_KEY = "cpsl_deploy"
SPEC_VERSION = 1


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
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "palette", tuple(tuple(colour) for colour in self.palette))
        try:
            self.classes  # noqa: B018  validates names and palette
        except InputError as error:
            raise ModelFileError(f"the model's spec is not usable: {error}") from error
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ModelFileError(
                f"a spec's mean and std are three numbers, std above 0; got {self.mean} and {self.std}"
            )
        if len(self.size) != 2 or min(self.size) < 16:
            raise ModelFileError(f"a spec's size is (height, width), each 16 or more; got {self.size}")

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
            if version > SPEC_VERSION:
                raise ModelFileError(
                    f"{origin} was written by a newer version (spec {version}, this one reads "
                    f"{SPEC_VERSION}). Upgrade: pip install -U cpsl_deploy"
                )
            known = {f.name for f in fields(cls)}
            return cls(**{key: value for key, value in values.items() if key in known})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelFileError(
                f"{origin} has a damaged spec ({type(error).__name__}: {error}). Export the model again."
            ) from error
