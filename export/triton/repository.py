"""A model repository of Triton Inference Server.

    DIR/segmenter/config.pbtxt     how it is served
    DIR/segmenter/labels.txt       class names, the line number from 0 is the label's value
    DIR/segmenter/1/model.onnx     or model.plan: the file itself

Layout: docs/user_guide/model_repository.md of triton-inference-server/server.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cpsl_deploy.errors import InputError, OutputError
from cpsl_deploy.files import atomic_folder, sha256

from .configuration import Serving, config_text, max_batch_size
from .served_file import ServedFile, read_served_file

_log = logging.getLogger(__name__)

CONFIG, CLASSES, VERSION = "config.pbtxt", "labels.txt", "1"
_ONNX, _PLAN = "model.onnx", "model.plan"
_OURS = {CONFIG, CLASSES, f"{VERSION}/{_ONNX}", f"{VERSION}/{_PLAN}"}
"""All that is ever written to a model's folder."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A model in a model repository."""

    path: Path
    """The repository, for ``tritonserver --model-repository``."""
    name: str
    """Of the model, as clients ask for it."""
    model: Path
    """The served file in it."""
    config: Path
    """Its ``config.pbtxt``."""
    max_batch_size: int
    """Frames the server joins to one batch at most; 0 if it joins none."""


def write_repository(
    folder: str | os.PathLike[str],
    model: str | os.PathLike[str],
    *,
    name: str = "segmenter",
    max_batch: int | None = None,
    preferred_batches: Sequence[int] = (),
    queue_delay_us: int = 1000,
    instances: int = 1,
    gpu: bool | None = None,
    tensorrt: bool = False,
    warm_up: bool = True,
    overwrite: bool = False,
) -> Repository:
    """Write a model's folder into a model repository, whole or not at all; other models in it stay.

    ``folder``: the repository; made if it is not there. ``model``: an exported ``.onnx`` file, or an
    ``.engine`` or ``.plan`` file with its JSON file beside it. ``name``: letters, digits, ``_``, ``-`` and
    ``.``. The other values are those of `Serving`. A model of that name that was written here is replaced if
    it has the same weights, or with ``overwrite``; nothing else ever is.

    Raises InputError for a value that breaks its rule or a file that cannot be served that way,
    ModelFileError for a missing or damaged model, OutputError if the place is taken or cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise InputError(
            "a model's name in Triton has up to 100 letters, digits, '_', '-' and '.', no '.' or '-' first; "
            f"got {name!r}"
        )
    serving = Serving(
        max_batch=max_batch,
        preferred_batches=tuple(preferred_batches),
        queue_delay_us=queue_delay_us,
        instances=instances,
        gpu=gpu,
        tensorrt=tensorrt,
        warm_up=warm_up,
    )
    served = read_served_file(Path(model))
    text = config_text(name, served, serving, sha256=sha256(served.path))
    place = Path(folder) / name
    _check_replaceable(place, served, overwrite=overwrite)
    file = f"{VERSION}/{_PLAN if served.is_engine else _ONNX}"
    with atomic_folder(place) as new:
        (new / CONFIG).write_text(text, encoding="utf-8")
        names = (" ".join(name.split()) for name in served.spec.class_names)
        (new / CLASSES).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        (new / VERSION).mkdir()
        shutil.copyfile(served.path, new / file)
    if served.is_engine:
        version, device = (served.metadata.get(key, "unknown") for key in ("tensorrt_version", "gpu"))
        _log.info("the engine in %s loads only in a server with TensorRT %s on %s", place, version, device)
    return Repository(
        path=Path(folder),
        name=name,
        model=place / file,
        config=place / CONFIG,
        max_batch_size=max_batch_size(served, serving),
    )


def _check_replaceable(place: Path, served: ServedFile, *, overwrite: bool) -> None:
    if place.parent.exists() and not place.parent.is_dir():
        raise OutputError(
            f"a model repository is a folder, and {place.parent} is a file. Choose another name."
        )
    if not os.path.lexists(place):
        return
    if place.is_symlink() or not place.is_dir():
        raise OutputError(f"{place} is taken by something that is no model folder. Choose another name.")
    try:
        found = {path.relative_to(place).as_posix() for path in place.rglob("*") if not path.is_dir()}
        config = (place / CONFIG).read_text(encoding="utf-8") if CONFIG in found else ""
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"cannot read what is in {place}: {error}. Choose another name.") from error
    others = sorted(found - _OURS)
    if others or (found and "# Written by cpsl-export" not in config):
        told = f": {', '.join(others[:3])}" if others else ""
        raise OutputError(
            f"{place} has files that cpsl-export did not write{told}. It is never replaced; choose another "
            "name, or move it away."
        )
    weights = re.search(r'key: "weights_sha256"\s+value \{\s+string_value: "([0-9a-f]*)"', config)
    same = weights is not None and weights[1] == served.metadata.get("weights_sha256")
    if found and not (same or overwrite):
        raise OutputError(
            f"{place} serves a model of other weights. Give --overwrite to replace it, or another name."
        )
