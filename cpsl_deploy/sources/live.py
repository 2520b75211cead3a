"""A camera, a network stream, a pipeline or standard input: watched, brought back, and never trusted.

Decoding happens in a `ReaderProcess`. A thread here hears what it says, hands its frames to the inbox,
ends it when it stalls and starts another when the source was lost.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from ..errors import CpslError, DataError, InputError, UnavailableError
from ..streams.inbox import Inbox, Pending
from ..streams.status import SourceStatus
from .backoff import Backoff, ReconnectOptions
from .base import Feed, Frame, InputLimits
from .live_errors import cannot_be_opened, given_up, is_closed, nothing_came
from .live_options import LiveOptions
from .reader_process import ReaderProcess
from .reference import SourceReference, classify
from .shared_frames import BufferPool
from .source_times import SourceTimes

log = logging.getLogger(__name__)

_START_UP_S = 10.0
"""For the reader process to come up on a busy machine, besides the time that the connection may take."""


class _Outcome(NamedTuple):
    """How a connection ended."""

    how: Literal["closed", "ended", "lost"]
    reason: str = ""


class LiveFeed(Feed):
    """Brings the frames of one live source into an inbox, through losses and stalls.

    What is told: `status` has the state and the counters. ``live`` becomes False in `open` if the source
    turns out to be a file behind an address, which is read to its end and continued where it broke off.
    """

    is_video = True
    count = None

    def __init__(
        self,
        reference: SourceReference | str | os.PathLike[str] | int,
        *,
        name: str | None = None,
        reconnect: ReconnectOptions | None = None,
        options: LiveOptions | None = None,
        limits: InputLimits | None = None,
        stdin: int = 0,
        draw: Callable[[], float] | None = None,
    ) -> None:
        """``name``: by default the reference's. ``stdin``: the descriptor that ``-`` reads. ``draw``: gives
        numbers from 0 to 1 for the jitter.

        Raises InputError or UnavailableError as `classify` does, InputError for a file.
        """
        self.reference = reference if isinstance(reference, SourceReference) else classify(reference)
        if self.reference.kind == "file":
            raise InputError(
                f"a live source is a camera, a stream's address, a pipeline or -; got {self.reference.shown}"
            )
        self.name = name or self.reference.name
        self.live = self.reference.live
        self.fps: float | None = None
        self.status = SourceStatus(self.name)
        self._reconnect = reconnect or ReconnectOptions()
        self._options = options or LiveOptions()
        self._limits = limits or InputLimits()
        self._stdin = stdin if self.reference.kind == "stdin" else None
        self._backoff = Backoff(self._reconnect, **({"draw": draw} if draw is not None else {}))
        self._pool = BufferPool()
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._closing = threading.Event()
        self._process: ReaderProcess | None = None
        self._thread: threading.Thread | None = None
        self._inbox: Inbox | None = None
        self._finite = False
        self._what = ""
        self._missing = ""
        """Why it is waited for: it was not there at the start. Empty once it was connected."""
        self._index = 0
        self._frames = 0
        self._times = SourceTimes()
        self._last_frame_s = 0.0
        self._last_good_s = time.monotonic()

    def open(self) -> None:
        """Make the first connection, or let the thread make it where it fails and is to be waited for.

        Raises DataError or UnavailableError, without credentials.
        """
        try:
            with self._opening:
                reason = self._connect()
        except CpslError as error:
            self._fail_to_open(str(error))
            raise
        if reason and self._reconnect.wait and self.reference.kind != "stdin" and not self._closing.is_set():
            self._missing = reason
            self.status.become("reconnecting", f"not there yet: {reason}")
            return
        if reason:
            self._fail_to_open(reason)
            raise cannot_be_opened(self.reference, reason)
        if self.reference.kind == "network":
            self.live = not self._finite
        self.status.become("connected", self._what_it_is())

    def _fail_to_open(self, reason: str) -> None:
        self.status.become("failed", reason, level=logging.DEBUG)  # the exception tells

    def _what_it_is(self) -> str:
        return f"{self._what}, {self.fps:g} frames/s" if self.fps else self._what

    def start(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._thread = threading.Thread(
            target=self._supervise, args=(inbox,), name=f"cpsl-{self.name}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        with self._lock:
            if self._process is not None:
                self._process.stop()
        if self._inbox is not None:
            self._inbox.end()  # or the thread would wait for room
        if self._thread is not None:
            self._thread.join()
        with self._opening:  # another thread may be in `open`, which ends now
            self._disconnect()
        if self.status.state != "failed":
            self.status.become("ended", "closed")

    def _connect(self) -> str:
        """Start a reader and wait until its source is open: why it is not, or nothing.

        Raises UnavailableError if it never can be on this machine, DataError if it breaks a limit.
        """
        if self._stdin is not None and is_closed(self._stdin):
            return "it is closed"
        options = self._reconnect
        try:
            process = ReaderProcess(
                self.reference,
                options=self._options,
                limits=self._limits,
                open_timeout_s=options.open_timeout_s,
                max_late_s=options.max_late_s,
                after_s=self._times.last_s if self._finite else None,
                stdin=self._stdin,
            )
        except OSError as error:
            return f"the reader process cannot be started: {error.strerror or error}"
        with self._lock:
            self._process = process
            if self._closing.is_set():
                process.stop()
        message = process.first_message(options.open_timeout_s + _START_UP_S)
        if message is not None and message["say"] == "opened":
            self._finite, self._what = bool(message["finite"]), str(message["what"])
            self.fps = message["fps"] if self.fps is None else self.fps
            self._times.connected(finite=self._finite)
            return ""
        silent = not process.hung_up
        how_it_ended = self._disconnect()
        if message is not None:
            reason = self.reference.hide(str(message.get("reason") or "there is nothing in it"))
            if message.get("kind") == "unavailable":
                raise UnavailableError(f"{self.reference.shown} cannot be opened: {reason}")
            if message.get("kind") == "refused":
                raise DataError(f"{self.reference.shown} cannot be used: {reason}")
            return reason
        return f"no answer within {options.open_timeout_s:g} s" if silent else how_it_ended or "closed"

    def _disconnect(self) -> str:
        """End the reader. How it had ended by itself."""
        with self._lock:
            process, self._process = self._process, None
        return self.reference.hide(process.close()) if process is not None else ""

    def _supervise(self, inbox: Inbox) -> None:
        error: BaseException | None = None
        try:
            error = self._run(inbox)
        except BaseException as raised:
            log.exception("%s: the source's thread failed", self.name)
            error = raised
        finally:
            self._disconnect()
            if error is not None and not self._closing.is_set():
                self.status.become("failed", self.reference.hide(str(error)))
            inbox.end(None if self._closing.is_set() else error)

    def _run(self, inbox: Inbox) -> CpslError | None:
        while True:
            outcome = _Outcome("lost", self._missing or "not open")
            if self._process is not None:
                outcome = self._follow(inbox)
            how_it_ended = self._disconnect()
            if self._closing.is_set() or outcome.how == "closed":
                return None
            if outcome.how == "ended":
                if not self._frames:
                    return nothing_came(self.reference, self.status.counters.corrupt)
                self.status.become("ended", f"after {self._frames} frames")
                return None
            reason = outcome.reason or how_it_ended
            if self.reference.kind == "stdin":
                return DataError(f"{self.reference.shown}: {reason}")
            if self._finite and self._frames and self._times.last_s is None:
                return DataError(
                    f"{self.reference.shown} broke off ({reason}), and a stream without times cannot be "
                    "continued. Copy the file here and give its path"
                )
            if (failed := self._bring_back(reason)) is not None:
                return failed
            if self._closing.is_set():
                return None

    def _bring_back(self, reason: str) -> CpslError | None:
        """Connect again, however often it takes; why it was given up, or None."""
        self.status.become("reconnecting", reason)
        while not self._closing.is_set():
            wait_s = self._backoff.lost()
            if wait_s is None:
                after_s = self._reconnect.give_up_after_s
                return given_up(self.reference, reason, after_s=after_s, was_there=not self._missing)
            if self._closing.wait(wait_s):
                break
            try:
                reason = self._connect()
            except CpslError as error:
                reason = str(error)
            if not reason:
                if not self._missing:
                    self.status.count(reconnects=1)
                break
            log.debug("%s: still reconnecting (%s)", self.name, reason)
        return None

    def _follow(self, inbox: Inbox) -> _Outcome:
        """Pass on what one connection gives, until it ends."""
        process = self._process
        assert process is not None
        process.go(inbox.policy)
        self._last_frame_s = time.monotonic()
        while not process.hung_up:
            left_s = self._last_frame_s + self._reconnect.stall_after_s - time.monotonic()
            told = self.status.state == "stalled"
            messages = process.messages(self._reconnect.stall_after_s if told else left_s)
            for at, message in enumerate(messages):
                outcome = self._hear(message, process, inbox)
                if outcome is not None:
                    _let_go(messages[at + 1 :], process)
                    return outcome
            if process.waits_for_us:
                self._last_frame_s = time.monotonic()
            elif time.monotonic() - self._last_frame_s >= self._reconnect.stall_after_s:
                reason = f"no frame for {self._reconnect.stall_after_s:g} s"
                self.status.become("stalled", reason)
                if self.reference.kind != "stdin":
                    return _Outcome("lost", reason)
        return _Outcome("lost")

    def _hear(self, message: dict[str, Any], process: ReaderProcess, inbox: Inbox) -> _Outcome | None:
        say = message["say"]
        if say in ("frame", "trouble"):
            self._count_trouble(message)
        if say == "frame":
            accepted = inbox.put(self._pending(message, process))
            # Waiting for room is no stall of the source.
            self._last_frame_s = time.monotonic()
            return None if accepted else _Outcome("closed")
        if say == "ended":
            return _Outcome("ended")
        if say == "lost":
            return _Outcome("lost", self.reference.hide(str(message["reason"])))
        return None

    def _count_trouble(self, message: dict[str, Any]) -> None:
        dropped, corrupt = message["dropped"], message["corrupt"]
        if not (dropped or corrupt):
            return
        if corrupt:
            # The first is worth a line; a camera with a bad cable would fill the log.
            level = logging.DEBUG if self.status.counters.corrupt else logging.WARNING
            reason = self.reference.hide(message["reason"])
            log.log(level, "%s: a frame was skipped: %s (more of them are only counted)", self.name, reason)
        self._index += dropped + corrupt
        self.status.count(received=dropped, dropped=dropped, corrupt=corrupt)

    def _pending(self, message: dict[str, Any], process: ReaderProcess) -> Pending:
        slot, height, width = message["slot"], message["height"], message["width"]
        captured_s = float(message["captured_s"])
        self._note_frame(height, width)
        index, time_s = self._index, self._times.of(captured_s, message["time_s"])
        self._index += 1
        name = f"{self.name}-{index:06d}"

        def take() -> Frame:
            return Frame(
                source=self.name,
                index=index,
                name=name,
                image=process.copy(slot, height, width, self._pool),
                captured_s=captured_s,
                time_s=time_s,
            )

        return Pending(take, lambda: process.free(slot))

    def _note_frame(self, height: int, width: int) -> None:
        self._frames += 1
        self._backoff.frame()
        before, self.status.size = self.status.size, (height, width)
        self.status.count(received=1)
        if self._missing:
            self._missing = ""
            self.status.become("connected", self._what_it_is())
        elif self.status.state in ("stalled", "reconnecting"):
            away_s = time.monotonic() - self._last_good_s
            self.status.become("resumed", f"{width}x{height}, after {away_s:.1f} s without a frame")
        self._last_good_s = time.monotonic()
        if before is not None and before != (height, width):
            log.info("%s: frames are now %dx%d; before, %dx%d", self.name, width, height, *before[::-1])


def _let_go(messages: list[dict[str, Any]], process: ReaderProcess) -> None:
    for message in messages:
        if message["say"] == "frame":
            process.free(message["slot"])
