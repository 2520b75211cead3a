"""The frames a benchmark runs on: a dataset's own files, or synthetic ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..data.images import is_truncated
from ..errors import DataError

if TYPE_CHECKING:
    from ..data import Dataset

SYNTHETIC_FRAMES = 8
"""Different synthetic frames; longer runs go round them."""
JPEG_QUALITY = 90


@dataclass(frozen=True, kw_only=True)
class EncodedFrame:
    """An image as it lies in a file or arrives from a camera: compressed bytes."""

    name: str
    origin: str = ""
    """The file, for errors."""
    read: Callable[[], bytes]
    """Gives the bytes; may read a file."""
    upright: bool = True
    """Whether to turn the picture as its EXIF orientation says; see `cpsl_deploy.data.Dataset.image`."""

    def decode(self, encoded: bytes) -> np.ndarray:
        """(H, W, 3) uint8 BGR. Raises DataError for bytes that are no image."""
        flags = cv2.IMREAD_COLOR if self.upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags) if encoded else None
        if image is None:
            raise DataError(
                f"{self.origin or self.name} is not an image that OpenCV can decode. Replace or remove the "
                "file."
            )
        return image


def dataset_frames(dataset: Dataset) -> list[EncodedFrame]:
    """The image files of a dataset. Reading one raises DataError if it is missing or truncated."""
    return [
        EncodedFrame(
            name=item.name,
            origin=str(item.image),
            read=partial(_read_whole, item.image),
            upright=not dataset.has_labels,
        )
        for item in dataset.items
    ]


def _read_whole(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}. Check the path and its permissions."
        ) from error
    if is_truncated(data):  # OpenCV would give half a picture and no error
        raise DataError(f"{path} is truncated: its bytes end before the image does. Copy it again.")
    return data


def decoded_frames(
    frames: Sequence[EncodedFrame], count: int, size: tuple[int, int] | None = None
) -> list[np.ndarray]:
    """Up to ``count`` of the frames, evenly spaced, as uint8 (H, W, 3) BGR, resized to ``size`` (height,
    width) if one is given. Raises DataError for one that cannot be read or decoded."""
    images = [frames[i].decode(frames[i].read()) for i in evenly_spaced(len(frames), count)]
    return images if size is None else [_resized(image, size) for image in images]


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == size:
        return image
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def synthetic_frames(size: tuple[int, int], count: int = SYNTHETIC_FRAMES) -> list[EncodedFrame]:
    """Deterministic JPEG frames of ``size`` (height, width): sky, buildings, a road and sensor noise.

    They cost about what photos cost to decode. Labels predicted on them mean nothing.
    """
    return [_synthetic_frame(size, seed) for seed in range(count)]


def _synthetic_frame(size: tuple[int, int], seed: int) -> EncodedFrame:
    height, width = size
    random = np.random.default_rng(seed)
    image = np.empty((height, width, 3), np.uint8)
    horizon = height * 2 // 5
    image[:horizon] = (235, 206, 180)
    image[horizon:] = (96, 100, 104)
    for _ in range(12):
        left, top = int(random.integers(width)), int(random.integers(height // 8, horizon + 1))
        right = left + int(random.integers(width // 16, width // 4))
        colour = tuple(int(c) for c in random.integers(40, 200, 3))
        cv2.rectangle(image, (left, top), (right, horizon + height // 10), colour, cv2.FILLED)
    noise = random.normal(0, 6, image.shape)
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return _jpeg_frame(f"synthetic_{seed}", image)


def _jpeg_frame(name: str, bgr: np.ndarray) -> EncodedFrame:
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    return EncodedFrame(name=name, read=lambda: encoded)


def evenly_spaced(total: int, count: int) -> list[int]:
    """``count`` of ``total`` indices from the first to the last; all of them if there are no more."""
    if count >= total:
        return list(range(total))
    return [int(i) for i in np.linspace(0, total - 1, count).round()]
