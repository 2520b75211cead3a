"""A small road camera: from linear light on its lens to the 8-bit picture that it stores.

Steps in their physical order: exposure, light falling off to the corners, veiling glare, the lens's and the
motion's blur, white balance, photon and read noise, tone curve, sharpening, JPEG.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """One camera's settings."""

    brightness: float
    """Mean of the linear picture that the automatic exposure aims at."""
    balance: tuple[float, ...]
    """Gains of red, green and blue."""
    vignette: float
    """Share of light lost in the corners."""
    glare: float
    """Share of the picture's mean light spread over all of it."""
    blur: float
    """Standard deviation in pixels of a picture 128 high."""
    photon_noise: float
    """Standard deviation of a full-scale pixel, in shares of full scale."""
    read_noise: float
    saturation: float
    contrast: float
    """Share of an S-shaped curve over the straight one."""
    sharpening: float
    jpeg_quality: int

    def capture(self, light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Linear light (H, W, 3) float32 RGB to a picture, uint8 RGB."""
        height, width = light.shape[:2]
        scale = height / 128
        mean = float(light.mean())
        gain = self.brightness / max(mean, 1e-6) / (1 + self.glare)
        picture: np.ndarray = (light + self.glare * mean) * gain
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        picture *= (1 - self.vignette * 0.5 * (x * x + y * y))[..., None]
        picture = cv2.GaussianBlur(picture, (0, 0), self.blur * scale)
        picture *= np.array(self.balance, np.float32)
        # The noise of a larger picture is that of larger pixels' neighbours: as strong once it is shrunk.
        noise = rng.standard_normal(picture.shape, np.float32) * np.float32(scale)
        deviation = np.sqrt(self.photon_noise**2 * np.maximum(picture, 0) + self.read_noise**2)
        picture = np.maximum(picture + noise * deviation, 0)
        grey = picture @ np.array([0.3, 0.59, 0.11], np.float32)
        picture = np.maximum(grey[..., None] + self.saturation * (picture - grey[..., None]), 0)
        picture = (1 - np.exp(-1.6 * picture)) / (1 - np.exp(np.float32(-1.6 * 1.25)))
        picture = np.minimum(picture, 1) ** np.float32(1 / 2.2)
        picture += self.contrast * (picture * picture * (3 - 2 * picture) - picture)
        if self.sharpening > 0:
            picture += self.sharpening * (picture - cv2.GaussianBlur(picture, (0, 0), 1.0 * scale))
        stored = np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
        # OpenCV codes BGR.
        _, data = cv2.imencode(".jpg", stored[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, self.jpeg_quality])
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None  # it was encoded just now
        return np.ascontiguousarray(decoded[..., ::-1])
