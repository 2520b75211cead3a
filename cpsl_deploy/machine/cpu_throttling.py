"""What takes time from a process without its knowledge: heat, a container's quota, other virtual machines.

- ``thermal_throttle/core_throttle_count`` and ``package_throttle_count`` of each x86 core: events since the
  start (Documentation/ABI/testing/sysfs-devices-system-cpu of the Linux kernel).
- ``cpu.stat`` of the process's control group and of those above it: ``throttled_usec`` (version 2) or
  ``throttled_time`` in nanoseconds (version 1) without a processor because the quota was used up
  (Documentation/admin-guide/cgroup-v2.rst, Documentation/scheduler/sched-bwc.rst).
- ``steal``, the eighth figure of the line ``cpu`` of /proc/stat: time for which the hypervisor ran something
  else, in ticks, added up over the cores (Documentation/filesystems/proc.rst).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from .probe import Found, Probe, paths, read_number

QUOTA = "container's CPU quota"
STEAL = "other virtual machines (steal)"


def find_cpu_throttling(root: Path = Path("/")) -> Found:
    """Counters of thermal events, and seconds lost to a quota and to other virtual machines."""
    found = _thermal_events(root)
    found.add(_quota(root))
    found.try_probe(Probe(sensor="CPU steal", quantity="lost_s", read=lambda: {STEAL: _steal_s(root)}))
    return found


def _thermal_events(root: Path) -> Found:
    found = Found()
    cpus = root / "sys/devices/system/cpu"
    # Each core repeats its package's count, so the most of them is the package's; cores have each its own.
    totals: dict[str, Callable[[Iterable[float]], float]] = {"core": sum, "package": max}
    for part, total in totals.items():
        files = list(paths(cpus, f"cpu[0-9]*/thermal_throttle/{part}_throttle_count"))
        if files:
            name = f"thermal throttling of the CPU ({part})"
            read = partial(_count, name, files, total)
            found.try_probe(Probe(sensor=name, quantity="throttle_counts", read=read))
    if not found.probes and not found.unavailable:
        found.miss("CPU throttle counts", "the kernel counts them on x86 processors alone, not in a guest")
    return found


def _count(name: str, files: list[Path], total: Callable[[Iterable[float]], float]) -> dict[str, float]:
    return {name: total(map(read_number, files))}


def _quota(root: Path) -> Found:
    found = Found()
    files = [file for file in _cpu_stat_files(root) if _has_throttling(file)]
    if not files:
        return found.miss("container's CPU quota", "no control group of the process counts throttled time")
    found.try_probe(
        Probe(
            sensor="container's CPU quota",
            quantity="lost_s",
            read=lambda: {QUOTA: sum(_throttled_s(file.read_text()) for file in files)},
        )
    )
    return found


def _cpu_stat_files(root: Path) -> Iterator[Path]:
    """``cpu.stat`` of the process's group and of every group above it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mounts = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
        elif "cpu" in controllers.split(","):
            mounts = ("sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/cpu")
        else:
            continue
        # /sys/fs/cgroup/cpu is often a link to cpu,cpuacct: the first that is there, not both.
        mount = next((root / name for name in mounts if (root / name).is_dir()), None)
        if mount is not None:
            own = PurePosixPath(group)
            yield from (mount / str(one).lstrip("/") / "cpu.stat" for one in (own, *own.parents))


def _has_throttling(file: Path) -> bool:
    try:
        return _throttled_s(file.read_text()) >= 0
    except (OSError, ValueError):
        return False


def _throttled_s(cpu_stat: str) -> float:
    if match := re.search(r"^throttled_usec (\d+)", cpu_stat, re.MULTILINE):
        return int(match[1]) / 1e6
    if match := re.search(r"^throttled_time (\d+)", cpu_stat, re.MULTILINE):
        return int(match[1]) / 1e9
    raise ValueError("cpu.stat has no throttled time")


def _steal_s(root: Path) -> float:
    """Seconds, mean over the cores."""
    lines = (root / "proc/stat").read_text().splitlines()
    total = next((line.split() for line in lines if line.startswith("cpu ")), [])
    if len(total) < 9:
        raise ValueError("/proc/stat tells no steal")
    cores = sum(bool(re.match(r"cpu\d", line)) for line in lines)
    return int(total[8]) / os.sysconf("SC_CLK_TCK") / max(cores, 1)
