"""What every source gives, and the limits that every source keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from ..streams.inbox import Inbox
    from ..streams.status import SourceStatus


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One image of a source."""

    source: str
    """Name of the source, as in `Feed.name`."""
    index: int
    """Place in the source, from 0, dropped and unreadable ones counted."""
    name: str
    """Unique in the source and usable as a file name."""
    image: np.ndarray | None = field(repr=False)
    """uint8 (H, W, 3) BGR, or None if it could not be read."""
    captured_s: float
    """`time.monotonic` when the frame was there to be read: the frame's age counts from here."""
    time_s: float | None = None
    """Seconds since the start of the source: the time stamp of a video, the arrival of a live frame. None for
    images."""
    problem: str = ""
    """Why there is no image."""
    suffix: str = ""
    """Of an image file, with the dot."""


@dataclass(frozen=True, kw_only=True)
class InputLimits:
    """What is accepted as a frame, by default to 8K video. Raises InputError if a value breaks its rule."""

    max_pixels: int = 7680 * 4320
    """Height times width. Larger ones are refused from their header, before they are decoded."""
    max_side: int = 1 << 15
    """Pixels."""
    min_side: int = 16
    """Pixels. Smaller ones show nothing to segment."""

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_side", "min_side"):
            if getattr(self, name) < 1:
                raise InputError(f"an input limit is 1 or more; got {name} = {getattr(self, name)}")

    def broken_by(self, height: int, width: int) -> str:
        """What a frame of this size is and which limit it breaks, to follow "it has"; empty if none."""
        if min(height, width) < self.min_side:
            return f"{width}x{height} pixels, with a side below {self.min_side} (limit min_side)"
        if max(height, width) > self.max_side:
            return f"{width}x{height} pixels, with a side above {self.max_side} (limit max_side)"
        if height * width > self.max_pixels:
            return f"{width}x{height} pixels, which is more than {self.max_pixels} (limit max_pixels)"
        return ""

    def remedy(self, height: int, width: int) -> str:
        """What to do about a frame of this size that breaks a limit: a sentence without its full stop."""
        if min(height, width) >= self.min_side and max(height, width) <= self.max_side:
            return "Scale it, or raise the limit (of cpsl-run: --max-pixels)"
        return "Scale it, or change the limit (in Python: limits=InputLimits(...))"


FILE_LIMITS = InputLimits(max_pixels=1 << 27)
"""Of images and video files, if nothing else is said: telephones take photos of 108 megapixels."""


class Feed(ABC):
    """A source at work: it brings the frames of one source into an inbox, from a thread of its own."""

    name: str
    """For outputs and logs: usable as a file name, without credentials."""
    live: bool
    """Whether frames come when they come: the default policy is then ``latest``, else ``lossless``."""
    is_video: bool
    """Whether frames follow each other in time; False for images."""
    count: int | None
    """Number of frames, if known."""
    fps: float | None
    """Frames per second that the source announces; None for images and where nothing is announced."""
    size: tuple[int, int] | None = None
    """(height, width) of the frames in pixels, where it is known before the first of them comes."""
    status: SourceStatus

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each frame that a file could not give; of a live source only their number is kept."""
        return ()

    @abstractmethod
    def open(self) -> None:
        """Make the first connection. Returns when frames can come.

        Raises DataError or UnavailableError if the source is not there or not usable: a bad configuration
        never starts a stream.
        """

    @abstractmethod
    def start(self, inbox: Inbox) -> None:
        """Begin to put frames into the inbox, from a thread; close the inbox at the end of the source."""

    @abstractmethod
    def close(self) -> None:
        """Stop and free everything: threads joined, files closed, processes ended. Closing twice is fine."""
