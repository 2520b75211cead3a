"""Whether two runs differ by more than chance: permutation tests that know of autocorrelation.

If nothing changed between two runs, which of them a stretch of frames belongs to means nothing, and what
is seen must look like what is seen when stretches change sides at random. Single frames must not change
sides: latencies of neighbours are alike (a busy machine, a warm chip), and a test that takes them for
independent finds differences that are not there. Blocks of consecutive frames do, longer than the memory that
the runs show. What was seen counts as one of the arrangements, so that no p is 0 (Phipson and Smyth, 2010,
arXiv 1603.05766).

What these tests cannot know: two runs differ also by the hour, the temperature and what else ran. They are
of two runs, not of two programs. The limit on a change is for that, and measuring A again after B.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
LEAST_BLOCKS = 6
"""Of two runs of the same frames: with fewer no arrangement is rarer than 1 in 20 (2 of 2^6 = 0.03)."""
LEAST_FRAMES = 40
"""Of latencies: with fewer their memory does not stand out from chance. In simulated equal runs of 12, 20 and
30 frames (autoregressive, coefficient 0.5) whose blocks seemed long enough 5 % became 23, 20 and 13 %, of 40
frames 8 %."""
_BLOCK_PER_MEMORY = 4.0
"""Of 2, 3 and 4 the one with which runs of autoregressive noise (coefficient up to 0.8, 200 frames) are found
different no more often than a level of 5 % says, within a percent or two."""
_CHUNK = 4_000_000
"""Numbers that are looked at together."""


def exchanged_frames(series: np.ndarray) -> int:
    """Frames of a block: `remembered_frames`, but no more than leaves `LEAST_BLOCKS` blocks."""
    return min(remembered_frames(series), max(1, len(series) // LEAST_BLOCKS))


def blocks_are_short(*series: np.ndarray) -> bool:
    """Whether blocks common to all series (N,) are shorter than the memory of one asks for, so that p is too
    small."""
    wanted = max(remembered_frames(one) for one in series)
    return wanted > max(1, min(len(one) for one in series) // LEAST_BLOCKS)


def remembered_frames(series: np.ndarray) -> int:
    """Frames that a block should have: some integrated autocorrelation times of a series (N,), 1 if it has
    no memory or is too short to tell.

    Longer than what `block_length` says for drawing images again: a block that changes sides is to be free of
    its neighbours, and latencies have outliers, which hide the correlations of values from it.

    That time is 1 + 2 (r1 + r2 + ...), with r of the ranks, which outliers do not rule, up to the first that
    could be chance (below 2 / sqrt(N)).
    """
    count = len(series)
    if count < 2 * LEAST_BLOCKS or np.ptp(series) == 0:
        return 1
    ranks = np.argsort(np.argsort(series, kind="stable")).astype(np.float64)
    ranks -= ranks.mean()
    memory = 1.0
    for lag in range(1, count // 2):
        r = float(ranks[lag:] @ ranks[:-lag]) / float(ranks @ ranks)
        if r < 2 / np.sqrt(count):
            break
        memory += 2 * r
    return 1 if memory == 1 else int(np.ceil(_BLOCK_PER_MEMORY * memory))


def blocks_of(count: int, length: int) -> np.ndarray:
    """(count,) int: the block that each frame is in; the last block takes what is left over."""
    return np.minimum(np.arange(count) // length, max(count // length, 1) - 1)


def swapped(of_frame: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """(1 + R, N) bool: whether the frames of each block change sides; in the first row none does. Where there
    are no more than 1 + R ways, each of them once: drawn ones would be there more or less often by chance."""
    blocks = int(of_frame[-1]) + 1
    if 2**blocks <= 1 + resamples:
        return (np.arange(2**blocks)[:, None] >> np.arange(blocks) & 1).astype(bool)[:, of_frame]
    swap = np.random.default_rng(seed).random((1 + resamples, blocks)) < 0.5
    swap[0] = False
    return swap[:, of_frame]


def paired_sides(a: np.ndarray, b: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Arrangements of two runs (N,) of the same frames in the same order, as (1 + R, 2 N) bool: whether each
    value of ``a`` and then of ``b`` is on the first run's side. In the first row all is as it was.

    In a block that changes sides each frame's two values change places, so that what the frame costs by its
    content cancels out. The blocks are as long as the memory of log(b / a) asks for.
    """
    swap = swapped(blocks_of(len(a), exchanged_frames(np.log(b) - np.log(a))), resamples=resamples, seed=seed)
    return np.concatenate([~swap, swap], axis=1)


def unpaired_sides(a: np.ndarray, b: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """As `paired_sides`, (1 + R, N + M), for runs (N,) and (M,) whose frames have nothing in common: the
    blocks of both are shuffled and dealt out anew."""
    length = max(exchanged_frames(a), exchanged_frames(b))
    length = max(1, min(length, len(a) // LEAST_BLOCKS, len(b) // LEAST_BLOCKS))
    of_a, of_b = blocks_of(len(a), length), blocks_of(len(b), length)
    of_frame = np.concatenate([of_a, of_b + of_a[-1] + 1])
    order = np.random.default_rng(seed).random((1 + resamples, int(of_frame[-1]) + 1)).argsort(axis=1)
    order[0] = np.arange(order.shape[1])
    return (order <= of_a[-1])[:, of_frame]


def ratios(
    values: np.ndarray, counts: np.ndarray, sides: np.ndarray, percents: Sequence[float]
) -> np.ndarray:
    """Extremeness of each arrangement: (1 + R, 1 + P), |log(second / first)| of the means and percentiles.

    ``values``: (V,) positive, of both runs. ``counts``: (V,) bool, which of them count. ``sides``:
    (1 + R, V) bool, of `paired_sides` or `unpaired_sides`. 0 where a side has no value that counts.
    """
    order = np.argsort(values[counts], kind="stable")
    ordered = values[counts][order]
    kept = np.flatnonzero(counts)[order]
    if not len(ordered):
        return np.zeros((len(sides), 1 + len(percents)))
    rows = max(1, _CHUNK // len(ordered))
    parts = []
    for first in range(0, len(sides), rows):
        side = sides[first : first + rows, kept]
        with np.errstate(invalid="ignore"):
            one, other = _summaries(ordered, side, percents), _summaries(ordered, ~side, percents)
            parts.append(np.nan_to_num(np.abs(np.log(other) - np.log(one))))
    return np.concatenate(parts)


def _summaries(ordered: np.ndarray, chosen: np.ndarray, percents: Sequence[float]) -> np.ndarray:
    """(R, 1 + P): mean and percentiles, as of np.percentile, of the ``ordered`` values (V,) that each row of
    ``chosen`` (R, V) chooses; NaN for a row that chooses none."""
    rank = np.cumsum(chosen, axis=1)
    count = rank[:, -1]
    columns = [np.where(count > 0, chosen @ ordered / np.maximum(count, 1), np.nan)]
    for percent in percents:
        place = np.maximum(count - 1, 0) * (percent / 100)
        low = np.floor(place).astype(np.int64)
        high = np.minimum(low + 1, np.maximum(count - 1, 0))
        below, above = (
            ordered[np.minimum((rank <= at[:, None]).sum(axis=1), len(ordered) - 1)] for at in (low, high)
        )
        columns.append(np.where(count > 0, below + (above - below) * (place - low), np.nan))
    return np.stack(columns, axis=1)


def p_values(extremeness: np.ndarray) -> np.ndarray:
    """(S,): for each of S statistics the share of the arrangements that are as extreme as what was seen.

    ``extremeness``: (1 + R, S), larger is more extreme; the first row is what was seen.
    """
    # Rounding must not make an arrangement less extreme than its mirror image.
    return (extremeness >= extremeness[0] - 1e-12).mean(axis=0)


def adjusted_p_values(extremeness: np.ndarray) -> np.ndarray:
    """(S,) p, adjusted for looking at S statistics at once: if nothing changed, the chance that any of them
    is below a level is that level at most.

    ``extremeness``: as of `p_values`; a row is one arrangement for all statistics. The step-down minP method
    of Westfall and Young (1993; Ge, Dudoit, Speed, Test 12(1), 2003). It is Holm's with the dependence
    between the statistics taken from the arrangements: classes that are in the same frames are not corrected
    for twice.
    """
    rows, statistics = extremeness.shape
    each = np.empty((rows, statistics))
    for s in range(statistics):
        column = np.round(extremeness[:, s], 12)
        each[:, s] = (rows - np.searchsorted(np.sort(column), column, side="left")) / rows
    order = np.argsort(each[0], kind="stable")
    least = np.minimum.accumulate(each[:, order[::-1]], axis=1)[:, ::-1]
    adjusted = np.empty(statistics)
    adjusted[order] = np.maximum.accumulate((least <= each[0, order]).mean(axis=0))
    return adjusted


def least_adjusted_p(extremeness: np.ndarray) -> float:
    """The least adjusted p that any of the statistics could have had: that of one for which what was seen is
    its most extreme arrangement, among the others as they are. 0 if no arrangement changes anything.

    ``extremeness``: as of `adjusted_p_values`, (1 + R, S).
    """
    rounded = np.round(extremeness, 12)
    varying = rounded[:, np.ptp(rounded, axis=0) > 0]
    if not varying.size:
        return 0.0
    rows = len(varying)
    each = np.stack(
        [(rows - np.searchsorted(np.sort(column), column, side="left")) / rows for column in varying.T],
        axis=1,
    )
    return float((each.min(axis=1) <= each.min()).mean())


def can_be_significant(sides: np.ndarray, level: float) -> bool:
    """Whether the arrangements (1 + R, V) are different enough for any p to be ``level`` or less: each has a
    mirror image that is as extreme."""
    return 2 / len(np.unique(np.packbits(sides, axis=1), axis=0)) <= level
