"""Finding the images in a stream of JPEG files that follow each other without a word between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_START = b"\xff\xd8\xff"
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
"""Within the coded data of an image: anything but an escaped byte, a fill byte and a restart."""
_BETWEEN = re.compile(rb"[\0\s]*(--[!-~ ]*)?(\r?\n[A-Za-z-]+:[!-~ ]*)*[\0\s]*")
"""What may stand between images: padding, or the lines of a multipart stream, as web cameras send them."""
_LONGEST_BETWEEN = 1024
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_APPLICATIONS = range(0xE0, 0xF0)
_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of the header that holds the size."""


class Jpeg(NamedTuple):
    """A whole image, decoded or not."""

    data: bytes
    height: int
    width: int


class Broken(NamedTuple):
    """A stretch of bytes that is no whole image."""

    reason: str


class JpegStream:
    """Takes bytes as they come and gives the images in them. Holds at most ``most`` bytes."""

    def __init__(self, most: int = 64 << 20) -> None:
        self._most = most
        self._data = bytearray()
        self._at = 0
        """Where the image at the beginning of the data was looked at up to."""
        self._after_applications = 0
        """Where its last segment ends that may hold another image, its thumbnail."""
        self._size: tuple[int, int] | None = None
        self._coded = False
        self._garbage = False

    def feed(self, data: bytes) -> Iterator[Jpeg | Broken]:
        """The images that are whole with these bytes, and what was broken."""
        self._data += data
        while (found := self._next()) is not None:
            yield found

    def end(self) -> Iterator[Broken]:
        """What is left at the end of the input."""
        if self._at:
            yield Broken("the input ends within an image")
        elif self._data:
            yield from self._skip(len(self._data))

    def _next(self) -> Jpeg | Broken | None:
        if not self._at:
            start = self._data.find(_START)
            if start < 0 and len(self._data) <= _LONGEST_BETWEEN:
                return None
            # The last two bytes may be the beginning of an image.
            for broken in self._skip(start if start >= 0 else len(self._data) - 2):
                return broken
            if start < 0:
                return None
            self._garbage = False
            self._at, self._after_applications, self._size, self._coded = 2, 2, None, False
        return self._image()

    def _skip(self, count: int) -> Iterator[Broken]:
        """Throw bytes away; a stretch of garbage, however long, is told once."""
        skipped = bytes(self._data[:count])
        del self._data[:count]
        if not self._garbage and not (count <= _LONGEST_BETWEEN and _BETWEEN.fullmatch(skipped)):
            self._garbage = True
            yield Broken("bytes that are no image")

    def _image(self) -> Jpeg | Broken | None:
        """Go through the segments: an image may hold another one, its thumbnail, within a segment."""
        while True:
            if self._at > self._most:
                return self._give_up(f"an image of more than {self._most} bytes")
            match = _MARKER.search(self._data, self._at)
            if match is None:
                self._at = max(len(self._data) - 1, 2) if self._coded else self._at
                return self._give_up("no image") if len(self._data) > self._most else None
            if not self._coded and match.start() != self._at:
                # Perhaps cut off within a segment, whose length then leads into the image that follows.
                return self._give_up("a damaged header", self._after_applications)
            marker = match.group(1)[0]
            if marker == _EOI:
                return self._whole(match.end())
            if marker == _SOI:
                return self._give_up("an image that ends in the middle", match.start())
            if len(self._data) < match.end() + 2:
                self._at = match.start()
                return self._give_up("no image") if len(self._data) > self._most else None
            if not self._segment(marker, match.end()):
                return None

    def _segment(self, marker: int, at: int) -> bool:
        """Pass a segment whose length is at ``at``; False if not all of it is there."""
        length = int.from_bytes(self._data[at : at + 2], "big")
        if len(self._data) < at + length:
            self._at = at - 2
            return False
        if marker in _SIZES and length >= 7:
            self._size = (
                int.from_bytes(self._data[at + 3 : at + 5], "big"),
                int.from_bytes(self._data[at + 5 : at + 7], "big"),
            )
        self._coded = marker == _SOS
        self._at = at + length
        if marker in _APPLICATIONS:
            self._after_applications = self._at
        return True

    def _whole(self, end: int) -> Jpeg | Broken:
        if self._size is None:
            return self._give_up("an image without a size", end)
        found = Jpeg(bytes(self._data[:end]), *self._size)
        del self._data[:end]
        self._at = 0
        return found

    def _give_up(self, reason: str, end: int | None = None) -> Broken:
        # What was passed is left out: a thumbnail in it is no frame.
        del self._data[: self._at if end is None else end]
        self._at = 0
        self._garbage = True  # what follows up to the next image belongs to this one
        return Broken(reason)
