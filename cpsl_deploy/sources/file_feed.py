"""Files at work: the frames of images or a video, brought into an inbox."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from ..errors import InputError
from ..streams.inbox import Inbox, Pending
from ..streams.status import SourceStatus
from .base import Feed, Frame, InputLimits
from .files import open_source
from .names import safe_name, shown
from .video import VideoSource

log = logging.getLogger(__name__)

MOST_PROBLEMS = 1000
"""Problems kept in words; beyond them only their number is."""
_LATE_S = 1.0
"""A video further behind its own time stamps cannot be decoded as fast as it plays: it plays slower."""


class FileFeed(Feed):
    """Frames of an image, a folder of images, a glob or a video file.

    In the policy ``lossless`` the inbox gets every frame. In ``latest`` a video is played as if it were live:
    a frame comes when its time stamp is due, and counts as captured then; one that is late comes at once, and
    none comes twice. Images are then given as fast as they are taken, or at ``fps`` frames per second.

    What cannot be read does not enter the inbox: it is counted as ``corrupt``, and told of in ``problems``.

    ``limits``: by default `FILE_LIMITS`. ``name``: by default that of the file or folder.

    Raises DataError, as `open_source` does, if there is nothing to read; InputError if ``fps`` is 0 or less.
    """

    live = False

    def __init__(
        self,
        reference: str | os.PathLike[str],
        *,
        limits: InputLimits | None = None,
        fps: float | None = None,
        name: str | None = None,
    ) -> None:
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise InputError(f"frames per second are above 0; got {fps}")
        self._source = source = open_source(reference, limits=limits)
        self.name = self._source.name = safe_name(name) if name else self._source.name
        self.count, self.fps = self._source.count, self._source.fps
        self.is_video = self.fps is not None
        self.size = source.info.size if isinstance(source, VideoSource) else None
        self.status = SourceStatus(self.name, size=self.size)
        self.problem_count = 0
        """Of frames that could not be read, those not in ``problems`` too."""
        self._problems: list[str] = []
        self._images_fps = fps
        self._stop = threading.Event()
        self._inbox: Inbox | None = None
        self._thread: threading.Thread | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each of the first `MOST_PROBLEMS` frames that could not be read; then their number."""
        more = self.problem_count - len(self._problems)
        return (*self._problems, f"and {more} more like these") if more else tuple(self._problems)

    def open(self) -> None:
        """Nothing is left to do: that there is something to read was found when the feed was made."""
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
        frames = self._source.frames()
        put = self._put_of(inbox)
        try:
            for frame in frames:
                if frame.image is None:
                    self._note(frame.problem)
                    if self._stop.is_set():
                        break
                    continue
                self.status.size = (frame.image.shape[0], frame.image.shape[1])
                self.status.count(received=1)
                if not put(frame):
                    break
        except BaseException as error:
            self.status.become("failed", shown(f"{type(error).__name__}: {error}"))
            inbox.end(error)
        else:
            self.status.become("ended")
            inbox.end()
        finally:
            frames.close()

    def _note(self, problem: str) -> None:
        log.info("skipped: %s", problem)
        self.status.count(corrupt=1)
        self.problem_count += 1
        if len(self._problems) < MOST_PROBLEMS:
            self._problems.append(problem)

    def _put_of(self, inbox: Inbox) -> Callable[[Frame], bool]:
        """What puts a frame into the inbox when it is time to; it gives False if no more are wanted."""
        if inbox.policy == "lossless":
            return lambda frame: inbox.put(_pending(frame))
        if self.is_video or self._images_fps is not None:
            return _Player(inbox, self._stop, self._images_fps, self.name).put
        return _HandToHand(inbox).put


def _pending(frame: Frame, gone: Callable[[], object] = lambda: None) -> Pending:
    def take() -> Frame:
        gone()
        return frame

    def drop() -> None:
        gone()

    return Pending(take=take, drop=drop)


class _Player:
    """Puts frames when they are due: by their time stamps, or at so many per second."""

    def __init__(self, inbox: Inbox, stop: threading.Event, fps: float | None, name: str) -> None:
        self._inbox, self._stop, self._fps, self._name = inbox, stop, fps, name
        self._begun_s: float | None = None
        self._given = 0
        self._slow = False

    def put(self, frame: Frame) -> bool:
        since_s = (frame.time_s or 0.0) if self._fps is None else self._given / self._fps
        self._given += 1
        if self._begun_s is None:
            self._begun_s = time.monotonic() - since_s
        late_s = time.monotonic() - self._begun_s - since_s
        if late_s > _LATE_S:
            self._begun_s += late_s
            if not self._slow:
                log.warning("%s cannot be decoded as fast as it plays: it is played slower", self._name)
            self._slow = True
        due_s = self._begun_s + since_s
        if self._stop.wait(max(0.0, due_s - time.monotonic())):
            return False
        return self._inbox.put(_pending(replace(frame, captured_s=due_s)))


class _HandToHand:
    """Puts a frame when the one before was taken."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._gone = threading.Event()
        self._gone.set()

    def put(self, frame: Frame) -> bool:
        self._gone.wait()
        self._gone.clear()
        return self._inbox.put(_pending(replace(frame, captured_s=time.monotonic()), self._gone.set))
