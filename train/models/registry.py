"""Networks by name, and model files: weights and their spec in one safetensors file."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from safetensors.torch import save

from cpsl_deploy.errors import ModelFileError, RecipeError
from cpsl_deploy.files import atomic_path, sha256
from cpsl_deploy.spec import METADATA_KEY, ModelSpec

from .base import Segmenter
from .ddrnet import DdrNet23Slim
from .deeplabv2 import DeepLabV2
from .squeezenet_fpn import SqueezeNetFpn
from .weights import (
    fit,
    read_metadata,
    read_weights,
    require_finite,
    require_likely_size,
    require_readable,
)

_log = logging.getLogger(__name__)

ARCHITECTURES: dict[str, Callable[[int], Segmenter]] = {
    "squeezenet_fpn": SqueezeNetFpn,
    "ddrnet23_slim": DdrNet23Slim,
    "deeplabv2_resnet101": DeepLabV2,
    "deeplabv2_resnet101_bn_clr": partial(DeepLabV2, norm_before_head=True),
}
"""Name -> builder taking the number of classes."""


def build(name: str, num_classes: int, *, init: str | Path | None = None) -> Segmenter:
    """A network by its registry name, in training mode, on the CPU.

    ``init``: a weights file to start from: pretrained weights that the network's ``load_pretrained``
    knows, or a model file of this project (all weights are taken, so its classes must be as many).
    Raises RecipeError for an unknown name or class count, ModelFileError if the weights cannot be read or
    do not fit.
    """
    if name not in ARCHITECTURES:
        raise RecipeError(f"unknown architecture {name!r}; the known ones are: {', '.join(ARCHITECTURES)}")
    if num_classes < 1:
        raise RecipeError(f"a network has one class or more; got {num_classes}")
    model = ARCHITECTURES[name](num_classes)
    if init is not None:
        content = read_weights(init)
        if METADATA_KEY in read_metadata(init):
            loaded = "whole model: " + fit(model, content, str(init))
        else:
            loaded = model.load_pretrained(content, str(init))
        _log.info("%s starts from %s", name, loaded)
    return model


def save_model(path: str | Path, model: Segmenter, spec: ModelSpec) -> None:
    """Write a model file: safetensors, the spec as JSON under the metadata key ``cpsl_deploy``.

    Written whole or not at all. Raises ModelFileError if the spec describes another model than this one,
    OutputError if the file cannot be written.
    """
    if spec.architecture not in ARCHITECTURES:
        raise ModelFileError(
            f"a spec's architecture is one of {', '.join(ARCHITECTURES)}; got {spec.architecture!r}"
        )
    _require_own_spec(model, spec, "Make the spec from the model's own values.")
    spec = dataclasses.replace(spec, weights_sha256="")
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    # Serialised here and written by Python: safetensors' own writer hides a full disk in another error class.
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(state, metadata={METADATA_KEY: spec.to_json()}))


def load_model(path: str | Path) -> tuple[Segmenter, ModelSpec]:
    """Read a model file: the network in eval mode on the CPU, and its spec with ``weights_sha256`` filled.

    Raises ModelFileError for a missing or damaged file, one that ``save_model`` did not write, or one whose
    spec, tensors and network do not belong together or whose weights are not finite.
    """
    path = require_readable(path)
    metadata = read_metadata(path)
    if METADATA_KEY not in metadata:
        read_weights(path)  # what is damaged is told first
        raise ModelFileError(
            f"{path} has weights but no spec: it is not a model file of this project. Pretrained weights are "
            "given to training as its start, for example with --init."
        )
    spec = ModelSpec.from_json(metadata[METADATA_KEY], str(path))
    if spec.architecture not in ARCHITECTURES:
        raise ModelFileError(
            f"{path} has the architecture {spec.architecture!r}, which this version does not know; it knows: "
            f"{', '.join(ARCHITECTURES)}. Upgrade: pip install -U cpsl_deploy"
        )
    model = build(spec.architecture, len(spec.class_names))
    _require_own_spec(model, spec, f"{path} was changed after it was written: fetch it again.")
    require_likely_size(path, model, str(path))
    fit(model, read_weights(path), str(path))
    require_finite(model, str(path))
    return model.eval(), dataclasses.replace(spec, weights_sha256=sha256(path))


def _require_own_spec(model: Segmenter, spec: ModelSpec, remedy: str) -> None:
    for what, in_spec, in_model in (
        ("number of classes", len(spec.class_names), model.num_classes),
        ("stride", spec.stride, model.stride),
    ):
        if in_spec != in_model:
            raise ModelFileError(
                f"a spec describes the model it travels with; its {what} is {in_spec} and the model's is "
                f"{in_model}. {remedy}"
            )
