"""Memory that the process holds, and that a board whose GPU shares it has in use."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .probe import Found, Probe


def find_process_memory(root: Path = Path("/")) -> Found:
    """Resident memory of this process (``/proc/self/statm``, its second figure, in pages)."""
    statm = root / "proc/self/statm"
    found = Found()
    if not hasattr(os, "sysconf"):
        return found.miss("process memory", "this system has no /proc")
    page = os.sysconf("SC_PAGE_SIZE")

    def read() -> dict[str, float]:
        try:
            return {"process": float(statm.read_text().split()[1]) * page}
        except IndexError:
            raise ValueError(f"{statm} has no second figure") from None

    found.try_probe(Probe(sensor="process memory", quantity="process_bytes", read=read))
    return found


def find_shared_memory(root: Path = Path("/")) -> Found:
    """Memory in use on a board whose GPU has none of its own: all of it, every process, CPU and GPU."""
    meminfo = root / "proc/meminfo"

    def read() -> dict[str, float]:
        kib = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", meminfo.read_text(), re.MULTILINE))
        if len(kib) < 2:
            raise ValueError(f"{meminfo} lacks MemTotal or MemAvailable")
        return {"shared": 1024.0 * (int(kib["MemTotal"]) - int(kib["MemAvailable"]))}

    found = Found()
    found.try_probe(Probe(sensor="shared memory", quantity="device_bytes", read=read))
    return found
