"""Finding the images in a stream of JPEG files that follow each other without a word between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_START = b"\xff\xd8\xff"
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""Within the coded data of an image: anything but an escaped byte, a fill byte and a restart."""
_FILL = re.compile(rb"\xff+")
_NO_HEADER = frozenset((0x00, *range(0xD0, 0xD8)))
"""What follows FF in coded data alone."""
_PADDING = b"\0 \t\r\n\v\f"
_BETWEEN = re.compile(rb"(?:--[!-~ ]*|[A-Za-z-]+:[!-~ ]*)?(?:\r?\n[A-Za-z-]+:[!-~ ]*)*")
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
    """Takes bytes as they come and gives the images in them. Holds little more than ``most`` bytes.

    The work is in proportion to the bytes, whatever they are: where a marker must stand and does not, an
    image is given up at once, and the search goes on behind all that it was followed through, but for the
    one segment whose length led astray.
    """

    def __init__(self, most: int = 64 << 20) -> None:
        self._most = most
        self._data = bytearray()
        self._at = 0
        """Where the image at the beginning of the data was looked at up to."""
        self._again = 0
        """Where the next image is looked for if this one is given up."""
        self._sought = 0
        """Where no image begins before, while there is none."""
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
            start = self._data.find(_START, self._sought)
            # The last two bytes may be the beginning of an image.
            self._sought = max(len(self._data) - 2, 0)
            if start < 0 and len(self._data) <= _LONGEST_BETWEEN:
                return None
            for broken in self._skip(start if start >= 0 else self._sought):
                return broken
            if start < 0:
                return None
            self._garbage = False
            self._at, self._again, self._size, self._coded = 2, 2, None, False
        return self._image()

    def _skip(self, count: int) -> Iterator[Broken]:
        """Throw bytes away; a stretch of garbage, however long, is told once."""
        expected = count <= _LONGEST_BETWEEN and _BETWEEN.fullmatch(self._data[:count].strip(_PADDING))
        self._drop(count)
        if not self._garbage and not expected:
            self._garbage = True
            yield Broken("bytes that are no image")

    def _drop(self, count: int) -> None:
        del self._data[:count]
        self._at = self._sought = 0

    def _image(self) -> Jpeg | Broken | None:
        """Go through the segments: an image may hold another one, its thumbnail, within a segment."""
        while self._at <= self._most:
            if not (self._find_marker() if self._coded else self._expect_marker()):
                return None
            first, marker = self._data[self._at : self._at + 2]
            if first != 0xFF or marker in _NO_HEADER:
                # Perhaps cut off within a segment, whose length then leads into the image that follows.
                return self._give_up("a damaged header", self._again)
            if marker == _EOI:
                return self._whole(self._at + 2)
            if marker == _SOI:
                return self._give_up("an image that ends in the middle", self._at)
            if len(self._data) < self._at + 4:
                return None
            length = int.from_bytes(self._data[self._at + 2 : self._at + 4], "big")
            if length < 2:
                return self._give_up("a damaged header", self._at)
            if len(self._data) < self._at + 2 + length:
                return None
            self._pass_segment(marker, length)
        return self._give_up(f"an image of more than {self._most} bytes", self._at)

    def _find_marker(self) -> bool:
        """Go on to the next marker in coded data; False if there is none yet."""
        found = _MARKER.search(self._data, self._at)
        self._at = max(len(self._data) - 1, self._at) if found is None else found.start()
        return found is not None

    def _expect_marker(self) -> bool:
        """Go over fill bytes; False if the two bytes of a marker are not there yet."""
        if fill := _FILL.match(self._data, self._at):
            self._at = fill.end() - 1
        return len(self._data) >= self._at + 2

    def _pass_segment(self, marker: int, length: int) -> None:
        if marker in _SIZES and length >= 7:
            height_width = self._data[self._at + 5 : self._at + 9]
            self._size = (int.from_bytes(height_width[:2], "big"), int.from_bytes(height_width[2:], "big"))
        self._coded = marker == _SOS
        begin = self._at + 2
        self._at = begin + length
        # What was followed up to a further marker is of this image; a thumbnail is of it in any case.
        self._again = self._at if self._coded or marker in _APPLICATIONS else begin

    def _whole(self, end: int) -> Jpeg | Broken:
        if self._size is None:
            return self._give_up("an image without a size", end)
        found = Jpeg(bytes(self._data[:end]), *self._size)
        self._drop(end)
        return found

    def _give_up(self, reason: str, end: int) -> Broken:
        self._drop(end)
        self._garbage = True  # what follows up to the next image belongs to this one
        return Broken(reason)
