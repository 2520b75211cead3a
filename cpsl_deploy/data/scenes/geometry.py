"""Flat faces in front of a pinhole camera, and the picture of which face each pixel shows.

Nothing is coloured here. Faces are painted far to near into a buffer of face numbers; labels and both
domains' colours are then read from the same buffer, so that a label is exact to the pixel by construction.
Camera coordinates: x right, y down, z forward, metres.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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

    @cached_property
    def rotation(self) -> np.ndarray:
        """(3, 3): rows are the camera's right, down and forward in the world (right, up, forward)."""
        cy, sy, cp, sp = math.cos(self.yaw), math.sin(self.yaw), math.cos(self.pitch), math.sin(self.pitch)
        cr, sr = math.cos(self.roll), math.sin(self.roll)
        level = np.array([[cy, 0, -sy], [-sp * sy, -cp, -sp * cy], [cp * sy, -sp, cp * cy]])
        return np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]]) @ level

    @cached_property
    def intrinsics(self) -> np.ndarray:
        """(3, 3) from camera coordinates to pixels, pixel centres at whole numbers."""
        height, width = self.size
        return np.array([[self.focal, 0, (width - 1) / 2], [0, self.focal, (height - 1) / 2], [0, 0, 1]])

    def from_world(self, points: np.ndarray) -> np.ndarray:
        """World points (N, 3) in camera coordinates."""
        return (np.asarray(points, np.float64) - self.position) @ self.rotation.T


class Paint(NamedTuple):
    """What a face is made of; ``colour`` is RGB 0..1, ``seed`` and ``detail`` steer its texture."""

    label: int
    material: int
    colour: tuple[float, ...]
    seed: float = 0.0
    detail: float = 0.0


class Side(NamedTuple):
    """One side of a solid.

    ``corners``: numbers of its corners, first the bottom left, then the bottom right as seen from outside,
    then upwards. ``part``: which of the solid's paints it has. ``on``: number of an earlier side that this
    one is painted onto, as a window on a wall.
    """

    corners: tuple[int, ...]
    part: str
    on: int = -1


class Solid:
    """The sides of a kind of solid, whatever the places of its corners."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self.flat = np.array([corner for side in sides for corner in side.corners])
        self.counts = np.array([len(side.corners) for side in sides])
        self.base = np.array([k if side.on < 0 else side.on for k, side in enumerate(sides)])
        self.parts = tuple(side.part for side in sides)


class Mesh(NamedTuple):
    """Faces in painting order.

    ``points``: (V, 3) all corners. ``counts``: (F,) corners of each face. ``frames``: (F, 3, 3), origin, u
    and v axis of each face's texture. ``rounding``: (F, 2), 1 / radius along u and v, 0 where it is flat.
    """

    points: np.ndarray
    counts: np.ndarray
    frames: np.ndarray
    rounding: np.ndarray
    paints: list[Paint]


class Faces:
    """Collects what is to be painted, from far to near, in camera coordinates.

    Everything is only noted when it is added; ``mesh`` works on all of it at once.
    """

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self._turn = 0
        self._solids: list[tuple[int, Solid, np.ndarray]] = []
        self._solid_paints: list[Paint] = []
        self._limbs: list[tuple[int, np.ndarray, np.ndarray]] = []
        self._limb_paints: list[Paint] = []
        self._blobs: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []
        self._blob_paints: list[Paint] = []

    def add_solid(self, solid: Solid, corners: np.ndarray, paints: Mapping[str, Paint]) -> None:
        """Add the sides of a solid that look at the camera. ``corners``: (V, 3)."""
        self._solids.append((self._next(), solid, corners[solid.flat]))
        self._solid_paints += [paints[part] for part in solid.parts]

    def add_limbs(self, ends: np.ndarray, radii: np.ndarray, paints: list[Paint]) -> None:
        """Add round bars with round ends, in painting order. ``ends``: (N, 2, 3); ``radii``: (N, 2)."""
        self._limbs.append((self._next(), ends, radii))
        self._limb_paints += paints

    def add_blobs(
        self, centres: np.ndarray, radii: np.ndarray, outlines: np.ndarray, paints: list[Paint]
    ) -> None:
        """Add balls, in painting order. ``outlines``: (N, 16), shares of the radius all around."""
        self._blobs.append((self._next(), centres, radii, outlines))
        self._blob_paints += paints

    def _next(self) -> int:
        self._turn += 1
        return self._turn

    def mesh(self) -> Mesh:
        """All faces in painting order."""
        faces: list[_Faces] = []
        paints: list[Paint] = []
        if self._solids:
            faces.append(_solid_faces(self._solids))
            paints += [self._solid_paints[k] for k in faces[-1].kept.tolist()]
        if self._limbs:
            faces.append(_limb_faces(self._limbs))
            paints += [self._limb_paints[k] for k in faces[-1].kept.tolist()]
        if self._blobs:
            faces.append(_blob_faces(self._blobs))
            paints += [self._blob_paints[k] for k in faces[-1].kept.tolist()]
        if not faces:
            return Mesh(np.zeros((0, 3)), np.zeros(0, int), np.zeros((0, 3, 3)), np.zeros((0, 2)), [])
        turns, depths = (
            np.concatenate([getattr(face, name) for face in faces]) for name in ("turns", "depths")
        )
        order = np.lexsort((-depths, turns))
        counts = np.concatenate([face.counts for face in faces])
        starts = np.cumsum(counts) - counts
        counts, starts = counts[order], starts[order]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        points = np.concatenate([face.points for face in faces])[np.repeat(starts, counts) + within]
        return Mesh(
            points,
            counts,
            np.concatenate([face.frames for face in faces])[order],
            np.concatenate([face.rounding for face in faces])[order],
            [paints[k] for k in order.tolist()],
        )


class _Faces(NamedTuple):
    """Faces of one sort. ``kept``: their numbers among all noted; ``turns``, ``depths``: what orders them."""

    kept: np.ndarray
    turns: np.ndarray
    depths: np.ndarray
    points: np.ndarray
    counts: np.ndarray
    frames: np.ndarray
    rounding: np.ndarray


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """np.cross for (N, 3), without its overhead."""
    return np.stack(
        [
            a[:, 1] * b[:, 2] - a[:, 2] * b[:, 1],
            a[:, 2] * b[:, 0] - a[:, 0] * b[:, 2],
            a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0],
        ],
        1,
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.sqrt((vectors * vectors).sum(1, keepdims=True)), 1e-12)


def _solid_faces(noted: list[tuple[int, Solid, np.ndarray]]) -> _Faces:
    """The sides that look at the camera; of each solid the farthest is painted first."""
    points = np.concatenate([corners for _, _, corners in noted])
    counts = np.concatenate([solid.counts for _, solid, _ in noted])
    sizes = np.array([len(solid.counts) for _, solid, _ in noted])
    base = np.concatenate([solid.base for _, solid, _ in noted]) + np.repeat(np.cumsum(sizes) - sizes, sizes)
    turns = np.repeat([turn for turn, _, _ in noted], sizes)
    starts = np.cumsum(counts) - counts
    first, right, up = points[starts], points[starts + 1], points[starts + 2]
    right, up = right - first, up - right
    # y points down: seen from outside, right x up points at the viewer.
    normals = _cross(right, up)
    seen = (normals * first).sum(1) < 0
    seen &= seen[base]
    middles = np.add.reduceat(points, starts) / counts[:, None]
    # What is painted onto a side comes right after it, in its own order.
    depths = np.sqrt((middles * middles).sum(1))[base] - 1e-7 * np.arange(len(base))
    right = _unit(right)
    frames = np.stack([first, right, _unit(_cross(normals, right))], 1)
    kept = np.flatnonzero(seen)
    return _Faces(
        kept, turns[kept], depths[kept], points[np.repeat(seen, counts)], counts[kept], frames[kept],
        np.zeros((len(kept), 2)),
    )  # fmt: skip


def _limb_faces(noted: list[tuple[int, np.ndarray, np.ndarray]]) -> _Faces:
    """Each bar as a flat strip with rounded ends that faces the camera."""
    ends = np.concatenate([ends for _, ends, _ in noted])
    radii = np.concatenate([radii for _, _, radii in noted])
    turns = np.repeat([turn for turn, _, _ in noted], [len(ends) for _, ends, _ in noted])
    kept = np.flatnonzero(ends[:, :, 2].min(1) > NEAR)
    ends, radii = ends[kept], radii[kept]
    start, end = ends[:, 0], ends[:, 1]
    along = end[:, :2] / end[:, 2:] - start[:, :2] / start[:, 2:]
    length = np.sqrt((along * along).sum(1, keepdims=True))
    # A bar seen end on has no direction in the picture; any will do.
    along = np.where(length > 1e-9, along / np.maximum(length, 1e-9), [0.0, 1.0])
    zero = np.zeros(len(kept))
    ahead = np.stack([along[:, 0], along[:, 1], zero], 1)
    side = np.stack([-along[:, 1], along[:, 0], zero], 1)
    a, b = ahead * radii[:, :1], ahead * radii[:, 1:]
    p, q = side * radii[:, :1], side * radii[:, 1:]
    outline = [start + p, start - 0.5 * (a - p), start - 0.5 * (a + p), start - p]
    outline += [end - q, end + 0.5 * (b - q), end + 0.5 * (b + q), end + q]
    axis = np.where(length > 1e-9, _unit(end - start), [0.0, -1.0, 0.0])
    return _Faces(
        kept, turns[kept], -np.arange(len(kept), dtype=float), np.stack(outline, 1).reshape(-1, 3),
        np.full(len(kept), 8), np.stack([start, side, axis], 1), np.stack([1 / radii[:, 0], zero], 1),
    )  # fmt: skip


def _blob_faces(noted: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]) -> _Faces:
    """Each ball as a flat disc that faces the camera."""
    centres, radii, outlines = (np.concatenate([entry[k] for entry in noted]) for k in (1, 2, 3))
    turns = np.repeat([entry[0] for entry in noted], [len(entry[1]) for entry in noted])
    kept = np.flatnonzero(centres[:, 2] > NEAR + 0.5)
    centres, radii, outlines = centres[kept], radii[kept], outlines[kept]
    corners = outlines.shape[1]
    angles = np.arange(corners) * (2 * math.pi / corners)
    ring = np.stack([np.cos(angles), -np.sin(angles), np.zeros_like(angles)], 1)
    points = centres[:, None] + (radii[:, None] * outlines)[:, :, None] * ring
    axes = np.broadcast_to([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]], (len(kept), 2, 3))
    return _Faces(
        kept, turns[kept], -np.arange(len(kept), dtype=float), points.reshape(-1, 3),
        np.full(len(kept), corners), np.concatenate([centres[:, None], axes], 1),
        np.stack([1 / radii] * 2, 1),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """Which face each pixel shows, and what is known of each face.

    ``ids``: (H, W) int32 face numbers. ``homographies``: (F, 9) float32, pixel (x, y, 1) to (u, v, 1) /
    depth.
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
    """Paint everything in its order. ``shadows``: outlines (k, 3) on the ground, in camera coordinates."""
    camera, mesh = faces.camera, faces.mesh()
    rotation = camera.rotation
    origin = camera.from_world(np.zeros((1, 3)))[0]
    # The sky is a far wall facing the camera. The ground's texture coordinates are world x and z.
    back = [
        [[0.0, 0.0, 1e4], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]],
        [origin, rotation[:, 0], rotation[:, 2]],
    ]
    frames = np.concatenate([np.array(back), mesh.frames])
    matrices = camera.intrinsics @ frames[:, [1, 2, 0]].transpose(0, 2, 1)
    normals = _unit(_cross(frames[:, 1], frames[:, 2]))
    # Outward is towards the camera.
    normals *= -np.sign((normals * frames[:, 0]).sum(1, keepdims=True))

    ids = np.zeros(camera.size, np.int32)
    outline = _ground_polygon(camera)
    _fill(ids, camera, outline, np.array([len(outline)]), first=1)
    _fill(ids, camera, mesh.points, mesh.counts, first=2)
    shadow = np.zeros(camera.size, np.uint8)
    if shadows:
        _fill(shadow, camera, np.concatenate(shadows), np.array([len(s) for s in shadows]), first=1, step=0)
    labels, materials, colours, seeds, details = zip(sky, ground, *mesh.paints, strict=True)
    return Buffer(
        camera=camera,
        ids=ids,
        homographies=np.linalg.inv(matrices).reshape(-1, 9).astype(np.float32),
        normals=np.stack([frames[:, 1], frames[:, 2], normals], 1).astype(np.float32),
        rounding=np.concatenate([np.zeros((2, 2)), mesh.rounding]).astype(np.float32),
        labels=np.array(labels, np.uint8),
        materials=np.array(materials, np.uint8),
        colours=np.array(colours, np.float32),
        seeds=np.array(seeds, np.float32),
        details=np.array(details, np.float32),
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
    canvas: np.ndarray, camera: Camera, points: np.ndarray, counts: np.ndarray, *, first: int, step: int = 1
) -> None:
    """Paint polygons in order, polygon k with ``first + k * step``. ``points``: all their corners."""
    if not len(counts):
        return
    starts = np.cumsum(counts) - counts
    nearest = np.minimum.reduceat(points[:, 2], starts)
    farthest = np.maximum.reduceat(points[:, 2], starts)
    pixels = _project(camera, np.maximum(points, [-np.inf, -np.inf, 1e-3]))
    low, high = np.minimum.reduceat(pixels, starts), np.maximum.reduceat(pixels, starts)
    height, width = camera.size
    whole = nearest > NEAR
    inside = (high >= -1).all(1) & (low <= [width, height]).all(1)
    fixed = _fixed(pixels)
    for k in np.flatnonzero((farthest > NEAR) & (inside | ~whole)).tolist():
        corners = slice(starts[k], starts[k] + counts[k])
        polygon = fixed[corners] if whole[k] else _fixed(_project(camera, _clip_near(points[corners])))
        cv2.fillPoly(canvas, [polygon], first + k * step, lineType=cv2.LINE_8, shift=_SHIFT)


def _fixed(pixels: np.ndarray) -> np.ndarray:
    """Pixel coordinates as OpenCV's fixed point numbers."""
    limited = np.clip(pixels, -_FARTHEST_PIXEL, _FARTHEST_PIXEL)
    return np.round(limited * (1 << _SHIFT)).astype(np.int32)


def _project(camera: Camera, points: np.ndarray) -> np.ndarray:
    """Camera coordinates (N, 3) to pixels (N, 2)."""
    centre = camera.intrinsics[:2, 2]
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
