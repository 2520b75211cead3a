"""How far a latency's percentiles would move in another such run: block bootstrap intervals.

Successive frames are drawn together, in blocks on a circle as long as the latencies ask for (`block_length`,
of their ranks, which no outlier moves). The interval is of this run's state of the machine: another boot,
another temperature or other work beside it are not in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .block_length import block_length

LEVEL = 0.95
RESAMPLES = 1000
SEED = 0
LEAST_FRAMES = 20
"""With fewer there is no interval: a 90th percentile lies among the two slowest of them."""
_DRAWS_AT_ONCE = 1 << 21


def latency_intervals(totals_ms: np.ndarray) -> dict[str, Any] | None:
    """``{"p50": {"low", "high"}, "p90": {...}, "level", "block"}`` of (N,) milliseconds; None for few."""
    totals_ms = np.asarray(totals_ms, np.float64)
    count = len(totals_ms)
    if count < LEAST_FRAMES:
        return None
    block = block_length(np.argsort(np.argsort(totals_ms)).astype(np.float64))
    random = np.random.default_rng(SEED)
    most = max(1, _DRAWS_AT_ONCE // count)
    drawn = []
    for first in range(0, RESAMPLES, most):
        starts = random.integers(count, size=(min(most, RESAMPLES - first), -(-count // block), 1))
        chosen = ((starts + np.arange(block)) % count).reshape(len(starts), -1)[:, :count]
        drawn.append(np.percentile(totals_ms[chosen], [50, 90], axis=1))
    low, high = np.percentile(np.hstack(drawn), [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=1)
    return {
        "p50": {"low": float(low[0]), "high": float(high[0])},
        "p90": {"low": float(low[1]), "high": float(high[1])},
        "level": LEVEL,
        "block": block,
    }
