"""How steady labels are from one frame of a drive to the next: a figure that needs no truth."""

from __future__ import annotations

import cv2
import numpy as np

LEAST_PIXELS = 500
"""Of a class, over all frames: a share of fewer says nothing."""


class Movement:
    """Where each pixel of a frame was in the frame before, by dense optical flow (DIS, 1603.03590)."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def between(self, before: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For two frames uint8 (H, W, 3) BGR: x and y (H, W) float32 in ``before`` of every pixel of ``now``,
        and (H, W) bool, whether it was visible there.

        Not visible: outside of the frame, or flow there and back does not come home (Sundaram, Brox and
        Keutzer, ECCV 2010, equation 5).
        """
        first, second = (cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in (before, now))
        height, width = first.shape
        back = self._flow.calc(second, first, np.zeros((height, width, 2), np.float32))
        forth = self._flow.calc(first, second, np.zeros((height, width, 2), np.float32))
        ys, xs = np.mgrid[:height, :width].astype(np.float32)
        x, y = xs + back[..., 0], ys + back[..., 1]
        home = cv2.remap(forth, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        apart = ((back + home) ** 2).sum(-1)
        allowed = 0.01 * ((back**2).sum(-1) + (home**2).sum(-1)) + 0.5
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        return x, y, inside & (apart < allowed)


class Flicker:
    """Counts, per class, the pixels that have another label in the next frame, movement followed."""

    def __init__(self, classes: int) -> None:
        self._seen = np.zeros(classes, np.int64)
        self._changed = np.zeros(classes, np.int64)

    def add(
        self, before: np.ndarray, now: np.ndarray, movement: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> None:
        """Labels uint8 (H, W) of two frames, and ``Movement.between`` them."""
        x, y, visible = movement
        carried = cv2.remap(before, x, y, cv2.INTER_NEAREST)[visible]
        changed = carried != now[visible]
        self._seen += np.bincount(carried, minlength=256)[: len(self._seen)]
        self._changed += np.bincount(carried[changed], minlength=256)[: len(self._seen)]

    @property
    def of_classes(self) -> list[float | None]:
        """Share of each class's pixels, 0..1; None for a class that has hardly any."""
        pairs = zip(self._changed.tolist(), self._seen.tolist(), strict=True)
        return [changed / seen if seen >= LEAST_PIXELS else None for changed, seen in pairs]

    @property
    def of_all(self) -> float | None:
        """Share of all pixels, 0..1; None if there were not two frames."""
        seen = int(self._seen.sum())
        return int(self._changed.sum()) / seen if seen else None
