"""What the model sees, in a browser: pictures, health and metrics over HTTP."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2

from ..errors import InputError, MissingExtraError, OutputError
from ..streams.result import StreamResult
from .base import Sink
from .loopback import is_loopback, parse_address

log = logging.getLogger(__name__)

DEFAULT_ADDRESS = "127.0.0.1:8080"
_BUSY_S = 10.0
"""That a sink may be at one result before it counts as hung."""
_START_S = 10.0
_STOP_S = 5.0


@dataclass
class Newest:
    """The newest result of a source, and its picture once somebody asked for it."""

    result: StreamResult
    number: int
    jpeg: bytes | None = None


@dataclass
class Pictures:
    """The newest result of every source; drawn and encoded when asked for. Safe to use from any thread."""

    opacity: float
    legend: bool
    max_width: int
    quality: int
    latencies: dict[str, tuple[int, float]] = field(default_factory=dict)
    """(frames, seconds) by source."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dict[str, Newest] = {}

    def put(self, result: StreamResult) -> None:
        with self._lock:
            before = self._newest.get(result.source)
            self._newest[result.source] = Newest(result, before.number + 1 if before else 1)
            count, seconds = self.latencies.get(result.source, (0, 0.0))
            self.latencies[result.source] = (count + 1, seconds + result.latency_ms / 1e3)

    def names(self) -> list[str]:
        with self._lock:
            return list(self._newest)

    def number(self, source: str) -> int:
        """How many results of the source there were."""
        with self._lock:
            newest = self._newest.get(source)
            return newest.number if newest else 0

    def encode(self, source: str) -> tuple[int, bytes]:
        """(number, JPEG) of the newest result. One thread at a time. Raises KeyError without a result."""
        with self._lock:
            newest = self._newest[source]
        if newest.jpeg is None:
            image = newest.result.overlay(self.opacity, self.legend)
            height, width = image.shape[:2]
            if width > self.max_width:
                size = (self.max_width, max(1, round(height * self.max_width / width)))
                image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            written, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
            if not written:
                raise OutputError(f"no JPEG can be made of an image of shape {image.shape}")
            newest.jpeg = data.tobytes()
        return newest.number, newest.jpeg

    def clear(self) -> None:
        with self._lock:
            self._newest.clear()


class PreviewSink(Sink):
    """Pages on ``http://HOST:PORT/``, this machine alone unless ``address`` says otherwise.

    ``/`` pictures and states; ``/stream/NAME.mjpeg`` the overlays as they come (newest only, at most
    ``max_fps`` a second, drawn and encoded only while somebody watches); ``/frame/NAME.jpg`` the newest one;
    ``/health`` JSON, status 200 if every source is connected or resumed and every sink works, else 503
    (`PreviewSink.health`); ``/metrics`` Prometheus's text format. There is no password: whoever reaches the
    port sees the pictures.

    ``address``: HOST:PORT, or PORT; port 0 takes a free one, see `address`. ``health`` gives what is known of
    the run: ``{"sources": [SourceStatus.snapshot(), ...], "sinks": [SinkWorker.snapshot(), ...],
    "model": ...}``. ``max_clients`` watch at once, others get 503. Pictures are at most ``max_width`` wide.
    The newest result of each source is kept until the next one comes.

    Raises InputError for values that break these rules. `check` and `start` raise MissingExtraError without
    aiohttp or prometheus_client, OutputError if nothing can listen on the address.
    """

    name = "preview"

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        health: Callable[[], Mapping[str, Any]],
        opacity: float = 0.5,
        legend: bool = True,
        max_clients: int = 16,
        max_width: int = 1280,
        max_fps: float = 15.0,
        quality: int = 80,
    ) -> None:
        self._host, self._port = parse_address(address)
        if not (0 <= opacity <= 1 and max_clients >= 1 and max_width >= 16 and max_fps > 0):
            raise InputError(
                "a preview has an opacity from 0 to 1, 1 or more clients, pictures 16 or more pixels wide "
                f"and a rate above 0; got {opacity}, {max_clients}, {max_width} and {max_fps}"
            )
        if not 1 <= quality <= 100:
            raise InputError(f"the quality of a JPEG picture is from 1 to 100; got {quality}")
        self.max_clients, self.max_fps = max_clients, max_fps
        self.loopback = is_loopback(self._host)
        self.pictures = Pictures(opacity, legend, max_width, quality)
        self._health = health
        self._began_s = time.monotonic()
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Any = None
        self._problem: Exception | None = None
        self._closed = False

    @property
    def address(self) -> str:
        """Where to look, ``http://HOST:PORT/``, with the port that was taken."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/"

    def health(self) -> dict[str, Any]:
        """What ``/health`` says. ``status``: ``ok``; ``degraded`` if some of the sources are not there
        (neither connected nor resumed), or a sink has failed or been at one result for more than 10 s;
        ``down`` if no source is there.

        Sinks of the same name are numbered: callback, callback-2.
        """
        from .. import __version__

        known: dict[str, Any] = {
            "version": __version__,
            "uptime_s": round(time.monotonic() - self._began_s, 3),
        }
        known.update(self._health())
        known["sinks"] = _numbered(known.get("sinks", ()))
        there = [source["state"] in ("connected", "resumed") for source in known.get("sources", ())]
        work = [sink.get("state") != "failed" and sink.get("busy_s", 0) <= _BUSY_S for sink in known["sinks"]]
        status = "down" if not any(there) else "ok" if all(there) and all(work) else "degraded"
        return {"status": status, **known}

    def check(self) -> None:
        """Start listening, for nothing else shows that it can: health is there before the first frame."""
        self.start()

    def start(self) -> None:
        """Listen. Starting twice is fine."""
        if self._thread is not None or self._closed:
            return
        try:
            from .preview_server import PreviewServer
        except ImportError as error:
            raise MissingExtraError("aiohttp", "preview", "the preview") from error
        self._server = PreviewServer(self)
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cpsl-preview", daemon=True)
        self._thread.start()
        if not self._started.wait(_START_S):
            self._problem = OSError(f"it did not start within {_START_S:g} s")
        if self._problem is not None:
            problem, self._problem = self._problem, None
            self.close()
            self._closed = False
            raise OutputError(
                f"the preview cannot listen on {self._host}:{self._port}: {problem}. Choose another "
                "address with --preview HOST:PORT; port 0 takes a free one"
            ) from problem
        log.info("preview: %s", self.address)
        if not self.loopback:
            log.warning("whoever reaches %s sees the pictures: there is no password", self.address)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._started.is_set():
                log.exception("the preview ended")
            self._problem = error
        finally:
            self._loop = None
            self._started.set()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._server.listening(self._host, self._port) as port:
            self._port, self._loop = port, loop
            self._started.set()
            await self._server.stopped.wait()

    def write(self, result: StreamResult) -> None:
        self.start()
        self.pictures.put(result)
        self._tell(lambda: self._server.announce())

    def _tell(self, function: Callable[[], object]) -> None:
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(function)
            except RuntimeError:  # it has just ended
                return

    def close(self) -> None:
        self._closed = True
        if self._thread is not None:
            self._tell(lambda: self._server.stop())
            self._thread.join(_STOP_S)
            if self._thread.is_alive():
                log.error("the preview does not end; its thread is left behind")
            self._thread = None
        self.pictures.clear()

    def abort(self) -> None:
        self.close()


def _numbered(sinks: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copies with names that are unique: two sinks of one kind would be one to whoever reads the metrics."""
    numbered: list[dict[str, Any]] = []
    taken: set[str] = set()
    for sink in sinks:
        name, number = sink["name"], 1
        while name in taken:
            number += 1
            name = f"{sink['name']}-{number}"
        taken.add(name)
        numbered.append({**sink, "name": name})
    return numbered
