"""Image-level style transfer: source crops take on a target image's colour statistics.

Reinhard et al., "Color transfer between images", 2001, in CIELAB.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .samples import WorkingImages

Statistics = tuple[np.ndarray, np.ndarray]
"""Mean and standard deviation of each CIELAB channel, (3,) float32 each, on OpenCV's 0..255 scale."""


def reinhard(image: np.ndarray, style: np.ndarray) -> np.ndarray:
    """``image`` with the CIELAB channel means and deviations of ``style``. Both (H, W, 3) uint8 RGB."""
    return _with_statistics(image, _statistics(_lab(style)))


def restyler(targets: WorkingImages) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """A function that gives an image the colours of a random target image. Each target image is read once:
    its statistics are all that is needed of it."""
    known: dict[int, Statistics] = {}

    def restyle(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        index = int(rng.integers(len(targets)))
        wanted = known.get(index)
        if wanted is None:
            wanted = known[index] = _statistics(_lab(targets.image(index)))
        return _with_statistics(image, wanted)

    return restyle


def _lab(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2LAB)


def _statistics(lab: np.ndarray) -> Statistics:
    mean, deviation = cv2.meanStdDev(lab)
    return mean.ravel().astype(np.float32), deviation.ravel().astype(np.float32)


def _with_statistics(image: np.ndarray, wanted: Statistics) -> np.ndarray:
    lab = _lab(image)
    mean, deviation = _statistics(lab)
    # What becomes of each of the 256 values of each channel is worked out once, and then looked up.
    values = np.arange(256, dtype=np.float32)[:, None]
    table = (values - mean) * (wanted[1] / np.maximum(deviation, 1.0)) + wanted[0]
    table = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.LUT(lab, table[:, None]), cv2.COLOR_LAB2RGB)
