"""When warming up is over, on latencies made by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cpsl_deploy.bench import steady as steady_module
from cpsl_deploy.bench.steady import SteadyRule, run_warm_up
from cpsl_deploy.errors import InputError

RULE = SteadyRule(window=10, tolerance=0.05, most_frames=200, most_seconds=1e6)


def warm(latency_ms, distinct: int = 3, rule: SteadyRule = RULE):
    """The warm-up of frames whose latency is a function of how many were run; and the indices run."""
    indices: list[int] = []

    def run_frame(index: int) -> float:
        indices.append(index)
        return float(latency_ms(len(indices) - 1))

    return run_warm_up(run_frame, distinct, first_frame_ms=100.0, rule=rule), indices


def test_what_is_steady_from_the_start_takes_three_windows():
    warmed, indices = warm(lambda i: 10.0)
    assert warmed.steady is True and warmed.frames == 30 and warmed.note is None
    assert indices == [i % 10 % 3 for i in range(30)]
    assert warmed.first_frame_ms == 100.0 and warmed.ms >= 100.0


@pytest.mark.parametrize("slow", [3, 7, 14, 22])
def test_slow_frames_at_the_start_are_waited_for(slow):
    noise = np.random.default_rng(0).normal(0, 0.1, 400)
    warmed, _ = warm(lambda i: (20.0 if i < slow else 10.0) + noise[i])
    assert warmed.steady is True and slow + 15 <= warmed.frames <= slow + 40


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.2])
def test_a_latency_that_still_falls_is_not_steady(noise):
    random = np.random.default_rng(1).normal(1, noise, 400)
    warmed, _ = warm(lambda i: (10 + 100 * np.exp(-i / 25)) * random[i])
    # Of the last level of 10 the falling part is a fifth after 98 frames.
    assert warmed.steady is True and 100 * np.exp(-warmed.frames / 25) < 2


def test_frames_of_two_sizes_are_steady_if_each_is():
    warmed, _ = warm(lambda i: 10.0 if i % 10 % 3 else 40.0)
    assert warmed.steady is True and warmed.frames == 30


def test_noise_that_hides_no_trend_is_steady():
    noise = np.random.default_rng(2).lognormal(0, 0.5, 400)
    warmed, _ = warm(lambda i: 10 * noise[i])
    assert warmed.steady is True and warmed.frames < RULE.most_frames


def test_what_never_settles_is_told():
    warmed, _ = warm(lambda i: 10 * 1.02**i)
    assert warmed.steady is False and warmed.frames == 200
    assert warmed.note is not None and "not steady after 200 frames" in warmed.note
    assert warmed.to_json() == {
        "first_frame_ms": 100.0,
        "frames": 200,
        "ms": warmed.ms,
        "steady": False,
        "rule": RULE.sentence(),
    }


def test_the_time_limit_ends_it(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(steady_module.time, "monotonic", lambda: next(clock))
    rule = SteadyRule(most_seconds=15)
    warmed, indices = warm(lambda i: 1.1**i, rule=rule)
    assert warmed.steady is False and warmed.frames == len(indices) == 14


def test_a_number_is_kept_to():
    indices: list[int] = []
    warmed = run_warm_up(lambda i: indices.append(i) or 1.0, 3, first_frame_ms=2.0, frames=4)
    assert indices == [1, 2, 0, 1]
    assert warmed.steady is None and warmed.frames == 4 and warmed.note is None
    assert warmed.rule == "4 frames, as asked for."
    with pytest.raises(InputError, match="0 or more"):
        run_warm_up(lambda i: 1.0, 3, first_frame_ms=2.0, frames=-1)


@pytest.mark.parametrize(
    "wrong", [{"window": 1}, {"tolerance": -0.1}, {"most_frames": 0}, {"most_seconds": 0}]
)
def test_rules_that_cannot_hold_are_refused(wrong):
    with pytest.raises(InputError, match="rule for a steady latency"):
        SteadyRule(**wrong)
