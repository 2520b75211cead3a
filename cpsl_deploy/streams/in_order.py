"""Results of several threads, handed on in the order in which their work was begun."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class InOrder(Generic[T]):
    """Takes numbered results from any thread and hands them on as 0, 1, 2, ..., one at a time.

    ``hand_on`` may wait; it gives False if nothing is wanted any more. ``ahead``: how many numbers beyond the
    next one may be kept; a thread with a later one waits.
    """

    def __init__(self, hand_on: Callable[[T], bool], *, ahead: int) -> None:
        self._hand_on, self._ahead = hand_on, ahead
        self._changed = threading.Condition()
        self._early: dict[int, T] = {}
        self._next = 0
        self._closed = False

    def put(self, number: int, result: T) -> bool:
        """Hand on what is due, this result or later. False once nothing is wanted any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or number <= self._next + self._ahead)
            self._early[number] = result
            while not self._closed and self._next in self._early:
                if not self._hand_on(self._early.pop(self._next)):
                    self._closed = True
                self._next += 1
            self._changed.notify_all()
            return not self._closed

    def close(self) -> None:
        """Let everybody go, as soon as ``hand_on`` does."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
