"""Flat faces in front of a pinhole camera, and the picture of which face each pixel shows.

Nothing is coloured here. Faces are painted far to near into a buffer of face numbers; labels and both
domains' colours are then read from the same buffer, so that a label is exact to the pixel by construction.
Camera coordinates: x right, y down, z forward, metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

NEAR = 0.4
"""Metres in front of the camera at which faces are cut off."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera in the world: position in metres (right, up, forward), angles in radians.

    ``pitch`` is positive looking down, ``yaw`` positive to the right, ``roll`` clockwise.
    """

    position: tuple[float, float, float]
    yaw: float
    pitch: float
    roll: float
    focal: float
    """In pixels of the picture."""
    size: tuple[int, int]
    """(height, width) in pixels."""
    horizon: float = 0.5
    """Height of the principal point as a share of the picture's height."""

    def rotation(self) -> np.ndarray:
        """(3, 3): rows are the camera's right, down and forward in world coordinates (right, up, forward)."""
        cy, sy, cp, sp = math.cos(self.yaw), math.sin(self.yaw), math.cos(self.pitch), math.sin(self.pitch)
        cr, sr = math.cos(self.roll), math.sin(self.roll)
        level = np.array([[cy, 0, -sy], [-sp * sy, -cp, -sp * cy], [cp * sy, -sp, cp * cy]])
        return np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]]) @ level

    def intrinsics(self) -> np.ndarray:
        """(3, 3) from camera coordinates to pixels, pixel centres at whole numbers."""
        height, width = self.size
        return np.array(
            [[self.focal, 0, (width - 1) / 2], [0, self.focal, height * self.horizon - 0.5], [0, 0, 1]]
        )

    def from_world(self, points: np.ndarray) -> np.ndarray:
        """World points (N, 3) in camera coordinates."""
        return (np.asarray(points, np.float64) - self.position) @ self.rotation().T


class Paint(NamedTuple):
    """What a face is: label value, material number, base colour (RGB, 0..1) and two numbers for its texture."""

    label: int
    material: int
    colour: tuple[float, float, float]
    seed: float = 0.0
    detail: float = 0.0


class Side(NamedTuple):
    """One side of a solid.

    ``corners``: numbers of its corners, first the bottom left, then the bottom right as seen from outside, then
    upwards. ``on``: number of an earlier side that this one is painted onto, as a window on a wall.
    """

    corners: tuple[int, ...]
    paint: Paint
    on: int = -1


class Faces:
    """Collects faces in painting order. Face 0 is the sky and face 1 the ground; others follow."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.polygons: list[np.ndarray] = []
        self.frames: list[np.ndarray] = []
        self.rounding: list[tuple[float, float]] = []
        self.paints: list[Paint] = []
        self.first = 2

    def add(self, polygon: np.ndarray, frame: np.ndarray, paint: Paint, rounding=(0.0, 0.0)) -> None:
        """Add a planar face.

        ``polygon``: (k, 3) corners. ``frame``: (3, 3), rows origin, unit u and unit v axis of its texture.
        ``rounding``: 1 / radius along u and v where the face stands for something round, 0 where it is flat.
        """
        self.polygons.append(polygon)
        self.frames.append(frame)
        self.rounding.append(rounding)
        self.paints.append(paint)

    def add_solid(self, corners: np.ndarray, sides: list[Side]) -> None:
        """Add the sides of a solid that look at the camera, the farthest first. ``corners``: (V, 3)."""
        three = corners[np.array([side.corners[:3] for side in sides])]
        right, up = three[:, 1] - three[:, 0], three[:, 2] - three[:, 1]
        # y points down: seen from outside, right x up points at the viewer.
        normals = np.cross(right, up)
        seen = ((normals * three[:, 0]).sum(1) < 0).tolist()
        right = right / np.linalg.norm(right, axis=1, keepdims=True)
        v_axis = np.cross(normals, right)
        v_axis /= np.linalg.norm(v_axis, axis=1, keepdims=True)
        shown = []
        for k, side in enumerate(sides):
            base = k if side.on < 0 else side.on
            if seen[k] and seen[base]:
                middle = corners[list(sides[base].corners)].mean(0)
                shown.append((-float(middle @ middle), k))
        for _, k in sorted(shown):
            frame = np.stack([three[k, 0], right[k], v_axis[k]])
            self.add(corners[list(sides[k].corners)], frame, sides[k].paint)

    def add_limb(
        self, start: np.ndarray, end: np.ndarray, radius: float, paint: Paint, tip: float = 1.0
    ) -> None:
        """Add a round bar with round ends from ``start`` to ``end``; ``tip`` scales the radius at the end."""
        axis = end - start
        length = float(np.linalg.norm(axis))
        if min(start[2], end[2]) < NEAR or length < 1e-6:
            return
        along = end[:2] / end[2] - start[:2] / start[2]
        norm = math.hypot(float(along[0]), float(along[1]))
        ex, ey = (float(along[0]) / norm, float(along[1]) / norm) if norm > 1e-9 else (0.0, 1.0)
        side = np.array([-ey, ex, 0.0])
        ahead = np.array([ex, ey, 0.0])
        a, b, r = start, end, radius * tip
        polygon = np.array(
            [
                a + radius * side, a - 0.5 * radius * (ahead - side), a - 0.5 * radius * (ahead + side),
                a - radius * side, b - r * side, b + 0.5 * r * (ahead - side), b + 0.5 * r * (ahead + side),
                b + r * side,
            ]
        )  # fmt: skip
        v_axis = axis / length if norm > 1e-9 else np.array([0.0, -1.0, 0.0])
        self.add(polygon, np.stack([start, side, v_axis]), paint, (1 / radius, 0.0))

    def add_blob(self, centre: np.ndarray, radius: float, outline: np.ndarray, paint: Paint) -> None:
        """Add a ball seen from the camera; ``outline``: (k,) radii as shares of ``radius``."""
        if centre[2] < NEAR + 0.5:
            return
        angles = np.arange(len(outline)) * (2 * math.pi / len(outline))
        ring = np.stack([np.cos(angles), -np.sin(angles), np.zeros_like(angles)], 1)
        polygon = centre + radius * outline[:, None] * ring
        frame = np.stack([centre, np.array([1.0, 0.0, 0.0]), np.array([0.0, -1.0, 0.0])])
        self.add(polygon, frame, paint, (1 / radius, 1 / radius))


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """Which face each pixel shows, and what is known of each face.

    ``ids``: (H, W) int32 face numbers. ``homographies``: (F, 9) float32, pixel (x, y, 1) to (u, v, 1) / depth.
    ``normals``: (F, 3, 3) float32: what a face's lighting is linear in: u axis, v axis and outward normal.
    ``rounding``: (F, 2). ``labels``: (F,) uint8. ``materials``: (F,) uint8. ``colours``: (F, 3) float32.
    ``seeds``, ``details``: (F,) float32. ``shadow``: (H, W) bool, ground the sun does not reach.
    """

    camera: Camera
    ids: np.ndarray
    homographies: np.ndarray
    normals: np.ndarray
    rounding: np.ndarray
    labels: np.ndarray
    materials: np.ndarray
    colours: np.ndarray
    seeds: np.ndarray
    details: np.ndarray
    shadow: np.ndarray


def paint_faces(faces: Faces, shadows: list[np.ndarray], sky: Paint, ground: Paint) -> Buffer:
    """Paint all faces in their order. ``shadows``: polygons (k, 3) on the ground, in camera coordinates."""
    camera = faces.camera
    height, width = camera.size
    rotation = camera.rotation()
    origin = camera.from_world(np.zeros((1, 3)))[0]
    # The ground's texture coordinates are world x and z. The sky is a far wall facing the camera.
    frames = np.array(
        [
            [[0.0, 0.0, 1e4], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]],
            [origin, rotation[:, 0], rotation[:, 2]],
            *faces.frames,
        ]
    )
    matrices = camera.intrinsics() @ frames[:, [1, 2, 0]].transpose(0, 2, 1)
    homographies = np.linalg.inv(matrices).reshape(-1, 9)
    normals = np.cross(frames[:, 1], frames[:, 2])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    # Outward is towards the camera.
    normals *= -np.sign((normals * frames[:, 0]).sum(1, keepdims=True))

    ids = np.zeros((height, width), np.int32)
    _fill(ids, camera, [_ground_polygon(camera)], first=1)
    _fill(ids, camera, faces.polygons, first=faces.first)
    shadow = np.zeros((height, width), np.uint8)
    _fill(shadow, camera, shadows, first=1, step=0)
    paints = [sky, ground, *faces.paints]
    return Buffer(
        camera=camera,
        ids=ids,
        homographies=homographies.astype(np.float32),
        normals=np.stack([frames[:, 1], frames[:, 2], normals], 1).astype(np.float32),
        rounding=np.array([(0.0, 0.0), (0.0, 0.0), *faces.rounding], np.float32),
        labels=np.array([paint.label for paint in paints], np.uint8),
        materials=np.array([paint.material for paint in paints], np.uint8),
        colours=np.array([paint.colour for paint in paints], np.float32),
        seeds=np.array([paint.seed for paint in paints], np.float32),
        details=np.array([paint.detail for paint in paints], np.float32),
        shadow=shadow > 0,
    )


def _ground_polygon(camera: Camera) -> np.ndarray:
    """The ground from under the camera to where it meets the sky."""
    x, _, z = camera.position
    cy, sy = math.cos(camera.yaw), math.sin(camera.yaw)
    corners = [(-60.0, -5.0), (60.0, -5.0), (3e3, 2e3), (-3e3, 2e3)]
    return camera.from_world(np.array([[x + a * cy + b * sy, 0.0, z - a * sy + b * cy] for a, b in corners]))


_SHIFT = 4
_FARTHEST_PIXEL = 1e5


def _fill(
    canvas: np.ndarray, camera: Camera, polygons: list[np.ndarray], *, first: int, step: int = 1
) -> None:
    """Paint polygons in order, polygon k with the value ``first + k * step``."""
    if not polygons:
        return
    counts = np.array([len(polygon) for polygon in polygons])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    points = np.concatenate(polygons)
    nearest = np.minimum.reduceat(points[:, 2], starts)
    farthest = np.maximum.reduceat(points[:, 2], starts)
    pixels = _project(camera, np.maximum(points, [-np.inf, -np.inf, 1e-3]))
    low, high = np.minimum.reduceat(pixels, starts), np.maximum.reduceat(pixels, starts)
    height, width = camera.size
    outside = (high < -1).any(1) | (low > [width, height]).any(1)
    fixed = np.round(np.clip(pixels, -_FARTHEST_PIXEL, _FARTHEST_PIXEL) * (1 << _SHIFT)).astype(np.int32)
    for k, (start, count) in enumerate(zip(starts.tolist(), counts.tolist(), strict=True)):
        if farthest[k] <= NEAR or (outside[k] and nearest[k] > NEAR):
            continue
        polygon = fixed[start : start + count]
        if nearest[k] <= NEAR:
            clipped = _project(camera, _clip_near(points[start : start + count]))
            polygon = np.round(np.clip(clipped, -_FARTHEST_PIXEL, _FARTHEST_PIXEL) * (1 << _SHIFT)).astype(
                np.int32
            )
        cv2.fillPoly(canvas, [polygon], first + k * step, lineType=cv2.LINE_8, shift=_SHIFT)


def _project(camera: Camera, points: np.ndarray) -> np.ndarray:
    """Camera coordinates (N, 3) to pixels (N, 2)."""
    centre = camera.intrinsics()[:2, 2]
    return points[:, :2] * (camera.focal / points[:, 2:]) + centre


def _clip_near(polygon: np.ndarray) -> np.ndarray:
    """Cut a polygon off at the near plane (Sutherland and Hodgman)."""
    kept = []
    for a, b in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (b - a) * ((NEAR - a[2]) / (b[2] - a[2])))
    return np.array(kept)
