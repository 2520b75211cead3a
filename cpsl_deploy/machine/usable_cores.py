"""How many cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores() -> float:
    """Those of the process's affinity, or the container's quota where that is less."""
    cores = os.cpu_count() or 1
    usable = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores)
    quota_file = Path("/sys/fs/cgroup/cpu.max")  # control groups v2: "<quota|max> <period>", microseconds
    if quota_file.exists():
        quota, _, period = quota_file.read_text().strip().partition(" ")
        if quota.isdigit() and period.isdigit():
            usable = min(usable, int(quota) / int(period))
    return usable
