"""The shapes of what stands along the street, and the list of everything that can be drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

from .actors import add_car, add_person, add_rider
from .geometry import Faces, Paint, Side, Solid
from .layout import Item, Street
from .materials import BUILDING, FENCE, POLE, SIGN, TREE, Material, Palette
from .placed import Placed, add_bars


def build(faces: Faces, item: Item, street: Street, palette: Palette) -> None:
    """Add an item's faces."""
    _BUILDERS[item.kind](faces, Placed(item, street, faces.camera), item, palette)


_CUBE = np.array([[x, y, z] for z in (-0.5, 0.5) for y in (0.0, 1.0) for x in (-0.5, 0.5)])
_WALLS = tuple(Side(corners, "wall") for corners in ((0, 1, 3, 2), (5, 4, 6, 7), (1, 5, 7, 3), (4, 0, 2, 6)))
_BOX = Solid((*_WALLS, Side((2, 3, 7, 6), "top")))
_RING = Solid(_WALLS)
_RIDGE_ALONG = Solid(
    (
        *_WALLS, Side((2, 3, 12), "gable"), Side((7, 6, 13), "gable"), Side((9, 11, 13, 12), "top"),
        Side((10, 8, 12, 13), "top"),
    )
)  # fmt: skip
_RIDGE_ACROSS = Solid(
    (
        *_WALLS, Side((6, 2, 12), "gable"), Side((3, 7, 13), "gable"), Side((8, 9, 13, 12), "top"),
        Side((11, 10, 12, 13), "top"),
    )
)  # fmt: skip


def _house_paints(item: Item, palette: Palette, top: float) -> dict[str, Paint]:
    """``top``: height above which a wall has no windows."""
    colour, roof = palette.pick("walls", item.rolls[0]), palette.pick("roofs", item.rolls[2])
    wall = Paint(BUILDING, Material.FACADE, colour, item.rolls[1], top)
    return {
        "wall": wall,
        "gable": wall._replace(detail=0.0),
        "top": Paint(BUILDING, Material.ROOF, roof, item.rolls[1]),
    }


def _house(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
    """A block with a flat roof behind a ledge."""
    width, height, length = item.size
    paints = _house_paints(item, palette, height - 0.8)
    faces.add_solid(_BOX, placed(_CUBE * item.size), paints)
    trim = Paint(BUILDING, Material.PLAIN, tuple(0.85 * c + 0.1 for c in paints["wall"].colour))
    ledge = _CUBE * (width + 0.5, 0.45, length + 0.2) + (0, height - 0.3, 0)
    faces.add_solid(_RING, placed(ledge), {"wall": trim})


def _gabled_house(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
    """A house whose ridge runs along the street or across it."""
    width, height, length = item.size
    x, z, top = width / 2 + 0.3, length / 2 + 0.3, height + 2.2 + 1.6 * item.rolls[3]
    along = item.rolls[3] < 0.5
    roof = [(-x, height, -z), (x, height, -z), (-x, height, z), (x, height, z)]
    roof += [(0, top, -z), (0, top, z)] if along else [(-x, top, 0), (x, top, 0)]
    corners = placed(np.concatenate([_CUBE * item.size, np.array(roof)]))
    solid = _RIDGE_ALONG if along else _RIDGE_ACROSS
    faces.add_solid(solid, corners, _house_paints(item, palette, height - 0.5))


def _fence(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
    paint = Paint(FENCE, Material.PICKETS, palette.pick("fences", item.rolls[1]), item.rolls[2], item.size[1])
    faces.add_solid(_BOX, placed(_CUBE * item.size), {"wall": paint, "top": paint})


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
    add_bars(faces, placed, [((0, 0, 0), (0, trunk_top, 0), 0.022 * height, "bark", 0.7)], {"bark": bark})
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
    if kind < 0.75:
        order = np.argsort(-points[:, 2])
        points, centres, radii = points[order], centres[order], radii[order]
    tones = 0.82 + 0.36 * (centres[:, 1] / height - 0.45) + 0.12 * (_OUTLINES[: len(radii), pick % 16] - 1)
    colours = (base * tones[:, None]).tolist()
    paints = [
        Paint(TREE, Material.LEAVES, colour, item.rolls[3] + 0.1 * k) for k, colour in enumerate(colours)
    ]
    faces.add_blobs(points, radii, _OUTLINES[(pick + 7 * np.arange(len(radii))) % 64], paints)


def _lamp(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
    height, reach = item.size[1], -math.copysign(1.6, item.x)
    paints = {
        "metal": Paint(POLE, Material.PLAIN, palette.pick("metal", item.rolls[1])),
        "head": Paint(POLE, Material.LIGHT, (0.75, 0.74, 0.68)),
    }
    limbs = [
        ((0, 0, 0), (0, 1.0, 0), 0.17, "metal"),
        ((0, 0, 0), (0, height, 0), 0.12, "metal", 0.8),
        ((0, height, 0), (reach, height + 0.35, 0), 0.08, "metal"),
        ((0.8 * reach, height + 0.27, 0), (1.25 * reach, height + 0.33, 0), 0.14, "head"),
    ]
    add_bars(faces, placed, limbs, paints)


def _post(faces: Faces, placed: Placed, item: Item, palette: Palette) -> None:
    """A utility pole with a cross arm."""
    height = item.size[1] + 1.0
    limbs = [
        ((0, 0, 0), (0, height, 0), 0.17, "wood", 0.75),
        ((-0.9, height - 0.6, 0), (0.9, height - 0.6, 0), 0.08, "wood"),
    ]
    add_bars(faces, placed, limbs, {"wood": Paint(POLE, Material.PLAIN, palette.bark)})


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
    radius, height = 0.41 + 0.11 * item.rolls[2], item.size[1] + 0.3
    metal = palette.pick("metal", item.rolls[0])
    stem = {"metal": Paint(POLE, Material.PLAIN, metal)}
    add_bars(faces, placed, [((0, 0, 0.06), (0, height, 0.06), 0.06, "metal")], stem)
    angles = (
        np.arange(count) * (2 * math.pi / count)
        + math.radians(turn)
        - (math.pi / 2 if count % 2 == 0 else math.pi * 7 / 6)
    )
    ring = np.stack([np.cos(angles), aspect * np.sin(angles), np.zeros(count)], 1) * radius
    centre = np.array([0, height, 0])
    points = placed(np.concatenate([centre + ring, centre + share * ring - (0, 0, 1e-3)]))
    back = Paint(SIGN, Material.PLAIN, (0.45, 0.46, 0.47))
    rim, field = (Paint(SIGN, Material.PLAIN, colour) for colour in (outer, inner))
    paints = {"front": rim, "field": field, "back": back}
    if item.rolls[3] >= 0.75:
        paints = {"front": back, "field": back, "back": rim}
    faces.add_solid(_board(count), points, paints)


@cache
def _board(count: int) -> Solid:
    """A sign with ``count`` corners and a field inside its rim."""
    rim = tuple(range(count))
    field = tuple(range(count, 2 * count))
    return Solid((Side(rim, "front"), Side(rim[::-1], "back"), Side(field, "field", on=0)))


_BUILDERS: dict[str, Callable[[Faces, Placed, Item, Palette], None]] = {
    "house": _house,
    "gabled_house": _gabled_house,
    "fence": _fence,
    "tree": _tree,
    "lamp": _lamp,
    "post": _post,
    "sign": _sign,
    "person": add_person,
    "rider": add_rider,
    "car": add_car,
}

_CIRCLE = np.stack([np.cos(np.arange(10) * 0.2 * math.pi), np.sin(np.arange(10) * 0.2 * math.pi)], 1)
_SQUARE = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])


def shadow(item: Item, street: Street, sun: tuple[float, float, float]) -> np.ndarray:
    """The outline (k, 2), world right and forward, of an item's shadow on the ground.

    ``sun``: direction to the sun in the world (right, up, forward). The outline is that of a simple body:
    a block for what is built, a ball on a stem for a tree, an upright cylinder for the rest.
    """
    width, height, length = item.size
    x, z, yaw = street.place(item.x, item.z, item.heading)
    cast = np.array([-sun[0], -sun[2]]) * (height / max(sun[1], 0.12))
    if item.kind == "tree":
        foot, top = 0.03 * height * _CIRCLE, 0.6 * cast + 0.3 * height * _CIRCLE
    elif item.kind in ("house", "gabled_house", "fence", "car"):
        c, s = math.cos(yaw), math.sin(yaw)
        foot = (_SQUARE * (width, length)) @ np.array([[c, -s], [s, c]])
        top = foot + cast
    else:
        foot = {"person": 0.2, "rider": 0.3}.get(item.kind, 0.08) * _CIRCLE
        top = foot + cast
    hull = cv2.convexHull(np.concatenate([foot, top]).astype(np.float32))[:, 0]
    return hull.astype(np.float64) + np.array([x, z])
