"""Light on surfaces: the colours of a painted buffer, for a plain game engine or for the real thing.

One function computes both; a ``Look`` says what the materials and the light are. Colours are RGB. A look
that is ``physical`` computes with linear light, as the camera model needs; one that is not multiplies display
colours by a shade factor, as a simple game engine does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from .geometry import Buffer
from .layout import BLOCK, CROSSING_HALF_WIDTH, Street, has_crossing, lane_centre
from .objects import ROAD, SIDEWALK, TERRAIN, Colour, Material, Palette


@dataclass(frozen=True, kw_only=True)
class Light:
    """The light of one scene. Directions in the world (right, up, forward), towards the sun."""

    sun: tuple[float, float, float]
    sun_colour: Colour
    ambient: Colour
    zenith: Colour
    horizon: Colour
    haze: Colour
    haze_density: float
    """Per metre: a share exp(-density * distance) of a surface's light arrives."""
    clouds: float
    """Share of the sky that is cloud, 0..1."""
    cloud_colour: Colour
    cloud_seed: float


@dataclass(frozen=True, kw_only=True)
class Look:
    """The materials of one scene."""

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


_SMOOTH = _noise_tile((4, 8, 16, 32), 1)
_ROUGH = _noise_tile((32, 64, 128, 256), 2)
_CELLS = np.random.default_rng(3).random((256, 256)).astype(np.float32)


def _lookup(tile: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The tile at texel (u, v), repeated endlessly."""
    return tile[v.astype(np.int32) & 255, u.astype(np.int32) & 255]


def _step(x: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    """True between two bounds, as float32."""
    return ((x > low) & (x < high)).astype(np.float32)


def to_linear(colour: np.ndarray | Colour) -> np.ndarray:
    """Display values 0..1 to linear light."""
    return np.asarray(colour, np.float32) ** 2.2


@dataclass(frozen=True)
class _Surface:
    """What is known of every pixel, flat arrays of H * W. ``u``, ``v``, ``depth`` in metres."""

    ids: np.ndarray
    u: np.ndarray
    v: np.ndarray
    depth: np.ndarray


def shade(buffer: Buffer, street: Street, look: Look, light: Light) -> tuple[np.ndarray, np.ndarray]:
    """Colour a buffer.

    Returns the picture, float32 (H, W, 3) RGB, in display values or linear light as the look says, not
    clipped; and the labels, uint8 (H, W).
    """
    height, width = buffer.camera.size
    surface = _surface(buffer)
    labels = buffer.labels[surface.ids]
    albedo = (to_linear(buffer.colours) if look.physical else buffer.colours)[surface.ids]
    lit = _light_on(buffer, surface, look, light)
    materials = buffer.materials[surface.ids]

    on_ground = np.flatnonzero(materials == Material.GROUND)
    ground_colour, ground_label = _ground(
        surface.u[on_ground], surface.v[on_ground], surface.depth[on_ground], street, look
    )
    albedo[on_ground] = ground_colour
    labels[on_ground] = ground_label
    for material, texture in (
        (Material.FACADE, _facade),
        (Material.LEAVES, _leaves),
        (Material.PICKETS, _pickets),
        (Material.GLASS, _glass),
        (Material.ROOF, _roof),
    ):
        pixels = np.flatnonzero(materials == material)
        if len(pixels):
            albedo[pixels] = texture(albedo[pixels], surface, pixels, buffer, look, light)

    colour = albedo * lit
    own_light = np.flatnonzero(materials == Material.LIGHT)
    colour[own_light] = albedo[own_light] * 1.15
    clear = np.exp(-light.haze_density * surface.depth)[:, None]
    colour = colour * clear + np.float32(1) * (1 - clear) * np.float32(light.haze)
    in_sky = np.flatnonzero(materials == Material.SKY)
    colour[in_sky] = _sky(in_sky, buffer, light)
    return colour.reshape(height, width, 3), labels.reshape(height, width)


def _surface(buffer: Buffer) -> _Surface:
    height, width = buffer.camera.size
    ids = buffer.ids.reshape(-1)
    h = [np.take(buffer.homographies[:, k], ids) for k in range(9)]
    x = np.tile(np.arange(width, dtype=np.float32), height)
    y = np.repeat(np.arange(height, dtype=np.float32), width)
    depth = 1 / np.maximum(h[6] * x + h[7] * y + h[8], 1e-5)
    return _Surface(ids, (h[0] * x + h[1] * y + h[2]) * depth, (h[3] * x + h[4] * y + h[5]) * depth, depth)


def _light_on(buffer: Buffer, surface: _Surface, look: Look, light: Light) -> np.ndarray:
    """(P, 3): the light that falls on each pixel's surface."""
    rotation = buffer.camera.rotation().astype(np.float32)
    sun = rotation @ np.float32(light.sun)
    up = rotation[:, 1]
    to_sun, to_sky = buffer.normals @ sun, buffer.normals @ up
    su = np.clip(surface.u * np.take(buffer.rounding[:, 0], surface.ids), -1, 1)
    sv = np.clip(surface.v * np.take(buffer.rounding[:, 1], surface.ids), -1, 1)
    sw = np.sqrt(np.maximum(1 - su * su - sv * sv, 0.0))
    along = [np.take(to_sun[:, k], surface.ids) for k in range(3)]
    direct = np.maximum(su * along[0] + sv * along[1] + sw * along[2], 0)
    along = [np.take(to_sky[:, k], surface.ids) for k in range(3)]
    open_sky = 0.62 + 0.38 * (su * along[0] + sv * along[1] + sw * along[2])
    shadow = buffer.shadow.reshape(-1) & (surface.ids == 1)
    direct[shadow] = 0
    return open_sky[:, None] * np.float32(light.ambient) + direct[:, None] * np.float32(light.sun_colour)


def _sky(pixels: np.ndarray, buffer: Buffer, light: Light) -> np.ndarray:
    """A gradient from horizon to zenith with clouds on a high flat layer."""
    camera = buffer.camera
    width = camera.size[1]
    centre = camera.intrinsics()[:2, 2].astype(np.float32)
    ray_x = ((pixels % width) - centre[0]) / np.float32(camera.focal)
    ray_y = ((pixels // width) - centre[1]) / np.float32(camera.focal)
    rotation = camera.rotation().astype(np.float32)
    right, up, ahead = (ray_x * rotation[0, k] + ray_y * rotation[1, k] + rotation[2, k] for k in range(3))
    height = np.maximum(up / np.sqrt(right * right + up * up + ahead * ahead), 1e-3)
    blend = np.clip(1 - np.exp(-3.5 * height), 0, 1)[:, None]
    colour = np.float32(light.horizon) * (1 - blend) + np.float32(light.zenith) * blend
    if light.clouds > 0:
        layer = 14.0 / (height + 0.12)
        density = _lookup(_SMOOTH, 1e5 + light.cloud_seed * 256 + right * layer, 1e5 + ahead * layer)
        cover = np.clip((density + 2.4 * (light.clouds - 0.5)) * 0.9 + 0.5, 0, 1)
        cover = (cover * np.clip(height * 8, 0, 1))[:, None]
        colour = colour * (1 - cover) + np.float32(light.cloud_colour) * (1 + 0.06 * density[:, None]) * cover
    return colour


def _ground(
    u: np.ndarray, v: np.ndarray, depth: np.ndarray, street: Street, look: Look
) -> tuple[np.ndarray, np.ndarray]:
    """Colour and label of the ground at world positions ``u`` (right) and ``v`` (forward)."""
    across = u - street.bend * np.sin(v / street.bend_length + street.bend_phase)
    aside = np.abs(across)
    block = np.round(v / BLOCK).astype(np.int32)
    first, last = (int(block.min()), int(block.max())) if len(block) else (0, 0)
    first, last = max(first, -4), min(last, 40)
    crossings = np.array([has_crossing(street, b) for b in range(first, last + 1)])
    from_crossing = np.where(crossings[np.clip(block, first, last) - first], np.abs(v - block * BLOCK), 99.0)
    half = street.road_half_width
    on_cross = from_crossing < CROSSING_HALF_WIDTH
    road = (aside < half) | on_cross
    kerb = ~road & ((aside < half + 0.18) | (from_crossing < CROSSING_HALF_WIDTH + 0.18))
    walk = ~road & (
        kerb
        | ((aside > street.sidewalk_start) & (aside < street.sidewalk_end))
        | (from_crossing < CROSSING_HALF_WIDTH + street.sidewalk_width)
    )
    labels = np.where(road, ROAD, np.where(walk, SIDEWALK, TERRAIN)).astype(np.uint8)

    tone = to_linear if look.physical else np.float32
    table = np.stack([tone(look.road), tone(look.sidewalk), tone(look.grass), tone(look.kerb)])
    kind = np.where(road, 0, np.where(kerb, 3, np.where(walk, 1, 2)))
    colour = table[kind]
    painted = _markings(across, aside, v, from_crossing, street) * road
    if look.wear > 0:
        painted *= np.clip((_lookup(_ROUGH, 1e6 + u * 12, 1e6 + v * 12) - 2.2 * look.wear + 1.6), 0.15, 1)
    colour += (painted * _fade(depth, 60))[:, None] * (tone(look.marking) - colour)
    if look.paving > 0:
        joints = (np.abs(v % 1.2 - 0.6) > 0.56) | (np.abs(across % 0.9 - 0.45) > 0.42)
        colour *= (1 - look.paving * (joints & walk) * _fade(depth, 14))[:, None]
    if look.grain > 0:
        grain = (
            _lookup(_ROUGH, 1e6 + u * 28, 1e6 + v * 28)
            * _fade(depth, 25)
            * np.float32([1, 0.7, 2.2, 0.6])[kind]
        )
        colour *= (1 + look.grain * grain)[:, None]
    if look.stains > 0:
        stains = _lookup(_SMOOTH, 1e6 + u * 7, 1e6 + v * 3) + 0.8 * _lookup(
            _SMOOTH, 1e6 + across * 30, 1e6 + v * 0.9
        )
        patches = _CELLS[(v / 5.1).astype(np.int32) & 255, (1e4 + across / 1.7).astype(np.int32) & 255]
        cracks = np.abs(_lookup(_SMOOTH, 1e6 + u * 11 + 90, 1e6 + v * 11)) < 0.05
        mottled = stains - 1.6 * (patches > 0.88) - 1.5 * cracks * _fade(depth, 12)
        colour *= np.maximum(1 + look.stains * mottled, 0.3)[:, None]
    return colour, labels


def _fade(depth: np.ndarray, distance: float) -> np.ndarray:
    """1 near the camera, falling to 0: detail finer than a pixel would only flicker."""
    return np.clip(1.5 - depth / distance, 0, 1)


def _markings(
    across: np.ndarray, aside: np.ndarray, along: np.ndarray, from_crossing: np.ndarray, street: Street
) -> np.ndarray:
    """1 where the road is painted white."""
    half = street.road_half_width
    centre = _step(aside, -1, 0.09) * (along % 9.0 < 4.5)
    edge = _step(aside, half - 0.45, half - 0.3)
    if half >= 4.2:
        edge = _step(aside, 2 * lane_centre(street) - 0.06, 2 * lane_centre(street) + 0.06) * (
            along % 6.0 < 4.0
        )
    clear = from_crossing > CROSSING_HALF_WIDTH + 4.0
    zebra = _step(from_crossing, CROSSING_HALF_WIDTH + 0.6, CROSSING_HALF_WIDTH + 3.2) * (across % 1.1 < 0.55)
    zebra *= aside < half - 0.3
    return np.maximum(np.maximum(centre, edge) * clear, zebra)


def _facade(
    albedo, surface: _Surface, pixels: np.ndarray, buffer: Buffer, look: Look, light: Light
) -> np.ndarray:
    """Windows in rows, a ground floor of shops or of doors, and plaster or brick between them."""
    ids = surface.ids[pixels]
    u, v, depth = surface.u[pixels], surface.v[pixels], surface.depth[pixels]
    seed, top = buffer.seeds[ids], buffer.details[ids]
    spacing = 1.7 + 1.5 * seed
    share = 0.42 + 0.22 * ((seed * 7) % 1)
    tone = to_linear if look.physical else np.float32
    column, row = u / spacing, v / 3.1
    cu, cv = column % 1, row % 1
    shops = (v < 3.1) & (((seed * 13) % 1) < 0.5)
    left = np.where(shops, 0.08, 0.5 - share / 2)
    window = (
        (cu > left)
        & (cu < 1 - left)
        & (cv > np.where(shops, 0.1, 0.3))
        & (cv < np.where(shops, 0.72, 0.82))
        & (v < top)
    )
    frame = window & ((cu < left + 0.05) | (cu > 0.95 - left) | (np.abs(cu - 0.5) < 0.02))
    # Where several columns of windows fall into one pixel only their average colour is seen.
    h = buffer.homographies
    footprint = np.abs(h[ids, 0] - u * h[ids, 6]) * depth / spacing
    sharp = np.clip(1.4 - 1.8 * footprint, 0, 1)[:, None]
    glass = np.broadcast_to(tone(look.palette.glass), albedo.shape)
    if look.window_variety > 0:
        roll = _lookup(_CELLS, 1e4 + column + seed * 99, 1e4 + row + seed * 57)[:, None]
        mirrored = np.float32(light.horizon) * (0.25 + 0.75 * roll)
        glass = glass * (0.4 + roll) * (1 - look.window_variety) + mirrored * look.window_variety * (
            roll > 0.35
        )
    texture = np.ones((len(pixels), 1), np.float32)
    if look.facade_texture > 0:
        dirt = _lookup(_SMOOTH, 1e5 + u * 9 + seed * 300, 1e5 + v * 3) + 0.5 * _lookup(
            _ROUGH, 1e5 + u * 16, 1e5 + v * 16
        ) * _fade(depth, 30)
        bricks = ((v % 0.3 < 0.06) | ((u + 0.3 * ((v / 0.3) % 2 < 1)) % 0.6 < 0.05)) & (
            ((seed * 5) % 1) < 0.45
        )
        texture = (1 + look.facade_texture * (dirt - 1.2 * bricks * _fade(depth, 25) - 0.8 * (v < 0.7)))[
            :, None
        ]
    wall = albedo * np.clip(texture, 0.4, 1.6)
    ledge = ((v % 3.1 < 0.16) & (v > 2) & (((seed * 3) % 1) < 0.6))[:, None]
    wall = np.where(ledge, wall * 0.82, wall)
    detailed = np.where(
        window[:, None], np.where(frame[:, None], 0.5 * wall + 0.3 * tone((0.9, 0.9, 0.88)), glass), wall
    )
    average = wall + (share * 0.5 * (v < top))[:, None] * (glass - wall)
    return detailed * sharp + average * (1 - sharp)


def _leaves(
    albedo, surface: _Surface, pixels: np.ndarray, buffer: Buffer, look: Look, light: Light
) -> np.ndarray:
    if look.leaf_texture == 0:
        return albedo
    ids = surface.ids[pixels]
    u, v, depth = surface.u[pixels], surface.v[pixels], surface.depth[pixels]
    seed = buffer.seeds[ids] * 977
    detail = _lookup(_ROUGH, 1e5 + u * 14 + seed, 1e5 + v * 14) * _fade(depth, 45)
    clumps = _lookup(_SMOOTH, 1e5 + u * 40 + seed, 1e5 + v * 40)
    return albedo * np.clip(1 + look.leaf_texture * (0.6 * detail + 0.8 * clumps), 0.15, 2.2)[:, None]


def _pickets(
    albedo, surface: _Surface, pixels: np.ndarray, buffer: Buffer, look: Look, light: Light
) -> np.ndarray:
    ids = surface.ids[pixels]
    u, v, depth = surface.u[pixels], surface.v[pixels], surface.depth[pixels]
    top = buffer.details[ids]
    h = buffer.homographies
    footprint = np.abs(h[ids, 0] - u * h[ids, 6]) * depth
    sharp = np.clip(1.5 - 5 * footprint, 0, 1)
    between = (u % 0.28 > 0.17) & ~((np.abs(v - 0.25 * top) < 0.06) | (np.abs(v - 0.8 * top) < 0.06))
    solid = buffer.seeds[ids] < 0.3
    return albedo * (1 - np.where(solid, 0.12, 0.62) * np.where(between, sharp, 0.4 * (1 - sharp)))[:, None]


def _glass(
    albedo, surface: _Surface, pixels: np.ndarray, buffer: Buffer, look: Look, light: Light
) -> np.ndarray:
    if look.window_variety == 0:
        return albedo
    mirrored = np.clip(0.2 + 0.9 * surface.v[pixels], 0, 0.8)[:, None] * look.window_variety
    return albedo * (1 - mirrored) + np.float32(light.horizon) * mirrored * 0.6


def _roof(
    albedo, surface: _Surface, pixels: np.ndarray, buffer: Buffer, look: Look, light: Light
) -> np.ndarray:
    rows = (surface.v[pixels] % 0.5 < 0.1) * _fade(surface.depth[pixels], 40)
    return albedo * (1 - 0.25 * rows)[:, None]


def sun_direction(azimuth: float, elevation: float) -> tuple[float, float, float]:
    """Unit vector (right, up, forward) to a sun; radians, azimuth 0 straight ahead and positive to the right."""
    level = math.cos(elevation)
    return level * math.sin(azimuth), math.sin(elevation), level * math.cos(azimuth)
