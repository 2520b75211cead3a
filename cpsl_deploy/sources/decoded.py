"""What a decoder in the reader process gives: it opens, then frames and damage follow, until it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The first thing that every decoder gives."""

    what: str
    """For the log: "h264, 1920x1080"."""
    fps: float | None = None
    """Announced by the source."""
    finite: bool = False
    """Frames wait until they are read, and the end is the end: a file, not a live stream."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A frame that can be written into memory of its size."""

    height: int
    width: int
    captured_s: float
    """`time.monotonic`."""
    time_s: float | None
    """The stream's time stamp, seconds since its start; None where there is none to be believed."""
    write: Callable[[np.ndarray], None]
    """Write BGR into a uint8 (H, W, 3) array. To be called before the next frame is asked for, or never."""


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """A frame, or a stretch of garbage, that gives no image."""

    reason: str
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Frames that were not decoded because decoding is too slow for a live stream."""

    count: int = 1


Decoding = Iterator[Opened | Decoded | Damaged | LeftOut]
"""Ends when a source ends as it should; raises `SourceLost` otherwise."""


class SourceLost(Exception):
    """The source cannot be opened, or broke off. ``unavailable``: this machine lacks what it takes.
    ``refused``: it is there, and breaks a limit."""

    def __init__(self, reason: str, kind: Literal["lost", "unavailable", "refused"] = "lost") -> None:
        super().__init__(reason)
        self.reason, self.kind = reason, kind
