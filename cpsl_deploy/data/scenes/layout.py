"""What a street is made of, before anything is drawn: a reproducible world along one road.

Street coordinates: ``z`` metres along the road, ``x`` metres to the right of its centre line (driving is on
the right), heights in metres above the road. Every object is a function of (street seed, its place in its
row), so any stretch of an endless street can be asked for in any order, and a moving object is where its
speed has brought it at the time asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

Range = tuple[float, float]

BLOCK = 72.0
"""Metres from one possible cross street to the next."""
CROSSING_HALF_WIDTH = 4.5
PARKING_FROM = 4.8
"""Half width of a road from which there is a row of parked cars along either side."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the streets of one domain are laid out: the range each street draws its own value from.

    Lengths in metres, speeds in metres per second, spacings in metres between two objects of a row, chances
    as probabilities.
    """

    road_half_width: Range
    sidewalk_width: Range
    verge_width: Range
    """Grass between the road and the sidewalk; below 0.5 m there is none."""
    setback: Range
    """From the sidewalk to the house fronts."""
    storeys: Range
    lot_width: Range
    gap_chance: Range
    """Of a lot being a fenced garden with trees and no house."""
    gable_chance: Range
    front_fence_chance: Range
    """Of a house with a front garden having a fence along the sidewalk."""
    crossing_chance: Range
    """Of a cross street at the start of each block."""
    tree_spacing: Range
    lamp_spacing: Range
    sign_spacing: Range
    parked_spacing: Range
    traffic_spacing: Range
    walker_spacing: Range
    rider_spacing: Range
    bend: Range
    """Amplitude of the winding centre line."""


@dataclass(frozen=True, kw_only=True)
class Street:
    """One street: a value for every range of its layout."""

    seed: int
    road_half_width: float
    sidewalk_width: float
    verge_width: float
    setback: float
    storeys: float
    lot_width: float
    gap_chance: float
    gable_chance: float
    front_fence_chance: float
    crossing_chance: float
    tree_spacing: float
    lamp_spacing: float
    sign_spacing: float
    parked_spacing: float
    traffic_spacing: float
    walker_spacing: float
    rider_spacing: float
    bend: float
    bend_length: float = 70.0
    bend_phase: float = 0.0
    ego_speed: float = 8.0
    start: float = 0.0
    """Where the camera is at time 0."""

    @classmethod
    def sample(cls, layout: Layout, rng: np.random.Generator) -> Street:
        """Draw a street of this layout."""
        values = {f.name: float(rng.uniform(*getattr(layout, f.name))) for f in fields(layout)}
        if values["verge_width"] < 0.5:
            values["verge_width"] = 0.0
        return cls(
            seed=int(rng.integers(2**31)),
            bend_length=float(rng.uniform(45, 80)),
            bend_phase=float(rng.uniform(0, 2 * math.pi)),
            ego_speed=float(rng.uniform(7, 10)),
            start=float(rng.uniform(0, 4 * BLOCK)),
            **values,
        )

    @property
    def sidewalk_start(self) -> float:
        return self.road_half_width + self.verge_width

    @property
    def sidewalk_end(self) -> float:
        return self.sidewalk_start + self.sidewalk_width

    @property
    def front(self) -> float:
        """Distance of the house fronts from the centre line."""
        return self.sidewalk_end + self.setback

    def centre(self, z: float) -> float:
        """Sideways position of the centre line in the world."""
        return self.bend * math.sin(z / self.bend_length + self.bend_phase)

    def heading(self, z: float) -> float:
        """Direction of the centre line in radians, positive to the right."""
        slope = self.bend / self.bend_length * math.cos(z / self.bend_length + self.bend_phase)
        return math.atan(slope)

    def place(self, x: float, z: float, heading: float = 0.0) -> tuple[float, float, float]:
        """World right and forward, and direction, of a place given in street coordinates."""
        bend = self.heading(z)
        return self.centre(z) + x * math.cos(bend), z - x * math.sin(bend), bend + heading


@dataclass(frozen=True, slots=True)
class Item:
    """One object: its kind, place, heading (radians, 0 along the road), size and a few random numbers.

    ``size``: metres (width, height, length). ``rolls``: four numbers in [0, 1) from which the drawing picks
    colours and details, so that an object looks the same in every frame. ``phase``: radians of a stride.
    ``far_end``: the largest ``z`` it reaches, by which objects are painted from far to near.
    """

    kind: str
    x: float
    z: float
    heading: float
    size: tuple[float, float, float]
    rolls: tuple[float, ...]
    phase: float = 0.0
    far_end: float = 0.0


# Salts keep the random numbers of the rows apart; a row's number is part of every object's seed.
_BLOCKS, _LOTS, _TREES, _LAMPS, _SIGNS, _PARKED, _TRAFFIC, _WALKERS, _RIDERS, _CROSSERS = range(10)


def _hash(values: np.ndarray) -> np.ndarray:
    """Scramble uint64 numbers (the finaliser of SplitMix64): neighbours become unrelated."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _rolls(street: Street, salt: int, side: int, numbers: Sequence[int]) -> list[list[float]]:
    """For each object number of a row its own ten numbers in [0, 1)."""
    row = ((street.seed << 16) + (salt << 8) + side + 16) & 0xFFFFFFFFFFFF
    keys = _hash(np.array(numbers, np.int64).astype(np.uint64) + _hash(np.array([row], np.uint64)))
    values = _hash(keys[:, None] + np.arange(1, 11, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return ((values >> np.uint64(11)) * 2.0**-53).tolist()


def has_crossing(street: Street, block: int) -> bool:
    """Whether a cross street meets the road at ``z = block * BLOCK``."""
    return _rolls(street, _BLOCKS, 0, [block])[0][0] < street.crossing_chance


def in_crossing(street: Street, z: float, margin: float = 0.0) -> bool:
    """Whether ``z`` lies on a cross street."""
    block = round(z / BLOCK)
    return abs(z - block * BLOCK) < CROSSING_HALF_WIDTH + margin and has_crossing(street, block)


def street_items(street: Street, z_from: float, z_to: float, time: float) -> list[Item]:
    """All objects between two positions along the road at a time in seconds."""
    items: list[Item] = []
    for side in (-1, 1):
        items += _lots(street, side, z_from, z_to)
        items += _trees(street, side, z_from, z_to)
        items += _lamps(street, side, z_from, z_to)
        items += _signs(street, side, z_from, z_to)
        items += _parked_cars(street, side, z_from, z_to)
        items += _walkers(street, side, z_from, z_to, time)
        items += _crossers(street, side, z_from, z_to, time)
        items += _traffic(street, side, z_from, z_to, time)
        items += _riders(street, side, z_from, z_to, time)
    return items


def _row(
    street: Street,
    salt: int,
    side: int,
    spacing: float,
    speed: float,
    time: float,
    z_from: float,
    z_to: float,
) -> Iterator[tuple[int, float, list[float]]]:
    """Number, nominal place and random numbers of the objects of an evenly spaced, evenly moving row."""
    moved = speed * time
    numbers = range(math.ceil((z_from - moved) / spacing), math.floor((z_to - moved) / spacing) + 1)
    for k, rolls in zip(numbers, _rolls(street, salt, side, numbers), strict=True):
        yield k, k * spacing + moved, rolls


def _lots(street: Street, side: int, z_from: float, z_to: float) -> Iterator[Item]:
    for block in range(math.floor(z_from / BLOCK), math.floor(z_to / BLOCK) + 1):
        start, end = block * BLOCK, (block + 1) * BLOCK
        start += CROSSING_HALF_WIDTH + street.sidewalk_width if has_crossing(street, block) else 0.0
        end -= CROSSING_HALF_WIDTH + street.sidewalk_width if has_crossing(street, block + 1) else 0.0
        count = max(1, round((end - start) / street.lot_width))
        numbers = range(block * 64, block * 64 + count)
        for k, rolls in enumerate(_rolls(street, _LOTS, side, numbers)):
            z0 = start + (end - start) * k / count
            z1 = start + (end - start) * (k + 1) / count
            if z1 > z_from and z0 < z_to:
                yield from _lot(street, side, z0, z1, rolls)


def _lot(street: Street, side: int, z0: float, z1: float, rolls: list[float]) -> Iterator[Item]:
    """A house with or without a front fence, or a fenced garden."""
    middle, length = (z0 + z1) / 2, z1 - z0
    details = tuple(rolls[:4])
    if rolls[4] < street.gap_chance:
        yield Item(
            "fence", side * (street.sidewalk_end + 0.3), middle, 0.0, (0.08, 1.1 + 0.9 * rolls[5], length),
            details, far_end=z1,
        )  # fmt: skip
        for k in range(2):
            spread = rolls[6 + k]
            yield Item(
                "tree", side * (street.front + 2.5 + 4 * spread), z0 + length * (0.3 + 0.45 * k), 0.0,
                (4.0, 5.5 + 3 * spread, 4.0), (spread, *details[:3]), far_end=z1 - 1e-3,
            )  # fmt: skip
        return
    storeys = max(1, round(street.storeys * (0.6 + 0.8 * rolls[5])))
    kind = "gabled_house" if rolls[6] < street.gable_chance and storeys <= 4 else "house"
    height, depth = 3.1 * storeys + 0.8, 9.0 + 5 * rolls[7]
    space = 0.0 if rolls[8] < 0.55 else min(2.5, 0.2 * length)
    yield Item(
        kind,
        side * (street.front + depth / 2),
        middle,
        0.0,
        (depth, height, length - space),
        details,
        far_end=z1,
    )
    if street.setback > 1.2 and rolls[7] < street.front_fence_chance:
        yield Item(
            "fence", side * (street.sidewalk_end + 0.3), middle, 0.0, (0.08, 0.9 + 0.5 * rolls[3], length),
            details, far_end=z1 - 1e-3,
        )  # fmt: skip


def _trees(street: Street, side: int, z_from: float, z_to: float) -> Iterator[Item]:
    for _, z, rolls in _row(street, _TREES, side, street.tree_spacing, 0.0, 0.0, z_from, z_to):
        z += (rolls[4] - 0.5) * 0.5 * street.tree_spacing
        if rolls[5] < 0.8 and not in_crossing(street, z, 2.0):
            x = side * (street.sidewalk_start + (-0.5 * street.verge_width or 0.5))
            height = 4.8 + 3.6 * rolls[0]
            yield Item("tree", x, z, 0.0, (0.6 * height, height, 0.6 * height), tuple(rolls[:4]), far_end=z)


def _lamps(street: Street, side: int, z_from: float, z_to: float) -> Iterator[Item]:
    for _, z, rolls in _row(street, _LAMPS, side, street.lamp_spacing, 0.0, 0.0, z_from, z_to):
        z += (0.25 * side + 0.3 * (rolls[4] - 0.5)) * street.lamp_spacing
        if not in_crossing(street, z):
            kind = "lamp" if rolls[3] < 0.7 else "post"
            x = side * (street.sidewalk_start + 0.35)
            yield Item(kind, x, z, 0.0, (0.2, 5.5 + 2 * rolls[0], 0.2), tuple(rolls[:4]), far_end=z)


def _signs(street: Street, side: int, z_from: float, z_to: float) -> Iterator[Item]:
    for _, z, rolls in _row(street, _SIGNS, side, street.sign_spacing, 0.0, 0.0, z_from, z_to):
        z += (0.5 * side + 0.5 * (rolls[4] - 0.5)) * street.sign_spacing
        x = side * (street.sidewalk_start + 0.45)
        yield Item("sign", x, z, 0.0, (0.9, 2.3 + 0.5 * rolls[0], 0.1), tuple(rolls[:4]), far_end=z)


def _car(x: float, z: float, heading: float, rolls: list[float]) -> Item:
    length = 3.9 + 0.9 * rolls[1]
    return Item(
        "car", x, z, heading, (1.75 + 0.15 * rolls[1], 1.42 + 0.3 * rolls[2] ** 2, length),
        tuple(rolls[:4]), far_end=z + 0.3 * length,
    )  # fmt: skip


def _parked_cars(street: Street, side: int, z_from: float, z_to: float) -> Iterator[Item]:
    if street.road_half_width < PARKING_FROM:
        return
    for _, z, rolls in _row(
        street, _PARKED, side, max(6.0, street.parked_spacing / 2), 0.0, 0.0, z_from, z_to
    ):
        if rolls[4] < 0.5 and not in_crossing(street, z, 4.0):
            x = side * (street.road_half_width - 1.05)
            yield _car(x, z, 0.0 if side > 0 else math.pi, rolls)


def lane_centre(street: Street) -> float:
    """Sideways position of the driving lanes, beside the parked cars where there is room for them."""
    parking = 2.0 if street.road_half_width >= PARKING_FROM else 0.0
    return (street.road_half_width - parking) / 2


def _traffic(street: Street, side: int, z_from: float, z_to: float, time: float) -> Iterator[Item]:
    """Cars of both lanes. The camera is number 0 of the right lane, so the one ahead never comes too near."""
    spacing = street.traffic_spacing
    for k, z, rolls in _row(
        street,
        _TRAFFIC,
        side,
        spacing,
        side * street.ego_speed,
        time,
        z_from - street.start,
        z_to - street.start,
    ):
        if (side > 0 and k == 0) or rolls[5] > 0.75:
            continue
        z += street.start + (rolls[4] - 0.5) * 0.5 * spacing
        x = side * lane_centre(street) + 0.3 * (rolls[3] - 0.5)
        yield _car(x, z, 0.0 if side > 0 else math.pi, rolls)


def _walkers(street: Street, side: int, z_from: float, z_to: float, time: float) -> Iterator[Item]:
    """People on the sidewalk, half of them coming, half going."""
    for direction in (-1, 1):
        row = side * 4 + direction
        spacing, speed = 2 * street.walker_spacing, 1.3 * direction
        for _, z, rolls in _row(street, _WALKERS, row, spacing, speed, time, z_from, z_to):
            z += (rolls[4] - 0.5) * 0.8 * spacing
            x = side * (street.sidewalk_start + 0.5 + rolls[5] * (street.sidewalk_width - 0.9))
            yield _person(x, z, 0.0 if direction > 0 else math.pi, rolls, time)


def _crossers(street: Street, side: int, z_from: float, z_to: float, time: float) -> Iterator[Item]:
    """People going from one sidewalk to the other and back."""
    reach = street.sidewalk_start + 1.0
    for _, z, rolls in _row(street, _CROSSERS, side, 7 * street.walker_spacing, 0.0, 0.0, z_from, z_to):
        z += (rolls[4] - 0.5) * 5 * street.walker_spacing
        walked = (rolls[5] + 1.3 * time / (4 * reach)) % 1.0
        to_the_right = walked < 0.5
        x = reach * (4 * walked - 1) if to_the_right else reach * (3 - 4 * walked)
        yield _person(x, z, math.pi / 2 if to_the_right else -math.pi / 2, rolls, time)


def _person(x: float, z: float, heading: float, rolls: list[float], time: float) -> Item:
    phase = 2 * math.pi * (rolls[3] + 0.9 * time)
    size = (0.5, 1.6 + 0.28 * rolls[0], 0.4)
    return Item("person", x, z, heading, size, tuple(rolls[:4]), phase=phase, far_end=z)


def _riders(street: Street, side: int, z_from: float, z_to: float, time: float) -> Iterator[Item]:
    """Cyclists between the driving lane and the kerb."""
    offset = street.road_half_width - (2.3 if street.road_half_width >= PARKING_FROM else 0.4)
    for k, z, rolls in _row(
        street,
        _RIDERS,
        side,
        street.rider_spacing,
        side * 4.5,
        time,
        z_from - street.start,
        z_to - street.start,
    ):
        if (side > 0 and k == 0) or rolls[5] > 0.85:
            continue
        z += street.start + (rolls[4] - 0.5) * 0.8 * street.rider_spacing
        heading = (0.0 if side > 0 else math.pi) + 0.2 * (rolls[3] - 0.5)
        yield Item(
            "rider", side * offset, z, heading, (0.6, 1.75 + 0.1 * rolls[0], 1.75),
            tuple(rolls[:4]), phase=2 * math.pi * 1.1 * time, far_end=z,
        )  # fmt: skip
