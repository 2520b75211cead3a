"""Temporal smoothing: labels that do not flicker from one frame to the next, for some frames of lag.

Two ways, off unless asked for:

- ``logits:ALPHA``: an exponential mean of the logits, s = ALPHA x + (1 - ALPHA) s. Its mean lag is
  (1 - ALPHA) / ALPHA frames; a step is 1 - (1 - ALPHA)^k done after k frames, so that one class outdoes
  another with as clear a lead as that had after ceil(log(1/2) / log(1 - ALPHA)) frames. Nothing is moved:
  what crosses the picture leaves a trail of that length.
- ``majority:N``: the label that most of the last N frames have, each moved to where its pixels are now by
  dense optical flow (DIS; Kroeger et al., ECCV 2016, 1603.03590). What the model begins or ceases to see
  while the picture stays the same is shown (N - 1) / 2 frames later. Where the picture changes by more than
  movement there is no past, so that an object that comes into view, and is not of the colour of what it
  hides, is shown at once.

Frames are those the model saw: with frames left out, a lag of as many frames takes longer.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..classes import IGNORE
from ..contract import LOGITS
from ..dense_argmax import labels_from_logits
from ..errors import DataError, InputError, UnavailableError
from ..segmenter import Prediction
from .continuity import Continuity

FLOW_SIDE = 480
"""Pixels. Frames are brought to this longer side for their optical flow."""
MOST_DIFFERENCE = 12
"""Grey levels, the mean of 5x5 pixels of the reduced frame. What differs by more from where it is said to
come from has no past."""
MOST_FRAMES = 15
_MOST_SIDE = (1 << 15) - 2
"""Pixels that OpenCV's remap can take."""
_RULE = (
    "smoothing is logits:ALPHA with ALPHA the weight of the newest frame, above 0 and below 1, for example "
    f"logits:0.6, or majority:N with N frames, odd, from 3 to {MOST_FRAMES}, for example majority:5"
)


class Smoothing(ABC):
    """How labels are smoothed: `LogitSmoothing` or `MajoritySmoothing`."""

    @staticmethod
    def parse(text: str) -> Smoothing:
        """From ``logits:0.6`` or ``majority:5``. Raises InputError for anything else."""
        kind, _, value = text.strip().partition(":")
        if kind == "logits" and re.fullmatch(r"[0-9]?\.[0-9]{1,6}", value):
            return LogitSmoothing(alpha=float(value))
        if kind == "majority" and re.fullmatch("[0-9]{1,3}", value):
            return MajoritySmoothing(frames=int(value))
        raise InputError(f"{_RULE}; got {text[:80]!r}")

    @property
    @abstractmethod
    def lag_frames(self) -> float:
        """Mean lag, in frames that the model saw."""

    @abstractmethod
    def check(self, outputs: Sequence[str]) -> None:
        """Raise UnavailableError if a file with these outputs (`contract.OUTPUTS`) cannot be smoothed so."""

    @abstractmethod
    def start(self, *, align_corners: bool = False) -> Smoother:
        """State for one source. ``align_corners``: as in the model's spec."""


@dataclass(frozen=True, kw_only=True)
class LogitSmoothing(Smoothing):
    """Exponential over logits. Raises InputError if the value breaks its rule."""

    alpha: float
    """Weight of the newest frame, above 0 and below 1."""

    def __post_init__(self) -> None:
        if not (isinstance(self.alpha, (int, float)) and 0 < self.alpha < 1):
            raise InputError(f"{_RULE}; got logits:{self.alpha}")

    @property
    def lag_frames(self) -> float:
        return (1 - self.alpha) / self.alpha

    @property
    def step_frames(self) -> int:
        """Frames, the first included, until a class outdoes another that was as far ahead before."""
        # 0.5 itself is a draw after one frame, of which the class with the smaller number wins.
        return math.floor(math.log(0.5) / math.log(1 - self.alpha) + 1e-9) + 1

    def check(self, outputs: Sequence[str]) -> None:
        if LOGITS not in outputs:
            raise UnavailableError(
                f"smoothing of logits needs them, and the model gives {', '.join(outputs)} alone. Export it "
                "with them: cpsl-export RUN --outputs logits; or smooth by majority:5"
            )

    def start(self, *, align_corners: bool = False) -> Smoother:
        return _OfLogits(self.alpha, align_corners)


@dataclass(frozen=True, kw_only=True)
class MajoritySmoothing(Smoothing):
    """Majority over label maps moved along. Raises InputError if the value breaks its rule."""

    frames: int
    """The newest included: odd, 3 or more."""

    def __post_init__(self) -> None:
        whole = isinstance(self.frames, int) and not isinstance(self.frames, bool)
        if not (whole and 3 <= self.frames <= MOST_FRAMES and self.frames % 2):
            raise InputError(f"{_RULE}; got majority:{self.frames}")

    @property
    def lag_frames(self) -> float:
        return (self.frames - 1) / 2

    def check(self, outputs: Sequence[str]) -> None:
        """Every file will do."""

    def start(self, *, align_corners: bool = False) -> Smoother:
        return _OfLabels(self.frames)


class Smoother(ABC):
    """Smooths the predictions of one source, in their order, one thread at a time.

    Its memory is cleared where a frame does not follow the last one: `Continuity`.
    """

    def __init__(self) -> None:
        self._continuity = Continuity()

    def apply(self, prediction: Prediction, frame_index: int, time_s: float | None) -> Prediction:
        """The prediction with smoothed labels; ``timings_ms`` has ``smoothing``. The arrays given are neither
        written into nor kept. The logits stay what the model said of this frame.

        ``frame_index``, ``time_s``: of the frame in its source. Raises UnavailableError if there are no
        logits and they are needed, DataError for a frame that cannot be smoothed in this way.
        """
        started = time.perf_counter()
        self._check(prediction)
        if not self._continuity.follows(prediction.frame, frame_index, time_s):
            self.reset()
        labels, confidence = self._smooth(prediction)
        spent_ms = 1e3 * (time.perf_counter() - started)
        return dataclasses.replace(
            prediction,
            labels=labels,
            confidence=confidence,
            timings_ms={**prediction.timings_ms, "smoothing": spent_ms},
        )

    @abstractmethod
    def reset(self) -> None:
        """Forget what was."""

    @abstractmethod
    def _check(self, prediction: Prediction) -> None: ...

    @abstractmethod
    def _smooth(self, prediction: Prediction) -> tuple[np.ndarray, np.ndarray | None]:
        """Labels, and the confidence in them if the prediction has one."""


class _OfLogits(Smoother):
    """The confidence is that of the smoothed logits, if the file gives one: a slow part."""

    def __init__(self, alpha: float, align_corners: bool) -> None:
        super().__init__()
        self._alpha, self._align_corners = np.float32(alpha), align_corners
        self._state: np.ndarray | None = None

    def reset(self) -> None:
        self._state = None

    def _check(self, prediction: Prediction) -> None:
        if prediction.logits is None:
            LogitSmoothing(alpha=float(self._alpha)).check(("labels",))

    def _smooth(self, prediction: Prediction) -> tuple[np.ndarray, np.ndarray | None]:
        logits = prediction.logits
        assert logits is not None
        if self._state is None or self._state.shape != logits.shape:
            self._state = logits.copy()
            return prediction.labels, prediction.confidence
        change = logits - self._state
        change *= self._alpha
        self._state += change
        size, align = prediction.labels.shape, self._align_corners
        try:
            if prediction.confidence is not None:
                return labels_from_logits(self._state, size, align_corners=align, confidence=True)
            return labels_from_logits(self._state, size, align_corners=align), None
        except InputError:  # values that are not finite must not stay in the state
            self.reset()
            return prediction.labels, prediction.confidence


class _OfLabels(Smoother):
    """Where another label than the model's is chosen, the confidence is the most that it can have: what the
    model's own leaves, and no more than that one's."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self._frames = frames
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._grey: np.ndarray | None = None
        self._maps: list[np.ndarray] = []
        """Labels uint8 (H, W) of the frames before, newest first, where they are in the last one; IGNORE has
        no vote."""
        self._grid = np.zeros((0, 0, 2), np.float32)

    def reset(self) -> None:
        self._grey, self._maps = None, []

    def _check(self, prediction: Prediction) -> None:
        if max(prediction.labels.shape) > _MOST_SIDE:
            raise DataError(
                f"smoothing by majority takes frames of up to {_MOST_SIDE} pixels a side; got "
                f"{prediction.labels.shape}. Smooth logits instead, or give a region of interest"
            )

    def _smooth(self, prediction: Prediction) -> tuple[np.ndarray, np.ndarray | None]:
        newest, confidence = prediction.labels, prediction.confidence
        grey = _reduced(prediction.frame)
        labels = newest
        if self._grey is not None and self._maps:
            self._move(self._grey, grey, newest.shape)
            labels = majority(newest, self._maps)
            if confidence is not None:
                most = np.minimum(confidence, 255 - confidence)
                confidence = np.where(labels == newest, confidence, most)
        self._grey = grey
        self._maps = [newest.copy(), *self._maps[: self._frames - 2]]
        return labels, confidence

    def _move(self, before: np.ndarray, now: np.ndarray, size: tuple[int, ...]) -> None:
        """Bring the maps to where their pixels are now."""
        height, width = size
        flow = self._flow.calc(now, before, np.zeros((*now.shape, 2), np.float32))
        places = flow + _grid(*now.shape)
        came_from = cv2.remap(before, places, None, cv2.INTER_LINEAR)  # type: ignore[call-overload]
        difference = cv2.blur(cv2.absdiff(now, came_from), (5, 5))
        _, new = cv2.threshold(difference, MOST_DIFFERENCE, 255, cv2.THRESH_BINARY)
        if now.shape != (height, width):
            stretch = np.array([width / now.shape[1], height / now.shape[0]], np.float32)
            flow = cv2.resize(flow * stretch, (width, height), interpolation=cv2.INTER_LINEAR)
            new = cv2.resize(new, (width, height), interpolation=cv2.INTER_NEAREST)
        if self._grid.shape[:2] != (height, width):
            self._grid = _grid(height, width)
        flow = np.add(flow, self._grid, out=flow)
        nearest, _ = cv2.convertMaps(flow, None, cv2.CV_16SC2, nninterpolation=True)  # type: ignore[call-overload]
        outside = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": IGNORE}
        for number, labels in enumerate(self._maps):
            moved = cv2.remap(labels, nearest, None, cv2.INTER_NEAREST, **outside)  # type: ignore[call-overload]
            # IGNORE has all its bits set.
            self._maps[number] = cv2.bitwise_or(moved, new, dst=moved)


def majority(newest: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """The most frequent label at every pixel, as a new map uint8 (H, W).

    ``newest``, ``others``: label maps uint8 (H, W), newest first; of equally frequent labels the newest wins.
    IGNORE has no vote, and where the newest map has it, it stays.
    """
    differs = np.zeros(newest.shape, bool)
    for labels in others:
        differs |= (labels != newest) & (labels != IGNORE)
    where = np.flatnonzero(differs & (newest != IGNORE))
    result = newest.copy()
    if not len(where):
        return result
    # Few pixels are left: their candidates (maps, pixels), and how often each is found among them.
    candidates = np.stack([labels.reshape(-1)[where] for labels in (newest, *others)])
    votes = np.zeros(candidates.shape, np.uint8)
    for candidate in candidates:
        votes += (candidates == candidate).view(np.uint8)
    votes[candidates == IGNORE] = 0
    chosen = votes.argmax(0)
    result.reshape(-1)[where] = np.take_along_axis(candidates, chosen[None], 0)[0]
    return result


def _reduced(frame: np.ndarray) -> np.ndarray:
    """Grey, uint8, its longer side `FLOW_SIDE` at most. The order of the colours hardly matters for it."""
    height, width = frame.shape[:2]
    scale = FLOW_SIDE / max(height, width)
    if scale < 1:
        size = max(16, round(width * scale)), max(16, round(height * scale))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)


def _grid(height: int, width: int) -> np.ndarray:
    """float32 (height, width, 2): x and y of every pixel."""
    grid = np.empty((height, width, 2), np.float32)
    grid[..., 0] = np.arange(width)
    grid[..., 1] = np.arange(height)[:, None]
    return grid
