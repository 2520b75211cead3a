"""What the processor is called."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Model name of the processor."""
    if cpuinfo.exists():
        with open(cpuinfo, errors="replace") as lines:
            for line in lines:  # the first core's is enough: machines have hundreds
                key, _, value = line.partition(":")
                if key.strip() in ("model name", "Model") and value.strip():
                    return value.strip()
    if platform.system() == "Darwin":
        from .command_output import output_of

        return output_of("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()
