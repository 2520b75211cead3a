"""What surfaces look like close to: the ground, façades, leaves, fences, glass and roofs.

Each texture is a function of a place on its face in metres, so that it moves with the face from frame to
frame. Colours are RGB planes, float32 (3, N). Detail fades out before it gets finer than a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .layout import BLOCK, CROSSING_HALF_WIDTH, PARKING_FROM, Street, has_crossing, lane_centre
from .materials import ROAD, SIDEWALK, TERRAIN, Colour, Palette


@dataclass(frozen=True, kw_only=True)
class Look:
    """The materials of one scene. A look that is ``physical`` is computed in linear light."""

    palette: Palette
    road: Colour
    sidewalk: Colour
    grass: Colour
    marking: Colour
    kerb: Colour
    physical: bool
    grain: float
    """Strength of fine texture on the ground, 0 for none."""
    stains: float
    """Strength of large blotches, patches and cracks, 0 for none."""
    paving: float
    """Contrast of the joints between slabs."""
    wear: float
    """Share of the road markings that is worn off."""
    facade_texture: float
    leaf_texture: float
    window_variety: float
    """How much windows differ in what they mirror, 0 for all alike."""

    def tone(self, colour: Colour) -> np.ndarray:
        """A colour, (3, 1), as this look computes with it."""
        values = np.array(colour, np.float32)[:, None]
        return to_linear(values) if self.physical else values


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Pixels of one material, arrays of N: place on the face (``u``, ``v``), ``depth`` and width of a pixel
    along u, in metres, and the face's ``seed`` and ``detail``. ``mirrored``: what glass reflects, (3, 1)."""

    u: np.ndarray
    v: np.ndarray
    depth: np.ndarray
    footprint: np.ndarray
    seed: np.ndarray
    detail: np.ndarray
    mirrored: np.ndarray


def to_linear(values: np.ndarray) -> np.ndarray:
    """Display values 0..1 to linear light."""
    return values ** np.float32(2.2)


def _noise_tile(octaves: tuple[int, ...], seed: int) -> np.ndarray:
    """(256, 256) float32 that repeats without a seam, mean 0, standard deviation 1."""
    rng = np.random.default_rng(seed)
    total = np.zeros((256, 256), np.float32)
    for cells in octaves:
        coarse = np.pad(rng.standard_normal((cells, cells)).astype(np.float32), 2, mode="wrap")
        step = 256 // cells
        fine = cv2.resize(coarse, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        total += fine[2 * step : 2 * step + 256, 2 * step : 2 * step + 256] / cells**0.7
    return (total - total.mean()) / total.std()


SMOOTH = _noise_tile((4, 8, 16, 32), 1)
ROUGH = _noise_tile((32, 64, 128, 256), 2)
CELLS = np.random.default_rng(3).random((256, 256)).astype(np.float32)


def lookup(tile: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The tile at texel (u, v), repeated endlessly."""
    # Flooring by way of a large offset: a cast alone rounds towards zero.
    column = (u + 65536.0).astype(np.int32) & 255
    return np.take(tile, (((v + 65536.0).astype(np.int32) & 255) << 8) | column)


def _part(x: np.ndarray) -> np.ndarray:
    """The part after the point; x - floor(x)."""
    return x - np.floor(x)


def _fade(depth: np.ndarray, distance: float) -> np.ndarray:
    """1 near the camera, falling to 0 at 1.5 times the distance in metres."""
    return np.clip(1.5 - depth * np.float32(1 / distance), 0, 1)


def ground(
    u: np.ndarray, v: np.ndarray, depth: np.ndarray, street: Street, look: Look
) -> tuple[np.ndarray, np.ndarray]:
    """Colour (3, N) and label (N,) of the ground at world positions ``u`` (right) and ``v`` (forward)."""
    across = u - np.float32(street.bend) * np.sin(v * np.float32(1 / street.bend_length) + street.bend_phase)
    aside = np.abs(across)
    from_crossing = _distance_to_crossing(v, street)
    half, pavement = street.road_half_width, CROSSING_HALF_WIDTH + street.sidewalk_width
    road = (aside < half) | (from_crossing < CROSSING_HALF_WIDTH)
    kerb = ~road & ((aside < half + 0.18) | (from_crossing < CROSSING_HALF_WIDTH + 0.18))
    walk = (aside > street.sidewalk_start) & (aside < street.sidewalk_end)
    walk = ~road & (kerb | walk | (from_crossing < pavement))
    labels = np.where(road, ROAD, np.where(walk, SIDEWALK, TERRAIN)).astype(np.uint8)

    kind = np.where(road, 0, np.where(kerb, 3, np.where(walk, 1, 2)))
    table = np.concatenate([look.tone(c) for c in (look.road, look.sidewalk, look.grass, look.kerb)], 1)
    colour = np.take(table, kind, axis=1)
    painted = _markings(across, aside, v, from_crossing, street) * road * _fade(depth, 60)
    if look.wear > 0:
        painted *= np.clip(lookup(ROUGH, u * 12, v * 12) - 2.2 * look.wear + 1.6, 0.15, 1)
    colour += painted * (look.tone(look.marking) - colour)
    return colour * _ground_grain(u, v, across, depth, kind, walk, look), labels


def _distance_to_crossing(v: np.ndarray, street: Street) -> np.ndarray:
    """Metres along the road to the axis of the nearest cross street, 99 where that block has none."""
    block = np.round(v * np.float32(1 / BLOCK))
    first = max(int(block.min(initial=0)), -4)
    last = min(int(block.max(initial=0)), first + 40)
    crossings = np.array([has_crossing(street, number) for number in range(first, last + 1)])
    there = crossings[np.clip(block, first, last).astype(np.intp) - first]
    return np.where(there, np.abs(v - block * np.float32(BLOCK)), np.float32(99))


def _markings(
    across: np.ndarray, aside: np.ndarray, along: np.ndarray, from_crossing: np.ndarray, street: Street
) -> np.ndarray:
    """True where the road is painted white: a dashed centre line, edge or parking lines, zebra crossings."""
    half = street.road_half_width
    painted = (aside < 0.09) & (_part(along / 9) < 0.5)
    if half >= PARKING_FROM:
        painted |= (np.abs(aside - 2 * lane_centre(street)) < 0.06) & (_part(along / 6) < 0.66)
    else:
        painted |= (aside > half - 0.45) & (aside < half - 0.3)
    painted &= from_crossing > CROSSING_HALF_WIDTH + 4.0
    zebra = (from_crossing > CROSSING_HALF_WIDTH + 0.6) & (from_crossing < CROSSING_HALF_WIDTH + 3.2)
    return painted | (zebra & (aside < half - 0.3) & (_part(across / 1.1) < 0.5))


def _ground_grain(u, v, across, depth, kind, walk, look: Look) -> np.ndarray:
    """Factor (N,) of the ground's brightness: slabs, grain, stains, patches, cracks, wheel tracks."""
    factor = np.ones_like(u)
    if look.paving > 0:
        joints = (_part(v / 1.2) > 0.93) | (_part(across / 0.9) > 0.93)
        factor -= look.paving * (joints & walk) * _fade(depth, 14)
    if look.grain > 0:
        strength = np.take(np.array([1, 0.7, 2.2, 0.6], np.float32) * np.float32(look.grain), kind)
        factor += lookup(ROUGH, u * 28, v * 28) * _fade(depth, 25) * strength
    if look.stains > 0:
        # Stains are drawn out along the road; tyres darken two tracks of each lane.
        stains = 0.6 * lookup(SMOOTH, u * 17, v * 4) + 0.6 * lookup(SMOOTH, across * 30, v * 0.7)
        patches = lookup(CELLS, across / 1.7, v / 5.1) > 0.9
        cracks = np.abs(lookup(SMOOTH, u * 11 + 90, v * 11)) < 0.045
        factor += np.float32(look.stains) * (stains - 1.6 * patches - 1.4 * cracks * _fade(depth, 12))
    return np.maximum(factor, 0.3)


def facade(albedo: np.ndarray, patch: Patch, look: Look) -> np.ndarray:
    """Windows in rows, a ground floor of shops or of doors, and plaster or brick between them."""
    u, v, seed = patch.u, patch.v, patch.seed
    spacing = 1.7 + 1.5 * seed
    share = 0.42 + 0.22 * _part(seed * 7)
    column, row = u / spacing, v * np.float32(1 / 3.1)
    aside, up = np.abs(_part(column) - 0.5), _part(row)
    shops = (v < 3.1) & (_part(seed * 13) < 0.5)
    width = np.where(shops, 0.42, share / 2)
    window = (aside < width) & (up > np.where(shops, 0.1, 0.3)) & (up < np.where(shops, 0.72, 0.82))
    window &= v < patch.detail
    frame = window & ((aside > width - 0.05) | (aside < 0.02))
    wall = albedo * _plaster(patch, look)
    glass = _window_glass(column, row, patch, look)
    # Where several columns of windows fall into one pixel only their average colour is seen.
    sharp = np.clip(1.4 - 1.8 * patch.footprint / spacing, 0, 1)
    part = window * sharp + (share * 0.5) * (v < patch.detail) * (1 - sharp)
    part -= 0.7 * frame * sharp
    return wall + part * (glass - wall)


def _window_glass(column: np.ndarray, row: np.ndarray, patch: Patch, look: Look) -> np.ndarray:
    """Colour of the window panes: dark rooms behind, the sky mirrored in some."""
    glass = look.tone(look.palette.glass)
    if look.window_variety == 0:
        return glass
    roll = lookup(CELLS, column + patch.seed * 99, row + patch.seed * 57)
    mirrored = look.window_variety * (roll > 0.35) * (0.25 + 0.75 * roll)
    return glass * ((0.4 + roll) * (1 - look.window_variety)) + patch.mirrored * mirrored


def _plaster(patch: Patch, look: Look) -> np.ndarray:
    """Factor (N,) of a wall's brightness: ledges, and with texture also dirt, grain and bricks."""
    u, v, seed = patch.u, patch.v, patch.seed
    factor = 1 - 0.18 * ((_part(v * np.float32(1 / 3.1)) < 0.05) & (v > 2) & (_part(seed * 3) < 0.6))
    if look.facade_texture == 0:
        return factor
    near = _fade(patch.depth, 28)
    dirt = lookup(SMOOTH, u * 9 + seed * 300, v * 3) + 0.5 * lookup(ROUGH, u * 16, v * 16) * near
    course = v * np.float32(1 / 0.3)
    joints = (_part(course) < 0.2) | (_part(u / 0.6 + 0.5 * (_part(0.5 * course) < 0.5)) < 0.09)
    bricks = joints & (_part(seed * 5) < 0.45)
    factor *= 1 + np.float32(look.facade_texture) * (dirt - 1.2 * bricks * near - 0.8 * (v < 0.7))
    return np.clip(factor, 0.4, 1.6)


def leaves(albedo: np.ndarray, patch: Patch, look: Look) -> np.ndarray:
    """Clumps of leaves and gaps between them."""
    shift = patch.seed * 977
    detail = lookup(ROUGH, patch.u * 14 + shift, patch.v * 14) * _fade(patch.depth, 45)
    clumps = lookup(SMOOTH, patch.u * 40 + shift, patch.v * 40)
    return albedo * np.clip(1 + np.float32(look.leaf_texture) * (0.6 * detail + 0.8 * clumps), 0.15, 2.2)


def pickets(albedo: np.ndarray, patch: Patch, look: Look) -> np.ndarray:
    """A fence of slats on two rails, some with hardly a gap between the slats."""
    sharp = np.clip(1.5 - 5 * patch.footprint, 0, 1)
    rails = (np.abs(patch.v - 0.25 * patch.detail) < 0.06) | (np.abs(patch.v - 0.8 * patch.detail) < 0.06)
    gaps = (_part(patch.u / 0.28) > 0.6) & ~rails
    dark = np.where(patch.seed < 0.3, 0.12, 0.62)
    return albedo * (1 - dark * (gaps * sharp + 0.4 * (1 - sharp)))


def car_glass(albedo: np.ndarray, patch: Patch, look: Look) -> np.ndarray:
    """Dark panes that mirror more of the sky towards their upper edge."""
    mirrored = np.clip(0.2 + 0.9 * patch.v, 0, 0.8) * np.float32(look.window_variety)
    return albedo * (1 - mirrored) + patch.mirrored * (0.6 * mirrored)


def roof(albedo: np.ndarray, patch: Patch, look: Look) -> np.ndarray:
    """Rows of tiles."""
    return albedo * (1 - 0.25 * (_part(patch.v * 2) < 0.2) * _fade(patch.depth, 40))
