"""The HTTP side of the preview. Imports aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from .loopback import is_loopback
from .metrics import RunCollector, make_registry, metrics_text
from .preview_page import CONTENT_POLICY, page

if TYPE_CHECKING:
    from .preview import PreviewSink

log = logging.getLogger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LOOK_S = 2.0
"""How often a client that waits for a frame is looked after: it may have gone."""
_STUCK_S = 20.0
"""A client that took nothing for so long is sent away, so that others can watch."""
_SEND_BUFFER = 256 << 10
"""Bytes of a client's pictures that the system holds; more would be pictures of the past."""
_SHUTDOWN_S = 0.5


class PreviewServer:
    """Everything that runs in the preview's event loop."""

    def __init__(self, preview: PreviewSink) -> None:
        self._preview, self._pictures = preview, preview.pictures
        self._registry = make_registry(RunCollector(preview.health, lambda: dict(self._pictures.latencies)))
        self._waiting: set[asyncio.Event] = set()

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[int]:
        """Listen while in the block; gives the port. Raises OSError if that cannot be."""
        self.stopped = asyncio.Event()
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="cpsl-preview-encoder")
        app = web.Application(middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/health", self._health),
                web.get("/metrics", self._metrics),
                web.get("/frame/{name:[^/]+}.jpg", self._frame),
                web.get("/stream/{name:[^/]+}.mjpeg", self._stream),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
        try:
            await runner.setup()
            site = web.TCPSite(runner, host, port)
            await site.start()
            yield runner.addresses[0][1]
        finally:
            self.stop()
            open_ones = [one.transport for one in runner.server.connections] if runner.server else []
            await runner.cleanup()
            for transport in open_ones:
                if transport is not None:
                    transport.abort()  # closing waits for clients that take what they were sent
            await asyncio.sleep(0)
            self._encoder.shutdown()

    def announce(self) -> None:
        """A new result is there."""
        for event in self._waiting:
            event.set()

    def stop(self) -> None:
        self.stopped.set()
        self.announce()

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        # A page from elsewhere could give its own name this machine's address, and read what is meant for
        # this machine's users alone: such a request names that page's host.
        if self._preview.loopback and not _names_this_machine(request.host):
            raise web.HTTPForbidden(text="ask for this page by localhost or 127.0.0.1\n")
        response = await handler(request)
        if not response.prepared:
            response.headers["X-Content-Type-Options"] = "nosniff"
            response.headers["Cache-Control"] = "no-store"
        return response

    def _names(self) -> list[str]:
        known = [source["name"] for source in self._preview.health().get("sources", ())]
        return list(dict.fromkeys([*known, *self._pictures.names()]))

    async def _page(self, request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": CONTENT_POLICY}
        return web.Response(text=page(self._names()), content_type="text/html", headers=headers)

    async def _health(self, request: web.Request) -> web.Response:
        health = self._preview.health()
        return web.json_response(health, status=200 if health["status"] == "ok" else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        text, content_type = metrics_text(self._registry)
        return web.Response(body=text, headers={"Content-Type": content_type})

    def _source(self, request: web.Request) -> str:
        name = request.match_info["name"]
        if name not in self._names():
            raise web.HTTPNotFound(text="there is no such source\n")
        return name

    async def _frame(self, request: web.Request) -> web.Response:
        name = self._source(request)
        if not self._pictures.number(name):
            raise web.HTTPServiceUnavailable(text="there is no frame yet\n", headers={"Retry-After": "1"})
        _, jpeg = await self._encoded(name)
        return web.Response(body=jpeg, content_type="image/jpeg")

    async def _encoded(self, name: str) -> tuple[int, bytes]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._encoder, self._pictures.encode, name)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        name = self._source(request)
        if len(self._waiting) >= self._preview.max_clients:
            raise web.HTTPServiceUnavailable(
                text=f"{self._preview.max_clients} clients watch already\n", headers={"Retry-After": "5"}
            )
        event = asyncio.Event()
        self._waiting.add(event)
        response = web.StreamResponse(
            headers={
                "Content-Type": "multipart/x-mixed-replace; boundary=frame",
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
            }
        )
        response.force_close()
        try:
            _limit_buffer(request)
            await response.prepare(request)
            await self._send(name, request, response, event)
        except (ConnectionError, asyncio.TimeoutError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._waiting.discard(event)
        return response

    async def _send(
        self, name: str, request: web.Request, response: web.StreamResponse, event: asyncio.Event
    ) -> None:
        sent = 0
        while not self.stopped.is_set():
            event.clear()
            if self._pictures.number(name) == sent:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(event.wait(), _LOOK_S)
                if request.transport is None or request.transport.is_closing():
                    return
                continue
            began = time.monotonic()
            sent, jpeg = await self._encoded(name)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
            await self._unless_stopped(response.write(head + jpeg + b"\r\n"))
            pause = 1 / self._preview.max_fps - (time.monotonic() - began)
            if pause > 0:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.stopped.wait(), pause)

    async def _unless_stopped(self, writing: Awaitable[None]) -> None:
        """Await it, for as long as a client may take and the preview lives."""
        task = asyncio.ensure_future(writing)
        stop = asyncio.ensure_future(self.stopped.wait())
        try:
            await asyncio.wait((task, stop), timeout=_STUCK_S, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise asyncio.TimeoutError
            task.result()
        finally:
            for waiting in (task, stop):
                waiting.cancel()


def _limit_buffer(request: web.Request) -> None:
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)


def _names_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return is_loopback(name or "")
