"""Reading a camera, or a GStreamer pipeline, with OpenCV (in the reader process)."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from .base import InputLimits
from .decoded import Damaged, Decoded, Decoding, Opened, SourceLost


def decode_camera(
    device: str, *, size: tuple[int, int] | None, fps: float | None, limits: InputLimits
) -> Decoding:
    """``device``: a number or the path of a device. ``size``: (height, width) to ask for."""
    path = Path(f"/dev/video{device}" if device.isdigit() else device)
    if sys.platform.startswith("linux"):
        if not path.exists():
            raise SourceLost(f"there is no device {path}")
        if not os.access(path, os.R_OK | os.W_OK):
            raise SourceLost(f"no permission to use {path}; its group is usually 'video'")
    backend = cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY
    capture = cv2.VideoCapture(int(device) if device.isdigit() else device, backend)
    if capture.isOpened():
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # what waits in a buffer is old when it is read
        if size is not None:
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[0])
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[1])
        if fps is not None:
            capture.set(cv2.CAP_PROP_FPS, fps)
    yield from _decode(capture, limits, "the camera")


def decode_gstreamer(pipeline: str, *, limits: InputLimits) -> Decoding:
    """``pipeline``: as of gst-launch, ending in appsink."""
    yield from _decode(cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER), limits, "the pipeline")


def _decode(capture: cv2.VideoCapture, limits: InputLimits, what: str) -> Decoding:
    try:
        if not capture.isOpened():
            raise SourceLost(f"{what} cannot be opened, or gives no video")
        width, height = (int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width > 0 and height > 0 and (broken := limits.broken_by(height, width)):
            raise SourceLost(f"its frames have {broken}. {limits.remedy(height, width)}", "refused")
        fps = capture.get(cv2.CAP_PROP_FPS)
        yield Opened(what=f"{width}x{height}", fps=fps if 0 < fps <= 1000 else None)
        while True:
            read, image = capture.read()
            captured_s = time.monotonic()
            if not read or image is None:
                raise SourceLost(f"{what} gives no more frames")
            yield _checked(image, captured_s, limits)
    finally:
        capture.release()


def _checked(image: np.ndarray, captured_s: float, limits: InputLimits) -> Decoded | Damaged:
    height, width = image.shape[:2]
    if broken := limits.broken_by(height, width):
        return Damaged(reason=f"it has {broken}")
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if image.dtype != np.uint8 or image.shape[2] != 3:
        return Damaged(reason=f"frames are 8 bit BGR or grey; got {image.shape[2]} channels {image.dtype}")
    return Decoded(
        height=height, width=width, captured_s=captured_s, time_s=None, write=lambda into: _copy(image, into)
    )


def _copy(image: np.ndarray, into: np.ndarray) -> None:
    into[:] = image
