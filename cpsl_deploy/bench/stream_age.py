"""How old results are in a live stream: when they are handed over, and when the next one replaces them.

The age of a result counts from the moment its frame was there to be read. In the policy ``latest`` the age at
delivery hardly grows with load, because the model always takes the newest frame; what grows is the time until
the next result. Whoever looks at the latest result at any moment sees an age between the one at its delivery
and its *peak age*, "the maximum value of the age, achieved immediately before receiving an update" (Costa,
Codreanu, Ephremides, "On the Age of Information in Status Update Systems with Packet Management", IEEE
Transactions on Information Theory 62(4), 2016, arXiv 1506.08637).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..errors import InputError
from ..streams.options import StreamOptions
from ..streams.stream import Stream
from .class_cost import ClassLatency
from .encoded_feed import EncodedFeed, in_memory
from .frames import EncodedFrame
from .latency import APPEARS_SHARE, LatencySummary, Progress, no_progress, summarise

if TYPE_CHECKING:
    from ..segmenter import Segmenter

SETTLING = 0.2
"""Part of the time that is measured which sources play before: until then queues and caches are as at a
start."""


@dataclass(kw_only=True)
class Delivered:
    """Results of one paced source, in their order; only those of frames captured after the settling."""

    captured_s: list[float] = field(default_factory=list)
    """When each result's frame was there to be read, `time.monotonic`."""
    delivered_s: list[float] = field(default_factory=list)
    """When the result was handed over."""
    shown: list[np.ndarray] = field(default_factory=list)
    """(K,) bool each: the classes that appear in the result's labels. Only where they were asked for."""
    frames: int = 0
    """That the source had for the model, settling not counted."""

    @property
    def age_ms(self) -> np.ndarray:
        """(N,) at delivery."""
        return 1e3 * (np.array(self.delivered_s) - np.array(self.captured_s))

    def peak_age_ms(self, end_s: float) -> np.ndarray:
        """(N - 1,) or (N,): the age that each result has reached when the next one is handed over.

        The last one has not been replaced at ``end_s``, the end of the measurement. Its age by then counts
        if there is no other or it is above all others: it will get no younger, and a stream that starved
        would else be left out.
        """
        replaced = 1e3 * (np.array(self.delivered_s[1:]) - np.array(self.captured_s[:-1]))
        open_ms = 1e3 * (end_s - self.captured_s[-1])
        return np.append(replaced, open_ms) if open_ms > replaced.max(initial=0.0) else replaced


@dataclass(frozen=True, kw_only=True)
class PacedRun:
    """What `play` saw of one or several sources."""

    streams: tuple[Delivered, ...]
    seconds: float
    """That were measured, settling not counted."""

    @property
    def end_s(self) -> float:
        """The last delivery of all."""
        return max((s.delivered_s[-1] for s in self.streams if s.delivered_s), default=0.0)

    @property
    def age_ms(self) -> np.ndarray:
        """Of all streams together, at delivery."""
        return np.concatenate([s.age_ms for s in self.streams])

    @property
    def peak_age_ms(self) -> np.ndarray:
        """Of all streams together; those without a result have none."""
        return np.concatenate([s.peak_age_ms(self.end_s) for s in self.streams if s.captured_s])

    @property
    def frames(self) -> int:
        return sum(s.frames for s in self.streams)

    @property
    def delivered(self) -> int:
        return sum(len(s.captured_s) for s in self.streams)


@dataclass(frozen=True, kw_only=True)
class StreamAge:
    """Ages of the results of one paced source."""

    source_fps: float
    seconds: float
    frames: int
    """That the source had for the model."""
    delivered: int
    dropped: int
    """Frames that a newer one replaced before the model was free."""
    age_ms: LatencySummary
    """At delivery."""
    peak_age_ms: LatencySummary
    """When the next result replaced it."""
    classes: tuple[ClassLatency, ...]
    """Age at delivery of the results in which each class of the model appears (APPEARS_SHARE)."""

    def to_json(self) -> dict[str, Any]:
        """The record's section ``stream``; ``classes`` go to the record's classes, as ``stream_age``."""
        section = asdict(self)
        del section["classes"]
        return section


def measure_stream_age(
    segmenter: Segmenter,
    frames: Sequence[EncodedFrame],
    *,
    fps: float = 25.0,
    seconds: float = 5.0,
    progress: Progress = no_progress,
) -> StreamAge:
    """Play one source to the model at ``fps`` frames per second for ``seconds``, in the policy ``latest``.

    Raises InputError as `play` does, DataError for a frame that does not decode.
    """
    progress("stream", 0, 1)
    run = play(segmenter, in_memory(frames), streams=1, fps=fps, seconds=seconds, classes=True)
    progress("stream", 1, 1)
    (stream,) = run.streams
    age_ms = stream.age_ms
    return StreamAge(
        source_fps=fps,
        seconds=run.seconds,
        frames=run.frames,
        delivered=run.delivered,
        dropped=run.frames - run.delivered,
        age_ms=summarise(age_ms),
        peak_age_ms=summarise(run.peak_age_ms),
        classes=tuple(_class_age(age_ms[shown]) for shown in np.array(stream.shown).T),
    )


def play(
    segmenter: Segmenter,
    frames: Sequence[EncodedFrame],
    *,
    streams: int,
    fps: float,
    seconds: float,
    classes: bool = False,
    seed: int = 0,
) -> PacedRun:
    """Several paced sources through one model, by the product's stream engine in the policy ``latest``.

    ``streams``: sources, each with ``fps`` frames per second; they begin at moments of a period drawn with
    ``seed``, as cameras do that know nothing of each other. Each source's frames are decoded in its thread.
    ``seconds``: measured, after a part `SETTLING` of them in which the sources play already.
    ``classes``: whether the classes shown are noted, at the cost of a histogram per result.

    Raises InputError for values that are not above 0, or fewer than two frames in the time.
    """
    wanted = round(fps * seconds) if 0 < fps < np.inf and 0 < seconds < np.inf else 0
    if streams < 1 or wanted < 2:
        raise InputError(
            "a stream is measured with one source or more, each giving two frames or more in the time; got "
            f"{streams}, {fps:g} frames a second and {seconds:g} s. Measure for longer"
        )
    settling = int(np.ceil(SETTLING * wanted))
    phases = np.random.default_rng(seed).random(streams)
    feeds = [
        EncodedFeed(
            f"source{i:03d}", frames, settling + wanted, fps=fps, phase=float(phase), first=7 * i
        )  # the step keeps neighbours from decoding the same frame at once
        for i, phase in enumerate(phases)
    ]
    seen = {feed.name: Delivered(frames=wanted) for feed in feeds}
    with Stream(feeds, segmenter, StreamOptions(policy="latest")) as stream:
        for result in stream:
            if result.index < settling:
                continue
            one = seen[result.source]
            captured_s = result.frame.captured_s
            one.captured_s.append(captured_s)
            one.delivered_s.append(captured_s + result.age_ms / 1e3)
            if classes:
                one.shown.append(_shown(result.labels, len(result.classes)))
    return PacedRun(streams=tuple(seen.values()), seconds=wanted / fps)


def _shown(labels: np.ndarray, classes: int) -> np.ndarray:
    """(K,) bool: whether each class appears in labels uint8 (H, W)."""
    histogram = cv2.calcHist([labels], [0], None, [256], [0, 256])
    least = max(1.0, APPEARS_SHARE * labels.size)
    return histogram.ravel()[:classes] >= least  # (256, 1), or (256,) from OpenCV 5 on


def _class_age(age_ms: np.ndarray) -> ClassLatency:
    """Of a class, over the results that show it."""
    summary = summarise(age_ms) if age_ms.size else None
    return ClassLatency(
        frames=int(age_ms.size),
        p50_ms=summary.p50 if summary else None,
        p99_ms=summary.p99 if summary else None,
    )
