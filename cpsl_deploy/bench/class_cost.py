"""What each class costs: latency of the frames that show it, and the work of taking its mask out.

A segmenter runs the whole frame whatever is in it, so a class's latency differs from the total only through
the frames it appears in (their size, their encoding); a difference says which scenes are slow. A class
appears where it has `latency.APPEARS_SHARE` of the pixels. What a user of one class pays in addition is the
extraction of its mask, its area and its outlines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from .clock import Stopwatch
from .frames import EncodedFrame, evenly_spaced
from .latency import LatencySamples, Progress, no_progress, summarise

if TYPE_CHECKING:
    from ..segmenter import Segmenter

FRAMES_PER_CLASS = 10
"""Extraction is timed on at most this many frames of each class, spread over those that show it."""


@dataclass(frozen=True, kw_only=True)
class ClassLatency:
    """Total latency over the measured frames in which a class appears."""

    frames: int
    """Measured frames in which at least `latency.APPEARS_SHARE` of the pixels is the class."""
    p50_ms: float | None
    """None where no frame shows the class."""
    p99_ms: float | None


@dataclass(frozen=True, kw_only=True)
class ExtractionCost:
    """Median milliseconds to take one class out of a label map of frame size."""

    frames: int
    """Frames it was timed on; every one shows the class."""
    mask_ms: float
    """``labels == k``."""
    area_ms: float
    """Counting the mask's pixels."""
    contours_ms: float
    """Outer contours of the mask, with OpenCV."""

    @property
    def total_ms(self) -> float:
        return self.mask_ms + self.area_ms + self.contours_ms


def class_latencies(samples: LatencySamples) -> list[ClassLatency]:
    """One per class of the model, in its order."""
    latencies = []
    for appears in samples.shown.T:
        shown = samples.stages_ms["total"][appears]
        summary = summarise(shown) if shown.size else None
        latencies.append(
            ClassLatency(
                frames=int(shown.size),
                p50_ms=summary.p50 if summary else None,
                p99_ms=summary.p99 if summary else None,
            )
        )
    return latencies


def measure_extraction(
    segmenter: Segmenter,
    frames: Sequence[EncodedFrame],
    samples: LatencySamples,
    progress: Progress = no_progress,
) -> list[ExtractionCost | None]:
    """One per class of the model; None for a class that no measured frame shows.

    ``samples`` must come from `measure_latency` on the same ``frames``. Runs apart from it, so that contours
    of one frame do not disturb the latency of the next.
    """
    distinct = min(len(frames), len(samples.frames))
    chosen = {
        k: _frames_showing(samples.predicted_pixels[:distinct, k]) for k in range(len(segmenter.classes))
    }
    timed: dict[int, list[tuple[float, float, float]]] = {k: [] for k in chosen}
    wanted = sorted({i for indices in chosen.values() for i in indices})
    for done, i in enumerate(wanted):
        progress("extraction", done, len(wanted))
        labels = segmenter.predict(frames[i].decode(frames[i].read())).labels
        shown = [k for k, indices in chosen.items() if i in indices]
        time_extraction(labels, shown[0])  # not counted: the first after an inference finds cold caches
        turn = done % len(shown)
        for k in shown[turn:] + shown[:turn]:
            timed[k].append(time_extraction(labels, k))
    progress("extraction", len(wanted), len(wanted))
    return [_median_cost(times) if times else None for times in timed.values()]


def time_extraction(labels: np.ndarray, k: int) -> tuple[float, float, float]:
    """Milliseconds of mask, area and contours of class ``k`` in labels (H, W) uint8."""
    watch = Stopwatch()
    mask = extract_mask(labels, k)
    mask_ms = watch.lap()
    mask_area(mask)
    area_ms = watch.lap()
    mask_contours(mask)
    return mask_ms, area_ms, watch.lap()


def extract_mask(labels: np.ndarray, k: int) -> np.ndarray:
    """(H, W) bool."""
    return labels == k


def mask_area(mask: np.ndarray) -> int:
    """Pixels of a mask."""
    return int(np.count_nonzero(mask))


def mask_contours(mask: np.ndarray) -> Sequence[np.ndarray]:
    """Outer contours of a (H, W) bool mask, each (points, 1, 2) int32 as x, y."""
    return cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]


def _frames_showing(pixels: np.ndarray) -> set[int]:
    """Up to FRAMES_PER_CLASS indices, evenly spread, of the frames with pixels of a class."""
    shown = np.flatnonzero(pixels)
    return {int(shown[i]) for i in evenly_spaced(len(shown), FRAMES_PER_CLASS)}


def _median_cost(times: list[tuple[float, float, float]]) -> ExtractionCost:
    mask_ms, area_ms, contours_ms = (float(value) for value in np.median(times, axis=0))
    return ExtractionCost(frames=len(times), mask_ms=mask_ms, area_ms=area_ms, contours_ms=contours_ms)
