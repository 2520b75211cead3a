"""Roads in statistics, and in frames for the tiny model: what drift tests look at."""

from __future__ import annotations

import time

import numpy as np

from cpsl_deploy.classes import ClassSpace
from cpsl_deploy.drift.reference import DriftReference
from cpsl_deploy.drift.statistics import FrameStatistics, statistic_names
from cpsl_deploy.segmenter import Prediction
from cpsl_deploy.sources.base import Frame
from cpsl_deploy.streams.result import StreamResult

CLASSES = ClassSpace(names=("road", "sky", "car"), palette=((128, 64, 128), (70, 130, 180), (0, 0, 142)))
SIZE = (48, 64)


def road_frame(index: int, *, seed: int = 0, gain: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A frame BGR uint8 (48, 64, 3) of a road, a sky and a car, and its labels; neighbours look alike."""
    rng = np.random.default_rng([seed, index])
    phase = index / 9 + seed
    horizon = int(20 + 4 * np.sin(phase) + rng.integers(0, 3))
    labels = np.zeros(SIZE, np.uint8)
    labels[:horizon] = 1
    left = int(20 + 12 * np.cos(phase / 2))
    labels[30:40, left : left + int(rng.integers(6, 12))] = 2
    colours = np.array([[95, 95, 95], [220, 190, 160], [30, 30, 160]]) + 6 * np.sin(phase / 3)
    image = colours[labels] + rng.normal(0, 6, (*SIZE, 3))
    return np.clip(gain * image, 0, 255).astype(np.uint8), labels


def road_result(
    index: int,
    *,
    source: str = "cam",
    time_s: float | None = None,
    gain: float = 1.0,
    seed: int = 0,
    confidence: int | None = None,
) -> StreamResult:
    """A frame and its labels as a stream gives them."""
    image, labels = road_frame(index, seed=seed, gain=gain)
    prediction = Prediction(
        labels=labels,
        classes=CLASSES,
        timings_ms={"pre": 0.1, "inference": 1.0, "post": 0.1},
        frame=image,
        colour_order="BGR",
        confidence=None if confidence is None else np.full(SIZE, confidence, np.uint8),
    )
    frame = Frame(
        source=source,
        index=index,
        name=f"{source}-{index}",
        image=image,
        captured_s=time.monotonic(),
        time_s=time_s,
    )
    return StreamResult(frame=frame, prediction=prediction)


def road_statistics(index: int, **options: float) -> FrameStatistics:
    return FrameStatistics.of(road_result(index, **options).prediction)  # type: ignore[arg-type]


def road_reference(frames: int = 120) -> DriftReference:
    """Of the road's own frames, with labels and look."""
    values = np.array([road_statistics(i).values for i in range(frames)])
    return DriftReference.of_statistics(statistic_names(CLASSES.names, ("labels",)), values)
