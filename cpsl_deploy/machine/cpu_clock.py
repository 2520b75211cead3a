"""Clocks of the processor's cores.

Source: Documentation/admin-guide/pm/cpufreq.rst of the Linux kernel: a policy is a group of cores with one
clock, ``scaling_cur_freq`` is in kHz.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .probe import Found, Probe, paths, read_number

NONE = "neither cpufreq nor /proc/cpuinfo tells the clocks"
GUEST = "a virtual machine: /proc/cpuinfo tells a constant there, whatever the cores beneath it do"


def find_cpu_clock(root: Path = Path("/")) -> Found:
    """``cpu_fastest`` and ``cpu_mean`` in MHz: of the cores at work, and of all, idle ones too."""
    found = Found()
    read: Callable[[], list[float]]
    policies = list(paths(root / "sys/devices/system/cpu/cpufreq", "policy*/scaling_cur_freq"))
    if policies:
        read = partial(_policies_mhz, policies)
    elif _is_guest(root):
        return found.miss("CPU clock", GUEST)
    elif _cpuinfo_mhz(root):
        read = partial(_cpuinfo_mhz, root)
    else:
        return found.miss("CPU clock", NONE)
    found.try_probe(Probe(sensor="CPU clock", quantity="clock_mhz", read=lambda: _summary(read())))
    return found


def _is_guest(root: Path) -> bool:
    """Whether an x86 processor says that a hypervisor runs beneath."""
    try:
        cpuinfo = (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return False
    return re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE) is not None


def _summary(clocks_mhz: list[float]) -> dict[str, float]:
    if not clocks_mhz:
        raise ValueError(NONE)
    return {"cpu_fastest": max(clocks_mhz), "cpu_mean": sum(clocks_mhz) / len(clocks_mhz)}


def _policies_mhz(policies: list[Path]) -> list[float]:
    return [read_number(policy) / 1e3 for policy in policies]


def _cpuinfo_mhz(root: Path) -> list[float]:
    try:
        lines = (root / "proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
