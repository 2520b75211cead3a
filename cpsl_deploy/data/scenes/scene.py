"""One scene: a street, a camera driving along it, and its picture with exact labels at any moment."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ...errors import InputError, UnavailableError
from ...files import atomic_path
from .appearance import shade
from .domains import DOMAINS, sample_setting
from .geometry import NEAR, Camera, Faces, Paint, paint_faces
from .layout import Item, street_items
from .materials import SKY, TERRAIN, Material
from .objects import build, shadow

DEMO_SIZE = (128, 256)
"""(height, width) of the demo's pictures."""

_SUPERSAMPLING = 2
_DRAW_DISTANCE = {"person": 34.0, "rider": 36.0, "sign": 34.0, "lamp": 50.0, "post": 60.0, "car": 90.0}
_FARTHEST = 140.0
_SHADOW_DISTANCE = 60.0


class Scene:
    """A street of one domain, the same for the same seed on every machine.

    ``seed``: any whole number from 0. ``domain``: "rendered" or "camera". ``size``: (height, width), pixels.
    Raises InputError for another domain, a negative seed or a size under 32 pixels.
    """

    def __init__(self, seed: int, domain: str, size: tuple[int, int] = DEMO_SIZE) -> None:
        if domain not in DOMAINS:
            raise InputError(f"a scene's domain is one of {', '.join(DOMAINS)}; got {domain!r}")
        if seed < 0:
            raise InputError(f"a scene's seed is a whole number from 0; got {seed}")
        if min(size) < 32:
            raise InputError(f"a scene is 32 pixels or more on each side; got {size[0]}x{size[1]}")
        self._noise_seed = [seed, DOMAINS.index(domain), 1]
        self.size = (int(size[0]), int(size[1]))
        self.setting = sample_setting(domain, np.random.default_rng([seed, DOMAINS.index(domain), 0]))

    def camera(self, time: float) -> Camera:
        """The camera at a time in seconds, for a picture drawn at twice the size."""
        street, view = self.setting.street, self.setting.view
        along = street.start + street.ego_speed * time
        heading = street.heading(along)
        height, width = (side * _SUPERSAMPLING for side in self.size)
        return Camera(
            position=(
                street.centre(along) + view.aside * math.cos(heading),
                view.height,
                along - view.aside * math.sin(heading),
            ),
            yaw=heading + view.yaw,
            pitch=view.pitch,
            roll=view.roll,
            focal=0.5 * width / math.tan(0.5 * view.field_of_view),
            size=(height, width),
        )

    def frame(self, time: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """The picture (H, W, 3) uint8 RGB and its labels (H, W) uint8 at a time in seconds."""
        setting, camera = self.setting, self.camera(time)
        items = self._items(camera, time)
        faces = Faces(camera)
        for item in items:
            if self._in_view(item, camera):
                build(faces, item, setting.street, setting.look.palette)
        shadows = self._shadows(items, camera)
        sky = Paint(SKY, Material.SKY, (0.0, 0.0, 0.0))
        ground = Paint(TERRAIN, Material.GROUND, (0.0, 0.0, 0.0))
        buffer = paint_faces(faces, shadows, sky, ground)
        light, labels = shade(buffer, setting.street, setting.look, setting.light)
        light = cv2.resize(light, self.size[::-1], interpolation=cv2.INTER_AREA)
        # One of the four samples under a pixel: a label is never a mixture.
        labels = np.ascontiguousarray(labels[::_SUPERSAMPLING, ::_SUPERSAMPLING])
        if setting.sensor is None:
            return np.clip(light * 255 + 0.5, 0, 255).astype(np.uint8), labels
        moment = np.random.default_rng([*self._noise_seed, round(1000 * time)])
        return setting.sensor.capture(light, moment), labels

    def _items(self, camera: Camera, time: float) -> list[Item]:
        """What may be seen, from far to near; of two equally far, the one farther from the road first."""
        z = camera.position[2]
        items = street_items(self.setting.street, z - 25, z + _FARTHEST, time)
        seen = [item for item in items if item.z - z < _DRAW_DISTANCE.get(item.kind, _FARTHEST)]
        return sorted(seen, key=lambda item: (-item.far_end, -abs(item.x)))

    def _in_view(self, item: Item, camera: Camera) -> bool:
        """Whether a ball around the item reaches into the pyramid that the camera sees."""
        x, z, _ = self.setting.street.place(item.x, item.z)
        x, z = x - camera.position[0], z - camera.position[2]
        c, s = math.cos(camera.yaw), math.sin(camera.yaw)
        x, z = x * c - z * s, x * s + z * c
        radius = 0.5 * math.hypot(item.size[0], item.size[2]) + 0.3 * item.size[1] + 2.0
        slope = 0.5 * camera.size[1] / camera.focal
        return z + radius > NEAR and abs(x) < slope * z + radius * math.sqrt(1 + slope * slope)

    def _shadows(self, items: list[Item], camera: Camera) -> list[np.ndarray]:
        """Outlines of the shadows near the camera, in its coordinates."""
        setting = self.setting
        near = [item for item in items if item.z - camera.position[2] < _SHADOW_DISTANCE]
        outlines = [shadow(item, setting.street, setting.light.sun) for item in near]
        if not outlines:
            return []
        flat = np.concatenate(outlines)
        points = camera.from_world(np.stack([flat[:, 0], np.zeros(len(flat)), flat[:, 1]], 1))
        return np.split(points, np.cumsum([len(outline) for outline in outlines])[:-1])


def render_scene(
    seed: int, domain: str, *, size: tuple[int, int] = DEMO_SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """One picture, uint8 (H, W, 3) RGB, and its labels, uint8 (H, W), values of ``DEMO_CLASSES``."""
    return Scene(seed, domain, size).frame()


def demo_video(
    path: str | os.PathLike[str],
    *,
    seconds: float = 8.0,
    seed: int = 0,
    fps: float = 12.0,
    size: tuple[int, int] = (256, 512),
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a short drive in the camera domain as MPEG-4 (mp4v).

    ``Scene(seed, "camera", size).frame(k / fps)`` gives frame k with its labels. ``progress`` is called with
    the number of frames done and of all. Raises InputError for no frames, UnavailableError if this OpenCV
    cannot write MPEG-4.
    """
    count = round(seconds * fps)
    if count < 1:
        raise InputError(f"a video has one frame or more; {seconds} s at {fps} frames a second has none")
    scene = Scene(seed, "camera", size)
    path = Path(path)
    with atomic_path(path) as temporary:
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), fps, size[::-1])
        try:
            if not writer.isOpened():
                raise UnavailableError(
                    f"this OpenCV cannot write MPEG-4 video (codec mp4v) to {path}. Name a file ending in "
                    ".mp4, or install OpenCV as this project does: pip install opencv-python-headless"
                )
            for k in range(count):
                writer.write(np.ascontiguousarray(scene.frame(k / fps)[0][..., ::-1]))
                if progress:
                    progress(k + 1, count)
        finally:
            writer.release()
