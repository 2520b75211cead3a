"""The reader process: decodes one live source for the process that started it.

`ReaderProcess` starts it and calls `main` with three open descriptors. A decoder that hangs is ended by
killing this process, and one that crashes takes nothing else with it.

CONTROL, lines to here: the configuration as one JSON object (not as arguments, which everyone can read: it
holds passwords); then ``go lossless`` or ``go latest`` once, and ``free SLOT`` for every frame done with.
When it closes, whoever started this is gone or wants no more, and the process ends at once.

MESSAGES, JSON lines from here:

    {"say": "opened", "what": TEXT, "fps": NUMBER | null, "finite": BOOL}
    {"say": "frame", "slot": N, "height": H, "width": W, "captured_s": T, "time_s": T | null,
     "dropped": N, "corrupt": N, "reason": TEXT}     what was dropped and corrupt since the last message
    {"say": "trouble", "dropped": N, "corrupt": N, "reason": TEXT}
    {"say": "ended"}                                 a finite source, as it should
    {"say": "lost", "reason": TEXT, "kind": "lost" | "unavailable" | "refused"}

MEMORY holds frames, uint8 BGR, in slots: see `shared_frames`.
"""

from __future__ import annotations

import heapq
import json
import os
import select
import signal
import threading
import time
from typing import Any

from .base import InputLimits
from .decoded import Damaged, Decoded, Decoding, LeftOut, Opened, SourceLost
from .shared_frames import SharedFrames

_LOOK_S = 2.0
"""How often to look whether the parent is still there: another process may hold the pipe open."""
_TELL_EVERY_S = 0.5
"""Trouble without frames is told so often, together."""
_LONGEST_REASON = 500


class _Link:
    """The control pipe and the messages."""

    def __init__(self, control: int, messages: int) -> None:
        self._control, self._messages = control, messages
        self._parent = os.getppid()
        self._lines = b""
        self._changed = threading.Condition()
        self._free: list[int] = []
        self._policy = ""
        self._sending = threading.Lock()
        self._trouble: dict[str, Any] = {"dropped": 0, "corrupt": 0, "reason": ""}
        self._told_s = 0.0

    def configuration(self) -> dict[str, Any]:
        """The first line. Starts to listen."""
        configuration: dict[str, Any] = json.loads(self._line())
        self._free = list(range(configuration["slots"]))
        threading.Thread(target=self._listen, name="control", daemon=True).start()
        return configuration

    def _line(self) -> bytes:
        while b"\n" not in self._lines:
            if select.select([self._control], [], [], _LOOK_S)[0]:
                received = os.read(self._control, 65536)
                if not received:
                    os._exit(0)
                self._lines += received
            elif os.getppid() != self._parent:
                os._exit(0)
            else:
                self._flush_trouble()
        line, _, self._lines = self._lines.partition(b"\n")
        return line

    def _listen(self) -> None:
        while True:
            word, _, value = self._line().decode().partition(" ")
            with self._changed:
                if word == "go":
                    self._policy = value
                else:
                    heapq.heappush(self._free, int(value))
                self._changed.notify_all()

    def wait_for_go(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._policy != "")

    @property
    def policy(self) -> str:
        """Empty before the start."""
        return self._policy

    def slot(self) -> int | None:
        """A slot to write to, the lowest: memory is used no wider than need be. None if there is none now."""
        with self._changed:
            if self._policy == "lossless":
                self._changed.wait_for(lambda: self._free)
            return heapq.heappop(self._free) if self._free else None

    def send(self, say: str, **values: Any) -> None:
        with self._sending:
            self._write(say, values)

    def send_frame(self, **values: Any) -> None:
        """Together with what was dropped and corrupt before it."""
        with self._sending:
            self._write("frame", values | self._take_trouble())

    def trouble(self, *, dropped: int = 0, corrupt: int = 0, reason: str = "") -> None:
        """Told with the next frame, or soon."""
        with self._sending:
            self._trouble["dropped"] += dropped
            self._trouble["corrupt"] += corrupt
            self._trouble["reason"] = reason[:_LONGEST_REASON] or self._trouble["reason"]
        if time.monotonic() - self._told_s >= _TELL_EVERY_S:
            self._flush_trouble()

    def _flush_trouble(self) -> None:
        with self._sending:
            if self._trouble["dropped"] or self._trouble["corrupt"]:
                self._write("trouble", self._take_trouble())

    def _take_trouble(self) -> dict[str, Any]:
        taken, self._trouble = self._trouble, {"dropped": 0, "corrupt": 0, "reason": ""}
        self._told_s = time.monotonic()
        return taken

    def _write(self, say: str, values: dict[str, Any]) -> None:
        data = json.dumps({"say": say, **values}).encode() + b"\n"
        while data:
            data = data[os.write(self._messages, data) :]

    def finish(self) -> None:
        self._flush_trouble()


def _decoding(configuration: dict[str, Any], link: _Link) -> Decoding:
    kind, text = configuration["kind"], configuration["text"]
    options = configuration["options"]
    limits = InputLimits(**configuration["limits"])
    # Each imports what it needs and no more: a reader is up again sooner.
    if kind == "network":
        from .network import decode_network

        return decode_network(
            text,
            transport=options["rtsp_transport"],
            open_timeout_s=configuration["open_timeout_s"],
            limits=limits,
            after_s=configuration["after_s"],
            max_late_s=configuration["max_late_s"],
            may_skip=lambda: link.policy != "lossless",
        )
    if kind == "stdin":
        from .standard_input import decode_standard_input

        size = options["raw_size"]
        return decode_standard_input(
            raw_format=options["raw_format"],
            raw_size=tuple(size) if size else None,
            fps=options["raw_fps"],
            limits=limits,
        )
    from .camera import decode_camera, decode_gstreamer

    if kind == "gstreamer":
        return decode_gstreamer(text, limits=limits)
    return decode_camera(text, size=options["camera_size"], fps=options["camera_fps"], limits=limits)


def _pass_on(decoding: Decoding, frames: SharedFrames, link: _Link) -> None:
    for item in decoding:
        if isinstance(item, Opened):
            link.send("opened", what=item.what, fps=item.fps, finite=item.finite)
            if item.finite:
                link.wait_for_go()
        elif not link.policy:
            continue  # a live stream goes on, and nobody wants what came before the start
        elif isinstance(item, Damaged):
            link.trouble(corrupt=item.count, reason=item.reason)
        elif isinstance(item, LeftOut):
            link.trouble(dropped=item.count)
        else:
            _pass_on_frame(item, frames, link)


def _pass_on_frame(frame: Decoded, frames: SharedFrames, link: _Link) -> None:
    slot = link.slot()
    if slot is None:
        link.trouble(dropped=1)
        return
    frame.write(frames.image(slot, frame.height, frame.width))
    link.send_frame(
        slot=slot,
        height=frame.height,
        width=frame.width,
        captured_s=frame.captured_s,
        time_s=frame.time_s,
    )


def main(control: int, messages: int, memory: int) -> None:
    # Ctrl-C and a service manager's signal reach this process too; the parent decides when it ends.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    link = _Link(control, messages)
    configuration = link.configuration()
    frames = SharedFrames(memory, configuration["slots"], configuration["slot_bytes"])
    try:
        try:
            _pass_on(_decoding(configuration, link), frames, link)
            link.finish()
            link.send("ended")
        except SourceLost as lost:
            link.finish()
            link.send("lost", reason=lost.reason[:_LONGEST_REASON], kind=lost.kind)
        except BrokenPipeError:
            pass
        except Exception as error:  # whatever a decoder does, the parent is told
            reason = f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
            kind = "unavailable" if isinstance(error, ImportError) else "lost"
            link.send("lost", reason=reason, kind=kind)
    finally:
        os._exit(0)  # decoders that hang in their own end are no reason to wait
