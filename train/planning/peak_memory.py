"""How much memory work needs at its most: on a GPU what torch allocated, on a CPU what the process held."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""Sets VmHWM back to what is held now (proc(5), Linux 4.0 and later)."""


@dataclass(frozen=True)
class PeakMemory:
    """The most memory held since the last ``reset``."""

    device: torch.device

    def reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif _CLEAR_REFS.exists():
            try:
                _CLEAR_REFS.write_text(_RESET_PEAK)
            except OSError:  # forbidden in some containers: then the peak is the process's from its start on
                return

    def bytes(self) -> int | None:
        """GPU: ``torch.cuda.max_memory_allocated``; the context, about half a GiB, comes on top. CPU: the
        resident memory of the whole process, its libraries included; where the system cannot reset it, since
        the process began. None where the system does not tell.
        """
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if _STATUS.exists():
            for line in _STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 2**10
        if sys.platform == "win32":
            return None
        import resource

        unit = 1 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
