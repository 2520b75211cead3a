"""Memory that the reader process writes frames into and this process reads them from."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import threading
import weakref

import numpy as np


def new_memory(slots: int, slot_bytes: int) -> int:
    """A file descriptor of memory without a name. Only the pages that are written to take space."""
    if hasattr(os, "memfd_create"):
        memory = os.memfd_create("cpsl-frames", os.MFD_CLOEXEC)
    else:
        memory, path = tempfile.mkstemp(prefix="cpsl-frames-")
        os.unlink(path)
    try:
        os.ftruncate(memory, slots * slot_bytes)
    except BaseException:
        os.close(memory)
        raise
    return memory


def slot_bytes_for(max_pixels: int) -> int:
    """Bytes of a slot that holds any BGR frame of so many pixels, in whole pages."""
    return -(-3 * max_pixels // mmap.PAGESIZE) * mmap.PAGESIZE


class SharedFrames:
    """Slots of one size. Either side maps the same memory; who may touch a slot is told by messages."""

    def __init__(self, memory: int, slots: int, slot_bytes: int) -> None:
        """``memory`` is a descriptor of `new_memory`; it can be closed afterwards."""
        self.slots, self._slot_bytes = slots, slot_bytes
        self._map = mmap.mmap(memory, slots * slot_bytes)

    def image(self, slot: int, height: int, width: int) -> np.ndarray:
        """A slot as a uint8 (H, W, 3) array, not copied. Raises ValueError if it does not fit."""
        size = height * width * 3
        if not (0 <= slot < self.slots and height > 0 and width > 0 and size <= self._slot_bytes):
            raise ValueError(f"no frame {height}x{width} in slot {slot}")
        flat = np.frombuffer(self._map, np.uint8, count=size, offset=slot * self._slot_bytes)
        return flat.reshape(height, width, 3)

    def close(self) -> None:
        """Unmap; a view that someone still holds keeps the memory until it is gone."""
        with contextlib.suppress(BufferError):
            self._map.close()


class BufferPool:
    """Frame buffers that are used again once nobody holds them, or a view of them, any more."""

    def __init__(self, keep: int = 8) -> None:
        """``keep``: buffers beyond are given to whoever asks and not used again."""
        self._keep = keep
        self._lock = threading.Lock()
        self._size = 0
        self._buffers: list[tuple[bytearray, weakref.ref[np.ndarray]]] = []

    def take(self, height: int, width: int) -> np.ndarray:
        """A uint8 (H, W, 3) array with anything in it, the caller's for as long as it is held."""
        size = height * width * 3
        with self._lock:
            if size != self._size:
                self._size, self._buffers = size, []
            for at, (buffer, holder) in enumerate(self._buffers):
                if holder() is None:
                    flat = np.frombuffer(buffer, np.uint8)
                    self._buffers[at] = (buffer, weakref.ref(flat))
                    return flat.reshape(height, width, 3)
            # Every view of a frame, and a view of that view, refers to `flat`: NumPy follows a chain of views
            # down to the array that rests on something that is no array. When `flat` is gone, all are.
            buffer = bytearray(size)
            flat = np.frombuffer(buffer, np.uint8)
            if len(self._buffers) < self._keep:
                self._buffers.append((buffer, weakref.ref(flat)))
            return flat.reshape(height, width, 3)
