"""The drift score over the frames of a folder or a video."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..segmenter import Segmenter
from ..sources.base import Frame
from ..sources.files import ImageSource, VideoSource
from .detector import DriftDetector, DriftPolicy
from .reference import DriftReference, predictions
from .sink import IMAGE_S
from .statistics import FrameStatistics


@dataclass(frozen=True, kw_only=True)
class Point:
    """The score after a frame."""

    index: int
    """Of the frame in its source."""
    time_s: float
    score: float
    parts: dict[str, float]
    alarm: bool
    causes: tuple[str, ...]
    """In words."""


@dataclass(kw_only=True)
class Curve:
    """The scores of one source."""

    name: str
    points: list[Point] = field(default_factory=list)
    frames: int = 0
    """Read, those that were not looked at, too."""
    unreadable: list[str] = field(default_factory=list)

    @property
    def alarms(self) -> list[Point]:
        """The points at which an alarm went on."""
        before = [False, *(point.alarm for point in self.points)]
        return [point for point, was in zip(self.points, before, strict=False) if point.alarm and not was]

    @property
    def highest(self) -> Point | None:
        """The point with the largest score; None without any."""
        return max(self.points, key=lambda point: point.score, default=None)

    def summary(self) -> dict[str, Any]:
        """The headline figures, ready for JSON."""
        first, highest = next(iter(self.alarms), None), self.highest
        above = [point.score > 1 for point in self.points]
        return {
            "name": self.name,
            "frames": self.frames,
            "unreadable": len(self.unreadable),
            "scored": len(self.points),
            "highest": round(highest.score, 4) if highest else None,
            "median": round(float(np.median([p.score for p in self.points])), 4) if self.points else None,
            "above_threshold": round(float(np.mean(above)), 4) if above else None,
            "alarms": len(self.alarms),
            "first_alarm_index": first.index if first else None,
            "first_alarm_s": round(first.time_s, 3) if first else None,
            "alarm_at_end": bool(self.points and self.points[-1].alarm),
            "causes": list(highest.causes) if highest else [],
        }


def drift_curve(
    segmenter: Segmenter,
    reference: DriftReference,
    source: ImageSource | VideoSource,
    *,
    policy: DriftPolicy | None = None,
    image_s: float = IMAGE_S,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Curve:
    """Scores of an opened source. ``image_s``: seconds that a photo counts for. ``progress``: called with
    frames read and frames in all, None if not known. Images that cannot be read are listed."""
    curve = Curve(name=source.name)

    def readable() -> Iterable[Frame]:
        for frame in source.frames():
            curve.frames += 1
            progress(curve.frames, source.count)
            if frame.image is None:
                curve.unreadable.append(f"{frame.name}: {frame.problem}")
            else:
                yield frame

    return follow(segmenter, reference, readable(), curve, policy=policy, image_s=image_s)


def follow(
    segmenter: Segmenter,
    reference: DriftReference,
    frames: Iterable[Frame],
    curve: Curve,
    *,
    policy: DriftPolicy | None = None,
    image_s: float = IMAGE_S,
) -> Curve:
    """Fill a curve with the scores of frames that have images. The model is run on those alone that the
    detector wants to see."""
    detector = DriftDetector(reference, policy, name=curve.name)
    for frame in frames:
        assert frame.image is not None
        time_s = frame.time_s if frame.time_s is not None else frame.index * image_s
        if not detector.wants(time_s):
            continue
        (prediction,) = predictions(segmenter, [frame.image])
        state = detector.update(FrameStatistics.of(prediction), time_s)
        if state is not None:
            curve.points.append(
                Point(
                    index=frame.index,
                    time_s=time_s,
                    score=state.score,
                    parts=state.parts,
                    alarm=state.alarm,
                    causes=tuple(cause.words for cause in detector.causes()),
                )
            )
    return curve
