"""The demo's classes, and the materials and colours that its objects are made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from ...classes import ClassSpace

DEMO_CLASSES = ClassSpace(
    (
        "road",
        "sidewalk",
        "building",
        "fence",
        "pole",
        "sign",
        "tree",
        "terrain",
        "sky",
        "person",
        "rider",
        "car",
    )
)
"""The classes of the demo's two domains. A rider is a person on a bicycle, with the bicycle."""

ROAD, SIDEWALK, BUILDING, FENCE, POLE, SIGN, TREE, TERRAIN, SKY, PERSON, RIDER, CAR = range(12)

Colour = tuple[float, ...]
"""Red, green and blue, 0..1."""


class Material(IntEnum):
    """How a face is textured; see ``textures``."""

    PLAIN = 0
    SKY = 1
    GROUND = 2
    FACADE = 3
    ROOF = 4
    GLASS = 5
    LEAVES = 6
    PICKETS = 7
    LIGHT = 8


@dataclass(frozen=True, kw_only=True)
class Palette:
    """The colours that objects of one domain are made of, RGB 0..1."""

    walls: tuple[Colour, ...]
    roofs: tuple[Colour, ...]
    cars: tuple[Colour, ...]
    clothes: tuple[Colour, ...]
    skin: tuple[Colour, ...]
    hair: tuple[Colour, ...]
    leaves: tuple[Colour, ...]
    bark: Colour
    metal: tuple[Colour, ...]
    fences: tuple[Colour, ...]
    glass: Colour
    rubber: Colour = (0.06, 0.06, 0.07)

    def pick(self, name: str, roll: float) -> Colour:
        """The colour that a number in [0, 1) stands for."""
        colours = getattr(self, name)
        return colours[int(roll * len(colours)) % len(colours)]
