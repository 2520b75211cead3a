"""The faults that `faults.py` and `soak.py` inject into cameras, and the tests' rig of them."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from camera_clip import Clip, write_clip
from camera_watch import DAMAGED, Held, Judge, Watch, held, reader_processes
from rtsp_rig import NO_RTSP, CameraServer, Relay, rtsp_python
from tiny_onnx import write_tiny_onnx

__all__ = [
    "DAMAGED",
    "FAULTS",
    "NO_RTSP",
    "RTSP",
    "CameraServer",
    "Clip",
    "Fault",
    "Held",
    "Judge",
    "Site",
    "Watch",
    "Way",
    "held",
    "reader_processes",
    "rtsp_python",
    "site",
    "write_clip",
    "write_tiny_onnx",
]

Way = Literal["rtsp-tcp", "rtsp-udp", "http"]
"""How pictures come: H.264 by RTSP, interleaved or in packets of their own, or MJPEG by HTTP."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A camera and the network before it."""

    way: Way
    camera: CameraServer
    relay: Relay
    clips: tuple[Clip, Clip]
    """What the camera sends, and what it sends after a change of its settings."""

    @property
    def url(self) -> str:
        return self.camera.address(self.relay.port)

    @property
    def other_clip(self) -> Clip:
        return self.clips[self.camera.clip is self.clips[0]]


@contextmanager
def site(way: Way, clips: tuple[Clip, Clip]) -> Iterator[Site]:
    with CameraServer(clips[0], http=way == "http") as camera, Relay(camera.port) as relay:
        yield Site(way=way, camera=camera, relay=relay, clips=clips)


@dataclass(frozen=True, kw_only=True)
class Fault:
    name: str
    ways: tuple[Way, ...]
    begin: Callable[[Site], None]
    hold_s: float = 0.0
    end: Callable[[Site], None] = lambda site: None


def _set_relay(**values: object) -> Callable[[Site], None]:
    def set_values(site: Site) -> None:
        for name, value in values.items():
            setattr(site.relay, name, value)

    return set_values


def _kill_decoder(site: Site) -> None:
    if readers := reader_processes():
        os.kill(random.choice(readers), signal.SIGKILL)


def _refuse(site: Site) -> None:
    site.relay.refusing = True
    site.relay.cut()


def _slow_down(site: Site) -> None:
    site.relay.bytes_per_s = 0.5 * site.camera.clip.bytes_per_s


RTSP: tuple[Way, ...] = ("rtsp-tcp", "rtsp-udp")
TCP: tuple[Way, ...] = ("rtsp-tcp", "http")
ALL: tuple[Way, ...] = (*RTSP, "http")

FAULTS: tuple[Fault, ...] = (
    Fault(
        name="camera killed, back after 3 s",
        ways=ALL,
        begin=lambda site: site.camera.kill(),
        hold_s=3,
        end=lambda site: site.camera.start(),
    ),
    Fault(
        name="camera killed, back after 3 s with another frame size",
        ways=ALL,
        begin=lambda site: site.camera.kill(),
        hold_s=3,
        end=lambda site: site.camera.restart(site.other_clip),
    ),
    Fault(
        name="frame size changes within the stream",
        ways=ALL,
        begin=lambda site: site.camera.switch(site.other_clip),
    ),
    Fault(
        name="camera stops for 1 s, connection open",
        ways=ALL,
        begin=lambda site: site.camera.pause(),
        hold_s=1,
        end=lambda site: site.camera.resume(),
    ),
    Fault(
        name="camera stops for 8 s, connection open",
        ways=ALL,
        begin=lambda site: site.camera.pause(),
        hold_s=8,
        end=lambda site: site.camera.resume(),
    ),
    Fault(name="connection reset", ways=TCP, begin=lambda site: site.relay.cut()),
    Fault(
        name="connections reset and refused for 5 s",
        ways=TCP,
        begin=_refuse,
        hold_s=5,
        end=_set_relay(refusing=False),
    ),
    Fault(
        name="network stands still for 8 s",
        ways=TCP,
        begin=_set_relay(stalled=True),
        hold_s=8,
        end=_set_relay(stalled=False),
    ),
    Fault(
        name="network at half the bit rate for 15 s",
        ways=TCP,
        begin=_slow_down,
        hold_s=15,
        end=_set_relay(bytes_per_s=None),
    ),
    Fault(
        name="1 % of packets lost for 8 s",
        ways=("rtsp-udp",),
        begin=lambda site: site.camera.lose(0.01),
        hold_s=8,
        end=lambda site: site.camera.lose(0.0),
    ),
    Fault(name="decoding process killed", ways=ALL, begin=_kill_decoder),
)
