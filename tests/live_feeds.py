"""Feeds and a model that tests hold in their hands."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
from tiny_onnx import tiny_spec

from cpsl_deploy.backends.base import Backend
from cpsl_deploy.contract import Contract
from cpsl_deploy.segmenter import Segmenter
from cpsl_deploy.sources.base import Feed, Frame
from cpsl_deploy.streams.inbox import Inbox, Pending
from cpsl_deploy.streams.status import SourceStatus

SIZE = (96, 160)


def image_of(value: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A frame that can be told from others: all pixels are ``value``."""
    return np.full((*size, 3), value % 256, np.uint8)


class CountingFeed(Feed):
    """Gives ``count`` frames, frame i of value i, ``period_s`` apart (0: as fast as they are taken)."""

    is_video = True

    def __init__(
        self,
        name: str = "counting",
        *,
        count: int = 10,
        period_s: float = 0.0,
        live: bool = False,
        size: tuple[int, int] = SIZE,
        error: BaseException | None = None,
    ) -> None:
        self.name, self.live, self.count = name, live, count
        self.fps = 1 / period_s if period_s else 25.0
        self.status = SourceStatus(name)
        self.put = 0
        self._period_s, self._size, self._error = period_s, size, error
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        self.status.become("connected")

    def start(self, inbox: Inbox) -> None:
        self._thread = threading.Thread(target=self._run, args=(inbox,))
        self._thread.start()

    def _run(self, inbox: Inbox) -> None:
        started = time.monotonic()
        for index in range(self.count or 0):
            if self._stop.wait(max(0.0, started + index * self._period_s - time.monotonic())):
                break
            self.status.count(received=1)
            frame = self._frame(index, time.monotonic())
            if not inbox.put(Pending(lambda frame=frame: frame, _nothing)):
                break
            self.put += 1
        self.status.become("ended")
        inbox.end(self._error)

    def _frame(self, index: int, now: float) -> Frame:
        return Frame(
            source=self.name,
            index=index,
            name=f"{self.name}-{index:06d}",
            image=image_of(index, self._size),
            captured_s=now,
            time_s=index / self.fps,
        )

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()


def _nothing() -> None:
    pass


class StandInBackend(Backend):
    """Labels are the frame's first channel modulo the classes, after ``seconds``; batches are recorded."""

    name = "stand-in"
    device = "cpu"
    origin = "stand-in.onnx"

    def __init__(self, seconds: float = 0.0, *, batch: int | None = 1, per_frame: bool = True) -> None:
        self.spec, self.contract, self.metadata = tiny_spec(SIZE), Contract(), {}
        self.static_size, self.batch = None, batch
        self.seconds, self.per_frame = seconds, per_frame
        self.batches: list[int] = []

    def infer_impl(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        self.batches.append(len(frames))
        time.sleep(self.seconds * (len(frames) if self.per_frame else 1))
        return {"labels": frames[..., 0] % len(self.spec.class_names)}

    def describe(self) -> dict[str, object]:
        return {"backend": self.name}


def stand_in(seconds: float = 0.0, **options: object) -> Segmenter:
    backend = StandInBackend(seconds, **options)  # type: ignore[arg-type]
    return Segmenter(backend, backend.origin)


def threads_now() -> set[threading.Thread]:
    return set(threading.enumerate())


def values(results: Sequence[object]) -> list[int]:
    """The value of each result's frame."""
    return [int(result.image[0, 0, 0]) for result in results]  # type: ignore[attr-defined]
