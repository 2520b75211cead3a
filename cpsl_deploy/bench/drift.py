"""Whether a latency moved while it was measured: the last third of the frames against the first.

Warming up ends where three short windows agree; a clock that falls, or work that begins on the machine, comes
later. A percentile of such a run belongs to no state of the machine, and is to be believed less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCKS = 12
"""The run is cut into so many pieces, a third of them at each end."""
LEAST_FRAMES = 3 * BLOCKS
"""With fewer a median of a third says too little."""
LEAST_CHANGE = 0.05
"""A smaller change is not worth a note: the tolerance of the warm-up."""
CHANCE = 0.01
"""Share of shuffled runs that may move as much."""
_SHUFFLES = 999
_THIRD = BLOCKS // 3


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A change that chance does not explain."""

    first_ms: float
    """Median of the first third."""
    last_ms: float
    """Median of the last third."""

    @property
    def note(self) -> str:
        change = self.last_ms / self.first_ms - 1
        return (
            f"Latency {'rose' if change > 0 else 'fell'} by {100 * abs(change):.0f} % while it was measured "
            f"(median of the first third {self.first_ms:.2f} ms, of the last {self.last_ms:.2f} ms): its "
            "percentiles mix both. Other work, a clock that changed, or frames of another kind."
        )


def drift_of(totals_ms: np.ndarray) -> Drift | None:
    """The change in (N,) latencies in the order in which they were measured; None where there is none.

    A permutation test of the ratio of the two medians, in which whole pieces of the run are shuffled:
    neighbours resemble each other, and single frames that are shuffled would find a change in most runs.
    """
    totals_ms = np.asarray(totals_ms, np.float64)
    if len(totals_ms) < LEAST_FRAMES:
        return None
    length = len(totals_ms) // BLOCKS
    pieces = totals_ms[len(totals_ms) - BLOCKS * length :].reshape(BLOCKS, length)
    first_ms, last_ms = float(np.median(pieces[:_THIRD])), float(np.median(pieces[-_THIRD:]))
    seen = _change(pieces, np.arange(BLOCKS))
    if not seen > np.log1p(LEAST_CHANGE):
        return None
    random = np.random.default_rng(0)
    shuffled = sum(_change(pieces, random.permutation(BLOCKS)) >= seen for _ in range(_SHUFFLES))
    return Drift(first_ms=first_ms, last_ms=last_ms) if (shuffled + 1) / (_SHUFFLES + 1) <= CHANCE else None


def _change(pieces: np.ndarray, order: np.ndarray) -> float:
    """Size of the logarithm of the last third's median over the first third's."""
    return abs(float(np.log(np.median(pieces[order[-_THIRD:]]) / np.median(pieces[order[:_THIRD]]))))
