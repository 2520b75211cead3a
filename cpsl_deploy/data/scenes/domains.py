"""The two domains of the demo: what differs between the labelled game and the unlabelled camera.

Both draw from the same kinds of street. The values were chosen from what such pictures look like, and so that
a network trained with labels learns either domain; none was fitted to the result of an adaptation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .appearance import Light, sun_direction
from .layout import Layout, Street, lane_centre
from .materials import Palette
from .sensor import Sensor
from .textures import Look

DOMAINS = ("rendered", "camera")

RENDERED_LAYOUT = Layout(
    road_half_width=(3.6, 5.6),
    sidewalk_width=(2.2, 3.4),
    verge_width=(-1.0, 1.8),
    setback=(0.0, 4.0),
    storeys=(1.6, 4.0),
    lot_width=(9.0, 15.0),
    gap_chance=(0.15, 0.35),
    gable_chance=(0.2, 0.8),
    front_fence_chance=(0.3, 0.9),
    crossing_chance=(0.5, 0.9),
    tree_spacing=(11.0, 20.0),
    lamp_spacing=(14.0, 22.0),
    sign_spacing=(22.0, 34.0),
    parked_spacing=(16.0, 28.0),
    traffic_spacing=(18.0, 30.0),
    walker_spacing=(8.0, 14.0),
    rider_spacing=(25.0, 36.0),
    bend=(0.0, 3.0),
)
CAMERA_LAYOUT = Layout(
    road_half_width=(3.2, 6.4),
    sidewalk_width=(1.6, 3.0),
    verge_width=(-1.0, 1.6),
    setback=(0.0, 3.0),
    storeys=(2.0, 5.0),
    lot_width=(8.0, 18.0),
    gap_chance=(0.15, 0.4),
    gable_chance=(0.1, 0.7),
    front_fence_chance=(0.3, 0.9),
    crossing_chance=(0.4, 0.9),
    tree_spacing=(9.0, 18.0),
    lamp_spacing=(15.0, 24.0),
    sign_spacing=(22.0, 34.0),
    parked_spacing=(15.0, 26.0),
    traffic_spacing=(17.0, 28.0),
    walker_spacing=(8.0, 14.0),
    rider_spacing=(25.0, 36.0),
    bend=(0.0, 5.0),
)

_GAME_PALETTE = Palette(
    walls=(
        (0.80, 0.45, 0.36), (0.86, 0.76, 0.58), (0.62, 0.66, 0.74), (0.90, 0.86, 0.78), (0.72, 0.55, 0.46),
        (0.58, 0.70, 0.66), (0.84, 0.62, 0.42),
    ),
    roofs=((0.62, 0.26, 0.20), (0.38, 0.36, 0.40), (0.50, 0.32, 0.26)),
    cars=(
        (0.82, 0.12, 0.12), (0.12, 0.28, 0.76), (0.94, 0.94, 0.94), (0.14, 0.14, 0.16), (0.95, 0.75, 0.10),
        (0.16, 0.56, 0.30), (0.62, 0.64, 0.68),
    ),
    clothes=(
        (0.85, 0.18, 0.20), (0.16, 0.30, 0.70), (0.95, 0.82, 0.20), (0.20, 0.55, 0.35), (0.92, 0.92, 0.92),
        (0.55, 0.25, 0.60), (0.16, 0.17, 0.22), (0.92, 0.52, 0.16),
    ),
    skin=((0.92, 0.73, 0.60), (0.76, 0.56, 0.42), (0.48, 0.33, 0.24)),
    hair=((0.20, 0.13, 0.08), (0.10, 0.09, 0.09), (0.62, 0.46, 0.22)),
    leaves=((0.24, 0.58, 0.20), (0.32, 0.62, 0.24), (0.18, 0.50, 0.24)),
    bark=(0.45, 0.31, 0.19),
    metal=((0.50, 0.52, 0.55), (0.34, 0.38, 0.40), (0.62, 0.63, 0.65)),
    fences=((0.66, 0.48, 0.30), (0.88, 0.88, 0.86), (0.42, 0.46, 0.48)),
    glass=(0.32, 0.44, 0.58),
)  # fmt: skip
_STREET_PALETTE = Palette(
    walls=(
        (0.52, 0.38, 0.33), (0.66, 0.62, 0.56), (0.56, 0.55, 0.54), (0.74, 0.71, 0.65), (0.48, 0.45, 0.42),
        (0.60, 0.50, 0.42), (0.42, 0.36, 0.34), (0.68, 0.60, 0.50), (0.78, 0.77, 0.74),
    ),
    roofs=((0.38, 0.26, 0.22), (0.30, 0.30, 0.32), (0.34, 0.30, 0.28)),
    cars=(
        (0.70, 0.71, 0.72), (0.08, 0.08, 0.09), (0.84, 0.84, 0.83), (0.32, 0.33, 0.35), (0.14, 0.19, 0.33),
        (0.44, 0.10, 0.10), (0.50, 0.50, 0.50), (0.22, 0.25, 0.24),
    ),
    clothes=(
        (0.14, 0.15, 0.20), (0.26, 0.30, 0.40), (0.50, 0.48, 0.46), (0.40, 0.16, 0.16), (0.72, 0.70, 0.68),
        (0.24, 0.28, 0.22), (0.10, 0.10, 0.11), (0.54, 0.42, 0.28), (0.66, 0.58, 0.22),
    ),
    skin=((0.80, 0.62, 0.52), (0.64, 0.46, 0.36), (0.40, 0.28, 0.22)),
    hair=((0.16, 0.12, 0.09), (0.08, 0.08, 0.08), (0.42, 0.34, 0.22)),
    leaves=((0.28, 0.36, 0.16), (0.36, 0.42, 0.20), (0.22, 0.32, 0.18), (0.42, 0.40, 0.20)),
    bark=(0.30, 0.26, 0.22),
    metal=((0.42, 0.43, 0.44), (0.30, 0.32, 0.31), (0.54, 0.54, 0.53)),
    fences=((0.40, 0.33, 0.26), (0.68, 0.67, 0.64), (0.26, 0.29, 0.28)),
    glass=(0.20, 0.23, 0.26),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class View:
    """Where the camera sits in the car and what its lens shows. Metres and radians."""

    height: float
    aside: float
    """From the lane's centre line."""
    yaw: float
    pitch: float
    roll: float
    field_of_view: float
    """Across the picture's width."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything drawn at random for one scene. ``sensor`` is None where no camera is modelled."""

    street: Street
    view: View
    look: Look
    light: Light
    sensor: Sensor | None


def sample_setting(domain: str, rng: np.random.Generator) -> Setting:
    """Draw the street, view, materials, light and camera of one scene."""
    return _rendered(rng) if domain == "rendered" else _camera(rng)


def _colour(base: tuple[float, float, float], rng: np.random.Generator, spread: float, hue: float) -> tuple:
    """A colour near another: ``spread`` in brightness, ``hue`` in each channel."""
    values = np.array(base) * (1 + rng.uniform(-spread, spread)) + rng.uniform(-hue, hue, 3)
    return tuple(np.clip(values, 0.02, 1).tolist())


def _rendered(rng: np.random.Generator) -> Setting:
    street = Street.sample(RENDERED_LAYOUT, rng)
    view = View(
        height=rng.uniform(1.4, 1.7),
        aside=lane_centre(street) + rng.uniform(-0.3, 0.3),
        yaw=rng.normal(0, 0.03),
        pitch=rng.uniform(0.01, 0.05),
        roll=0.0,
        field_of_view=math.radians(rng.uniform(58, 66)),
    )
    look = Look(
        palette=_GAME_PALETTE,
        road=_colour((0.36, 0.36, 0.39), rng, 0.12, 0.01),
        sidewalk=_colour((0.68, 0.64, 0.60), rng, 0.10, 0.02),
        grass=_colour((0.40, 0.66, 0.26), rng, 0.1, 0.03),
        marking=(0.95, 0.95, 0.95),
        kerb=(0.80, 0.79, 0.77),
        physical=False,
        grain=0.035,
        stains=0.02,
        paving=0.16,
        wear=0.0,
        facade_texture=0.0,
        leaf_texture=0.12,
        window_variety=0.0,
    )
    shade = rng.uniform(0.92, 1.05)
    light = Light(
        sun=sun_direction(rng.uniform(-math.pi, math.pi), math.radians(rng.uniform(45, 65))),
        sun_colour=(0.36 * shade,) * 3,
        ambient=(0.78 * shade, 0.78 * shade, 0.80 * shade),
        zenith=_colour((0.28, 0.52, 0.88), rng, 0.1, 0.02),
        horizon=(0.72, 0.85, 0.96),
        haze=(0.74, 0.84, 0.93),
        haze_density=rng.uniform(0.0005, 0.002),
        clouds=rng.uniform(0.15, 0.55),
        cloud_colour=(0.97, 0.98, 1.0),
        cloud_seed=rng.random(),
    )
    return Setting(street=street, view=view, look=look, light=light, sensor=None)


def _camera(rng: np.random.Generator) -> Setting:
    street = Street.sample(CAMERA_LAYOUT, rng)
    view = View(
        height=rng.uniform(1.2, 1.55),
        aside=lane_centre(street) + rng.normal(0, 0.35),
        yaw=rng.normal(0, 0.07),
        pitch=rng.uniform(-0.02, 0.05),
        roll=rng.normal(0, 0.012),
        field_of_view=math.radians(rng.uniform(52, 64)),
    )
    look = Look(
        palette=_STREET_PALETTE,
        road=_colour((0.41, 0.40, 0.39), rng, 0.16, 0.012),
        sidewalk=_colour((0.56, 0.54, 0.51), rng, 0.16, 0.02),
        grass=_colour((0.36, 0.38, 0.20), rng, 0.15, 0.03),
        marking=(0.80, 0.79, 0.75),
        kerb=(0.58, 0.57, 0.55),
        physical=True,
        grain=0.14,
        stains=0.09,
        paving=0.28,
        wear=rng.uniform(0.2, 0.9),
        facade_texture=0.16,
        leaf_texture=0.42,
        window_variety=rng.uniform(0.3, 0.6),
    )
    return Setting(street=street, view=view, look=look, light=_daylight(rng), sensor=_sensor(rng))


def _daylight(rng: np.random.Generator) -> Light:
    """From an overcast noon to a low evening sun, always with some haze. Linear light."""
    low = rng.random()
    cover = rng.random()
    elevation = math.radians(12 + 38 * (1 - low))
    warm = np.array([1.0, 0.86 - 0.14 * low, 0.68 - 0.30 * low])
    sky_blue, grey = np.array([0.55, 0.68, 0.92]), np.array([0.80, 0.81, 0.83])
    overhead = sky_blue + cover * (grey - sky_blue)
    strength = (1.9 - 0.5 * low) * (1 - 0.88 * cover)
    sky = overhead * (0.85 - 0.25 * low)
    horizon = 0.45 * sky + 0.3 * warm * (1 - 0.5 * cover) + 0.2
    return Light(
        sun=sun_direction(rng.uniform(-math.pi, math.pi), elevation),
        sun_colour=tuple(strength * warm),
        ambient=tuple(0.62 * (0.75 * sky + 0.25 * warm)),
        zenith=tuple(sky * (0.55 + 0.35 * cover)),
        horizon=tuple(horizon * (1 - 0.25 * low)),
        haze=tuple(0.8 * horizon * (1 - 0.25 * low)),
        haze_density=rng.uniform(0.0015, 0.007),
        clouds=0.2 + 0.8 * cover,
        cloud_colour=tuple(0.9 * horizon * (1 - 0.2 * low)),
        cloud_seed=rng.random(),
    )


def _sensor(rng: np.random.Generator) -> Sensor:
    warmth = rng.normal(0.04, 0.05)
    return Sensor(
        brightness=0.26 * 2 ** rng.uniform(-0.6, 0.35),
        balance=(1 + warmth, 1.0 + rng.normal(0, 0.015), 1 - warmth),
        vignette=rng.uniform(0.15, 0.4),
        glare=rng.uniform(0.01, 0.06),
        blur=rng.uniform(0.35, 0.7),
        photon_noise=rng.uniform(0.012, 0.035),
        read_noise=rng.uniform(0.004, 0.012),
        saturation=rng.uniform(0.85, 1.1),
        contrast=rng.uniform(0.3, 0.7),
        sharpening=rng.uniform(0.0, 0.5),
        jpeg_quality=int(rng.integers(60, 90)),
    )
