"""How many results may be on their way to whoever asked for them."""

from __future__ import annotations

import threading


class Room:
    """Places for results on their way to the caller."""

    def __init__(self, places: int) -> None:
        self._free, self._changed, self._closed = places, threading.Condition(), False

    def take(self) -> bool:
        """Wait for a place; False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._free > 0)
            self._free -= 1
            return not self._closed

    def give(self) -> None:
        with self._changed:
            self._free += 1
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
