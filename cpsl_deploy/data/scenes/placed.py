"""Objects given in their own coordinates, brought before the camera."""

from __future__ import annotations

import math

import numpy as np

from .geometry import Camera, Faces, Paint
from .layout import Item, Street


class Placed:
    """An item's own coordinates (right, up, forward; metres) in those of the camera."""

    def __init__(self, item: Item, street: Street, camera: Camera) -> None:
        x, z, yaw = street.place(item.x, item.z, item.heading)
        c, s = math.cos(yaw), math.sin(yaw)
        self._axes = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]) @ camera.rotation.T
        self._base = camera.rotation @ (np.array([x, 0.0, z]) - camera.position)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return points @ self._axes + self._base


def add_bars(faces: Faces, placed: Placed, limbs: list[tuple], paints: dict[str, Paint]) -> None:
    """Add bars (start, end, radius, paint[, share of the radius at the end]) in an item's coordinates."""
    ends = placed(np.array([point for limb in limbs for point in limb[:2]], float)).reshape(-1, 2, 3)
    radii = np.array([(limb[2], limb[2] * (limb[4] if len(limb) > 4 else 1.0)) for limb in limbs])
    faces.add_limbs(ends, radii, [paints[limb[3]] for limb in limbs])
