"""One segmented frame of a stream."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from ..classes import ClassSpace
from ..segmenter import Prediction
from ..sources.base import Frame


@dataclass(kw_only=True, eq=False)
class StreamResult:
    """A frame and what the model says of it."""

    frame: Frame
    prediction: Prediction
    age_ms: float = field(default=0.0)
    """From the moment the frame was there to be read until this result was handed over."""

    @property
    def labels(self) -> np.ndarray:
        """uint8 (H, W) at the frame's size: index into ``classes``; IGNORE outside a region of interest."""
        return self.prediction.labels

    @property
    def classes(self) -> ClassSpace:
        return self.prediction.classes

    @property
    def image(self) -> np.ndarray:
        """The frame itself, uint8 (H, W, 3) BGR."""
        return self.prediction.frame

    @property
    def source(self) -> str:
        """Name of the source that the frame is of."""
        return self.frame.source

    @property
    def name(self) -> str:
        """Of the frame: unique in its source and usable as a file name."""
        return self.frame.name

    @property
    def index(self) -> int:
        """Place of the frame in its source, from 0, dropped ones counted: a gap is what was left out."""
        return self.frame.index

    @property
    def time_s(self) -> float | None:
        """Seconds since the start of the source; None for images."""
        return self.frame.time_s

    @property
    def latency_ms(self) -> float:
        """Of pre-processing, inference and post-processing together."""
        return self.prediction.latency_ms

    def areas(self) -> dict[str, float]:
        """Share of the frame's pixels per class, 0..1."""
        return self.prediction.areas()

    def overlay(self, opacity: float = 0.5, legend: bool = True) -> np.ndarray:
        """The frame under the classes' colours, BGR uint8 (H, W, 3): `Prediction.overlay`."""
        return self.prediction.overlay(opacity, legend)

    def stamp(self) -> None:
        """Set the age to now."""
        self.age_ms = 1e3 * (time.monotonic() - self.frame.captured_s)
