"""The streams of the drift benchmark: a camera's own frames, played on and changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""A frame uint8 (H, W, 3) and what it becomes."""
STEPS = (1.0, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1)
"""Gains of the darkening, one after the other."""


@dataclass(frozen=True)
class Stream:
    """Frames of one camera at a rate. ``onset``: the first that is changed; None: none is."""

    name: str
    fps: float
    length: int
    frame: Callable[[int], np.ndarray]
    label: Callable[[int], np.ndarray] | None = None
    onset: int | None = None
    changes: tuple[str, ...] = ()
    """What is done from which part on, for tables."""


def darkened(gain: float) -> Change:
    """Less light: gain, and the noise of a sensor that turns its amplifier up."""

    def change(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        noise = rng.normal(0, 6 * (1 - gain), frame.shape).astype(np.float32)
        return np.clip(gain * frame + noise, 0, 255).astype(np.uint8)

    return change


def gamma(power: float) -> Change:
    table = (255 * (np.arange(256) / 255) ** power).round().astype(np.uint8)
    return lambda frame, rng: cv2.LUT(frame, table)


def fog(share: float) -> Change:
    return lambda frame, rng: ((1 - share) * frame + share * 200).astype(np.uint8)


def blurred(sigma: float) -> Change:
    return lambda frame, rng: cv2.GaussianBlur(frame, (0, 0), sigma)


def noisy(deviation: float) -> Change:
    def change(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        noise = rng.normal(0, deviation, frame.shape).astype(np.float32)
        return np.clip(frame + noise, 0, 255).astype(np.uint8)

    return change


def rain(drops: int) -> Change:
    """Bright streaks, and less contrast."""

    def change(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = frame.shape[:2]
        streaks = np.zeros((height, width), np.uint8)
        for x, y, length in zip(
            rng.integers(0, width, drops),
            rng.integers(0, height, drops),
            rng.integers(height // 30, height // 12, drops),
            strict=True,
        ):
            cv2.line(streaks, (int(x), int(y)), (int(x) + int(length) // 5, int(y) + int(length)), 255, 1)
        wet = cv2.GaussianBlur(frame, (0, 0), 1.0) * np.float32(0.85) + 25
        return np.clip(wet + 0.5 * cv2.GaussianBlur(streaks, (3, 3), 0)[..., None], 0, 255).astype(np.uint8)

    return change


CHANGES: dict[str, Change] = {
    **{f"gain {gain:g}": darkened(gain) for gain in STEPS[1:]},
    "gamma 2": gamma(2),
    "gamma 0.5": gamma(0.5),
    "fog 30 %": fog(0.3),
    "fog 60 %": fog(0.6),
    "blur 2 px": blurred(2),
    "blur 4 px": blurred(4),
    "noise 10": noisy(10),
    "noise 25": noisy(25),
    "rain 300": rain(300),
    "rain 1200": rain(1200),
}


def back_and_forth(index: int, count: int) -> int:
    """Which of ``count`` frames is played ``index``-th, forwards and backwards again and again."""
    place = index % (2 * count - 2)
    return place if place < count else 2 * count - 2 - place


def changed_from(
    name: str,
    frames: list[np.ndarray],
    labels: list[np.ndarray],
    parts: list[tuple[str, Change | None]],
    fps: float,
) -> Stream:
    """The frames played back and forth, as long for each part as they are, changed as it says."""
    count = len(frames)

    def frame(index: int) -> np.ndarray:
        change = parts[index // count][1]
        original = frames[back_and_forth(index, count)]
        return original if change is None else change(original, np.random.default_rng(index))

    onset = next((at for at, (_, change) in enumerate(parts) if change is not None), None)
    return Stream(
        name,
        fps,
        count * len(parts),
        frame,
        lambda index: labels[back_and_forth(index, count)],
        None if onset is None else onset * count,
        tuple(title for title, _ in parts),
    )
