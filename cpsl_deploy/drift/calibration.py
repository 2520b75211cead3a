"""How far windows of frames lie from the reference's, and how far that may be by chance.

A reference is modes, not one mean: a camera's own roads by day and at dusk are two places in the space of the
statistics, and the middle between them is neither. A window is therefore held against the nearest of the
reference's own windows, in units of the statistics' spread, with their correlations taken out (Mahalanobis'
distance to the nearest neighbour, as in Lee et al., NeurIPS 2018, and Sun et al., ICML 2022, for features).

The threshold comes from frames that the reference does not contain. Neighbouring frames of a drive look
alike, so frames are not left out one by one but in blocks of consecutive ones, with a gap on both sides. The
logarithm of the left-out windows' distances is taken as normal and the threshold is its prediction bound,
with Student's t of as many degrees of freedom as there are blocks less one: the fewer, the wider the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

WINDOW = 5
"""Consecutive reference frames that are one window."""
BLOCKS = 16
"""Into which the reference frames are cut, to be left out in turn."""
SHRINKAGE = 0.3
"""Of the correlations towards none (Ledoit and Wolf, 2004): a few drives do not tell them exactly."""
LEAST_SPREAD = 0.02
"""A class that the reference never shows has no spread of its own; 0.04 % of the pixels is then one unit."""
LEAST_DISTANCE = 0.1
"""Windows nearer than this are the same: a camera that stood still has no smaller logarithms to teach."""
MOST_CORRELATED = 64
"""Statistics above which correlations are left out: a few hundred frames do not tell so many."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """Some of the statistics, as the reference frames have them."""

    mean: np.ndarray
    """float64 (d,)."""
    spread: np.ndarray
    """float64 (d,): standard deviation of single frames, at least `LEAST_SPREAD`."""
    correlation: np.ndarray
    """float64 (d, d), shrunk, positive definite."""
    windows: np.ndarray
    """float64 (n, d): means of consecutive frames."""

    def __post_init__(self) -> None:
        whiten = np.linalg.inv(np.linalg.cholesky(self.correlation))
        object.__setattr__(self, "_whiten", whiten)
        object.__setattr__(self, "_white", self._whitened(self.windows))

    def _whitened(self, values: np.ndarray) -> np.ndarray:
        return ((values - self.mean) / self.spread) @ self._whiten.T  # type: ignore[attr-defined, no-any-return]

    def distance(self, window: np.ndarray) -> float:
        """Of a window's mean statistics float64 (d,) to the nearest window of the reference: root mean square
        over the statistics, in units of the spread."""
        away = self._white - self._whitened(window)  # type: ignore[attr-defined]
        return float(np.sqrt((away**2).mean(axis=1).min()))

    @classmethod
    def of(cls, frames: np.ndarray, *, shrinkage: float = SHRINKAGE) -> Space:
        """Of the statistics float64 (N, d) of frames in the order of time."""
        mean, spread = frames.mean(axis=0), np.maximum(frames.std(axis=0), LEAST_SPREAD)
        standard = (frames - mean) / spread
        covariance = standard.T @ standard / len(frames)
        # A statistic that hardly moves keeps a variance: one of its units is a unit after whitening, too.
        variance = np.maximum(np.diag(covariance), 0.1)
        kept = 0.0 if frames.shape[1] > MOST_CORRELATED else 1 - shrinkage
        correlation = kept * covariance
        np.fill_diagonal(correlation, kept * np.diag(covariance) + (1 - kept) * variance)
        return cls(mean=mean, spread=spread, correlation=correlation, windows=window_means(frames))


def window_means(frames: np.ndarray, length: int = WINDOW) -> np.ndarray:
    """float64 (N // length, d): means over consecutive frames (N, d); of all of them if they are fewer."""
    whole = len(frames) // length * length
    if not whole:
        return frames.mean(axis=0, keepdims=True)
    return frames[:whole].reshape(-1, length, frames.shape[1]).mean(axis=1)


def left_out_distances(frames: np.ndarray, *, blocks: int = BLOCKS, gap: int = WINDOW) -> list[np.ndarray]:
    """Distances of the windows of each block of frames (N, d) to a `Space` of the others, float64 (n,) each.

    ``gap``: frames on both sides of the block that are left out, too, because they show what it shows.
    """
    everywhere = np.arange(len(frames))
    distances = []
    for block in np.array_split(everywhere, blocks):
        apart = (everywhere < block[0] - gap) | (everywhere > block[-1] + gap)
        space = Space.of(frames[apart])
        windows = window_means(frames[block])
        distances.append(np.array([space.distance(window) for window in windows]))
    return distances


def threshold(distances: list[np.ndarray], rate: float) -> float:
    """The distance that a window of one more block exceeds with the probability ``rate``."""
    blocks = len(distances)
    logs = np.log(np.maximum(np.concatenate(distances), LEAST_DISTANCE))
    quantile = student_t_quantile(1 - rate, blocks - 1)
    return float(np.exp(logs.mean() + quantile * logs.std(ddof=1) * math.sqrt(1 + 1 / blocks)))


def student_t_quantile(probability: float, degrees: int) -> float:
    """Of Student's t distribution: by t = sqrt(n) tan(a) its density is cos(a)^(n-1), which is summed."""
    angles = np.linspace(-math.pi / 2, math.pi / 2, 200_001)
    density = np.cos(angles) ** (degrees - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(degrees) * math.tan(float(np.interp(probability * below[-1], below, angles)))
