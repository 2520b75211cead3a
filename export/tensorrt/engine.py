"""A TensorRT engine beside its ONNX file: reused while it belongs to this machine, built again when not.

One path serves TensorRT 10 and 11: the network is strongly typed, so the precision is the ONNX file's own. A
float32 file gives a float32 engine (without TF32), a float16 file a float16
one, and INT8 comes from a file with symmetric Q/DQ nodes; there is no calibrator.

``model.engine`` is described by ``model.engine.json``: the ONNX file's metadata, and the key, which is the
ONNX file's hash, the TensorRT version, the GPU's name and compute capability, the driver's version and the
CUDA version that it serves, the profile and the workspace limit.

No engine has been built on a GPU with this yet. The names and arguments it uses of TensorRT were compared
with the Python bindings of 10.3, 10.13, 10.16 and 11.4, and its order of calls runs against a stand-in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from cpsl_deploy.backends.engine_key import (
    ENGINE_SHA256,
    ONNX_SHA256,
    PROFILE,
    WORKSPACE,
    changed_parts,
    machine_key,
)
from cpsl_deploy.backends.gpu import nvidia_gpu, nvidia_gpu_count
from cpsl_deploy.backends.tensorrt_backend import read_sidecar, sidecar_path
from cpsl_deploy.errors import ModelFileError
from cpsl_deploy.files import as_output_error, atomic_path, sha256

from .builder import Built, Job, build
from .messages import Messages
from .onnx_input import read_onnx
from .profile import Profile, profile_for, workspace_bytes
from .progress import BuildProgress, OnProgress, watched
from .requirements import no_gpu, require_tensorrt
from .timing_cache import keep_times, read_times, timing_cache_path

_log = logging.getLogger(__name__)

ENGINE_SUFFIX = ".engine"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine in place."""

    path: Path
    sidecar: Path
    """JSON, all texts: the ONNX file's metadata, the parts of the key, and ``engine_sha256``."""
    build_s: float
    """0 if it was there already."""
    reused: bool
    reason: str
    """Why it was built, naming each part of the key that changed. Empty if it was reused."""


def ensure_engine(
    onnx_path: str | Path,
    engine_path: str | Path | None = None,
    *,
    profile: Profile | None = None,
    workspace_gib: float | None = None,
    verbose: bool = False,
    on_progress: OnProgress | None = None,
    staging: Path | None = None,
) -> Engine:
    """The engine of an ONNX file for the GPU of this machine: the one in place if its key still holds, which
    takes no time, and else a new one, in minutes. A log record says why an engine in place is replaced.

    ``engine_path``: by default the ONNX file's name with ``.engine``. ``profile``: the frames it takes; by
    default what the file fixes, and where it leaves the size free, batch 1 and the spec's size alone.
    ``workspace_gib``: GPU memory in GiB that one layer may use as scratch space; None is all there is.
    ``verbose``: TensorRT's own notes go to the log at INFO. ``on_progress``: see `OnProgress`. ``staging``: a
    folder in which a new engine is left, for the caller to judge and put in place; an earlier one stays.

    Raises UnavailableError without a GPU or TensorRT (MissingExtraError if it is not installed), InputError
    for a profile or limit that breaks a rule, ModelFileError if TensorRT refuses the file, OutputError if the
    engine cannot be written. On every error, and on Ctrl-C, the ONNX file and an earlier engine stay as they
    were.
    """
    return _engine(onnx_path, engine_path, profile, workspace_gib, verbose, on_progress, staging=staging)


def build_engine(
    onnx_path: str | Path,
    engine_path: str | Path | None = None,
    *,
    profile: Profile | None = None,
    workspace_gib: float | None = None,
    verbose: bool = False,
    on_progress: OnProgress | None = None,
) -> Engine:
    """`ensure_engine`, but built even if the one in place would do."""
    return _engine(onnx_path, engine_path, profile, workspace_gib, verbose, on_progress, anew=True)


def _engine(
    onnx_path: str | Path,
    engine_path: str | Path | None,
    profile: Profile | None,
    workspace_gib: float | None,
    verbose: bool,
    on_progress: OnProgress | None,
    *,
    anew: bool = False,
    staging: Path | None = None,
) -> Engine:
    onnx_path = Path(onnx_path)
    path = Path(engine_path) if engine_path else onnx_path.with_suffix(ENGINE_SUFFIX)
    workspace = workspace_bytes(workspace_gib)
    # Before anything of TensorRT: creating its objects without a GPU ends the process.
    if nvidia_gpu_count() == 0:
        raise no_gpu(onnx_path)
    trt = require_tensorrt(onnx_path)
    model = read_onnx(onnx_path)
    profile = profile or profile_for(model.shape, model.spec.size)
    profile.require_fit(model.shape, str(onnx_path))
    job = Job(model=model, profile=profile, workspace_bytes=workspace, gpu=nvidia_gpu())
    key = {
        ONNX_SHA256: model.sha256,
        **machine_key(job.gpu, trt.__version__),
        PROFILE: str(profile),
        WORKSPACE: "all" if workspace_gib is None else f"{workspace_gib:g}",
    }
    reason = "it was asked for" if anew else _reason_to_build(path, key)
    if not reason:
        _log.info("%s is up to date: same ONNX file, GPU, TensorRT and driver", path)
        return Engine(path=path, sidecar=sidecar_path(path), build_s=0.0, reused=True, reason="")
    # Replacing an engine is worth knowing; making the first one was asked for.
    level = logging.WARNING if path.exists() and not anew else logging.INFO
    _log.log(level, "building the TensorRT engine %s, which takes minutes: %s", path, reason)
    _require_writable(path)
    started = time.perf_counter()
    messages, progress = Messages(verbose=verbose), BuildProgress()
    cache = timing_cache_path(job.gpu, trt.__version__)
    try:
        built = watched(lambda: build(trt, job, messages, progress, read_times(cache)), progress, on_progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "No engine was written; what was there before is untouched. The ONNX file is in place: "
            f"{onnx_path}"
        ) from None
    written = path if staging is None else staging / path.name
    _put_in_place(written, built, {**model.metadata, **key})
    keep_times(cache, built.times)
    seconds = time.perf_counter() - started
    return Engine(path=written, sidecar=sidecar_path(written), build_s=seconds, reused=False, reason=reason)


def _reason_to_build(path: Path, key: dict[str, str]) -> str:
    """Empty if the engine in place has this key."""
    if not path.is_file():
        return "there is none yet"
    try:
        recorded = read_sidecar(path)
        if changes := changed_parts(recorded, key):
            return "; ".join(changes)
        same = sha256(path) == recorded.get(ENGINE_SHA256)
    except (ModelFileError, OSError):
        return f"{sidecar_path(path).name}, which says what it was built for, is missing or damaged"
    return "" if same else f"it is not the file that {sidecar_path(path).name} describes"


def _require_writable(path: Path) -> None:
    """Rather now than after minutes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise as_output_error(error, path) from error


def _put_in_place(path: Path, built: Built, metadata: dict[str, str]) -> None:
    """Both files or none: they are written in full before either replaces an earlier one."""
    described = {**metadata, ENGINE_SHA256: hashlib.sha256(built.engine).hexdigest()}
    with contextlib.ExitStack() as files:
        engine = files.enter_context(atomic_path(path))
        sidecar = files.enter_context(atomic_path(sidecar_path(path)))
        engine.write_bytes(built.engine)
        sidecar.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
