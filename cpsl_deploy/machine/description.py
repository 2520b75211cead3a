"""What the machine is: without it a latency means nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass

from .. import __version__
from .command_output import output_of
from .cores import usable_cores
from .cpu_name import cpu_name
from .jetson import Jetson, find_jetson


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine as the process sees it."""

    cpu: str
    """Model name of the processor."""
    cores: int
    """Logical cores of the machine."""
    usable_cores: float
    """Cores this process may use: its affinity, or the container's quota where that is less."""
    memory_gib: float | None
    """None where the system does not tell."""
    os: str
    gpus: tuple[str, ...]
    """Name and driver of every NVIDIA GPU; empty without one."""
    load_average: float | None
    """Processes that ran or waited, mean of the minute before the benchmark started; None on Windows."""
    jetson: Jetson | None = None
    """The board, if it is a Jetson: its release and power mode decide over latency."""

    @property
    def was_busy(self) -> bool:
        """Whether over a quarter of the usable cores had work before the start."""
        return self.load_average is not None and self.load_average > self.usable_cores / 4


def describe_machine() -> Machine:
    """Look at the machine. Runs ``nvidia-smi`` where it is installed."""
    cores = os.cpu_count() or 1
    return Machine(
        cpu=cpu_name(),
        cores=cores,
        usable_cores=usable_cores(),
        memory_gib=_memory_gib(),
        os=platform.platform(),
        gpus=_gpus(),
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        jetson=find_jetson(),
    )


def package_versions() -> dict[str, str | None]:
    """Version of Python and of every package that latency depends on; None for one not installed."""
    versions: dict[str, str | None] = {"cpsl_deploy": __version__, "python": platform.python_version()}
    for name, distributions in {
        "numpy": ("numpy",),
        "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python"),
        "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
        "openvino": ("openvino",),
        "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    }.items():
        versions[name] = next(filter(None, map(_version, distributions)), None)
    return versions


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory_gib() -> float | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _gpus() -> tuple[str, ...]:
    listed = output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    return tuple(line.strip() for line in listed.splitlines() if line.strip())
