"""Reading weight files and fitting them into networks, with errors that name what does not fit."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cpsl_deploy.errors import ModelFileError

_SHOWN = 4
"""Keys named in an error; the others are counted."""
_SLACK = 16 << 20
"""Bytes of a model file beside its weights: names, spec and padding; far more than they ever take."""
_NUMPY_SCALARS: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i8")),
]
"""What checkpoints hold beside tensors, such as the best mIoU as NumPy computed it; harmless to rebuild."""


def read_weights(path: str | Path) -> Any:
    """What a weights file holds, on the CPU: a dict of tensors for safetensors, else what was saved by torch.

    Torch files are read with ``weights_only=True``: nothing in them is executed. Raises ModelFileError for
    a missing, damaged or unsafe file.
    """
    path = require_readable(path)
    try:
        if _is_safetensors(path):
            with safe_open(path, "pt", device="cpu") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
        with torch.serialization.safe_globals(_NUMPY_SCALARS), warnings.catch_warnings():
            # Said of files of other pickle protocols; if one cannot be read, the error says so.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle fails anywhere in its reader, with any class of error
        if isinstance(error, pickle.UnpicklingError) and _is_pickle(path):
            raise ModelFileError(
                f"{path} is not a weights file that can be read safely ({_first_line(error)}). Save its "
                "state dict alone: torch.save(model.state_dict(), path)."
            ) from error
        raise ModelFileError(
            f"{path} is damaged or not a weights file ({_first_line(error)}). Fetch or write it again."
        ) from error


def require_readable(path: str | Path) -> Path:
    """The path of a file that is there and can be opened. Raises ModelFileError otherwise."""
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"a weights file is wanted and {path} is not one. Check the path.")
    try:
        open(path, "rb").close()
    except OSError as error:
        raise ModelFileError(
            f"cannot read {path}: {error.strerror}. Check the path and its permissions."
        ) from error
    return path


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty for a torch file. Raises ModelFileError if it is damaged."""
    path = Path(path)
    if not path.is_file() or not _is_safetensors(path):
        return {}
    try:
        with safe_open(path, "pt", device="cpu") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelFileError(
            f"{path} is damaged or not a safetensors file ({_first_line(error)}). Fetch or write it again."
        ) from error


def state_dict_of(content: Any, origin: str, *, aside: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The state dict in what a weights file holds: bare, or as ``state_dict``, ``model_state`` or ``model``.

    ``aside``: prefixes of keys to leave out, before and after the prefix that a wrapper gave all the others
    (``module.``, ``model.``) is taken off. Raises ModelFileError if there is no state dict.
    """
    for wrapper in ("state_dict", "model_state", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        kind = sorted(map(str, content))[:_SHOWN] if isinstance(content, Mapping) else type(content).__name__
        raise ModelFileError(f"{origin} holds no state dict: a dict of tensors is wanted, this holds {kind}.")
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    for prefix in ("module.", "model.", ""):
        state = {key: value for key, value in state.items() if not key.startswith(aside)}
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def fit(module: nn.Module, state: Mapping[str, Tensor], origin: str, *, optional: Iterable[str] = ()) -> str:
    """Copy ``state`` into ``module`` if it fits exactly; say what was loaded.

    ``optional``: keys of the module that the state may lack, for example batch counters. Raises
    ModelFileError naming missing, unknown and differently shaped keys, and those that hold whole or complex
    numbers in the place of real ones or the other way round; and then changes nothing.
    """
    own = module.state_dict()
    optional = set(optional) | {key for key in own if key.endswith("num_batches_tracked")}
    problems = {
        "missing": [key for key in own if key not in state and key not in optional],
        "unknown": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
        "of another kind": [
            f"{key} {_kind(state[key])} instead of {_kind(own[key])}"
            for key in own
            if key in state and _kind(state[key]) != _kind(own[key])
        ],
    }
    if any(problems.values()):
        told = "; ".join(f"{what}: {_shown(keys)}" for what, keys in problems.items() if keys)
        raise ModelFileError(f"the weights in {origin} do not fit {type(module).__name__}. {told}.")
    module.load_state_dict(state, strict=False)
    count = sum(state[key].numel() for key, _ in module.named_parameters() if key in state)
    return f"{count:,} parameters in {len(state)} tensors from {origin}"


def require_finite(module: nn.Module, origin: str) -> None:
    """Raises ModelFileError if a weight or statistic of ``module`` is not a finite number."""
    broken = [key for key, value in module.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise ModelFileError(
            f"weights are finite numbers, and those in {origin} are not: {_shown(broken)}. Fetch or write "
            "the file again; a training that diverged starts again from an earlier checkpoint."
        )


def require_likely_size(path: Path, module: nn.Module, origin: str) -> None:
    """Refuse a file far too large for the weights of ``module``, before its tensors are read into memory."""
    own = sum(value.numel() * max(value.element_size(), 4) for value in module.state_dict().values())
    size, most = path.stat().st_size, 2 * own + _SLACK
    if size > most:
        raise ModelFileError(
            f"{origin} is no model file of {type(module).__name__}: it has {size:,} bytes, and the weights "
            f"take {own:,}, or twice that in double precision. Check the path."
        )


def _kind(value: Tensor) -> str:
    if value.is_complex():
        return "complex numbers"
    return "real numbers" if value.is_floating_point() else "whole numbers"


def _is_safetensors(path: Path) -> bool:
    """By name or content: the first eight bytes are the length of a JSON header that starts with a brace."""
    if path.suffix == ".safetensors":
        return True
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _is_pickle(path: Path) -> bool:
    """Whether a file is what torch.save writes: a zip, or the protocol mark of a pickle."""
    with open(path, "rb") as file:
        return file.read(1) == b"\x80" or zipfile.is_zipfile(path)


def _first_line(error: BaseException) -> str:
    # torch's own advice, to load files of unknown origin without its protection, comes before the reason.
    lines = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    return lines[0].rstrip(".:")[:160] if lines else type(error).__name__


def _shown(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
