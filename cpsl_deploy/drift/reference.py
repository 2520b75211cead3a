"""What a model's own roads look like in statistics, and from where on a window of frames is another road.

`cpsl-export` stores it in the model file, as the file itself sees the images that the model was adapted to.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError, ModelFileError
from ..segmenter import Prediction, Segmenter
from . import calibration
from .calibration import Space
from .statistics import FrameStatistics, group_of, statistic_names

KEY = "drift_reference"
"""Of the metadata entry of a model file."""
VERSION = 1
LEAST_FRAMES = 60
"""Frames below which there is no reference: less than four in a block say nothing of a window."""
MOST_FRAMES = 2000
FALSE_ALARMS = 0.01
"""Share of windows of the model's own roads that may lie above the threshold."""
PARTS = ("answers", "look")
"""What is held against the reference, each with a threshold of its own at its part of the rate: what the
model says of the frames, and how the frames look. One distance for both would let one dilute the other."""
MAX_TEXT = 1 << 19
_MOST_STATISTICS = 600
_MOST_WINDOWS = MOST_FRAMES // calibration.WINDOW
_DAMAGED = "Export the model again: cpsl-export RUN; or make another reference: cpsl-drift MODEL --calibrate"


@dataclass(frozen=True, kw_only=True, eq=False)
class DriftScore:
    """How far a window lies from the reference."""

    value: float
    """The larger of ``parts``: 1 is the threshold."""
    parts: dict[str, float]
    """Each of `PARTS`, as a multiple of its own threshold."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DriftReference:
    """The statistics of a model's own roads. Raises InputError if a value breaks its rule."""

    names: tuple[str, ...]
    """Of the statistics; those of frames held against it are the same."""
    spaces: dict[str, Space] = field(repr=False)
    """One for each of `PARTS` that has statistics."""
    thresholds: dict[str, float]
    """Distance in each space that a window exceeds with the probability ``false_alarms`` / their number."""
    false_alarms: float
    """Share of windows of roads like the reference's that score above 1."""
    frames: int
    """How many it was made of."""

    def __post_init__(self) -> None:
        _check_rate(self.false_alarms)
        present = {_part_of(name) for name in self.names}
        _require(present == set(self.spaces) == set(self.thresholds), f"its parts are {', '.join(PARTS)}")
        for part in self.spaces:
            _require(len(self.spaces[part].mean) == int(self._of(part).sum()), f"the sizes of {part} differ")
            _require(1e-6 < self.thresholds[part] < 1e6, "a threshold is above 0 and finite")

    def _of(self, part: str) -> np.ndarray:
        """bool (len(names),): which statistics are of a part."""
        return np.array([_part_of(name) == part for name in self.names])

    @property
    def mean(self) -> np.ndarray:
        """float64 (len(names),)."""
        return self._joined("mean")

    @property
    def spread(self) -> np.ndarray:
        """float64 (len(names),): standard deviation of single frames."""
        return self._joined("spread")

    def _joined(self, what: str) -> np.ndarray:
        values = np.empty(len(self.names))
        for part in self.spaces:
            values[self._of(part)] = getattr(self.spaces[part], what)
        return values

    def score(self, window: np.ndarray) -> DriftScore:
        """Of a window's mean statistics float64 (len(names),)."""
        parts = {
            part: space.distance(window[self._of(part)]) / self.thresholds[part]
            for part, space in self.spaces.items()
        }
        return DriftScore(value=max(parts.values()), parts=parts)

    def require_fits(self, names: tuple[str, ...]) -> None:
        """Raises InputError if a model or a frame has other statistics than the reference."""
        if names != self.names:
            differ = sorted(set(self.names) ^ set(names))
            raise InputError(
                "a drift reference is of the model that it is used with, and this one is of another: "
                f"{', '.join(differ[:4]) or 'the order'} differ. Make one for this model file: cpsl-drift "
                "MODEL --calibrate PHOTOS -o reference.json"
            )

    @classmethod
    def of(
        cls,
        segmenter: Segmenter,
        frames: Iterable[np.ndarray],
        *,
        false_alarms: float = FALSE_ALARMS,
        progress: Callable[[int], None] = lambda done: None,
    ) -> DriftReference:
        """What a model sees in frames uint8 (H, W, 3) BGR of its own roads, in the order of time.

        ``false_alarms``: see the attribute. ``progress``: called with the number of frames done. Raises
        InputError for less than `LEAST_FRAMES` or more than `MOST_FRAMES` frames.
        """
        rows, names = [], names_of(segmenter)
        for prediction in predictions(segmenter, itertools.islice(frames, MOST_FRAMES + 1)):
            rows.append(FrameStatistics.of(prediction).values)
            progress(len(rows))
        return cls.of_statistics(names, np.array(rows), false_alarms=false_alarms)

    @classmethod
    def of_statistics(
        cls, names: tuple[str, ...], values: np.ndarray, *, false_alarms: float = FALSE_ALARMS
    ) -> DriftReference:
        """Of the statistics float64 (N, len(names)) of frames in the order of time. Errors: as of `of`."""
        if not LEAST_FRAMES <= len(values) <= MOST_FRAMES:
            raise InputError(
                f"a drift reference is made of {LEAST_FRAMES} to {MOST_FRAMES} frames of the model's own "
                f"roads; got {len(values)}. Name a folder or a video with more of them, or a part of it"
            )
        _check_rate(false_alarms)
        of_part = np.array([_part_of(name) for name in names])
        present = [part for part in PARTS if part in of_part]
        spaces, thresholds = {}, {}
        for part in present:
            mine = values[:, of_part == part]
            spaces[part] = Space.of(mine)
            distances = calibration.left_out_distances(mine)
            thresholds[part] = calibration.threshold(distances, false_alarms / len(present))
        return cls(
            names=names, spaces=spaces, thresholds=thresholds, false_alarms=false_alarms, frames=len(values)
        )

    @classmethod
    def stored_in(cls, segmenter: Segmenter) -> DriftReference | None:
        """The one in an opened model file; None if it has none. Raises ModelFileError for a damaged one, or
        one that is of other outputs than the file's."""
        text = segmenter.backend.metadata.get(KEY)
        if text is None:
            return None
        reference = cls.from_json(text, segmenter.origin)
        if reference.names != names_of(segmenter):
            raise _damaged(segmenter.origin, "it is of another model or other outputs")
        return reference

    def to_json(self) -> str:
        """Some kB: numbers have the digits that matter."""
        parts = {}
        for part, space in self.spaces.items():
            triangle = space.correlation[np.tril_indices(len(space.mean))]
            diagonal = len(space.mean) > calibration.MOST_CORRELATED
            parts[part] = {
                "threshold": float(f"{self.thresholds[part]:.5g}"),
                "mean": _short(space.mean),
                "spread": _short(space.spread),
                "correlation": _short(np.diag(space.correlation) if diagonal else triangle),
                "windows": [_short(window) for window in space.windows],
            }
        head = {"version": VERSION, "names": self.names, "false_alarms": self.false_alarms}
        return json.dumps({**head, "frames": self.frames, "parts": parts}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, origin: str) -> DriftReference:
        """Read one. ``origin`` names its file in errors. Raises ModelFileError if it is damaged or of a
        later version."""
        try:
            _require(len(text) <= MAX_TEXT, f"it is longer than {MAX_TEXT} characters")
            return _parsed(json.loads(text, parse_constant=_refuse))
        # A text that nests a thousand lists ends in RecursionError, a matrix that is none in LinAlgError.
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
            np.linalg.LinAlgError,
            InputError,
        ) as error:
            raise _damaged(origin, f"{type(error).__name__}: {str(error)[:120]}") from error


def _part_of(name: str) -> str:
    return "look" if group_of(name) == "image" else "answers"


def names_of(segmenter: Segmenter) -> tuple[str, ...]:
    """Names of the statistics of frames that a model has seen."""
    return statistic_names(segmenter.classes.names, segmenter.contract.outputs)


def predictions(segmenter: Segmenter, frames: Iterable[np.ndarray]) -> Iterator[Prediction]:
    """What a model says of frames uint8 (H, W, 3) BGR, in their order, whatever number of them it takes."""
    backend = segmenter.backend
    count = backend.batch or max(1, backend.least_batch)
    if count == 1:
        yield from map(segmenter.predict, frames)
        return
    for _, alike in itertools.groupby(frames, key=lambda frame: frame.shape):
        while batch := list(itertools.islice(alike, count)):
            filled = [batch[place % len(batch)] for place in range(count)]
            yield from segmenter.predict_batch(filled)[: len(batch)]


def _parsed(values: Any) -> DriftReference:
    _require(values["version"] == VERSION, f"it is of version {str(values['version'])[:20]}, not {VERSION}")
    names = values["names"]
    _require(isinstance(names, list) and 1 < len(names) <= _MOST_STATISTICS, "its names are a list")
    _require(all(isinstance(n, str) and ":" in n and len(n) < 256 for n in names), "its names are texts")
    _require(len(set(names)) == len(names), "no two names are the same")
    _require(type(values["frames"]) is int and 0 < values["frames"] <= MOST_FRAMES, "frames is a number")
    parts = values["parts"]
    _require(isinstance(parts, dict) and set(parts) <= set(PARTS), f"its parts are {', '.join(PARTS)}")
    return DriftReference(
        names=tuple(names),
        spaces={part: _space(values) for part, values in parts.items()},
        thresholds={part: float(values["threshold"]) for part, values in parts.items()},
        false_alarms=float(values["false_alarms"]),
        frames=values["frames"],
    )


def _space(values: dict[str, Any]) -> Space:
    mean, spread = _numbers(values["mean"]), _numbers(values["spread"])
    size = len(mean)
    _require(mean.shape == spread.shape == (size,) and 0 < size <= _MOST_STATISTICS, "sizes agree")
    _require(bool((spread > 1e-9).all()), "a spread is above 0")
    windows = _numbers(values["windows"])
    _require(windows.ndim == 2 and windows.shape[1] == size, "windows are (n, statistics)")
    _require(0 < len(windows) <= _MOST_WINDOWS, f"windows are 1 to {_MOST_WINDOWS}")
    entries = _numbers(values["correlation"])
    if size > calibration.MOST_CORRELATED:
        _require(entries.shape == (size,), "correlations are the diagonal")
        correlation = np.diag(entries)
    else:
        lower = np.zeros((size, size))
        lower[np.tril_indices(size)] = entries
        correlation = lower + np.tril(lower, -1).T
    _require(float(np.linalg.eigvalsh(correlation)[0]) > 1e-4, "correlations are positive definite")
    return Space(mean=mean, spread=spread, correlation=correlation, windows=windows)


def _numbers(values: Any) -> np.ndarray:
    array = np.array(values)
    _require(array.dtype.kind in "if", "numbers are wanted")
    _require(bool((np.abs(array) < 1e9).all()), "numbers are finite")
    return array.astype(np.float64)


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.4g}") if abs(value) >= 1e-4 else 0.0 for value in values.tolist()]


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _check_rate(rate: float) -> None:
    _require(1e-6 <= rate <= 0.5, f"a rate of false alarms is from 0.000001 to 0.5; got {rate}")


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise InputError(rule)


def _damaged(origin: str, why: str) -> ModelFileError:
    return ModelFileError(f"the drift reference of {origin} is not usable ({why}). {_DAMAGED} PHOTOS")
