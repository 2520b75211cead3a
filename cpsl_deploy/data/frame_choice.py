"""Which moments of a drive are worth training on, and which seconds are kept out of training.

Everything here judges numbers and thumbnails; decoding is ``footage``'s part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..errors import DataError

WORKING_WIDTH = 480
"""Pixels at which sharpness is measured, so that it means the same for every camera and noise counts less."""
THUMBNAIL = (64, 36)
"""(width, height) in pixels at which frames are compared; what moves by less than 1/64 of a frame is lost."""
BLURRED = 0.6
"""A frame is blurred if its sharpness is below this part of the median of its neighbours in time. Relative,
so that a drive in fog, dull as a whole, keeps its frames. A fade takes contrast away and is caught, too."""
NEIGHBOURS, NEIGHBOUR_SECONDS = 7, 5.0
"""Frames on either side that count as neighbours: this many, or all within these seconds if they are more."""
DUPLICATE = 0.05
"""Mean difference of two thumbnails, in standard deviations of their grey levels, below which they show the
same. A parked camera's noise makes about 0.02; 0.2 s on a motorway with an unchanging view 0.07 or more."""
BLANK_CONTRAST, DARK_LEVEL = 4.0, 40.0
"""Grey levels of 255. A frame is blank if its thumbnail's standard deviation is below the first (fog that
hides the road still has twice that), dark if not even its brightest hundredth reaches the second."""

HELD_OUT_SHARE, LEAST_HELD_OUT_S, MOST_HELD_OUT_S = 0.1, 2.0, 60.0
"""Held out unless told: a tenth of the recording, but at least and at most so many seconds..."""
MOST_HELD_OUT_SHARE = 0.2
"""... and of a short recording never more than a fifth."""
BLOCK_S, MOST_BLOCKS = 3.0, 4
"""Held-out seconds come in blocks of this length or longer, up to so many, spread over the drive."""
GUARD_S = 2.0
"""What lies this close to held-out seconds is not trained on either (half a block's length if that is less):
neighbouring frames show the same place."""
HELD_OUT_PICTURES = 40
"""Frames kept of the held-out seconds, evenly, to look at."""

REASONS = {
    "dark": "dark or blank",
    "blurred": "blurred or fading, against their neighbours in time",
    "duplicate": "nearly the same picture as the one before, as when standing",
    "guard": "too close to the held-out seconds, or showing what they show",
    "surplus": "good, and more than asked for",
}
"""Why a moment is not used, by the word that the manifest has."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Moment:
    """The sharpest of some neighbouring frames of a recording."""

    video: int
    """Which of the recording's videos."""
    frame: int
    """Its number in that video, from 0."""
    time_s: float
    """Its time in that video."""
    at_s: float
    """Its time in the whole recording, one video after the other."""
    sharpness: float
    thumbnail: np.ndarray
    """(36, 64) float32, grey levels 0..255."""

    @property
    def is_dark(self) -> bool:
        """Whether there is hardly anything to see."""
        bright = float(np.percentile(self.thumbnail, 99))
        return bool(self.thumbnail.std() < BLANK_CONTRAST) or bright < DARK_LEVEL


@dataclass(frozen=True)
class Choice:
    """What becomes of the moments of a recording, by their position in the list."""

    train: list[int]
    held_out: list[int]
    dropped: dict[int, str]
    """The key in REASONS of every other one."""
    spans: list[tuple[float, float]]
    """Held-out (start, end) on the recording's time axis, in seconds."""
    guard_s: float


def measures(frame: np.ndarray) -> tuple[float, np.ndarray]:
    """Sharpness and thumbnail of a BGR frame uint8 (H, W, 3).

    Sharpness: variance of the Laplacian at the working width (Pech-Pacheco et al., ICPR 2000).
    """
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    if grey.shape[1] > WORKING_WIDTH:
        scale = WORKING_WIDTH / grey.shape[1]
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    sharpness = float(cv2.Laplacian(grey, cv2.CV_32F).var())
    return sharpness, cv2.resize(grey, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of two thumbnails, each of mean 0 and standard deviation 1.

    So a change of exposure alone is none, and fog that flattens all contrasts hides no movement.
    """
    return float(np.abs(_standardised(one) - _standardised(other)).mean())


def _standardised(thumbnail: np.ndarray) -> np.ndarray:
    return (thumbnail - thumbnail.mean()) / max(float(thumbnail.std()), BLANK_CONTRAST)


def choose(moments: Sequence[Moment], *, seconds: float, frames: int, hold_out_s: float | None) -> Choice:
    """Judge the moments of a recording of so many ``seconds``, in their order.

    At most ``frames`` are to train on, spread evenly over those that are left. ``hold_out_s``: seconds kept
    out of training; None for the default, 0 for none. Raises DataError if too much is to be held out.
    """
    dropped: dict[int, str] = {i: "dark" for i, moment in enumerate(moments) if moment.is_dark}
    for reason, find in (("blurred", _blurred), ("duplicate", _duplicates)):
        left = [i for i in range(len(moments)) if i not in dropped]
        dropped |= dict.fromkeys((left[k] for k in find([moments[i] for i in left])), reason)
    left = [i for i in range(len(moments)) if i not in dropped]
    spans, guard_s = held_out_spans([moments[i].at_s for i in left], seconds, hold_out_s)
    away = [min((_distance(moment.at_s, span) for span in spans), default=float("inf")) for moment in moments]
    held_out = [i for i in left if away[i] <= 0]
    guarded = [i for i in range(len(moments)) if away[i] < guard_s and dropped.get(i) != "dark"]
    free = [i for i in left if away[i] > 0 and away[i] >= guard_s]
    given_away = _shown_by([moments[i] for i in guarded], [moments[i] for i in free])
    train = [i for i, is_shown in zip(free, given_away, strict=True) if not is_shown]
    dropped |= dict.fromkeys(set(left) - set(held_out) - set(train), "guard")
    chosen, shown = evenly(train, frames), evenly(held_out, HELD_OUT_PICTURES)
    dropped |= dict.fromkeys((set(train) - set(chosen)) | (set(held_out) - set(shown)), "surplus")
    return Choice(chosen, shown, dict(sorted(dropped.items())), spans, guard_s)


def _blurred(moments: Sequence[Moment]) -> list[int]:
    times = np.array([moment.at_s for moment in moments])
    sharpness = np.array([moment.sharpness for moment in moments])
    found = []
    for i, value in enumerate(sharpness):
        first = min(np.searchsorted(times, times[i] - NEIGHBOUR_SECONDS), max(i - NEIGHBOURS, 0))
        last = max(np.searchsorted(times, times[i] + NEIGHBOUR_SECONDS, "right"), i + NEIGHBOURS + 1)
        if value < BLURRED * np.median(sharpness[first:last]):
            found.append(i)
    return found


def _duplicates(moments: Sequence[Moment]) -> list[int]:
    """Frames that show what the last kept one shows."""
    found, kept = [], None
    for i, moment in enumerate(moments):
        if kept is not None and difference(kept, moment.thumbnail) < DUPLICATE:
            found.append(i)
        else:
            kept = moment.thumbnail
    return found


def _shown_by(others: Sequence[Moment], moments: Sequence[Moment]) -> list[bool]:
    """Of each moment, whether any of the others shows nearly the same picture.

    Distance in time alone guards no car that stands: its last picture is the one it arrived with.
    """
    if not others:
        return [False] * len(moments)
    pictures = np.stack([_standardised(other.thumbnail) for other in others])
    return [
        bool(np.abs(pictures - _standardised(moment.thumbnail)).mean((1, 2)).min() < DUPLICATE)
        for moment in moments
    ]


def held_out_spans(
    times_s: Sequence[float], seconds: float, hold_out_s: float | None
) -> tuple[list[tuple[float, float]], float]:
    """Blocks (start, end) to keep out of training, and the guard around them, in seconds.

    ``times_s``: the moments that can be used; every block holds one. Several blocks, each around the middle
    one of as many equal parts of them, see more of the drive than its last minutes, which may be all one
    car park. A recording too short for that has one block, at its end, which costs it one guard.
    """
    wanted = hold_out_s
    if wanted is None:
        wanted = min(max(HELD_OUT_SHARE * seconds, LEAST_HELD_OUT_S), MOST_HELD_OUT_S)
        wanted = min(wanted, MOST_HELD_OUT_SHARE * seconds)
    if wanted > seconds / 2:
        raise DataError(
            f"at most half of a recording can be held out: {wanted:g} s were asked for and it has "
            f"{seconds:.1f} s. Hold out less (--hold-out SECONDS), or give a longer recording."
        )
    if wanted <= 0 or not times_s:
        return [], 0.0
    count = min(max(int(wanted // BLOCK_S), 1), MOST_BLOCKS, len(times_s))
    length = wanted / count
    if count == 1:
        end = min(max(times_s[-1] + length / 10, length), seconds)
        return [(end - length, end)], min(GUARD_S, length / 2)
    middles = [times_s[int((i + 0.5) * len(times_s) / count)] for i in range(count)]
    spans: list[tuple[float, float]] = []
    for middle in middles:
        start = min(max(middle - length / 2, 0.0), seconds - length)
        if spans and start <= spans[-1][1]:  # usable moments crowd together: one longer block
            start = spans.pop()[0]
        spans.append((start, min(max(middle, length / 2) + length / 2, seconds)))
    return spans, min(GUARD_S, length / 2)


def _distance(time_s: float, span: tuple[float, float]) -> float:
    return max(span[0] - time_s, time_s - span[1], 0.0)


def evenly(indices: Sequence[int], most: int) -> list[int]:
    """At most so many of the indices: the middle one of each of that many equal parts."""
    count = min(len(indices), most)
    return [indices[int((i + 0.5) * len(indices) / count)] for i in range(count)]
