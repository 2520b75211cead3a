"""The clock and the stopwatch, on clocks made by hand."""

from __future__ import annotations

import itertools
import time

import pytest

from cpsl_deploy.bench.clock import Stopwatch, measure_clock
from cpsl_deploy.errors import UnavailableError


def test_laps_add_up_to_the_elapsed_time():
    watch = Stopwatch(iter([1_000_000, 3_500_000, 4_000_000]).__next__)
    assert (watch.lap(), watch.lap(), watch.elapsed()) == (2.5, 0.5, 3.0)


@pytest.mark.parametrize("reading_ns", [40, 250])
@pytest.mark.parametrize("tick_ns", [1, 100])
def test_a_clock_of_known_ticks_and_cost(reading_ns, tick_ns):
    """A reading costs some nanoseconds and gives the last tick before it."""
    readings = itertools.count(7, reading_ns)
    found = measure_clock(lambda: next(readings) // tick_ns * tick_ns, name="by hand", samples=2000)
    steps = {40: 40 if tick_ns == 1 else 100, 250: 250 if tick_ns == 1 else 100}
    assert found.resolution_ns == steps[reading_ns]
    assert found.overhead_ns == pytest.approx(reading_ns, rel=0.01)
    assert (found.name, found.samples) == ("by hand", 2000)


def test_an_interruption_does_not_make_every_lap_dear():
    readings = itertools.count()
    found = measure_clock(lambda: (n := next(readings)) * 50 + (10**9 if n > 3000 else 0), samples=2000)
    assert found.overhead_ns == 50


def test_the_clock_in_use():
    found = measure_clock(samples=500)
    assert found.to_json() == {
        "name": "perf_counter_ns",
        "resolution_ns": found.resolution_ns,
        "overhead_ns": found.overhead_ns,
        "samples": 500,
    }
    claimed_ns = 1e9 * time.get_clock_info("perf_counter").resolution
    assert claimed_ns <= found.resolution_ns * 1.001 and found.overhead_ns > 0


def test_a_clock_that_goes_back_is_refused():
    readings = itertools.cycle([5, 9, 3])
    with pytest.raises(UnavailableError, match="goes back"):
        measure_clock(lambda: next(readings), samples=10)


def test_a_clock_that_stands_still_is_refused(monkeypatch):
    other = itertools.count(0, 600_000_000)
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(other))
    with pytest.raises(UnavailableError, match="stands still"):
        measure_clock(lambda: 5, samples=10)
