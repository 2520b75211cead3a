"""Image-level style transfer: source crops take on a target image's colour statistics.

Reinhard et al., "Color transfer between images", 2001, in CIELAB.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .samples import WorkingImages


def reinhard(image: np.ndarray, style: np.ndarray) -> np.ndarray:
    """``image`` with the CIELAB channel means and deviations of ``style``. Both (H, W, 3) uint8 RGB."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    mean, deviation = _statistics(lab)
    wanted_mean, wanted_deviation = _statistics(cv2.cvtColor(style, cv2.COLOR_RGB2LAB).astype(np.float32))
    lab = (lab - mean) * (wanted_deviation / np.maximum(deviation, 1.0)) + wanted_mean
    return cv2.cvtColor(np.clip(np.rint(lab), 0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB)


def _statistics(lab: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, deviation = cv2.meanStdDev(lab)
    return mean.ravel().astype(np.float32), deviation.ravel().astype(np.float32)


def restyler(targets: WorkingImages) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """A function that gives an image the colours of a random target image."""

    def restyle(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return reinhard(image, targets.image(int(rng.integers(len(targets)))))

    return restyle
