"""Decoding, inference and encoding side by side: a reader thread before a loop, a writer thread after it.

OpenCV and the inference libraries let go of Python's lock while they work, so threads are enough. Both
queues are bounded: a slow stage holds back the ones before it instead of filling the memory.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_S = 0.05
"""How often a thread that waits for room in a queue looks whether it should stop."""


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


_END = object()


class Prefetch(Generic[T]):
    """Iterates a generator in a thread, up to ``depth`` items ahead, in order.

    An exception of the generator is raised to the consumer after the items before it. Leaving the ``with``
    block, early or not, closes the generator and joins the thread.
    """

    def __init__(self, items: Generator[T, None, None], depth: int = 4) -> None:
        self._items = items
        self._queue: queue.Queue[object] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="cpsl-reader", daemon=True)

    def _read(self) -> None:
        last: object = _END
        try:
            for item in self._items:
                self._put(item)
                if self._stop.is_set():
                    break
        except BaseException as error:
            last = _Failure(error)
        finally:
            self._items.close()
            self._put(last)

    def _put(self, item: object) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=_POLL_S)
            except queue.Full:
                continue

    def __enter__(self) -> Prefetch[T]:
        self._thread.start()
        return self

    def __iter__(self) -> Iterator[T]:
        while True:
            item = self._queue.get()
            if item is _END:
                return
            if isinstance(item, _Failure):
                raise item.error
            yield item  # type: ignore[misc]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()


class Sink(Generic[T]):
    """Hands items, in order, to a function in a thread.

    Leaving the ``with`` block waits until everything put has been consumed; if the block ends with an
    exception, what is still queued is dropped. An exception of the function is raised by the next `put`, or
    on leaving the block.
    """

    def __init__(self, consume: Callable[[T], None], depth: int = 4) -> None:
        self._consume = consume
        self._queue: queue.Queue[object] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._drop = False
        self._thread = threading.Thread(target=self._work, name="cpsl-writer", daemon=True)

    def _work(self) -> None:
        # After an error the queue is still emptied, so that the other side never waits for room in vain.
        while (item := self._queue.get()) is not _END:
            if self._drop or self._error is not None:
                continue
            try:
                self._consume(item)  # type: ignore[arg-type]
            except BaseException as error:
                self._error = error

    def put(self, item: T) -> None:
        """Queue an item, waiting for room. Raises the function's exception if it had one."""
        if self._error is not None:
            raise self._error
        self._queue.put(item)

    def __enter__(self) -> Sink[T]:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._drop = kind is not None
        self._queue.put(_END)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error
