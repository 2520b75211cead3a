"""Frames waiting for the model: all of them in order, or the newest alone."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from ..sources.base import Frame

Policy = Literal["lossless", "latest"]
POLICIES: tuple[Policy, ...] = ("lossless", "latest")
"""``lossless``: every frame, in order; a full inbox holds the source back. ``latest``: the newest frame; one
that nobody took before the next came is dropped and counted."""


class Pending(NamedTuple):
    """A frame that can be had. Exactly one of its two functions is called, once."""

    take: Callable[[], Frame]
    """Give the frame, its image the receiver's to keep."""
    drop: Callable[[], None]
    """Let go of whatever holds the frame."""


class Inbox:
    """The frames of one source that wait for the model.

    ``changed`` is notified whenever a frame came or the inbox was closed; inboxes that are waited for
    together share it. ``every``: of so many frames one is let in, beginning with the first. ``on_drop`` is
    called for every frame that the policy drops, ``on_skip`` for every one that ``every`` leaves out.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        depth: int = 4,
        every: int = 1,
        changed: threading.Condition | None = None,
        on_drop: Callable[[], None] = lambda: None,
        on_skip: Callable[[], None] = lambda: None,
    ) -> None:
        self.policy = policy
        self._depth = depth if policy == "lossless" else 1
        self._every, self._offered = every, 0
        self._on_drop, self._on_skip = on_drop, on_skip
        self._waiting: deque[Pending] = deque()
        self._changed = changed or threading.Condition()
        self._closed = False
        self._error: BaseException | None = None

    def put(self, pending: Pending) -> bool:
        """Add a frame; in the lossless policy wait for room. False, with the frame let go of, if the inbox is
        closed: the source should stop."""
        self._offered += 1
        if (self._offered - 1) % self._every and not self._closed:
            pending.drop()
            self._on_skip()
            return True
        dropped = None
        with self._changed:
            if self.policy == "lossless":
                self._changed.wait_for(lambda: self._closed or len(self._waiting) < self._depth)
            elif not self._closed and self._waiting:
                dropped = self._waiting.popleft()
            if self._closed:
                dropped, accepted = pending, False
            else:
                self._waiting.append(pending)
                accepted = True
                self._changed.notify_all()
        if dropped is not None:
            dropped.drop()
            if accepted:
                self._on_drop()
        return accepted

    def take(self) -> Frame | None:
        """The next frame, or None if there is none now."""
        with self._changed:
            if not self._waiting:
                return None
            pending = self._waiting.popleft()
            self._changed.notify_all()
        return pending.take()

    def end(self, error: BaseException | None = None) -> None:
        """No more frames come; those waiting can still be taken. ``error`` is why, if it was not meant."""
        with self._changed:
            self._closed = True
            self._error = self._error or error
            self._changed.notify_all()

    def close(self) -> None:
        """End, and let go of the frames that wait."""
        self.end()
        with self._changed:
            waiting = list(self._waiting)
            self._waiting.clear()
        for pending in waiting:
            pending.drop()

    @property
    def ready(self) -> bool:
        """Whether a frame can be taken now."""
        return bool(self._waiting)

    @property
    def exhausted(self) -> bool:
        """Whether no frame is there and none will come."""
        return self._closed and not self._waiting

    @property
    def error(self) -> BaseException | None:
        """Why the source ended, if it was not meant to."""
        return self._error
