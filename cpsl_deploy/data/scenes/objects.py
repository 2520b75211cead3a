"""The shapes of everything that stands on or along the street: an item of the layout becomes faces."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np

from ...classes import ClassSpace
from .geometry import Camera, Faces, Paint, Side
from .layout import Item, Street

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

Colour = tuple[float, float, float]


class Material(IntEnum):
    """How a face is textured; see ``appearance``."""

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


class Placed:
    """An item's own coordinates (right, up, forward; metres) in those of the camera."""

    def __init__(self, item: Item, street: Street, camera: Camera) -> None:
        bend = street.heading(item.z)
        x = street.centre(item.z) + item.x * math.cos(bend)
        yaw = bend + item.heading
        c, s = math.cos(yaw), math.sin(yaw)
        rotation = camera.rotation()
        self._axes = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]) @ rotation.T
        self._base = rotation @ (np.array([x, 0.0, item.z - item.x * math.sin(bend)]) - camera.position)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return points @ self._axes + self._base


def build(faces: Faces, item: Item, street: Street, palette: Palette) -> None:
    """Add an item's faces."""
    _BUILDERS[item.kind](faces, Placed(item, street, faces.camera), item, palette)


_CUBE = np.array([[x, y, z] for z in (-0.5, 0.5) for y in (0.0, 1.0) for x in (-0.5, 0.5)])
_NEAR_SIDE, _FAR_SIDE, _RIGHT_SIDE, _LEFT_SIDE, _TOP = (
    (0, 1, 3, 2), (5, 4, 6, 7), (1, 5, 7, 3), (4, 0, 2, 6), (2, 3, 7, 6)
)  # fmt: skip


def _house(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
    wall = Paint(
        BUILDING, Material.FACADE, palette.pick("walls", item.rolls[0]), item.rolls[1], item.size[1] - 0.8
    )
    roof = Paint(BUILDING, Material.ROOF, palette.pick("roofs", item.rolls[2]), item.rolls[1])
    corners = placed(_CUBE * item.size)
    sides = [Side(side, wall) for side in (_NEAR_SIDE, _FAR_SIDE, _RIGHT_SIDE, _LEFT_SIDE)]
    faces.add_solid(corners, [*sides, Side(_TOP, roof)])
    width, height, length = item.size
    ledge = _CUBE * (width + 0.5, 0.45, length + 0.2) + (0, height - 0.3, 0)
    trim = Paint(BUILDING, Material.PLAIN, tuple(0.85 * c + 0.1 for c in wall.colour))
    faces.add_solid(
        placed(ledge), [Side(side, trim) for side in (_NEAR_SIDE, _FAR_SIDE, _RIGHT_SIDE, _LEFT_SIDE)]
    )


def _gabled_house(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
    """A house whose ridge runs across the street or along it."""
    wall = Paint(
        BUILDING, Material.FACADE, palette.pick("walls", item.rolls[0]), item.rolls[1], item.size[1] - 0.5
    )
    roof = Paint(BUILDING, Material.ROOF, palette.pick("roofs", item.rolls[2]), item.rolls[1])
    width, height, length = item.size
    over, rise = 0.3, 2.2 + 1.6 * item.rolls[3]
    eaves = [
        (x, height, z)
        for z in (-length / 2 - over, length / 2 + over)
        for x in (-0.5 * width - over, 0.5 * width + over)
    ]
    if item.rolls[3] < 0.5:
        ridge = [(0.0, height + rise, -length / 2 - over), (0.0, height + rise, length / 2 + over)]
        gables, slopes = ((2, 3, 12), (7, 6, 13)), ((9, 11, 13, 12), (10, 8, 12, 13))
    else:
        ridge = [(-width / 2 - over, height + rise, 0.0), (width / 2 + over, height + rise, 0.0)]
        gables, slopes = ((6, 2, 12), (3, 7, 13)), ((8, 9, 13, 12), (11, 10, 12, 13))
    corners = placed(np.concatenate([_CUBE * item.size, np.array(eaves), np.array(ridge)]))
    sides = [Side(side, wall) for side in (_NEAR_SIDE, _FAR_SIDE, _RIGHT_SIDE, _LEFT_SIDE)]
    bare = wall._replace(detail=0.0)
    faces.add_solid(corners, [*sides, *(Side(g, bare) for g in gables), *(Side(s, roof) for s in slopes)])


def _fence(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
    paint = Paint(FENCE, Material.PICKETS, palette.pick("fences", item.rolls[1]), item.rolls[2], item.size[1])
    sides = (_NEAR_SIDE, _FAR_SIDE, _RIGHT_SIDE, _LEFT_SIDE, _TOP)
    faces.add_solid(placed(_CUBE * item.size), [Side(side, paint) for side in sides])


def _limbs(faces: Faces, placed: Placed, limbs: list[tuple], paints: dict[str, Paint]) -> None:
    """Add bars (start, end, radius, paint[, tip]) given in an item's coordinates."""
    ends = placed(np.array([limb[:2] for limb in limbs]).reshape(-1, 3)).reshape(-1, 2, 3)
    for (start, end), limb in zip(ends, limbs, strict=True):
        faces.add_limb(start, end, limb[2], paints[limb[3]], *limb[4:])


# Outlines of leafy balls, the same in every process: nothing random is drawn while a picture is made.
_OUTLINES = 1 + 0.16 * np.random.default_rng(7).uniform(-1, 1, (64, 16))
_CROWN = np.random.default_rng(11).normal(0, 1, (64, 9, 3))
_CROWN *= np.random.default_rng(12).uniform(0.35, 0.75, (64, 9, 1)) / np.linalg.norm(
    _CROWN, axis=2, keepdims=True
)


def _tree(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
    height = item.size[1]
    bark = Paint(TREE, Material.PLAIN, palette.bark)
    base = np.array(palette.pick("leaves", item.rolls[1]))
    kind = item.rolls[2]
    trunk_top = (0.5 if kind < 0.75 else 0.35) * height
    _limbs(faces, placed, [((0, 0, 0), (0, trunk_top, 0), 0.022 * height, "bark", 0.7)], {"bark": bark})
    pick = int(item.rolls[0] * 64)
    if kind < 0.75:
        spread = (0.30, 0.27, 0.30) if kind < 0.55 else (0.17, 0.36, 0.17)
        centres = _CROWN[pick] * spread * height + (0, 0.66 * height, 0)
        radii = 0.155 * height * (0.85 + 0.3 * _OUTLINES[pick, :9])
        radii *= 1.0 if kind < 0.55 else 0.8
    else:
        steps = np.arange(7) / 6
        centres = np.stack([0 * steps, (0.28 + 0.66 * steps) * height, 0 * steps], 1)
        radii = (0.19 - 0.15 * steps) * height
    points = placed(centres)
    order = np.argsort(-points[:, 2]) if kind < 0.75 else range(len(points))
    for k in order:
        tone = 0.82 + 0.36 * (centres[k, 1] / height - 0.45) + 0.12 * (_OUTLINES[k, pick % 16] - 1)
        paint = Paint(TREE, Material.LEAVES, tuple((base * tone).tolist()), item.rolls[3] + 0.1 * k, radii[k])
        faces.add_blob(points[k], float(radii[k]), _OUTLINES[(pick + 7 * k) % 64], paint)


def _lamp(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
    height, reach = item.size[1], -math.copysign(1.6, item.x)
    paints = {
        "metal": Paint(POLE, Material.PLAIN, palette.pick("metal", item.rolls[1])),
        "head": Paint(POLE, Material.LIGHT, (0.75, 0.74, 0.68)),
    }
    limbs = [
        ((0, 0, 0), (0, 1.0, 0), 0.13, "metal"),
        ((0, 0, 0), (0, height, 0), 0.085, "metal", 0.8),
        ((0, height, 0), (reach, height + 0.35, 0), 0.06, "metal"),
        ((0.8 * reach, height + 0.27, 0), (1.25 * reach, height + 0.33, 0), 0.11, "head"),
    ]
    _limbs(faces, placed, limbs, paints)


def _post(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
    """A utility pole with a cross arm."""
    height = item.size[1] + 1.0
    limbs = [
        ((0, 0, 0), (0, height, 0), 0.14, "wood", 0.75),
        ((-0.9, height - 0.6, 0), (0.9, height - 0.6, 0), 0.06, "wood"),
    ]
    _limbs(faces, placed, limbs, {"wood": Paint(POLE, Material.PLAIN, palette.bark)})


_RED, _WHITE, _BLUE, _YELLOW = (0.78, 0.07, 0.09), (0.93, 0.93, 0.93), (0.08, 0.25, 0.66), (0.95, 0.76, 0.08)
# Shape (corners, turn), height over width, outer and inner colour, inner size.
_BOARDS = (
    ((12, 0.0), 1.0, _RED, _WHITE, 0.68),
    ((3, 0.0), 1.0, _RED, _WHITE, 0.58),
    ((4, 45.0), 1.0, _BLUE, _WHITE, 0.35),
    ((8, 22.5), 1.0, _RED, _RED, 0.6),
    ((4, 45.0), 1.35, _BLUE, _WHITE, 0.5),
    ((4, 0.0), 1.0, _YELLOW, _WHITE, 0.55),
)


def _sign(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
    (count, turn), aspect, outer, inner, share = _BOARDS[int(item.rolls[1] * len(_BOARDS))]
    radius, height = 0.38 + 0.14 * item.rolls[2], item.size[1] + 0.3
    metal = palette.pick("metal", item.rolls[0])
    stem = {"metal": Paint(POLE, Material.PLAIN, metal)}
    _limbs(faces, placed, [((0, 0, 0.06), (0, height, 0.06), 0.05, "metal")], stem)
    angles = (
        np.arange(count) * (2 * math.pi / count)
        + math.radians(turn)
        - (math.pi / 2 if count % 2 == 0 else math.pi * 7 / 6)
    )
    ring = np.stack([np.cos(angles), aspect * np.sin(angles), np.zeros(count)], 1) * radius
    centre = np.array([0, height, 0])
    points = placed(np.concatenate([centre + ring, centre + share * ring - (0, 0, 1e-3)]))
    numbers = tuple(range(count))
    faces_us = item.rolls[3] < 0.75
    back = Paint(SIGN, Material.PLAIN, (0.45, 0.46, 0.47))
    front = Paint(SIGN, Material.PLAIN, outer) if faces_us else back
    sides = [
        Side(numbers, front),
        Side(numbers[::-1], back if faces_us else Paint(SIGN, Material.PLAIN, outer)),
    ]
    if faces_us:
        sides.append(Side(tuple(range(count, 2 * count)), Paint(SIGN, Material.PLAIN, inner), on=0))
    faces.add_solid(points, sides)


def _person(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
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
    _limbs(faces, placed, limbs, paints)


def _rider(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
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
        turned = tuple(range(12))
        faces.add_solid(placed(disc), [Side(turned, paints["tyre"]), Side(turned[::-1], paints["tyre"])])
    limbs: list[tuple] = [
        ((0, 0.04, -0.52), (0, 0.64, -0.52), 0.035, "tyre"), ((0, 0.04, 0.52), (0, 0.64, 0.52), 0.035, "tyre"),
        ((0, 0.34, -0.52), (0, 0.85, -0.2), 0.03, "frame"), ((0, 0.8, -0.2), (0, 0.82, 0.4), 0.03, "frame"),
        ((0, 0.34, 0.52), (0, 1.0, 0.38), 0.03, "frame"), ((-0.27, 1.02, 0.36), (0.27, 1.02, 0.36), 0.03, "tyre"),
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
    _limbs(faces, placed, limbs, paints)


def _car_shape(
    profile: dict[str, tuple[float, float]],
) -> tuple[np.ndarray, list[tuple[tuple[int, ...], str, int]]]:
    """Corners and sides (corners, part, on) of a car in units of its width, height and length."""
    narrow = {"roof_rear", "roof_front"}
    names = (
        "bottom_rear",
        "belt_rear",
        "glass_rear",
        "roof_rear",
        "roof_front",
        "glass_front",
        "nose",
        "bottom_front",
    )
    points: list[tuple[float, float, float]] = []
    for sign in (-1, 1):
        points += [(sign * (0.4 if n in narrow else 0.5), profile[n][1], profile[n][0]) for n in names]
    br, be, gr, rr, rf, gf, no, bf = range(8)
    right = 8
    sides: list[tuple[tuple[int, ...], str, int]] = []

    def quad(corners: tuple[int, ...], part: str, on: int = -1) -> int:
        sides.append((corners, part, on))
        return len(sides) - 1

    def inset(on: int, u: tuple[float, float], v: tuple[float, float], part: str) -> None:
        a, b, c, d = (np.array(points[i]) for i in sides[on][0])
        first = len(points)
        for s, t in ((u[0], v[0]), (u[1], v[0]), (u[1], v[1]), (u[0], v[1])):
            points.append(tuple(((a + (b - a) * s) * (1 - t) + (d + (c - d) * s) * t).tolist()))
        quad((first, first + 1, first + 2, first + 3), part, on)

    # Sides: lower body, then the slanted cabin with its windows and the wheels.
    for left in (True, False):
        o = 0 if left else right
        lower = (
            (o + bf, o + br, o + be, o + gr, o + gf, o + no)
            if left
            else (o + br, o + bf, o + no, o + gf, o + gr, o + be)
        )
        body = quad(lower, "body")
        cabin = quad((o + gf, o + gr, o + rr, o + rf) if left else (o + gr, o + gf, o + rf, o + rr), "body")
        inset(cabin, (0.07, 0.47), (0.1, 0.88), "glass")
        inset(cabin, (0.53, 0.93), (0.1, 0.88), "glass")
        for z in (-0.31, 0.31):
            for radius, part in ((0.078, "rubber"), (0.04, "rim")):
                first = len(points)
                for k in range(10):
                    angle = 2 * math.pi * k / 10 * (-1 if left else 1)
                    x = -0.505 if left else 0.505
                    points.append((x, 0.215 + radius * 2.75 * math.sin(angle), z + radius * math.cos(angle)))
                quad(tuple(range(first, first + 10)), part, body)
    rear = quad((br, right + br, right + be, be), "body")
    inset(rear, (0.02, 0.2), (0.62, 0.92), "tail")
    inset(rear, (0.8, 0.98), (0.62, 0.92), "tail")
    inset(rear, (0.36, 0.64), (0.5, 0.72), "plate")
    inset(rear, (0.0, 1.0), (0.0, 0.22), "trim")
    quad((be, right + be, right + gr, gr), "body")
    inset(quad((gr, right + gr, right + rr, rr), "body"), (0.06, 0.94), (0.08, 0.9), "glass")
    quad((rr, right + rr, right + rf, rf), "body")
    inset(quad((right + gf, gf, rf, right + rf), "body"), (0.04, 0.96), (0.05, 0.93), "glass")
    quad((right + no, no, gf, right + gf), "body")
    front = quad((right + bf, bf, no, right + no), "body")
    inset(front, (0.03, 0.24), (0.62, 0.92), "head")
    inset(front, (0.76, 0.97), (0.62, 0.92), "head")
    inset(front, (0.3, 0.7), (0.3, 0.75), "trim")
    for low, high in ((-0.49, -0.3), (0.3, 0.49)):
        for z, turned in ((-0.42, False), (0.42, True)):
            first = len(points)
            a, b = (high, low) if turned else (low, high)
            points.extend([(a, 0.0, z), (b, 0.0, z), (b, 0.2, z), (a, 0.2, z)])
            quad((first, first + 1, first + 2, first + 3), "rubber")
    return np.array(points), sides


_HATCHBACK = {
    "bottom_rear": (-0.5, 0.16), "belt_rear": (-0.5, 0.6), "glass_rear": (-0.47, 0.64), "roof_rear": (-0.38, 0.98),
    "roof_front": (0.08, 1.0), "glass_front": (0.26, 0.63), "nose": (0.49, 0.5), "bottom_front": (0.5, 0.16),
}  # fmt: skip
_SEDAN = {
    **_HATCHBACK, "belt_rear": (-0.5, 0.58), "glass_rear": (-0.34, 0.64), "roof_rear": (-0.18, 0.98),
    "roof_front": (0.1, 1.0),
}  # fmt: skip
_VAN = {
    **_HATCHBACK, "belt_rear": (-0.5, 0.55), "glass_rear": (-0.5, 0.58), "roof_rear": (-0.47, 1.0),
    "roof_front": (0.2, 1.0), "glass_front": (0.36, 0.6),
}  # fmt: skip
_CARS = tuple(_car_shape(profile) for profile in (_HATCHBACK, _SEDAN, _VAN))


def _car(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
    roll = item.rolls[3]
    points, sides = _CARS[0 if roll < 0.45 else 1 if roll < 0.85 else 2]
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
    corners = placed(points * (width, height, length))
    faces.add_solid(corners, [Side(numbers, paints[part], on) for numbers, part, on in sides])


_BUILDERS: dict[str, Callable[[Faces, Placed, Item, Palette], None]] = {
    "house": _house,
    "gabled_house": _gabled_house,
    "fence": _fence,
    "tree": _tree,
    "lamp": _lamp,
    "post": _post,
    "sign": _sign,
    "person": _person,
    "rider": _rider,
    "car": _car,
}

_SHADOW_CIRCLE = np.stack([np.cos(np.arange(10) * 0.2 * math.pi), np.sin(np.arange(10) * 0.2 * math.pi)], 1)


def shadow(item: Item, street: Street, camera: Camera, sun: tuple[float, float, float]) -> np.ndarray:
    """The outline (k, 3), in camera coordinates, of an item's shadow on the ground.

    ``sun``: direction to the sun in the world (right, up, forward). The outline is that of a simple body:
    a block for what is built, a ball on a stem for a tree, an upright oval for people.
    """
    width, height, length = item.size
    bend = street.heading(item.z)
    yaw = bend + item.heading
    c, s = math.cos(yaw), math.sin(yaw)
    base = np.array([street.centre(item.z) + item.x * math.cos(bend), item.z - item.x * math.sin(bend)])
    cast = np.array([-sun[0], -sun[2]]) / max(sun[1], 0.12)
    if item.kind == "tree":
        foot = base + 0.05 * height * _SHADOW_CIRCLE[:5]
        outline = np.concatenate([foot, base + cast * 0.6 * height + 0.3 * height * _SHADOW_CIRCLE])
    elif item.kind in ("house", "gabled_house", "fence", "car"):
        square = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]) * (width, length)
        square = square @ np.array([[c, -s], [s, c]]) + base
        outline = np.concatenate(
            [square, square * 1.0 + cast * height * (0.9 if item.kind == "car" else 1.0)]
        )
    else:
        radius = {"person": 0.2, "rider": 0.3}.get(item.kind, 0.08)
        outline = np.concatenate(
            [base + radius * _SHADOW_CIRCLE, base + cast * height + radius * _SHADOW_CIRCLE]
        )
    hull = cv2.convexHull(outline.astype(np.float32))[:, 0].astype(np.float64)
    return camera.from_world(np.stack([hull[:, 0], np.zeros(len(hull)), hull[:, 1]], 1))
