"""Small videos of a drive whose every second is known: moving, standing, out of focus, black, fading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

SIZE = (96, 160)
FPS = 10.0


def scenery(seed: int = 0, width: int = 4000) -> np.ndarray:
    """(96, width, 3) uint8: blocks of many sizes on a smooth ground, to drive along."""
    rng = np.random.default_rng(seed)
    picture = np.full((SIZE[0], width, 3), 110, np.uint8)
    for _ in range(width // 6):
        left, top = int(rng.integers(width)), int(rng.integers(SIZE[0]))
        size = rng.integers(4, 40, 2)
        colour = tuple(int(c) for c in rng.integers(20, 236, 3))
        cv2.rectangle(picture, (left, top), (left + int(size[0]), top + int(size[1])), colour, cv2.FILLED)
    return picture


def drive(parts: Sequence[tuple[str, float]], *, seed: int = 0, fps: float = FPS) -> list[np.ndarray]:
    """Frames of parts (kind, seconds).

    ``moving``, ``standing``, ``blurred`` (moving), ``fading`` (moving, to black), ``black``, ``fog``.
    """
    frames, at, scene = [], 0, scenery(seed)
    for kind, seconds in parts:
        count = round(seconds * fps)
        for i in range(count):
            at += 0 if kind in ("standing", "black") else 6
            view = scene[:, at : at + SIZE[1]]
            if kind == "blurred":
                view = cv2.GaussianBlur(view, (0, 0), 3)
            elif kind == "black":
                view = np.zeros_like(view)
            elif kind == "fading":
                view = cv2.convertScaleAbs(view, alpha=1 - (i + 1) / count)
            elif kind == "fog":
                view = cv2.GaussianBlur(view // 6 + 180, (0, 0), 1)
            frames.append(view.copy())
    return frames


def write_video(path: Path, frames: Sequence[np.ndarray], *, fps: float = FPS) -> Path:
    """The frames as Motion JPEG (.avi) or MPEG-4 (.mp4)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = "MJPG" if path.suffix == ".avi" else "mp4v"
    size = frames[0].shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size)
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path
