"""A small web server that does to its clients what cameras do: stream, pause, change size, vanish, babble."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from cpsl_deploy.sources.base import Frame
from cpsl_deploy.sources.live import LiveFeed
from cpsl_deploy.streams.inbox import Inbox

DEADLINE_S = 20.0


def until(condition: Callable[[], object], what: str = "it", deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition, or fail."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {deadline_s:g} s"
        time.sleep(0.005)


def picture(number: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """An image whose number can be read from it, even after it was compressed: `number_of`."""
    return np.full((*size, 3), 4 + 8 * (number % 31), np.uint8)


def number_of(image: np.ndarray) -> int:
    """The number of a `picture`, modulo 31."""
    return round((float(image.mean()) - 4) / 8)


def jpeg(number: int, size: tuple[int, int] = (48, 64)) -> bytes:
    return cv2.imencode(".jpg", picture(number, size))[1].tobytes()


class CameraServer:
    """Serves ``http://127.0.0.1:PORT/PATH`` as MJPEG in a multipart stream, or as ``answer`` says.

    ``kill`` closes it and all its connections; ``start`` opens it again at the same port.
    """

    def __init__(self, size: tuple[int, int] = (48, 64), fps: float = 50.0) -> None:
        self.size, self.fps = size, fps
        self.running = threading.Event()
        """Cleared, connections stay open and nothing comes."""
        self.running.set()
        self.sent = 0
        self.requests: list[bytes] = []
        self.answer: Callable[[socket.socket, bytes], None] = self._stream
        self.part: Callable[[int], bytes] = lambda number: jpeg(number, self.size)
        self.port = 0
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []
        self._listener: socket.socket | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/drive"

    def start(self) -> None:
        self.stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._run(self._accept, self._listener)

    def kill(self) -> None:
        self.stopped.set()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._threads, self._connections = [], []

    def __enter__(self) -> CameraServer:
        self.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.kill()

    def _run(self, function: Callable[[socket.socket], None], connection: socket.socket) -> None:
        thread = threading.Thread(target=function, args=(connection,))
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._run(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                if not (received := connection.recv(4096)):
                    return
                request += received
            self.requests.append(request)
            self.answer(connection, request)
            connection.shutdown(socket.SHUT_RDWR)

    def _stream(self, connection: socket.socket, request: bytes) -> None:
        connection.sendall(
            b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
        )
        while not self.stopped.is_set():
            if self.running.wait(0.05):
                image = self.part(self.sent)
                self.sent += 1
                connection.sendall(
                    b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n"
                    % (len(image), image)
                )
                self.stopped.wait(1 / self.fps)

    def babble(self, connection: socket.socket, request: bytes) -> None:
        """Noise without end, said to be video."""
        connection.sendall(
            b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
        )
        while not self.stopped.wait(0.01):
            connection.sendall(os.urandom(4096))

    def silence(self, connection: socket.socket, request: bytes) -> None:
        self.stopped.wait()

    def refuse(self, connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.0 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    def file(self, data: bytes, break_at: int | None = None) -> None:
        """Serve a file, with ranges; ``break_at``: the first connection breaks off after so many bytes."""
        breaks = [break_at] if break_at is not None else []

        def answer(connection: socket.socket, request: bytes) -> None:
            first = 0
            for line in request.split(b"\r\n"):
                if line.lower().startswith(b"range: bytes="):
                    first = int(line.split(b"=")[1].split(b"-")[0])
            part = data[first:]
            connection.sendall(
                b"HTTP/1.1 206 Partial Content\r\nContent-Type: video/mp4\r\nAccept-Ranges: bytes\r\n"
                b"Content-Length: %d\r\nContent-Range: bytes %d-%d/%d\r\nConnection: close\r\n\r\n"
                % (len(part), first, len(data) - 1, len(data))
            )
            connection.sendall(part[: breaks.pop()] if breaks else part)

        self.answer = answer


@contextlib.contextmanager
def running(feed: LiveFeed, policy: str = "latest", **inbox: int) -> Iterator[Inbox]:
    """A feed, opened and started; closed at the end, its inbox too."""
    waiting = Inbox(policy, **inbox)  # type: ignore[arg-type]
    try:
        feed.open()
        feed.start(waiting)
        yield waiting
    finally:
        waiting.close()
        feed.close()


def next_frame(inbox: Inbox, deadline_s: float = DEADLINE_S) -> Frame:
    """The next frame of an inbox, however long it takes within the deadline."""
    until(lambda: inbox.ready or inbox.exhausted, "a frame", deadline_s)
    frame = inbox.take()
    assert frame is not None, f"the source ended: {inbox.error}"
    return frame


def all_frames(inbox: Inbox, deadline_s: float = DEADLINE_S) -> list[Frame]:
    """Every frame until the source ends."""
    frames = []
    while True:
        until(lambda: inbox.ready or inbox.exhausted, "the end", deadline_s)
        if inbox.exhausted:
            return frames
        frame = inbox.take()
        assert frame is not None
        frames.append(frame)
