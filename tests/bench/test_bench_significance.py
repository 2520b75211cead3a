"""Permutation tests of two runs: right about noise with and without memory, and right about differences."""

from __future__ import annotations

import numpy as np
import pytest

from cpsl_deploy.bench.comparison.significance import (
    LEAST_BLOCKS,
    adjusted_p_values,
    blocks_are_short,
    blocks_of,
    can_be_significant,
    exchanged_frames,
    least_adjusted_p,
    p_values,
    paired_sides,
    ratios,
    swapped,
    unpaired_sides,
)

SIMULATIONS = 150


def run(random: np.random.Generator, frames: int = 200, memory: float = 0.0) -> np.ndarray:
    """Latencies with 3 % of noise, each like the one before to a degree, and a few outliers."""
    noise = random.normal(0, 0.03, frames)
    for i in range(1, frames):
        noise[i] = memory * noise[i - 1] + np.sqrt(1 - memory**2) * noise[i]
    return 40 * np.exp(noise + 0.6 * (random.random(frames) < 0.02))


def extremeness(a: np.ndarray, b: np.ndarray, make=paired_sides, resamples: int = 199) -> np.ndarray:  # type: ignore[no-untyped-def]
    sides = make(a, b, resamples=resamples, seed=1)
    return ratios(np.concatenate([a, b]), np.ones(len(a) + len(b), bool), sides, (50, 90, 99))


@pytest.mark.parametrize("make", [paired_sides, unpaired_sides])
@pytest.mark.parametrize("memory", [0.0, 0.6])
def test_equal_runs_are_found_different_no_more_often_than_the_level_says(make, memory: float) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(5)
    found = single = 0
    for _ in range(SIMULATIONS):
        seen = extremeness(run(random, memory=memory), run(random, memory=memory), make)
        found += adjusted_p_values(seen).min() <= 0.05
        single += p_values(seen)[1] <= 0.05
    assert found / SIMULATIONS <= 0.1  # 0.05, and three standard errors of 150 draws
    assert single / SIMULATIONS <= 0.1


def test_frames_that_change_sides_one_by_one_would_be_wrong() -> None:
    """Why there are blocks: with neighbours alike, single frames find differences that are not there."""
    random = np.random.default_rng(5)
    found = 0
    for _ in range(60):
        a, b = run(random, memory=0.8), run(random, memory=0.8)
        swap = swapped(np.arange(200), resamples=199, seed=1)
        seen = ratios(
            np.concatenate([a, b]), np.ones(400, bool), np.concatenate([~swap, swap], axis=1), (50,)
        )
        found += p_values(seen)[1] <= 0.05
    assert found / 60 > 0.2


@pytest.mark.parametrize("make", [paired_sides, unpaired_sides])
def test_a_tenth_slower_is_found_with_200_frames(make) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(2)
    found = [
        adjusted_p_values(extremeness(run(random, memory=0.5), 1.1 * run(random, memory=0.5), make))[1]
        for _ in range(20)
    ]
    assert max(found) <= 0.05


def test_what_a_frame_costs_by_its_content_cancels_out_in_pairs() -> None:
    """Frames differ by a factor of 4, the runs by 1 %: seen in pairs alone."""
    random = np.random.default_rng(3)
    content = random.uniform(20, 80, 200)
    a, b = (content * random.lognormal(0, 0.005, 200) for _ in range(2))
    assert p_values(extremeness(a, 1.01 * b))[0] <= 0.05
    assert p_values(extremeness(a, 1.01 * b, unpaired_sides))[0] > 0.05


def test_the_first_row_is_what_was_seen_as_numpy_says() -> None:
    random = np.random.default_rng(1)
    a, b = run(random, 37), run(random, 53)
    counts = random.random(90) < 0.7
    in_a, in_b = a[counts[:37]], b[counts[37:]]
    sides = unpaired_sides(a, b, resamples=20)
    assert sides[0].tolist() == [True] * 37 + [False] * 53
    seen = ratios(np.concatenate([a, b]), counts, sides, (50, 90, 99))
    expected = [in_b.mean() / in_a.mean()]
    expected += [np.percentile(in_b, q) / np.percentile(in_a, q) for q in (50, 90, 99)]
    np.testing.assert_allclose(seen[0], np.abs(np.log(expected)))
    pooled = np.concatenate([a, b])
    for row in range(1, 21):
        one, other = pooled[sides[row] & counts], pooled[~sides[row] & counts]
        np.testing.assert_allclose(
            seen[row, 2], abs(np.log(np.percentile(other, 90) / np.percentile(one, 90)))
        )


def test_identical_runs_differ_in_nothing() -> None:
    a = run(np.random.default_rng(0))
    np.testing.assert_array_equal(p_values(extremeness(a, a)), 1)
    np.testing.assert_array_equal(adjusted_p_values(extremeness(a, a)), 1)
    constant = np.full(20, 5.0)
    np.testing.assert_array_equal(p_values(extremeness(constant, constant, unpaired_sides)), 1)


def test_a_side_without_a_value_is_not_extreme() -> None:
    a, b = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    sides = paired_sides(a, b, resamples=5)
    none = ratios(np.concatenate([a, b]), np.zeros(4, bool), sides, (50,))
    np.testing.assert_array_equal(none, np.zeros((4, 2)))  # two blocks: four ways, each once
    only_b = ratios(np.concatenate([a, b]), np.array([False, False, True, True]), sides, (50,))
    np.testing.assert_array_equal(only_b[0], 0)


def test_a_series_with_memory_is_exchanged_in_longer_blocks() -> None:
    random = np.random.default_rng(4)
    lengths = [
        np.median([exchanged_frames(run(random, 600, memory)) for _ in range(15)]) for memory in (0, 0.5, 0.8)
    ]
    assert lengths[0] <= 2 < lengths[1] < lengths[2]
    assert exchanged_frames(np.arange(60.0)) == 60 // LEAST_BLOCKS
    assert exchanged_frames(np.ones(60)) == exchanged_frames(np.arange(5.0)) == 1


def test_blocks_are_whole() -> None:
    assert blocks_of(8, 3).tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert blocks_of(2, 3).tolist() == [0, 0]
    swap = swapped(blocks_of(8, 3), resamples=30)
    assert not swap[0].any()
    assert (swap[:, 0] == swap[:, 2]).all() and (swap[:, 3] == swap[:, 7]).all()
    assert (swap[:, 0] != swap[:, 3]).any()


def test_adjusted_p_are_those_of_the_definition() -> None:
    """Westfall and Young's minP, spelled out for a few rows."""
    random = np.random.default_rng(6)
    rows = random.random((40, 3))
    each = np.array([[(rows[:, s] >= value).mean() for s, value in enumerate(row)] for row in rows])
    order = np.argsort(each[0])
    expected, least = np.empty(3), 0.0
    for place, s in enumerate(order):
        minima = each[:, order[place:]].min(axis=1)
        least = max(least, (minima <= each[0, s]).mean())
        expected[s] = least
    np.testing.assert_allclose(adjusted_p_values(rows), expected)
    assert (adjusted_p_values(rows) >= p_values(rows)).all()
    # The same statistic twice is not corrected for.
    np.testing.assert_allclose(adjusted_p_values(rows[:, [0, 0, 0]]), p_values(rows)[0])


def test_the_least_adjusted_p_is_that_of_the_most_extreme_arrangement() -> None:
    random = np.random.default_rng(9)
    rows = random.random((64, 5))
    best = min(adjusted_p_values(np.roll(rows, -int(rows[:, s].argmax()), axis=0))[s] for s in range(5))
    assert least_adjusted_p(rows) == pytest.approx(best)
    assert least_adjusted_p(rows[:, [0]]) == pytest.approx(1 / 64)
    assert least_adjusted_p(rows) > 3 / 64
    assert least_adjusted_p(np.ones((64, 2))) == 0


def test_blocks_shorter_than_the_memory_are_told_of() -> None:
    random = np.random.default_rng(10)
    long, short = run(random, 600, 0.8), run(random, 60)
    assert not blocks_are_short(long) and not blocks_are_short(short)
    assert blocks_are_short(long, short)
    assert blocks_are_short(np.arange(60.0))


def test_too_few_blocks_cannot_be_significant() -> None:
    a, b = np.arange(1.0, 5.0), np.arange(2.0, 6.0)
    assert not can_be_significant(paired_sides(a, b), 0.05)
    assert can_be_significant(paired_sides(np.arange(1.0, 9.0), np.ones(8)), 0.05)
