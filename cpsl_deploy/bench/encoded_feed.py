"""Encoded frames as a source of a stream: as fast as they are taken, or paced like a camera."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ..errors import InputError
from ..sources.base import Feed, Frame
from ..streams.inbox import Inbox, Pending
from ..streams.status import SourceStatus
from .frames import EncodedFrame, evenly_spaced

IN_MEMORY = 32
"""Different frames that are kept encoded in memory for paced sources; they go round them."""


def in_memory(frames: Sequence[EncodedFrame], most: int = IN_MEMORY) -> list[EncodedFrame]:
    """Up to ``most`` of the frames, evenly spread, whose bytes are read now: a camera's come over a wire."""
    chosen = [frames[i] for i in evenly_spaced(len(frames), most)]
    return [replace(frame, read=partial(_itself, frame.read())) for frame in chosen]


def _itself(data: bytes) -> bytes:
    return data


class EncodedFeed(Feed):
    """Gives ``count`` frames, going round ``frames`` from the one numbered ``first``.

    Each is decoded in the feed's own thread: a file's decoder works there, and so does a camera's, whose
    decoding costs the same processor time (in the product it has a process of its own).

    Without ``fps`` frames come as fast as they are taken. With it frame i is there ``phase`` + i periods
    after the start, and its age counts from that moment, before it is decoded; one that the decoder is too
    late for, because the next is there already, is dropped undecoded and counted, as live sources do.

    Raises InputError for no frames, a count below 1, or a rate that is not above 0.
    """

    is_video = True

    def __init__(
        self,
        name: str,
        frames: Sequence[EncodedFrame],
        count: int,
        *,
        fps: float | None = None,
        phase: float = 0.0,
        first: int = 0,
    ) -> None:
        if not frames or count < 1 or (fps is not None and not fps > 0):
            raise InputError(
                "a source of a benchmark has one frame or more, gives one or more, at a rate above 0; got "
                f"{len(frames)}, {count} and {fps}"
            )
        self.name, self.count, self.fps, self.live = name, count, fps, fps is not None
        self.status = SourceStatus(name)
        self.busy_s = 0.0
        """Seconds of its thread in reading and decoding."""
        self.began_s: float | None = None
        """`time.perf_counter` when its thread began; None before."""
        self._frames, self._first, self._phase = frames, first, phase
        self._stop = threading.Event()
        self._inbox: Inbox | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Nothing is left to do: the frames are at hand."""
        self.status.become("connected")

    def start(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._thread = threading.Thread(
            target=self._run, args=(inbox,), name=f"cpsl-feed-{self.name}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._inbox is not None:
            self._inbox.close()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, inbox: Inbox) -> None:
        try:
            self._play(inbox)
        except BaseException as error:
            self.status.become("failed", f"{type(error).__name__}: {error}")
            inbox.end(error)
        else:
            self.status.become("ended")
            inbox.end()

    def _play(self, inbox: Inbox) -> None:
        self.began_s = time.perf_counter()
        period_s = 1 / self.fps if self.fps else 0.0
        began_s = time.monotonic() + self._phase * period_s
        for index in range(self.count or 0):
            due_s = began_s + index * period_s if self.fps else time.monotonic()
            if self._stop.wait(max(0.0, due_s - time.monotonic())):
                return
            is_last = index + 1 == self.count
            if self.fps and not is_last and time.monotonic() >= due_s + period_s:
                self.status.count(dropped=1)
                continue
            frame = self._frame(index, due_s, period_s)
            self.status.count(received=1)
            if not inbox.put(Pending(take=partial(_given, frame), drop=_nothing)):
                return

    def _frame(self, index: int, due_s: float, period_s: float) -> Frame:
        encoded = self._frames[(self._first + index) % len(self._frames)]
        began_s = time.perf_counter()
        image = encoded.decode(encoded.read())
        self.busy_s += time.perf_counter() - began_s
        return Frame(
            source=self.name,
            index=index,
            name=f"{self.name}-{index:06d}",
            image=image,
            captured_s=due_s,
            time_s=index * period_s,
        )


def _given(frame: Frame) -> Frame:
    return frame


def _nothing() -> None:
    """A frame that nobody took needs no more than to be forgotten."""
