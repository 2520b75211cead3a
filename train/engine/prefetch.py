"""What comes next is made ahead, in threads: batches of a stage, images of a pass."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import cv2

T = TypeVar("T")
P = ParamSpec("P")
AHEAD = 2
"""Things that are ready, or nearly, beside the one that each worker makes."""


def prefetched(make: Callable[[int], T], start: int, stop: int, workers: int) -> Generator[T, None, None]:
    """``make(start)``, ..., ``make(stop - 1)`` in order, prepared ahead in threads.

    OpenCV and NumPy give the interpreter free while they work, so threads share out decoding and warping as
    processes would, and nothing has to be copied between them. In the meantime OpenCV works without threads
    of its own (see ``one_opencv_thread``). An error of ``make`` is raised where its result is awaited.
    """
    with one_opencv_thread(), ThreadPoolExecutor(workers, thread_name_prefix="cpsl-batch") as pool:
        pending: deque[Future[T]] = deque()
        following = start
        try:
            for _ in range(start, stop):
                while following < stop and len(pending) < workers + AHEAD:
                    pending.append(pool.submit(make, following))
                    following += 1
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class InBackground:
    """A thread that does what is given to it, one after the other, while the block goes on.

    Where it falls behind, ``run`` waits. Its first error is raised by ``run`` or at the block's end, at which
    everything is done; if the block ends with an error, what is not begun is left.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cpsl-background")
        self._pending: deque[Future[object]] = deque()

    def run(self, work: Callable[P, object], *arguments: P.args, **options: P.kwargs) -> None:
        self._pending.append(self._pool.submit(work, *arguments, **options))
        while len(self._pending) > 2 * AHEAD:
            self._pending.popleft().result()

    def __enter__(self) -> InBackground:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._pending:
                future.result()


@contextlib.contextmanager
def one_opencv_thread() -> Iterator[None]:
    """In the block each call of OpenCV is done by the thread that makes it.

    Its pool has a thread per core, and so has torch's: beside workers they would only take each other's
    cores. The setting is one of the whole process, which OpenCV has no other for; afterwards it is as it was.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
