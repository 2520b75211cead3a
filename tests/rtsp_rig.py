"""Cameras to test with: real servers in processes of their own, and a relay that spoils their network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from camera_clip import Clip

SENT = 2000
"""Pictures that a camera remembers to have sent."""
SERVER = Path(__file__).with_name("camera_server.py")
_PROBE = """
import gi
gi.require_version("GstRtspServer", "1.0"), gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp, GstRtspServer
Gst.init(None)
assert all(map(Gst.ElementFactory.find, ("rtph264pay", "appsrc", "udpsink", "rtpbin")))
"""


@cache
def rtsp_python() -> str | None:
    """The interpreter that has GStreamer's rtsp-server, this one or the system's; None if none has."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            found = subprocess.run([python, "-c", _PROBE], capture_output=True, timeout=60)
        except OSError:
            continue
        if found.returncode == 0:
            return python
    return None


NO_RTSP = (
    "needs GStreamer's rtsp-server: apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi"
    " gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
)


def free_port() -> int:
    """Below the range that outgoing connections use, so that it is still free after a server was killed."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as taken:
            try:
                taken.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_until(true: Callable[[], object], seconds: float, what: str) -> None:
    """Raises AssertionError if ``true`` is not so within the time."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.01)


class Sent(NamedTuple):
    place: int
    """In the clip."""
    size: tuple[int, int]
    """(height, width)."""
    at_s: float
    """`time.monotonic` when the server sent it."""


class CameraServer:
    """A camera as a process: killed, paused and restarted as one. A context manager that starts it."""

    def __init__(
        self,
        clip: Clip,
        *,
        http: bool = False,
        user: str = "",
        password: str = "",
        drop: float = 0.0,
        port: int | None = None,
    ) -> None:
        self.clip, self.http, self.user, self.password, self.drop = clip, http, user, password, drop
        self._clips = [clip]
        self.port = port or free_port()
        self.software = ""
        """What serves, once it does."""
        self.sent: deque[Sent] = deque(maxlen=SENT)
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._ready = threading.Event()
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by close()

    def clip_of_size(self, size: tuple[int, int]) -> Clip | None:
        """The newest that was sent with this (height, width)."""
        fitting = (clip for clip in reversed(self._clips) if (clip.height, clip.width) == size)
        return next(fitting, None)

    def _send_now(self, clip: Clip) -> None:
        self.clip = clip
        if clip in self._clips:
            self._clips.remove(clip)
        self._clips.append(clip)

    def address(self, port: int | None = None, *, user: str = "", password: str = "") -> str:
        """The URL, at the port of a relay if one is given."""
        scheme = "http" if self.http else "rtsp"
        who = f"{user}:{password}@" if user else ""
        return f"{scheme}://{who}127.0.0.1:{port or self.port}/drive"

    def start(self) -> None:
        python = sys.executable if self.http else rtsp_python()
        assert python, NO_RTSP
        command = [python, str(SERVER), str(self.clip.path), str(self.port), "--drop", str(self.drop)]
        command += ["--http"] if self.http else []
        given, giving = os.pipe()
        if self.user:
            command += ["--user", self.user, "--password-fd", str(given)]
        self._ready.clear()
        # A session of its own: Ctrl-C is for the program under test alone.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            pass_fds=[given],
            start_new_session=True,
        )
        os.write(giving, self.password.encode())
        os.close(giving)
        os.close(given)
        self._listener = threading.Thread(target=self._listen, args=(self._process,))
        self._listener.start()
        if not self._ready.wait(20):
            self.kill()
            self._complaints.seek(0)
            raise AssertionError(f"the camera did not start: {self._complaints.read()}")

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                said = json.loads(line)
            except ValueError:  # cut by a kill
                continue
            if said["event"] == "ready":
                self.software = said["software"]
                self._ready.set()
            elif said["event"] == "frame":
                self.sent.append(Sent(said["place"], tuple(said["size"]), said["at"]))

    def kill(self) -> None:
        """SIGKILL: connections end without a word."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        assert (
            self._listener is not None
            and self._process.stdin is not None
            and self._process.stdout is not None
        )
        self._listener.join()
        self._process.stdout.close()
        with contextlib.suppress(OSError):  # of what was not read any more
            self._process.stdin.close()
        self._process = None

    def restart(self, clip: Clip | None = None) -> None:
        """Begin again at the same address, with another clip if one is given."""
        self.kill()
        self._send_now(clip or self.clip)
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing comes."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def lose(self, share: float) -> None:
        """Lose this share of the RTP packets from now on."""
        self._tell(drop=share)

    def switch(self, clip: Clip) -> None:
        """Send another clip from now on, within the same stream."""
        self._send_now(clip)
        self._tell(clip=str(clip.path))

    def _tell(self, **what: object) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        self.kill()
        self._complaints.close()

    def __enter__(self) -> CameraServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Relay:
    """A TCP port that passes everything on to another, as badly as it is told. A context manager.

    It holds little itself: what it does not pass on backs up to the camera.
    """

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.bytes_per_s: float | None = None
        """From the camera; None for no limit."""
        self.stalled = False
        """Nothing passes; connections stay."""
        self.refusing = False
        """New connections are ended at once."""
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 13)
        )
        self._loop.run_forever()
        server.close()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.run_until_complete(server.wait_closed())
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._open.add(writer)
        writer.transport.set_write_buffer_limits(1 << 13)
        up: asyncio.StreamWriter | None = None
        try:
            if self.refusing:
                return
            narrow = socket.socket()
            narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            narrow.setblocking(False)
            await self._loop.sock_connect(narrow, ("127.0.0.1", self._target))
            up_reader, up = await asyncio.open_connection(sock=narrow, limit=1 << 13)
            up.transport.set_write_buffer_limits(1 << 13)
            self._open.add(up)
            down = self._pump(up_reader, writer, limited=True)
            both = [asyncio.ensure_future(down), asyncio.ensure_future(self._pump(reader, up, limited=False))]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in both:
                    one.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # asyncio complains of a connection's task that ends cancelled
        finally:
            for end in (writer, up):
                if end is not None:
                    self._open.discard(end)
                    end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limited: bool) -> None:
        try:
            while data := await reader.read(2048):
                while self.stalled:
                    await asyncio.sleep(0.02)
                writer.write(data)
                await writer.drain()
                if limited and self.bytes_per_s:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
        except OSError:
            pass

    def cut(self) -> None:
        """Reset every connection."""

        def reset() -> None:
            for end in list(self._open):
                handle = end.get_extra_info("socket")
                if handle is not None:
                    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.transport.abort()

        self._loop.call_soon_threadsafe(reset)

    def __enter__(self) -> Relay:
        self._thread.start()
        wait_until(self._loop.is_running, 5, "the relay listens")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
