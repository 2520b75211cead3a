"""What comes next is made ahead, in threads: batches of a stage, images of a pass."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import cv2

T = TypeVar("T")
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
