"""Light on surfaces: the colours of a painted buffer, for a plain game engine or for the real thing.

One function computes both. With a physical ``Look`` it computes linear light, as the camera model needs; with
one that is not it multiplies display colours by a shade factor, as a simple game engine does. Colours are RGB
planes, float32 (3, P) for the P = H * W pixels of the buffer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from . import textures
from .geometry import Buffer
from .layout import Street
from .materials import Colour, Material
from .textures import Look, Patch, to_linear


@dataclass(frozen=True, kw_only=True)
class Light:
    """The light of one scene. ``sun``: unit vector in the world (right, up, forward) towards the sun."""

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


_TEXTURES: dict[Material, Callable[[np.ndarray, Patch, Look], np.ndarray]] = {
    Material.FACADE: textures.facade,
    Material.LEAVES: textures.leaves,
    Material.PICKETS: textures.pickets,
    Material.GLASS: textures.car_glass,
    Material.ROOF: textures.roof,
}


@dataclass(frozen=True)
class _Surface:
    """What each pixel shows: face number, place on the face and distance in metres; flat arrays (P,)."""

    ids: np.ndarray
    u: np.ndarray
    v: np.ndarray
    depth: np.ndarray


def shade(buffer: Buffer, street: Street, look: Look, light: Light) -> tuple[np.ndarray, np.ndarray]:
    """Colour a buffer.

    Returns the picture, float32 (H, W, 3) RGB, in display values or linear light as the look says, not
    clipped; and the labels, uint8 (H, W).
    """
    surface = _surface(buffer)
    labels = np.take(buffer.labels, surface.ids)
    materials = np.take(buffer.materials, surface.ids)
    colours = to_linear(buffer.colours) if look.physical else buffer.colours
    colour = np.take(np.ascontiguousarray(colours.T), surface.ids, axis=1)

    pixels = np.flatnonzero(materials == Material.GROUND)
    colour[:, pixels], labels[pixels] = textures.ground(
        surface.u[pixels], surface.v[pixels], surface.depth[pixels], street, look
    )
    for material, texture in _TEXTURES.items():
        pixels = np.flatnonzero(materials == material)
        if len(pixels):
            patch = _patch(buffer, surface, pixels, light)
            colour[:, pixels] = texture(np.take(colour, pixels, axis=1), patch, look)

    luminous = np.flatnonzero(materials == Material.LIGHT)
    own = 1.15 * colour[:, luminous]
    _light_surfaces(colour, buffer, surface, materials, light)
    colour[:, luminous] = own
    clear = np.exp(np.float32(-light.haze_density) * surface.depth)
    for plane, haze in zip(colour, light.haze, strict=True):
        plane -= np.float32(haze)
        plane *= clear
        plane += np.float32(haze)
    pixels = np.flatnonzero(materials == Material.SKY)
    colour[:, pixels] = _sky(pixels, buffer, light)
    height, width = buffer.camera.size
    return cv2.merge([plane.reshape(height, width) for plane in colour]), labels.reshape(height, width)


def _surface(buffer: Buffer) -> _Surface:
    height, width = buffer.camera.size
    ids = buffer.ids.reshape(-1).astype(np.intp)
    x = np.tile(np.arange(width, dtype=np.float32), height)
    y = np.repeat(np.arange(height, dtype=np.float32), width)
    rows = np.ascontiguousarray(buffer.homographies.T)

    def along(k: int) -> np.ndarray:
        total = np.take(rows[k], ids) * x
        total += np.take(rows[k + 1], ids) * y
        total += np.take(rows[k + 2], ids)
        return total

    depth = 1 / np.maximum(along(6), np.float32(1e-5))
    return _Surface(ids, along(0) * depth, along(3) * depth, depth)


def _patch(buffer: Buffer, surface: _Surface, pixels: np.ndarray, light: Light) -> Patch:
    ids, u, depth = surface.ids[pixels], surface.u[pixels], surface.depth[pixels]
    rows = buffer.homographies
    return Patch(
        u=u,
        v=surface.v[pixels],
        depth=depth,
        footprint=np.abs(np.take(rows[:, 0], ids) - u * np.take(rows[:, 6], ids)) * depth,
        seed=np.take(buffer.seeds, ids),
        detail=np.take(buffer.details, ids),
        mirrored=np.array(light.horizon, np.float32)[:, None],
    )


def _light_surfaces(
    colour: np.ndarray, buffer: Buffer, surface: _Surface, materials: np.ndarray, light: Light
) -> None:
    """Multiply the surfaces' own colour, in place, by the light that falls on them."""
    rotation = buffer.camera.rotation
    to_sun = (buffer.normals @ rotation @ light.sun).astype(np.float32)
    to_sky = buffer.normals @ np.float32(rotation[:, 1])
    direct, open_sky = np.take(to_sun[:, 2], surface.ids), np.take(to_sky[:, 2], surface.ids)
    # Bars and balls are painted as flat strips and discs; their normal turns away towards the rim.
    is_round = buffer.rounding[:, 0] > 0
    pixels = np.flatnonzero(np.take(is_round, surface.ids))
    ids = surface.ids[pixels]
    su = np.clip(surface.u[pixels] * np.take(buffer.rounding[:, 0], ids), -1, 1)
    sv = np.clip(surface.v[pixels] * np.take(buffer.rounding[:, 1], ids), -1, 1)
    sw = np.sqrt(np.maximum(1 - su * su - sv * sv, 0))
    for lit, axes in ((direct, to_sun), (open_sky, to_sky)):
        lit[pixels] = su * np.take(axes[:, 0], ids) + sv * np.take(axes[:, 1], ids) + sw * lit[pixels]
    np.maximum(direct, 0, out=direct)
    direct[buffer.shadow.reshape(-1) & (materials == Material.GROUND)] = 0
    open_sky *= np.float32(0.38)
    open_sky += np.float32(0.62)
    for plane, ambient, sun in zip(colour, light.ambient, light.sun_colour, strict=True):
        plane *= open_sky * np.float32(ambient) + direct * np.float32(sun)


def _sky(pixels: np.ndarray, buffer: Buffer, light: Light) -> np.ndarray:
    """A gradient from horizon to zenith, (3, N), with clouds on a high flat layer."""
    camera = buffer.camera
    width = camera.size[1]
    centre = camera.intrinsics[:2, 2].astype(np.float32)
    ray_x = ((pixels % width).astype(np.float32) - centre[0]) / np.float32(camera.focal)
    ray_y = ((pixels // width).astype(np.float32) - centre[1]) / np.float32(camera.focal)
    rotation = camera.rotation.astype(np.float32)
    right, up, ahead = (ray_x * rotation[0, k] + ray_y * rotation[1, k] + rotation[2, k] for k in range(3))
    height = np.maximum(up / np.sqrt(right * right + up * up + ahead * ahead), np.float32(1e-3))
    horizon, zenith, cloud = (
        np.array(c, np.float32)[:, None] for c in (light.horizon, light.zenith, light.cloud_colour)
    )
    colour = horizon + (1 - np.exp(-3.5 * height)) * (zenith - horizon)
    layer = 9.0 / (height + np.float32(0.12))
    density = _smooth_noise(right * layer + np.float32(light.cloud_seed * 256), ahead * layer)
    cover = np.clip((density + 2.4 * (light.clouds - 0.5)) * 0.7 + 0.5, 0, 1) * np.clip(height * 8, 0, 1)
    return colour + cover * (cloud * (1 + 0.06 * density) - colour)


def _smooth_noise(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Noise with soft transitions at texel (u, v)."""
    # OpenCV takes maps of at most 32767 rows.
    columns = 1024
    rows = -(-len(u) // columns)
    flat = np.zeros((2, rows * columns), np.float32)
    flat[0, : len(u)], flat[1, : len(v)] = u % 256, v % 256
    maps = flat.reshape(2, rows, columns)
    return cv2.remap(textures.SMOOTH, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP).ravel()[
        : len(u)
    ]


def sun_direction(azimuth: float, elevation: float) -> tuple[float, float, float]:
    """Unit vector (right, up, forward) to a sun; radians, azimuth 0 straight ahead, positive to the right."""
    level = math.cos(elevation)
    return level * math.sin(azimuth), math.sin(elevation), level * math.cos(azimuth)
