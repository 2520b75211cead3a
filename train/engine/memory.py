"""How the process holds the memory that training steps free and want again at once."""

from __future__ import annotations

import ctypes
import logging
import platform
import sys
from functools import cache

_log = logging.getLogger(__name__)

# glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = (1 << 30, 32 << 20)
"""Bytes up to which a block comes from the heap, which is kept, and not from a mapping of its own; older
versions of glibc allow no more than the second number."""
_NEVER_TRIMMED = 2**31 - 1
"""Free bytes at the heap's end above which they would be given back: the largest an int can say."""


@cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, instead of giving it back to the system each time.

    A training step on the CPU frees and allocates the same large temporaries over and over. glibc maps each
    of them anew, and the kernel fills every page with zeros: thousands of page faults, 10 to 15 % of a step's
    time. Kept memory is used again as it is; the process stays as large as its largest step.

    Returns whether it was done: on Linux with glibc. Elsewhere nothing is changed.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        _log.debug("freed memory is not kept: that is glibc's, and this is %s", platform.platform())
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    mapped = any(mallopt(_M_MMAP_THRESHOLD, size) for size in _LARGEST_KEPT)
    if not (mapped and mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIMMED)):
        _log.debug("freed memory is not kept: glibc refused")
        return False
    return True
