"""How many streams a device carries: the search, and what it finds of a model of known speed."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from live_feeds import stand_in

from cpsl_deploy.bench.frames import synthetic_frames
from cpsl_deploy.bench.load import LoadSearch, LoadTrial, measure_load, trial_of
from cpsl_deploy.bench.stream_age import Delivered, PacedRun
from cpsl_deploy.errors import InputError

LIMIT = 200.0


def trial(streams: int, peak_ms: float) -> LoadTrial:
    return LoadTrial(
        streams=streams,
        age_p99_ms=30.0,
        peak_age_p99_ms=peak_ms,
        delivered_fps=10.0,
        dropped_share=0.0,
        results=100,
        within=peak_ms <= LIMIT,
    )


def search(peak_of: Callable[[int], float], **options: float) -> LoadSearch:
    return LoadSearch(lambda n: trial(n, peak_of(n)), LIMIT, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("capacity", range(1, 41))
def test_the_edge_is_found_wherever_it_is(capacity: int) -> None:
    found = search(lambda n: LIMIT * (0.5 if n <= capacity else 2.0))
    assert found.run()[0] == capacity
    assert len(found.trials) <= 2 * np.log2(capacity) + 6


def test_both_sides_of_the_edge_are_measured_more_than_once() -> None:
    found = search(lambda n: 20.0 * n)
    streams, limit = found.run()
    assert streams == 10
    assert limit == "At 11 streams the 99th percentile of the peak age was 220 ms, above 200 ms."
    tried = [one.streams for one in found.trials]
    assert tried.count(10) >= 2
    assert tried.count(11) >= 2


def test_the_middle_of_the_trials_that_broke_it_is_quoted() -> None:
    peaks = iter([500.0, 210.0])
    found = search(lambda n: 100.0 if n == 1 else next(peaks), most_streams=2)
    assert found.run() == (1, "At 2 streams the 99th percentile of the peak age was 355 ms, above 200 ms.")


def test_a_quarter_beyond_the_limit_is_not_clear() -> None:
    spoiled = iter([250.0])
    assert search(lambda n: next(spoiled, 100.0), most_streams=1).run()[0] == 1


def test_one_bad_moment_does_not_end_the_search() -> None:
    """The first trial of 8 streams is far beyond the limit, though the model carries 12."""
    spoiled = iter([True])
    found = search(lambda n: 1000.0 if n == 8 and next(spoiled, False) else 16.0 * n)
    assert found.run()[0] == 12


def test_one_lucky_moment_does_not_make_the_number() -> None:
    lucky = iter([True])
    found = search(lambda n: 100.0 if n == 8 and next(lucky, False) else 30.0 * n)
    assert found.run()[0] == 6


@pytest.mark.parametrize("seed", range(20))
def test_noise_near_the_edge_moves_the_number_by_one_at_most(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(1, 0.04, 1000)
    values = iter(noise)
    assert search(lambda n: 20.0 * n * next(values)).run()[0] in (9, 10, 11)


@pytest.mark.parametrize("seed", range(20))
def test_the_search_ends_whatever_it_sees(seed: int) -> None:
    random = np.random.default_rng(seed)
    found = search(lambda n: float(random.uniform(0, 2 * LIMIT)), most_streams=16)
    assert 0 <= found.run()[0] <= 16
    assert len(found.trials) <= 3 * 16


def test_not_even_one_stream() -> None:
    streams, limit = search(lambda n: 300.0).run()
    assert (streams, limit) == (
        0,
        "At 1 stream the 99th percentile of the peak age was 300 ms, above 200 ms.",
    )


def test_a_search_that_reaches_its_bounds_says_so() -> None:
    found = search(lambda n: 10.0, most_streams=12)
    streams, limit = found.run()
    assert (streams, max(one.streams for one in found.trials)) == (12, 12)
    assert "more were not tried" in limit
    ticks = itertools.count(step=10.0)
    found = search(lambda n: 10.0, budget_s=45.0, clock=lambda: next(ticks))  # type: ignore[arg-type]
    assert found.run() == (8, "The search ended after 45 s; more than 8 streams may do.")
    assert [one.streams for one in found.trials] == [1, 2, 4, 8]


def test_a_stream_without_a_result_breaks_the_limit() -> None:
    fed = Delivered(captured_s=[0.0, 0.1], delivered_s=[0.01, 0.11], frames=2)
    run = PacedRun(streams=(fed, Delivered(frames=2)), seconds=0.2)
    seen = trial_of(run, 1000.0)
    assert not seen.within
    assert (seen.delivered_fps, seen.dropped_share) == (10.0, 0.5)
    assert seen.peak_age_p99_ms == pytest.approx(110)
    assert seen.results == 1
    nothing = trial_of(PacedRun(streams=(Delivered(frames=2),), seconds=0.2), 1000.0)
    assert (nothing.within, nothing.peak_age_p99_ms, nothing.age_p99_ms) == (False, None, None)


def test_a_limit_below_the_sources_period_is_refused() -> None:
    with pytest.raises(InputError, match="grow by 40 ms before its next frame, and the limit"):
        measure_load(stand_in(), synthetic_frames((32, 48), 1), max_age_ms=40.0, fps=25)


def test_the_number_found_is_what_arithmetic_says() -> None:
    """20 ms a frame and 10 frames a second: 5 sources keep the model busy. With 5 the peak age is 200 ms at
    most, with 6 it goes up to 7 x 20 + 100 = 240 ms."""
    found = measure_load(
        stand_in(0.02), synthetic_frames((32, 48), 2), max_age_ms=230, fps=10, seconds=0.9, most_streams=12
    )
    assert found.streams in (4, 5, 6)
    assert all(one.peak_age_p99_ms >= 110 for one in found.trials)
    section = found.to_json()
    assert list(section) == [
        "max_age_ms", "percentile", "source_fps", "seconds_per_trial", "streams", "limit", "trials",
    ]  # fmt: skip
    assert list(section["trials"][0]) == [
        "streams", "age_p99_ms", "peak_age_p99_ms", "delivered_fps", "dropped_share", "results",
        "within",
    ]  # fmt: skip
