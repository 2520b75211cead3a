"""Memory of large arrays, used again once nobody looks at it any more.

A fresh array of a frame's size is a request to the system and a fault for each of its pages, again with
every frame. `empty` gives memory that came back: it comes back by itself when the array that was given and
all views of it are gone. So a loop that lets its results go needs no new memory after its first frames, and
one that keeps them gets new memory, as from NumPy. What somebody holds is never given to another.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

LEAST_BYTES = 1 << 14
"""Smaller arrays are NumPy's own: its memory for them is at hand."""
FREE_OF_A_SIZE = 8
"""Blocks of one size that wait to be used again; more are given back to the system."""
SIZES = 8
"""Different sizes that are remembered, those used last."""


class ArrayPool:
    """Hands out arrays in memory that is used again. May be used from several threads."""

    def __init__(self) -> None:
        self._free: OrderedDict[int, deque[bytearray]] = OrderedDict()
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> np.ndarray:
        """A new array with any values in it, as `numpy.empty`; it does not own its memory."""
        count = math.prod(shape) * np.dtype(dtype).itemsize
        if count < LEAST_BYTES:
            return np.empty(shape, dtype)
        with self._lock:
            free = self._free.setdefault(count, deque(maxlen=FREE_OF_A_SIZE))
            self._free.move_to_end(count)
            if len(self._free) > SIZES:
                self._free.popitem(last=False)
        try:
            block = free.pop()
        except IndexError:
            block = bytearray(count)
        # Not an array: views would refer to it, past the array that is watched, and outlive that.
        array: np.ndarray = np.ndarray(shape, dtype, buffer=block)
        # Called in whichever thread lets go last, perhaps by the garbage collector: it must not wait for a
        # lock, and appending to a deque needs none.
        weakref.finalize(array, free.append, block).atexit = False
        return array


_POOL = ArrayPool()
empty = _POOL.empty
"""`ArrayPool.empty` of the one pool of this process: results of one model serve the next as well."""
