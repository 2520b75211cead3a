"""Whose engine lies beside an ONNX file: of this file, of another one, or of nobody known."""

from __future__ import annotations

import logging
from pathlib import Path

from cpsl_deploy.backends.engine_key import ENGINE_SHA256, ONNX_SHA256
from cpsl_deploy.backends.tensorrt_backend import read_sidecar, sidecar_path
from cpsl_deploy.errors import ModelFileError, OutputError
from cpsl_deploy.files import sha256
from cpsl_deploy.spec import METADATA_KEY

_log = logging.getLogger(__name__)


def built_from(engine: Path) -> str | None:
    """SHA-256 of the ONNX file that an engine of this project says it was built from; None if there is no
    JSON file beside it that an export wrote."""
    recorded = _recorded(engine)
    return recorded[ONNX_SHA256] if recorded else None


def check_engine_replaceable(engine: Path) -> None:
    """Raises OutputError if an engine is to be written where something lies that no export wrote."""
    sidecar = sidecar_path(engine)
    there = [path for path in (engine, sidecar) if path.exists()]
    if there and (any(path.is_dir() for path in there) or _recorded(engine) is None):
        raise OutputError(
            f"a TensorRT engine is to be written to {engine}, and {there[0]} is not of cpsl-export: no "
            f"{sidecar.name} says what it was built from. Move it away, or give another name with -o."
        )


def remove_stale_engine(engine: Path, onnx_sha256: str, *, remedy: str) -> None:
    """Remove an engine with its JSON file if an export built it from another ONNX file than the one of this
    hash, which lies beside it now: it would give the labels of another model. ``remedy``: the command that
    builds it again, for the log. Never raises; what no export wrote stays."""
    recorded = _recorded(engine)
    if recorded is None or recorded[ONNX_SHA256] == onnx_sha256:
        return
    try:
        if engine.is_file() and sha256(engine) != recorded[ENGINE_SHA256]:
            return  # something else by now, and the runtime refuses it
        # In this order: an engine alone would look like somebody else's.
        engine.unlink(missing_ok=True)
        sidecar_path(engine).unlink()
    except OSError as error:
        _log.warning("%s is of an earlier ONNX file and cannot be removed: %s. Remove it", engine, error)
        return
    _log.warning(
        "the TensorRT engine %s was built from an earlier ONNX file, and was removed. Build one of the new "
        "file: %s",
        engine,
        remedy,
    )


def _recorded(engine: Path) -> dict[str, str] | None:
    try:
        recorded = read_sidecar(engine)
    except ModelFileError:
        return None
    return recorded if {METADATA_KEY, ONNX_SHA256, ENGINE_SHA256} <= recorded.keys() else None
