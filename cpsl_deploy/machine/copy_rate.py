"""How fast the machine's memory is: bytes read and written a second by a copy far larger than its caches.

As STREAM's "Copy" counts them (McCalpin, "Memory bandwidth and machine balance in current high performance
computers", 1995): what is read and what is written, not the lines that a cache may fetch before it writes.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .processor_share import PATIENCE_S, UNDISTURBED, remember_undisturbed

LEAST_BYTES, MOST_BYTES = 64 << 20, 1 << 30
"""Of the source, and of the target as well."""
CACHES_OVER = 4
"""How many times as large as the last level of the caches either of them is."""
BUDGET_S = 0.6
LEAST_COPIES = 3


@dataclass(frozen=True, kw_only=True)
class CopyRate:
    """Of memory, or of a GPU's."""

    bytes_per_s: float
    """Read and written together."""
    how: str
    """One sentence for a report."""
    disturbed: bool = False
    """Other work had the cores in every copy: the rate is too low."""


@remember_undisturbed
def copy_rate(threads: int) -> CopyRate:
    """Measure it, the best of several copies, once in a process for each number of threads."""
    size = _array_bytes(_last_level_cache(), _available_memory()) // (8 * threads) * (8 * threads)
    source, target = np.ones(size // 8), np.zeros(size // 8)  # both written to, so that their pages are there
    parts = list(zip(np.split(source, threads), np.split(target, threads), strict=True))
    best, copies, share, began = float("inf"), 0, 0.0, time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        while copies < LEAST_COPIES or time.perf_counter() - began < (
            BUDGET_S if share >= UNDISTURBED else PATIENCE_S
        ):
            start, processor = time.perf_counter(), time.process_time()
            # NumPy lets go of the interpreter's lock while it copies.
            list(pool.map(lambda part: np.copyto(part[1], part[0]), parts))
            took = time.perf_counter() - start
            best, copies = min(best, took), copies + 1
            share = max(share, (time.process_time() - processor) / max(took * threads, 1e-9))
    how = f"best of {copies} copies of {size >> 20} MiB, {threads} thread{'s' * (threads > 1)}"
    return CopyRate(
        bytes_per_s=2 * size / best, how=f"{how}, bytes read and written", disturbed=share < UNDISTURBED
    )


def _array_bytes(last_level_cache: int, available: int | None) -> int:
    wanted = min(max(LEAST_BYTES, CACHES_OVER * last_level_cache), MOST_BYTES)
    return wanted if available is None else max(min(wanted, available // 8), 1 << 20)


def _last_level_cache(root: Path = Path("/")) -> int:
    """Bytes; 0 where the system does not tell. ``size`` is in KiB there, with a K."""
    sizes = [0]
    for file in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) << 10)
    return max(sizes)


def _available_memory() -> int | None:
    if "SC_AVPHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
