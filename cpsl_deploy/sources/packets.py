"""Packets of a live stream, read ahead in a thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

from .packet_loss import PacketLoss

_AHEAD = 64
"""Packets that may wait to be decoded."""
_END_FOLLOWS_S = 0.001
"""So soon after the rest of a picture that was cut off the end of its stream is read."""


class Packets:
    """Reads packets while others are decoded, and so knows whether the stream ended with the last of them.

    What FFmpeg had of a picture when its stream broke off comes as a packet like any other, and a decoder
    that is missing the lower half of a picture may make it up.
    """

    def __init__(self, packets: Iterable[Any], loss: PacketLoss | None = None) -> None:
        """``loss``: told of while packets are read."""
        self._loss = loss
        self.incomplete = False
        """Whether something was lost of the packet that was given last, or may have been."""
        self._waiting: deque[tuple[Any, bool]] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, args=(packets,), name="packets", daemon=True)
        self._thread.start()

    def _read(self, packets: Iterable[Any]) -> None:
        before = last = 0
        try:
            for packet in packets:
                if packet.size == 0:  # the end
                    break
                # FFmpeg gives a picture when the next one begins, and tells of a loss at once: what is given
                # now is incomplete, or what follows.
                now = self._loss.told if self._loss is not None else 0
                incomplete, before, last = now != before, last, now
                with self._changed:
                    self._changed.wait_for(lambda: len(self._waiting) < _AHEAD)
                    self._waiting.append((packet, incomplete))
                    self._changed.notify_all()
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def next(self) -> Any | None:
        """The next packet, None at the end. Raises what reading raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if self._waiting:
                packet, self.incomplete = self._waiting.popleft()
                self._changed.notify_all()
                return packet
        if self._error is not None:
            raise self._error
        return None

    def was_last(self) -> bool:
        """Whether the stream ended with the packet that was given last."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended, _END_FOLLOWS_S)
            return self._ended and not self._waiting

    @property
    def reading(self) -> bool:
        """Whether the thread still waits for the stream: its container is in use."""
        return self._thread.is_alive()
