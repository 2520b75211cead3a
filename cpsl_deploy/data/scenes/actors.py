"""The shapes of what moves along the street: people, riders and cars."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .geometry import Faces, Paint, Side, Solid
from .layout import Item
from .materials import CAR, PERSON, RIDER, Material, Palette
from .placed import Placed, add_bars


def add_person(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
    h, swing = item.size[1], 0.15 * item.size[1] * math.sin(item.phase)
    paints = {
        "shirt": Paint(PERSON, Material.PLAIN, palette.pick("clothes", item.rolls[1])),
        "legs": Paint(PERSON, Material.PLAIN, palette.pick("clothes", 0.37 + item.rolls[2])),
        "skin": Paint(PERSON, Material.PLAIN, palette.pick("skin", item.rolls[0])),
        "hair": Paint(PERSON, Material.PLAIN, palette.pick("hair", item.rolls[2])),
        "shoes": Paint(PERSON, Material.PLAIN, palette.rubber),
    }
    limbs: list[tuple] = []
    for side, reach in ((-1, swing), (1, -swing)):
        x, knee = 0.055 * h * side, 0.5 * reach + 0.02 * h
        limbs += [
            ((x, 0.04 * h, reach), (x, 0.04 * h, reach + 0.07 * h), 0.035 * h, "shoes"),
            ((x, 0.05 * h, reach), (x, 0.27 * h, knee), 0.042 * h, "legs"),
            ((x, 0.27 * h, knee), (x, 0.5 * h, 0), 0.055 * h, "legs"),
            ((2.5 * x, 0.52 * h, -0.8 * reach), (2.2 * x, 0.79 * h, 0), 0.034 * h, "shirt"),
        ]
    limbs += [
        ((0, 0.52 * h, 0), (0, 0.77 * h, 0), 0.095 * h, "shirt", 1.1),
        ((0, 0.80 * h, 0), (0, 0.92 * h, 0.01), 0.045 * h, "skin", 1.35),
        ((0, 0.945 * h, -0.02), (0, 0.96 * h, 0), 0.058 * h, "hair"),
    ]
    add_bars(faces, placed, limbs, paints)


_WHEEL = Solid((Side(tuple(range(12)), "tyre"), Side(tuple(range(12))[::-1], "tyre")))


def add_rider(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
    paints = {
        "shirt": Paint(RIDER, Material.PLAIN, palette.pick("clothes", item.rolls[1])),
        "legs": Paint(RIDER, Material.PLAIN, palette.pick("clothes", 0.21 + item.rolls[2])),
        "skin": Paint(RIDER, Material.PLAIN, palette.pick("skin", item.rolls[0])),
        "helmet": Paint(RIDER, Material.PLAIN, palette.pick("cars", item.rolls[3])),
        "frame": Paint(RIDER, Material.PLAIN, palette.pick("cars", item.rolls[2])),
        "tyre": Paint(RIDER, Material.PLAIN, palette.rubber),
    }
    angles = np.arange(12) * (math.pi / 6)
    for z in (-0.52, 0.52):
        disc = np.stack([0 * angles, 0.34 + 0.34 * np.sin(angles), z + 0.34 * np.cos(angles)], 1)
        faces.add_solid(_WHEEL, placed(disc), paints)
    limbs: list[tuple] = [
        ((0, 0.04, -0.52), (0, 0.64, -0.52), 0.035, "tyre"),
        ((0, 0.04, 0.52), (0, 0.64, 0.52), 0.035, "tyre"),
        ((0, 0.34, -0.52), (0, 0.85, -0.2), 0.03, "frame"), ((0, 0.8, -0.2), (0, 0.82, 0.4), 0.03, "frame"),
        ((0, 0.34, 0.52), (0, 1.0, 0.38), 0.03, "frame"),
        ((-0.27, 1.02, 0.36), (0.27, 1.02, 0.36), 0.03, "tyre"),
    ]  # fmt: skip
    for side in (-1, 1):
        turn = item.phase + (0 if side > 0 else math.pi)
        foot = (0.1 * side, 0.32 + 0.17 * math.sin(turn), 0.02 + 0.17 * math.cos(turn))
        knee = (0.12 * side, 0.72 + 0.1 * math.sin(turn), 0.22)
        limbs += [
            (foot, knee, 0.07, "legs"), (knee, (0.09 * side, 0.98, -0.2), 0.1, "legs"),
            ((0.25 * side, 1.05, 0.36), (0.2 * side, 1.4, 0.08), 0.06, "shirt"),
        ]  # fmt: skip
    limbs += [
        ((0, 1.0, -0.2), (0, 1.42, 0.05), 0.17, "shirt", 1.1),
        ((0, 1.52, 0.1), (0, 1.64, 0.14), 0.085, "skin", 1.1),
        ((0, 1.69, 0.08), (0, 1.71, 0.16), 0.1, "helmet"),
    ]
    add_bars(faces, placed, limbs, paints)


class _Shell:
    """Corners and sides of a solid while it is put together; a side names its corners by their index."""

    def __init__(self, points: list[tuple[float, float, float]]) -> None:
        self.points = points
        self.sides: list[Side] = []

    def side(self, corners: Sequence[int], part: str, on: int = -1) -> int:
        """Add a side, painted on another one if ``on`` names it; its own index."""
        self.sides.append(Side(tuple(corners), part, on))
        return len(self.sides) - 1

    def new_side(self, points: Sequence[tuple[float, float, float]], part: str, on: int = -1) -> int:
        """Add a side with corners of its own."""
        first = len(self.points)
        self.points.extend(points)
        return self.side(range(first, len(self.points)), part, on)

    def inset(self, on: int, u: tuple[float, float], v: tuple[float, float], part: str) -> None:
        """Paint the part of a four-cornered side between two shares of its width and of its height."""
        a, b, c, d = (np.array(self.points[i]) for i in self.sides[on].corners)
        shares = ((u[0], v[0]), (u[1], v[0]), (u[1], v[1]), (u[0], v[1]))
        corners = [((a + (b - a) * s) * (1 - t) + (d + (c - d) * s) * t).tolist() for s, t in shares]
        self.new_side([tuple(corner) for corner in corners], part, on)


_CAR_CORNERS = (
    "bottom_rear",
    "belt_rear",
    "glass_rear",
    "roof_rear",
    "roof_front",
    "glass_front",
    "nose",
    "bottom_front",
)
"""Of one half of a car; the other half's follow in the same order."""


def _car_shape(profile: dict[str, tuple[float, float]]) -> tuple[np.ndarray, Solid]:
    """Corners, in units of a car's width, height and length, and sides."""
    shell = _Shell(
        [
            (sign * (0.4 if name in ("roof_rear", "roof_front") else 0.5), profile[name][1], profile[name][0])
            for sign in (-1, 1)
            for name in _CAR_CORNERS
        ]
    )
    _add_car_flanks(shell)
    _add_car_ends(shell)
    for low, high in ((-0.49, -0.3), (0.3, 0.49)):
        for z, turned in ((-0.42, False), (0.42, True)):
            a, b = (high, low) if turned else (low, high)
            shell.new_side([(a, 0.0, z), (b, 0.0, z), (b, 0.2, z), (a, 0.2, z)], "rubber")
    return np.array(shell.points), Solid(shell.sides)


def _add_car_flanks(shell: _Shell) -> None:
    """Left and right: lower body, then the slanted cabin with its windows and the wheels."""
    for left in (True, False):
        br, be, gr, rr, rf, gf, no, bf = range(8) if left else range(8, 16)
        body = shell.side((bf, br, be, gr, gf, no) if left else (br, bf, no, gf, gr, be), "body")
        cabin = shell.side((gf, gr, rr, rf) if left else (gr, gf, rf, rr), "body")
        shell.inset(cabin, (0.07, 0.47), (0.1, 0.88), "glass")
        shell.inset(cabin, (0.53, 0.93), (0.1, 0.88), "glass")
        for z in (-0.31, 0.31):
            for radius, part in ((0.078, "rubber"), (0.04, "rim")):
                angles = [2 * math.pi * k / 10 * (-1 if left else 1) for k in range(10)]
                x = -0.505 if left else 0.505
                circle = [(x, 0.215 + radius * 2.75 * math.sin(a), z + radius * math.cos(a)) for a in angles]
                shell.new_side(circle, part, body)


def _add_car_ends(shell: _Shell) -> None:
    """Rear, roof, windscreen, bonnet and front."""
    br, be, gr, rr, rf, gf, no, bf = range(8)
    right = 8
    rear = shell.side((br, right + br, right + be, be), "body")
    shell.inset(rear, (0.02, 0.2), (0.62, 0.92), "tail")
    shell.inset(rear, (0.8, 0.98), (0.62, 0.92), "tail")
    shell.inset(rear, (0.36, 0.64), (0.5, 0.72), "plate")
    shell.inset(rear, (0.0, 1.0), (0.0, 0.22), "trim")
    shell.side((be, right + be, right + gr, gr), "body")
    shell.inset(shell.side((gr, right + gr, right + rr, rr), "body"), (0.06, 0.94), (0.08, 0.9), "glass")
    shell.side((rr, right + rr, right + rf, rf), "body")
    shell.inset(shell.side((right + gf, gf, rf, right + rf), "body"), (0.04, 0.96), (0.05, 0.93), "glass")
    shell.side((right + no, no, gf, right + gf), "body")
    front = shell.side((right + bf, bf, no, right + no), "body")
    shell.inset(front, (0.03, 0.24), (0.62, 0.92), "head")
    shell.inset(front, (0.76, 0.97), (0.62, 0.92), "head")
    shell.inset(front, (0.3, 0.7), (0.3, 0.75), "trim")


_HATCHBACK = {
    "bottom_rear": (-0.5, 0.16),
    "belt_rear": (-0.5, 0.6),
    "glass_rear": (-0.47, 0.64),
    "roof_rear": (-0.38, 0.98),
    "roof_front": (0.08, 1.0),
    "glass_front": (0.26, 0.63),
    "nose": (0.49, 0.5),
    "bottom_front": (0.5, 0.16),
}
_SEDAN = {
    **_HATCHBACK,
    "belt_rear": (-0.5, 0.58),
    "glass_rear": (-0.34, 0.64),
    "roof_rear": (-0.18, 0.98),
    "roof_front": (0.1, 1.0),
}
_VAN = {
    **_HATCHBACK,
    "belt_rear": (-0.5, 0.55),
    "glass_rear": (-0.5, 0.58),
    "roof_rear": (-0.47, 1.0),
    "roof_front": (0.2, 1.0),
    "glass_front": (0.36, 0.6),
}
_CARS = tuple(_car_shape(profile) for profile in (_HATCHBACK, _SEDAN, _VAN))


def add_car(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
    roll = item.rolls[3]
    points, solid = _CARS[0 if roll < 0.45 else 1 if roll < 0.85 else 2]
    width, height, length = item.size
    height *= 1.0 if roll < 0.85 else 1.3
    paints = {
        "body": Paint(CAR, Material.PLAIN, palette.pick("cars", item.rolls[0])),
        "glass": Paint(CAR, Material.GLASS, palette.glass, item.rolls[2]),
        "rubber": Paint(CAR, Material.PLAIN, palette.rubber),
        "trim": Paint(CAR, Material.PLAIN, (0.12, 0.12, 0.13)),
        "rim": Paint(CAR, Material.PLAIN, (0.5, 0.5, 0.52)),
        "tail": Paint(CAR, Material.LIGHT, (0.72, 0.06, 0.06)),
        "head": Paint(CAR, Material.LIGHT, (0.92, 0.92, 0.85)),
        "plate": Paint(CAR, Material.PLAIN, (0.85, 0.85, 0.8)),
    }
    faces.add_solid(solid, placed(points * (width, height, length)), paints)
