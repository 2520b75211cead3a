"""A running stream: results to iterate, sinks that are fed beside, and what is known of both."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import fields
from types import TracebackType
from typing import Any

from ..errors import InputError
from ..segmenter import Segmenter, load
from ..sinks.base import Sink
from ..sinks.worker import OnFailure, SinkWorker
from ..sources.base import Feed
from ..sources.open import Reference, as_references, open_feeds
from .engine import Engine
from .options import StreamOptions
from .region import Region
from .result import StreamResult
from .side_by_side import side_by_side
from .view import View

log = logging.getLogger(__name__)

_PATIENCE_S = 30.0
"""That the sinks of a live or interrupted stream have to finish their files."""


class Stream:
    """Segmented frames of one or several sources. Iterate it, in a ``with`` block or not.

        with cpsl_deploy.stream("rtsp://camera/road", "model.onnx") as results:
            for result in results:
                result.labels, result.overlay(), result.age_ms

    Nothing is opened before the first result is asked for, or `start` is called. Leaving the ``with`` block
    or the loop, or `close`, ends every thread, process and file; `stop` may be called from another thread and
    makes the loop end. A stream is iterated once, by one thread, whichever.
    """

    def __init__(
        self,
        feeds: Sequence[Feed],
        segmenter: Segmenter,
        options: StreamOptions | None = None,
        *,
        sinks: Sequence[Sink] = (),
        beside: Sequence[Segmenter] = (),
        owns_segmenter: bool = False,
    ) -> None:
        """``beside``: see `Engine`. ``owns_segmenter``: close all of them at the end."""
        options = options or StreamOptions()
        still = [feed.name for feed in feeds if not feed.is_video]
        if options.smooth is not None and still:
            raise InputError(
                f"smoothing is over time, and {still[0]} is images. Leave it out, or give a video"
            )
        for feed in feeds:
            if isinstance(options.roi, Region) and feed.size is not None:
                options.roi.box(*feed.size, options.limits)
        takes = segmenter.backend.batch
        if options.batch is not None and takes not in (None, options.batch):
            raise InputError(
                f"{segmenter.origin} takes {takes} frames at a time, and batch is {options.batch}. Leave "
                "it out, or export the model with a free batch: cpsl-export RUN --batch free"
            )
        view = View(
            segmenter,
            region=options.roi,  # type: ignore[arg-type]
            tiling=options.tile,  # type: ignore[arg-type]
            smoothing=options.smooth,  # type: ignore[arg-type]
            limits=options.limits,
        )
        self._engine = Engine(feeds, view, options, beside=beside)
        self._segmenter, self._owned = segmenter, [segmenter, *beside] if owns_segmenter else []
        self._sinks = list(sinks)
        self._workers: list[SinkWorker] = []
        self._created_s = time.monotonic()
        self._started = self._entered = self._iterated = self._closed = False
        self._inference_ms = 0.0
        self._lock = threading.Lock()

    @property
    def lossless(self) -> bool:
        """Whether no frame is dropped."""
        return self._engine.lossless

    @property
    def ends(self) -> bool:
        """Whether every source ends by itself."""
        return not any(feed.live for feed in self._engine.feeds.values())

    @property
    def count(self) -> int | None:
        """Frames of all sources together, if known."""
        counts = [feed.count for feed in self._engine.feeds.values()]
        return None if None in counts else sum(filter(None, counts))

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each frame that a file could not give."""
        of_feeds = (problem for feed in self._engine.feeds.values() for problem in feed.problems)
        return (*of_feeds, *self._engine.problems)

    @property
    def unreadable(self) -> int:
        """Frames that could not be decoded or were refused."""
        return sum(feed.status.counters.corrupt for feed in self._engine.feeds.values())

    def start(self) -> None:
        """Connect the sources, check the sinks and begin. Starting twice is fine.

        Raises DataError or UnavailableError if a source or a sink cannot work: nothing is left open then.
        """
        if self._started:
            return
        if self._closed:
            raise InputError("this stream is closed; open it again")
        self._started = True
        try:
            self._engine.open()
            # A lost result spoils what is to be complete; a camera's night is worth more than one full disk.
            on_failure: OnFailure = "raise" if self.lossless else "retry"
            depth = 4 if self.lossless else 1
            for sink in self._sinks:
                self._workers.append(SinkWorker(sink, depth=depth, on_failure=on_failure))
                sink.check()
            self._engine.start()
        except BaseException as error:
            self._shut(error)
            raise

    def __iter__(self) -> Iterator[StreamResult]:
        error: BaseException | None = None
        if self._closed:
            return
        if self._iterated:
            raise InputError("a stream is iterated once; open another one for more results")
        self._iterated = True
        try:
            self.start()
            for result in self._engine.results():
                self._inference_ms = result.prediction.timings_ms["inference"]
                for worker in self._workers:
                    worker.put(result)
                yield result
        except BaseException as raised:
            error = raised
            raise
        finally:
            if not self._entered or _is_failure(error):
                self._shut(error)

    def stop(self) -> None:
        """Make the loop end after what is under way. May be called from any thread."""
        self._engine.stop()

    def close(self) -> None:
        """Finish the sinks and end everything. Closing twice is fine.

        Raises OutputError if a sink of a lossless stream cannot finish.
        """
        self._shut(None)

    def _shut(self, error: BaseException | None) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._started:
            log.info("the stream ends: %s", self._why(error))
        # Half of a file's results could be taken for all of them; what a camera saw until now stays true.
        finish = not (_is_failure(error) and self.lossless)
        # Whoever waits for the end of a service does not wait for a pipe that nobody reads.
        timeout_s = None if self.lossless and error is None else _PATIENCE_S
        with contextlib.ExitStack() as stack:
            for segmenter in self._owned:
                stack.callback(segmenter.close)
            for worker in reversed(self._workers):
                stack.callback(worker.close, finish=finish, timeout_s=timeout_s)
            self._engine.close()

    def _why(self, error: BaseException | None) -> str:
        if error is None or isinstance(error, GeneratorExit):
            return self._engine.ended_by or "its results are not asked for any more"
        if isinstance(error, KeyboardInterrupt):
            return f"interrupted ({error})" if str(error) else "interrupted"
        return str(error) or type(error).__name__

    def health(self) -> dict[str, Any]:
        """States, counters and ages of sources and sinks, ready for JSON. May be called from any thread."""
        return {
            "model": self._segmenter.origin,
            "uptime_s": round(time.monotonic() - self._created_s, 3),
            "inference_ms": round(self._inference_ms, 3),
            "sources": [
                {**feed.status.snapshot(), "live": feed.live} for feed in self._engine.feeds.values()
            ],
            "sinks": [{**worker.snapshot(), **worker.sink.snapshot()} for worker in self._workers],
        }

    def __del__(self) -> None:
        if getattr(self, "_started", False) and not self._closed:
            warnings.warn(
                "a stream was started and never closed: use it in a with block", ResourceWarning, stacklevel=2
            )
            self.close()

    def __enter__(self) -> Stream:
        self._entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._shut(error)


def _is_failure(error: BaseException | None) -> bool:
    """Whether it is more than somebody's wish to stop here."""
    return error is not None and not isinstance(error, KeyboardInterrupt | GeneratorExit)


def stream(
    source: Reference | Sequence[Reference],
    model: str | os.PathLike[str] | Segmenter,
    *,
    sinks: Sequence[Sink] = (),
    backend: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    **options: Any,
) -> Stream:
    """Segment one or several sources, frame by frame.

        with cpsl_deploy.stream("rtsp://camera/road", "model.onnx") as results:
            for result in results:
                result.labels, result.overlay(), result.age_ms

    ``source``: an image, a folder of images, a glob, a video file, a camera (number or ``/dev/video0``), a
    network stream (``rtsp://``, ``http://`` and others), a GStreamer pipeline, ``-`` for frames on standard
    input; or a list of them, which share the model in turns. ``model``, ``backend``, ``device``, ``threads``,
    ``precision``: as of `cpsl_deploy.load`; an opened Segmenter stays open. ``sinks``: take every result,
    each in a thread of its own (`cpsl_deploy.sinks`). ``options``: fields of `StreamOptions`.

    Files give every frame; cameras and network streams the newest there is (``policy``). Connections that are
    lost are made again (``reconnect``).

    Raises InputError for values that break a rule, DataError for a file that is not there, and what `load`
    raises. Sources are connected when the first result is asked for.
    """
    known = {field.name for field in fields(StreamOptions)}
    if unknown := sorted(set(options) - known):
        raise InputError(f"a stream has the options {', '.join(sorted(known))}; got {', '.join(unknown)}")
    chosen = StreamOptions(**options)
    feeds = open_feeds(as_references(source), chosen)
    if isinstance(model, Segmenter):
        return Stream(feeds, model, chosen, sinks=sinks)
    opened = load(model, backend=backend, device=device, threads=threads, precision=precision)
    first, *beside = side_by_side(opened, feeds, chosen, threads=threads)
    try:
        return Stream(feeds, first, chosen, sinks=sinks, beside=beside, owns_segmenter=True)
    except BaseException:
        for segmenter in (first, *beside):
            segmenter.close()
        raise
