"""A sink at work in a thread of its own, behind a bounded queue."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Literal

from ..errors import InputError, OutputError
from ..streams.result import StreamResult
from .base import Sink

log = logging.getLogger(__name__)

OnFailure = Literal["raise", "retry"]
_GRACE_S = 5.0
"""How long a thread has to end after its sink was interrupted."""


class SinkWorker:
    """Hands results, in order, to a sink in a thread, which begins with the first result.

    ``depth``: results that may wait; then `put` waits. ``on_failure`` says what an OutputError or OSError of
    the sink means:

    ``raise``
        the run ends: the next `put` or `close` raises it.
    ``retry``
        the failure is logged once; results are dropped and counted for ``retry_s`` seconds, then the sink is
        tried again, until it works, which is logged too. What it has begun and not let go of stays.

    Any other exception, a BrokenPipeError, and every one of a sink that does not restart ends the run.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        depth: int = 4,
        on_failure: OnFailure = "raise",
        retry_s: float = 60.0,
    ) -> None:
        if depth < 1 or retry_s < 0:
            raise InputError(f"a sink's queue has room for 1 or more; got {depth} (retry_s {retry_s})")
        self.sink = sink
        self._depth, self._retry_s = depth, retry_s
        self._retries = on_failure == "retry" and sink.restarts
        self._waiting: deque[StreamResult] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = self._abandon = self._closed = False
        self._error: BaseException | None = None
        self._raised = False
        self._reason = ""
        self._retry_at_s: float | None = None
        self._busy_since_s: float | None = None
        self._written = self._lost = self._failures = 0

    @property
    def error(self) -> BaseException | None:
        """What ends the run, if anything does."""
        return self._error

    def put(self, result: StreamResult) -> bool:
        """Queue a result, waiting for room. False if the worker is closed. Raises what ends the run."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._error is not None or self._closing or len(self._waiting) < self._depth
            )
            if self._error is not None:
                self._raised = True
                raise self._error
            if self._closing:
                return False
            self._waiting.append(result)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"cpsl-{self.sink.name}", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return True

    def _work(self) -> None:
        while (result := self._next()) is not None:
            self._consume(result)
            del result  # it is not kept while the next one is waited for
        self._finish(whole=not self._abandon and self._error is None)

    def _next(self) -> StreamResult | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return None
            result = self._waiting.popleft()
            self._changed.notify_all()
            return result

    def _consume(self, result: StreamResult) -> None:
        if self._error is not None or (self._retry_at_s is not None and time.monotonic() < self._retry_at_s):
            self._lost += 1
            return
        self._busy_since_s = time.monotonic()
        try:
            self.sink.write(result)
        except BaseException as error:
            self._lost += 1
            self._fail(error)
            return
        finally:
            self._busy_since_s = None
        self._written += 1
        if self._retry_at_s is not None:
            self._retry_at_s, self._reason = None, ""
            log.info("the sink %s works again", self.sink.name)

    def _fail(self, error: BaseException) -> None:
        self._failures += 1
        passing = isinstance(error, (OutputError, OSError)) and not isinstance(error, BrokenPipeError)
        if self._retries and passing:
            self._reason = _reason(error)
            if self._retry_at_s is None:
                log.error(
                    "the sink %s failed and is tried again every %g s; its results are lost until then: %s",
                    self.sink.name,
                    self._retry_s,
                    self._reason,
                )
            self._retry_at_s = time.monotonic() + self._retry_s
            return
        self.sink.abort()
        with self._changed:
            self._error, self._reason = error, str(error) or type(error).__name__
            self._lost += len(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()

    def close(self, finish: bool = True, *, timeout_s: float | None = None) -> None:
        """End the thread and the sink. Closing twice is fine.

        ``finish``: write what waits and finish the sink's files; after ``timeout_s`` seconds, and with False
        at once, what waits is dropped, a write that waits for somebody is interrupted, and the sink aborted.

        With ``finish``, raises what ends the run if nothing has raised it yet.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if not finish:
            self._give_up()
        if self._thread is None:
            if not self._closed:
                self._finish(whole=finish)
        else:
            self._thread.join(timeout_s if finish else _GRACE_S)
            if self._thread.is_alive() and finish:
                self._reason = f"did not finish within {timeout_s:g} s"
                log.error("the sink %s %s; what it had begun is dropped", self.sink.name, self._reason)
                self._give_up()
                self._thread.join(_GRACE_S)
            if self._thread.is_alive():
                self._lost += 1  # at least the result that it is at
                log.error("the sink %s does not end; its thread is left behind", self.sink.name)
        if finish and self._error is not None and not self._raised:
            self._raised = True
            raise self._error

    def _give_up(self) -> None:
        with self._changed:
            self._abandon = True
            self._lost += len(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        self.sink.interrupt()

    def _finish(self, *, whole: bool) -> None:
        lost = self.sink.lost
        try:
            if whole:
                self.sink.close()
            else:
                self.sink.abort()
                self.sink.close()
        except BaseException as error:
            self.sink.abort()
            self._failures += 1
            if self.sink.lost == lost and self._written:
                self._lost += 1  # at least, of a sink that does not say how many
            self._reason = _reason(error) if self._retries else str(error)
            if whole and not self._retries:
                self._error = self._error or error
            elif self._retry_at_s is None:  # else it has been told
                log.error("the sink %s could not be finished: %s", self.sink.name, self._reason)
        self._closed = True

    def snapshot(self) -> dict[str, object]:
        """Everything, ready for JSON.

        ``state``: ``ok``, ``failed`` or ``closed``. ``written``: results that the sink took. ``lost``: those
        that it did not, and those that it took and could not finish the file of. ``busy_s``: how long it has
        been at the present one, 0 if at none.
        """
        busy_since_s = self._busy_since_s
        failed = self._error is not None or self._retry_at_s is not None or bool(self._reason)
        return {
            "name": self.sink.name,
            "state": "failed" if failed else "closed" if self._closed else "ok",
            "reason": self._reason,
            "written": self._written,
            "lost": self._lost + self.sink.lost,
            "failures": self._failures,
            "queue": len(self._waiting),
            "busy_s": 0.0 if busy_since_s is None else round(time.monotonic() - busy_since_s, 3),
        }


def _reason(error: BaseException) -> str:
    """What happened, without what to do for a command that has ended."""
    return error.reason if isinstance(error, OutputError) else str(error)
