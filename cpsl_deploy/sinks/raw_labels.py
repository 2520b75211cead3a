"""Raw label maps into a pipe."""

from __future__ import annotations

import logging
import os
import select
import stat
import sys
import threading
from typing import BinaryIO

import numpy as np

from ..errors import OutputError
from ..files import as_output_error
from ..streams.result import StreamResult
from .base import Sink

log = logging.getLogger(__name__)


class RawLabelsSink(Sink):
    """The labels of each frame, height * width bytes row by row, into ``stream`` (standard output).

    There is no header and nothing between the frames: the size is in the log, once and again whenever it
    changes, with the number of the byte where it does. A reader of

        labels = np.frombuffer(pipe.read(height * width), np.uint8).reshape(height, width)

    has one frame. Each frame is flushed. When the reader has gone, `write` raises BrokenPipeError; a reader
    that takes nothing holds the sink back until `interrupt`. Use it with one source.
    """

    name = "raw"
    restarts = False

    def __init__(self, stream: BinaryIO | None = None) -> None:
        self._stream = sys.stdout.buffer if stream is None else stream
        self._size: tuple[int, ...] | None = None
        self._bytes = 0
        self._lock = threading.Lock()
        self._wake: tuple[int, int] | None = None
        self._given_up = False

    def write(self, result: StreamResult) -> None:
        labels = np.ascontiguousarray(result.labels)
        if labels.shape != self._size:
            self._size = labels.shape
            log.info(
                "%s: raw labels are %dx%d (width x height), one byte each, from byte %d on",
                result.source,
                labels.shape[1],
                labels.shape[0],
                self._bytes,
            )
        try:
            self._write_all(labels.reshape(-1).data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise as_output_error(error, "standard output") from error
        self._bytes += labels.size

    def _write_all(self, data: memoryview) -> None:
        try:
            handle = self._stream.fileno()
        except OSError:  # not a file of the operating system: io.BytesIO
            handle = -1
        self._stream.flush()
        if handle < 0 or stat.S_ISREG(os.fstat(handle).st_mode):
            self._stream.write(data)
            self._stream.flush()
            return
        ready = select.poll()
        ready.register(handle, select.POLLOUT)
        ready.register(self._waker(), select.POLLIN)
        while data:
            if any(which != handle for which, _ in ready.poll()):
                raise OutputError(
                    "nobody reads the raw labels: the last frame was not taken. Read them, or end the reader"
                )
            # A pipe that is ready takes this many bytes at once; more could wait where nothing can wake it.
            data = data[os.write(handle, data[: select.PIPE_BUF]) :]

    def _waker(self) -> int:
        with self._lock:
            if self._wake is None:
                self._wake = os.pipe()
                if self._given_up:
                    os.write(self._wake[1], b"\0")
            return self._wake[0]

    def interrupt(self) -> None:
        with self._lock:
            self._given_up = True
            if self._wake is not None:
                os.write(self._wake[1], b"\0")

    def close(self) -> None:
        """The stream itself stays open."""
        with self._lock:
            wake, self._wake = self._wake, None
        for handle in wake or ():
            os.close(handle)

    def abort(self) -> None:
        self.close()
