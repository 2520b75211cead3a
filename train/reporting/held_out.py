"""Before and after on the held-out seconds of a drive: a clip, and what can be counted without labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from cpsl_deploy.classes import ClassSpace
from cpsl_deploy.data.footage import Footage, Span, clock
from cpsl_deploy.data.video_file import frames_at
from cpsl_deploy.errors import DataError, InputError
from cpsl_deploy.metrics import confusion_matrix
from cpsl_deploy.overlay import shares
from cpsl_deploy.sinks.video_codec import check_codec
from cpsl_deploy.sinks.video_file import video_writer
from cpsl_deploy.sources.video import VideoSource

from ..engine.loop import SilentWatcher, Watcher
from ..evaluation.network_score import label_map
from ..models import Segmenter
from ..samples import Size, working_size
from .clip_frame import ClipFrame
from .flicker import Flicker, Movement

CLIP = "before_after.mp4"
CLIP_SECONDS, CLIP_FRAMES, MOST_FPS = 20.0, 250, 30.0
"""The clip's limits: a long recording shows the middle of each held-out block, at fewer frames per second."""
MOST_CHANGES = 3
"""Label changes that are named."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What ``results.json`` keeps of the comparison, under ``held_out``. Pairs are (before, after)."""

    seconds: str
    """Which were held out, in words."""
    guard_s: float
    titles: tuple[str, str]
    frames: int
    """Of the clip; all figures are of them."""
    fps: float
    area: tuple[list[float], list[float]]
    """Share of all pixels per class, 0..1."""
    flicker: tuple[list[float | None], list[float | None]]
    """See ``flicker.Flicker``."""
    flicker_of_all: tuple[float | None, float | None]
    changed: float
    """Share of pixels with another label after than before."""
    changes: list[tuple[str, str, float]]
    """The most frequent of those: class before, class after, share of all pixels."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any], classes: ClassSpace) -> HeldOut:
        """Raises InputError for what ``dataclasses.asdict`` did not make, or of other classes."""
        try:
            found = cls(**values)
            if any(len(column) != len(classes) for column in (*found.area, *found.flicker)):
                raise ValueError(f"its columns are not of {len(classes)} classes")
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the entry 'held_out' of results.json is damaged ({error}). Delete it; the next report "
                "makes it again."
            ) from error
        return found


def require_clip_codec() -> None:
    """Raises UnavailableError, naming codecs that work, if no clip can be written: before a long run."""
    check_codec(None, Path(CLIP).suffix)


def clip_times(footage: Footage) -> tuple[list[tuple[Span, list[float]]], float]:
    """For every held-out span the times shown, in seconds of its video; and frames per second."""
    part = CLIP_SECONDS / max(len(footage.held_out), 1)
    lengths = [min(span.seconds, part) for span in footage.held_out]
    step = math.ceil(max(footage.fps * sum(lengths) / CLIP_FRAMES, footage.fps / MOST_FPS, 1))
    fps = footage.fps / step
    shown = []
    for span, length in zip(footage.held_out, lengths, strict=True):
        start = span.start_s + (span.seconds - length) / 2
        shown.append((span, [start + k / fps for k in range(max(int(length * fps + 1e-6), 1))]))
    return shown, fps


def compare_held_out(
    networks: Mapping[str, Segmenter],
    footage: Footage,
    classes: ClassSpace,
    size: Size,
    device: torch.device,
    path: Path,
    watcher: Watcher | None = None,
) -> HeldOut:
    """Write the clip of the held-out seconds, left the first network, right the second, and count on it.

    ``networks``: two, by title; they are put in eval mode and moved to ``device``. ``size``: (height, width)
    in pixels at which they work. The clip is at most 20 s of the footage at its own speed.

    Raises DataError if the video cannot be read any more, UnavailableError without the codec, OutputError if
    the clip cannot be written.
    """
    watcher = watcher or SilentWatcher()
    (before, first), (after, second) = networks.items()
    shown, fps = clip_times(footage)
    video_size = VideoSource(shown[0][0].video).info.size
    painter = ClipFrame(video_size, (before, after), classes)
    count = _Count(classes, working_size(video_size, size))
    pair = (first.eval().to(device), second.eval().to(device))
    watcher.stage(path.name, 0, sum(len(times) for _, times in shown))
    with video_writer(path, size=painter.size, fps=fps) as append:
        for span, time_s, image in _frames(shown, video_size):
            working = _resized(image, count.size)
            rgb = np.ascontiguousarray(working[..., ::-1])
            old, new = (label_map(network, rgb, painter.picture_size, device) for network in pair)
            count.add(span, working, (old, new))
            append(painter.draw(image, (old, new), f"{span.video.name}  {clock(time_s)}"))
            watcher.step(path.name, count.frames, {})
    return HeldOut(
        seconds=footage.held_out_words(),
        guard_s=footage.guard_s,
        titles=(before, after),
        frames=count.frames,
        fps=round(fps, 3),
        area=(_listed(count.area[0] / count.frames), _listed(count.area[1] / count.frames)),
        flicker=(count.flicker[0].of_classes, count.flicker[1].of_classes),
        flicker_of_all=(count.flicker[0].of_all, count.flicker[1].of_all),
        changed=count.changed,
        changes=count.changes(),
    )


class _Count:
    """What is counted over the clip, before and after. ``size``: (height, width) of the frames added."""

    def __init__(self, classes: ClassSpace, size: Size) -> None:
        self.size, self.frames = size, 0
        self.area = np.zeros((2, len(classes)))
        self.flicker = (Flicker(len(classes)), Flicker(len(classes)))
        self._classes = classes
        self._pairs = np.zeros((len(classes),) * 2, np.int64)
        self._movement = Movement()
        self._last: tuple[Span, np.ndarray, list[np.ndarray]] | None = None

    def add(self, span: Span, frame: np.ndarray, labels: tuple[np.ndarray, np.ndarray]) -> None:
        """The next frame, BGR (*size, 3), and its labels before and after, of any one size."""
        self.frames += 1
        self.area += [shares(found, self._classes) for found in labels]
        self._pairs += confusion_matrix(labels[0], labels[1], len(self._classes))
        small = [cv2.resize(found, self.size[::-1], interpolation=cv2.INTER_NEAREST) for found in labels]
        if self._last is not None and self._last[0] is span:
            _, frame_before, small_before = self._last
            movement = self._movement.between(frame_before, frame)
            for flicker, then, now in zip(self.flicker, small_before, small, strict=True):
                flicker.add(then, now, movement)
        self._last = (span, frame, small)

    @property
    def changed(self) -> float:
        """Share of pixels with another label after than before."""
        return float(1 - np.trace(self._pairs) / self._pairs.sum())

    def changes(self) -> list[tuple[str, str, float]]:
        """The most frequent ones: class before, class after, share of all pixels."""
        share = self._pairs / self._pairs.sum()
        np.fill_diagonal(share, 0)
        names = self._classes.names
        order = np.argsort(-share, axis=None, kind="stable")[:MOST_CHANGES]
        rows, columns = np.unravel_index(order, share.shape)
        found = [(names[a], names[b], float(share[a, b])) for a, b in zip(rows, columns, strict=True)]
        return [change for change in found if change[2] > 0]


def _listed(values: np.ndarray) -> list[float]:
    return [float(value) for value in values]


def _frames(shown: list[tuple[Span, list[float]]], size: Size) -> Iterator[tuple[Span, float, np.ndarray]]:
    """(span, time in its video, BGR frame (*size, 3)) of the clip."""
    for span, times in shown:
        found = 0
        for time_s, image in zip(times, frames_at(span.video, times), strict=False):
            # In a folder there may be another camera's video, too.
            yield span, time_s, image if image.shape[:2] == size else _resized(image, size)
            found += 1
        if not found:
            raise DataError(
                f"the held-out seconds {clock(span.start_s)}-{clock(span.end_s)} of {span.video} cannot be "
                "read any more. Put the file back as it was when the run began, then give --resume."
            )


def _resized(image: np.ndarray, size: Size) -> np.ndarray:
    method = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=method)
