"""What the raw values of a mask file mean: ids or colours, each naming a class, or ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..classes import IGNORE, ClassSpace
from . import images

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class LabelCoding:
    """Raw mask values and the class each names.

    Raw values are ids (0..65535), or colours as red * 65536 + green * 256 + blue where ``colours`` is true.
    """

    classes: Mapping[int, str]
    """Raw value -> class name. Several values may name one class."""
    ignored: frozenset[int] = field(default_factory=frozenset)
    """Raw values that are known and belong to no class."""
    ignore_rest: bool = False
    """Whether values in neither list are known to be unimportant, instead of a sign of a wrong map."""
    colours: bool = False
    channel: int | None = None
    """Channel of the file that holds the ids, 0 for red; None for masks of one channel."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", dict(self.classes))

    def read(self, path: Path) -> np.ndarray:
        """Raw values of a mask file, (H, W) uint8, uint16 or (colours) uint32. Raises DataError."""
        if self.colours:
            return images.read_colour_mask(path)
        return images.read_mask(path, channel=self.channel)

    def table(self, space: ClassSpace) -> np.ndarray:
        """Label in ``space`` of every raw value, uint8 (2^16,) or (2^24,); IGNORE where it has no class."""
        table = np.full(1 << (24 if self.colours else 16), IGNORE, np.uint8)
        for value, name in self.classes.items():
            if name in space.names:
                table[value] = space.index(name)
        return table

    def known(self, value: int) -> bool:
        """Whether a raw value is in the map or knowingly ignored."""
        return self.ignore_rest or value in self.classes or value in self.ignored

    def describe(self, value: int) -> str:
        """A raw value as its owner writes it: ``7``, or ``[128, 64, 128]``."""
        return str(list(unpack_colour(value))) if self.colours else str(value)


def pack_colour(colour: Colour) -> int:
    """(R, G, B) as the raw value of a colour mask."""
    red, green, blue = colour
    return (red << 16) | (green << 8) | blue


def unpack_colour(value: int) -> Colour:
    """The (R, G, B) of a colour mask's raw value."""
    return (value >> 16, (value >> 8) & 255, value & 255)
