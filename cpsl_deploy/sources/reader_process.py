"""The reader process as seen from this side: one connection to one live source."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .base import InputLimits
from .live_options import LiveOptions
from .reference import SourceReference
from .shared_frames import BufferPool, SharedFrames, new_memory, slot_bytes_for

log = logging.getLogger("cpsl_deploy.sources.live")

SLOTS = 8
"""Frames between the two processes: those waiting for the model, those being copied, one being written. Only
slots that are used take memory."""
_MOST_STDERR = 4096
_MOST_LINE = 1 << 16
_DIES_WITHIN_S = 5.0


class ReaderProcess:
    """Starts, hears and ends a reader process. Frames outlive it: their memory goes with the last of them."""

    def __init__(
        self,
        reference: SourceReference,
        *,
        options: LiveOptions,
        limits: InputLimits,
        open_timeout_s: float,
        max_late_s: float = 0.0,
        after_s: float | None = None,
        stdin: int | None = None,
    ) -> None:
        """Raises OSError if the process cannot be started."""
        self._lock = threading.Lock()
        self._held = 0
        self._stopped = False
        self._lines = b""
        self._stderr = b""
        self._unread: list[dict[str, Any]] = []
        self.hung_up = False
        """Whether it says nothing any more."""
        slot_bytes = slot_bytes_for(limits.max_pixels)
        configuration = {
            "kind": reference.kind,
            "text": reference.text,
            "options": asdict(options),
            "limits": asdict(limits),
            "open_timeout_s": open_timeout_s,
            "max_late_s": max_late_s,
            "after_s": after_s,
            "slots": SLOTS,
            "slot_bytes": slot_bytes,
        }
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            memory = new_memory(SLOTS, slot_bytes)
            theirs.callback(os.close, memory)
            self._frames = SharedFrames(memory, SLOTS, slot_bytes)
            ours.callback(self._frames.close)
            their_control, self._control = os.pipe()
            theirs.callback(os.close, their_control)
            ours.callback(os.close, self._control)
            self._messages, their_messages = os.pipe()
            theirs.callback(os.close, their_messages)
            ours.callback(os.close, self._messages)
            self._process = _start((their_control, their_messages, memory), stdin)
            ours.pop_all()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._messages, selectors.EVENT_READ)
        self._selector.register(self._error_pipe, selectors.EVENT_READ)
        self._send(json.dumps(configuration))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def _error_pipe(self) -> int:
        assert self._process.stderr is not None
        return self._process.stderr.fileno()

    def go(self, policy: str) -> None:
        """Frames are wanted from now on."""
        self._send(f"go {policy}")

    def messages(self, timeout_s: float) -> list[dict[str, Any]]:
        """What the process says, when it says something, or nothing after this time."""
        received, self._unread = self._unread, []
        if received:
            return received
        for key, _ in self._selector.select(max(timeout_s, 0)):
            data = os.read(key.fd, 1 << 16)
            if key.fd == self._messages:
                received = self._parse(data)
            elif data:
                self._stderr = (self._stderr + data)[-_MOST_STDERR:]
            if not data:
                self._selector.unregister(key.fd)
                self.hung_up = self.hung_up or key.fd == self._messages
        return received

    def _parse(self, data: bytes) -> list[dict[str, Any]]:
        *lines, self._lines = (self._lines + data).split(b"\n")
        try:
            if len(self._lines) > _MOST_LINE:
                raise ValueError("a line without end")
            messages = [json.loads(line) for line in lines]
            for message in messages:
                if message["say"] == "frame":
                    self._frames.image(message["slot"], message["height"], message["width"])
        except (ValueError, TypeError, KeyError):  # a decoder that wrote over its own memory
            self.hung_up = True
            return []
        with self._lock:
            self._held += sum(message["say"] == "frame" for message in messages)
        return messages

    def first_message(self, timeout_s: float) -> dict[str, Any] | None:
        """What the process says first, or None if it dies or says nothing in time."""
        until_s = time.monotonic() + timeout_s
        while not self.hung_up and (left := until_s - time.monotonic()) > 0:
            if received := self.messages(left):
                self._unread = received[1:]
                return received[0]
        return None

    @property
    def waits_for_us(self) -> bool:
        """Whether all slots are held on this side: no frame can come, through no fault of the source."""
        return self._held >= SLOTS

    def copy(self, slot: int, height: int, width: int, pool: BufferPool) -> np.ndarray:
        """The frame in a slot, in a buffer of its own; the slot is free afterwards."""
        try:
            image = pool.take(height, width)
            np.copyto(image, self._frames.image(slot, height, width))
            return image
        finally:
            self.free(slot)

    def free(self, slot: int) -> None:
        """The frame in a slot is done with."""
        with self._lock:
            self._held -= 1
            if self._stopped:
                if self._held <= 0:
                    self._frames.close()
                return
            self._write(f"free {slot}\n".encode())

    def _send(self, line: str) -> None:
        with self._lock:
            if not self._stopped:
                self._write(line.encode() + b"\n")

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # it is dead, which its messages will tell
            while data:
                data = data[os.write(self._control, data) :]

    def stop(self) -> None:
        """End the process, whatever it does. From any thread but those that read messages; twice is fine."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def close(self) -> str:
        """End the process and free what is no longer needed. How it had ended by itself, in words."""
        with self._lock:
            if self._stopped:
                return ""
            self._stopped = True
        code = self._wait(0.5) if self.hung_up else self._process.poll()
        self._process.kill()
        if self._wait(_DIES_WITHIN_S) is None:  # it hangs in the kernel, with a device that is broken
            log.warning("the reader process %d cannot be killed and is left alone", self.pid)
        self._read_last_words()
        self._selector.close()
        assert self._process.stderr is not None
        self._process.stderr.close()
        os.close(self._messages)
        with self._lock:
            os.close(self._control)
            if self._held <= 0:
                self._frames.close()
        return self._how_it_ended(code)

    def _wait(self, timeout_s: float) -> int | None:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def _read_last_words(self) -> None:
        os.set_blocking(self._error_pipe, False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._error_pipe, 1 << 16):
                self._stderr = (self._stderr + data)[-_MOST_STDERR:]

    def _how_it_ended(self, code: int | None) -> str:
        lines = [line.strip() for line in self._stderr.decode(errors="replace").splitlines() if line.strip()]
        last = f": {lines[-1][:300]}" if lines else ""
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return f"the reader process was ended by {signal.Signals(-code).name}{last}"
        return f"the reader process ended{last}"


def _start(descriptors: tuple[int, int, int], stdin: int | None) -> subprocess.Popen[bytes]:
    if os.name != "posix" or not sys.executable:
        raise OSError("live sources need a POSIX system and the Python interpreter's own program")
    return subprocess.Popen(
        [sys.executable, "-c", _BEGIN, *map(str, descriptors), *_search_path()],
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        bufsize=0,
        pass_fds=descriptors,
        # An empty or relative entry would make the start of the interpreter itself look into the folder.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(_asked_for()), "OPENCV_LOG_LEVEL": "ERROR"},
    )


_BEGIN = (
    "import sys; sys.path[:] = sys.argv[4:]; "
    "from cpsl_deploy.sources.reader import main; main(*map(int, sys.argv[1:4]))"
)
"""`-c` and `-m` look into the current folder first, where anything may lie that would then be told passwords;
PYTHONSAFEPATH keeps them from it, but only from Python 3.11 on. ``sys`` is in the interpreter itself."""


def _search_path() -> list[str]:
    """Where this process finds modules, without the current folder: an interpreter that was started with `-m`
    or `-c` has it in its path. It stays if it was asked for, or the packages are installed in it."""
    package = str(Path(__file__).resolve().parents[2])
    wanted = {os.path.realpath(path) for path in (package, *_asked_for(), *sysconfig.get_paths().values())}
    paths = [entry for entry in sys.path if isinstance(entry, str) and entry]
    with contextlib.suppress(OSError):  # it is deleted, and nothing is found there
        here = os.path.realpath(os.getcwd())
        paths = [path for path in paths if os.path.realpath(path) != here or here in wanted]
        paths = [os.path.abspath(path) for path in paths]
    return paths if package in paths else [*paths, package]


def _asked_for() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(path)]
