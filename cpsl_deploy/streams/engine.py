"""Frames of several sources through one model: decoding, pre-processing, inference, post-processing overlap.

    feeds (a thread each) -> inboxes -> prepare -> infer -> finish, in the thread that iterates

With lossless sources alone, preparing has a thread of its own, one step ahead, and several inferences may be
under way (`side_by_side`). With a live source nothing runs ahead: a frame is picked only when the model is
free and there is room for its result, so that it is the newest there is and never grows old in a queue.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from ..errors import CpslError, DataError, InputError
from ..segmenter import FrameBuffers, Segmenter
from ..sources.base import Feed, Frame
from .in_order import InOrder
from .inbox import Inbox
from .options import StreamOptions
from .result import StreamResult
from .room import Room
from .view import Answer, Shown, View

log = logging.getLogger(__name__)

_DEPTH = 2
"""Results that may wait for the caller, where no source is live."""


_WAITING = 4
"""Frames of a lossless source that may wait for the model, more where a batch has more."""
_MOST_PROBLEMS = 1000


class _Job(NamedTuple):
    frame: Frame
    shown: Shown
    buffers: FrameBuffers
    """That ``shown`` lies in."""


class Engine:
    """Runs a model over feeds with names of their own. Iterate `results`; `close` ends threads and feeds.

    ``beside``: the view's model opened again, for inferences at the same time, where no frame is dropped.
    """

    def __init__(
        self, feeds: Sequence[Feed], view: View, options: StreamOptions, *, beside: Sequence[Segmenter] = ()
    ) -> None:
        self.feeds = {feed.name: feed for feed in feeds}
        self._view, self._options = view, options
        self._changed = threading.Condition()
        self._inboxes: list[Inbox] = []
        self.lossless = True
        """Whether no frame of any source is dropped; known when the sources are open."""
        self.problems: list[str] = []
        """One line for each frame of a file that could not be looked at."""
        self._room = Room(_DEPTH)
        self._segmenters = (view.segmenter, *beside)
        self._ahead: queue.Queue[tuple[int, list[_Job]] | None] = queue.Queue(len(self._segmenters))
        self._in_order = InOrder(self._hand_on, ahead=len(self._segmenters))
        self._inferring = 0
        """Threads that infer."""
        self._done: queue.SimpleQueue[tuple[Frame, Answer] | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._next = 0
        self._batch = 1
        self._buffers: list[FrameBuffers] = []
        """Those that no frame on its way to the model is in: one is taken for each, and comes back after."""
        self._opening = False
        self._started_s: float | None = None
        self._error: BaseException | None = None
        self.ended_by = ""
        """Why it ended, once it has."""

    def _inbox(self, feed: Feed) -> Inbox:
        return Inbox(
            self._options.policy or ("latest" if feed.live else "lossless"),
            depth=max(_WAITING, self._options.batch or 0, self._view.segmenter.backend.batch or 0),
            every=self._options.every,
            changed=self._changed,
            on_drop=lambda: feed.status.count(dropped=1),
            on_skip=lambda: feed.status.count(skipped=1),
        )

    def open(self) -> None:
        """Make the first connections. Raises what `Feed.open` raises; `close` is called all the same."""
        self._opening = True
        for feed in self.feeds.values():
            if self._stop.is_set():
                break
            try:
                feed.open()
            except CpslError:
                if not self._stop.is_set():  # else it ended because it was closed
                    raise
        self._opening = False
        # What an address turns out to be, a camera or a file, decides.
        self._inboxes = [self._inbox(feed) for feed in self.feeds.values()]
        self.lossless = all(inbox.policy == "lossless" for inbox in self._inboxes)
        self._room = Room(_DEPTH if self.lossless else 1)

    def start(self) -> None:
        """Warm the model up, and begin."""
        if self._stop.is_set():
            self._done.put(None)
            return
        self._batch = self._view.batch(
            self._options.batch, sources=len(self.feeds), warm_up=not self.lossless
        )
        self._started_s = time.monotonic()
        for feed, inbox in zip(self.feeds.values(), self._inboxes, strict=True):
            feed.start(inbox)
        if not self.lossless:
            self._begin("cpsl-infer", self._infer_newest, lambda: self._done.put(None))
            return
        self._inferring = len(self._segmenters)
        self._begin("cpsl-prepare", self._prepare_ahead, lambda: self._put_ahead(None))
        for number, segmenter in enumerate(self._segmenters):
            work = partial(self._infer_prepared, segmenter)
            self._begin(f"cpsl-infer-{number + 1}" if number else "cpsl-infer", work, self._one_fewer_infers)

    def results(self) -> Iterator[StreamResult]:
        """Results, in the order of each source. Raises what ended the stream before its time, after them."""
        delivered = 0
        while (done := self._next_done()) is not None:
            frame, answer = done
            self._room.give()
            try:
                prediction = self._view.finish(frame, answer)
            except DataError as error:
                self._skip(frame, error)
                continue
            result = StreamResult(frame=frame, prediction=prediction)
            result.stamp()
            self.feeds[frame.source].status.deliver(result.age_ms)
            yield result
            delivered += 1
            if delivered == self._options.max_frames:
                return self.stop(f"{delivered} frames, as many as were asked for (max_frames)")
        self._raise_error()
        self.ended_by = self.ended_by or "every source has ended"

    def _next_done(self) -> tuple[Frame, Answer] | None:
        limit = self._options.max_seconds
        if limit is None or self._started_s is None:
            return self._done.get()
        # Asked first: where results wait already, there would always be one more.
        left_s = self._started_s + limit - time.monotonic()
        with contextlib.suppress(queue.Empty):
            if left_s > 0:
                return self._done.get(timeout=left_s)
        self.stop(f"{limit:g} s are over (max_seconds)")
        return None

    def _raise_error(self) -> None:
        of_sources = [] if self._stop.is_set() else [inbox.error for inbox in self._inboxes]
        for error in (self._error, *of_sources):
            if error is not None:
                raise error

    def stop(self, why: str = "stop() was called") -> None:
        """Take no more frames; `results` ends with what is done. May be called from any thread."""
        self.ended_by = self.ended_by or why
        self._stop.set()
        self._room.close()
        self._in_order.close()
        for inbox in self._inboxes:
            inbox.close()
        if self._opening:  # a camera that does not answer is not waited for
            for feed in self.feeds.values():
                feed.close()

    def close(self) -> None:
        """Stop, and end all threads and feeds. Closing twice is fine."""
        self.stop("closed")
        for feed in self.feeds.values():
            feed.close()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _begin(self, name: str, work: Callable[[], None], at_end: Callable[[], object]) -> None:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                self._error = self._error or error
                self.stop(f"{type(error).__name__}: {error}")
            finally:
                at_end()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _infer_newest(self) -> None:
        while self._room.take():
            jobs = self._pick_jobs()
            if jobs is None:
                return
            for place, done in enumerate(self._infer(jobs, self._view.segmenter)):
                if place and not self._room.take():
                    return
                self._done.put(done)

    def _prepare_ahead(self) -> None:
        number = 0
        while (jobs := self._pick_jobs()) is not None and self._put_ahead((number, jobs)):
            number += 1

    def _infer_prepared(self, segmenter: Segmenter) -> None:
        while (prepared := self._get_ahead()) is not None:
            number, jobs = prepared
            if not self._in_order.put(number, list(self._infer(jobs, segmenter))):
                return
        self._put_ahead(None)  # for the next one that infers

    def _one_fewer_infers(self) -> None:
        with self._changed:
            self._inferring -= 1
            if not self._inferring:
                self._done.put(None)

    def _infer(self, jobs: list[_Job], segmenter: Segmenter) -> Iterator[tuple[Frame, Answer]]:
        """Infer, those of one size together."""
        for size in dict.fromkeys(job.shown.size for job in jobs):
            same = [job for job in jobs if job.shown.size == size]
            answers = self._view.infer([job.shown for job in same], segmenter)
            self._buffers += [job.buffers for job in same]
            yield from ((job.frame, answer) for job, answer in zip(same, answers, strict=True))

    def _hand_on(self, answers: list[tuple[Frame, Answer]]) -> bool:
        for done in answers:
            if not self._room.take():
                return False
            self._done.put(done)
        return True

    def _put_ahead(self, prepared: tuple[int, list[_Job]] | None) -> bool:
        while not self._stop.is_set():
            try:
                self._ahead.put(prepared, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _get_ahead(self) -> tuple[int, list[_Job]] | None:
        while not self._stop.is_set():
            try:
                return self._ahead.get(timeout=0.1)
            except queue.Empty:
                continue
        return None

    def _pick_jobs(self) -> list[_Job] | None:
        """The next frames, prepared, up to a batch; None at the end."""
        while (frames := self._pick()) is not None:
            jobs = [job for frame in frames if (job := self._prepared(frame)) is not None]
            if jobs:
                return jobs
        return None

    def _prepared(self, frame: Frame) -> _Job | None:
        assert frame.image is not None
        buffers = self._buffers.pop() if self._buffers else FrameBuffers()
        try:
            return _Job(frame, self._view.prepare(frame.image, buffers), buffers)
        except InputError as error:
            self._buffers.append(buffers)
            self._skip(frame, error)
            return None

    def _skip(self, frame: Frame, error: InputError) -> None:
        """Count a frame that cannot be looked at, and tell of it: of a camera's the first alone."""
        feed = self.feeds[frame.source]
        if feed.live:
            level = logging.DEBUG if feed.status.counters.corrupt else logging.WARNING
            log.log(
                level,
                "%s: frame %d was skipped: %s (more are only counted)",
                frame.source,
                frame.index,
                error,
            )
        elif len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(f"{frame.name} was skipped: {error}")
        feed.status.count(corrupt=1)

    def _pick(self) -> list[Frame] | None:
        """Wait for frames and take up to a batch, every source in its turn; None at the end."""
        while not self._stop.is_set():
            with self._changed:
                self._changed.wait_for(self._is_something_to_do)
            frames: list[Frame] = []
            idle = 0
            while len(frames) < self._batch and idle < len(self._inboxes):
                frame = self._inboxes[self._next].take()
                self._next = (self._next + 1) % len(self._inboxes)
                idle = 0 if frame is not None else idle + 1
                if frame is not None:
                    frames.append(frame)
            if frames:
                return frames
            if all(inbox.exhausted for inbox in self._inboxes):
                return None
        return None

    def _is_something_to_do(self) -> bool:
        return any(inbox.ready for inbox in self._inboxes) or all(inbox.exhausted for inbox in self._inboxes)
