"""Kernel times that earlier builds measured: with them a second build on the same GPU takes seconds.

One file for each GPU and TensorRT version, in the user's cache folder, so that all models share it.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cpsl_deploy.backends.gpu import Gpu
from cpsl_deploy.cache_folder import cache_folder
from cpsl_deploy.errors import OutputError
from cpsl_deploy.files import write_bytes

if TYPE_CHECKING:
    import tensorrt

_log = logging.getLogger(__name__)


def timing_cache_path(gpu: Gpu, tensorrt_version: str) -> Path:
    """``$CPSL_CACHE/tensorrt/NAME-CAPABILITY-trtVERSION.timing``; see ``cache_folder`` for the default."""
    name = f"{gpu.name}-{gpu.compute_capability}-trt{tensorrt_version}"
    return cache_folder() / "tensorrt" / (re.sub(r"[^A-Za-z0-9.]+", "-", name) + ".timing")


def read_times(path: Path) -> bytes:
    """What was kept, or nothing. A cache that cannot be read only costs time."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError as error:
        _log.warning("the TensorRT timing cache %s cannot be read (%s); kernels are timed anew", path, error)
        return b""


def attach_times(config: tensorrt.IBuilderConfig, times: bytes) -> tensorrt.ITimingCache:
    """Give kept times to a build; if they are damaged or of another GPU or TensorRT, it measures anew.

    Keep what this returns until the build is over: TensorRT does not."""
    cache = config.create_timing_cache(times)
    if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
        return cache
    _log.warning("the TensorRT timing cache is damaged or of another GPU or version; kernels are timed anew")
    cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def keep_times(path: Path, times: bytes) -> None:
    """For the next build. The engine is in place by now, so a full disk is a warning, not an error."""
    try:
        write_bytes(path, times)
    except OutputError as error:
        _log.warning("the TensorRT timing cache was not kept, so the next build takes as long: %s", error)
