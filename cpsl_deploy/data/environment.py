"""What this machine and installation can do: versions, extras, GPUs, codecs, disk."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2

from .. import __version__
from ..backends.gpu import nvidia_gpu_count
from ..errors import UnavailableError
from ..machine import Machine, describe_machine
from ..sinks.video_codec import check_codec

BASE = ("numpy", "opencv-python-headless", "click", "rich", "pyyaml", "safetensors", "av")
EXTRAS = {
    "cpu": ("onnxruntime",),
    "gpu": ("onnxruntime-gpu",),
    "openvino": ("openvino",),
    "trt": ("tensorrt-cu13", "cuda-bindings"),
    "preview": ("aiohttp", "prometheus-client"),
    "plot": ("matplotlib",),
    "power": ("nvidia-ml-py",),
    "data": ("scipy",),
    "train": ("torch", "matplotlib"),
    "export": ("torch", "onnx", "onnxscript", "onnxruntime", "matplotlib"),
}
"""Packages of every extra a user may want, as pyproject.toml lists them."""

_CODECS = (("h264", ".mp4"), ("mpeg4", ".mp4"), ("mjpeg", ".avi"), ("vp9", ".webm"))


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What was found."""

    cpsl_deploy: str
    python: str
    machine: Machine
    usable_gpus: int
    """NVIDIA GPUs that the driver offers this process."""
    packages: dict[str, str | None]
    """Package -> version; None where it is not installed."""
    places: dict[str, str | None]
    """Where the modules that a Jetson brings itself are imported from; None where there is none."""
    missing: dict[str, tuple[str, ...]]
    """Extra -> its packages that are not installed; only extras that lack some."""
    onnxruntime_providers: tuple[str, ...]
    """What ONNX Runtime lists, which is what it was built for and not what works here."""
    codecs: dict[str, bool]
    """``codec.suffix`` -> whether a video could be written."""
    free_disk_gib: dict[str, float]
    """Folder -> free space."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def describe_environment() -> Environment:
    """Look at the environment. Writes tiny videos into a temporary folder and removes them."""
    names = dict.fromkeys([*BASE, *(name for packages in EXTRAS.values() for name in packages)])
    packages = {name: _version(name) for name in names}
    if packages["opencv-python-headless"] is None:  # its siblings bring the same module
        packages["opencv-python-headless"] = cv2.__version__
    missing = {
        extra: tuple(name for name in wanted if packages[name] is None) for extra, wanted in EXTRAS.items()
    }
    return Environment(
        cpsl_deploy=__version__,
        python=platform.python_version(),
        machine=describe_machine(),
        usable_gpus=nvidia_gpu_count(),
        packages=packages,
        places={name: _place(name) for name in ("cv2", "tensorrt")},
        missing={extra: names for extra, names in missing.items() if names},
        onnxruntime_providers=_providers(),
        codecs={f"{codec}{suffix}": can_write_video(codec, suffix) for codec, suffix in _CODECS},
        free_disk_gib={
            str(folder): round(shutil.disk_usage(folder).free / 2**30, 1)
            for folder in dict.fromkeys((Path.cwd(), Path(tempfile.gettempdir())))
        },
    )


def can_write_video(codec: str, suffix: str) -> bool:
    """Whether a video can be written here with this codec (`find_codec`), tried with a tiny one."""
    try:
        check_codec(codec, suffix)
    except UnavailableError:
        return False
    return True


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _place(module: str) -> str | None:
    found = importlib.util.find_spec(module)
    return None if found is None or found.origin is None else found.origin


def _providers() -> tuple[str, ...]:
    try:
        import onnxruntime
    except ImportError:
        return ()
    return tuple(onnxruntime.get_available_providers())
