"""The waits between tries grow, are capped, jittered and limited, and begin again after healthy frames."""

from __future__ import annotations

import random

import pytest

from cpsl_deploy.errors import InputError
from cpsl_deploy.sources.backoff import Backoff, ReconnectOptions


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_waits_double_up_to_the_cap() -> None:
    backoff = Backoff(ReconnectOptions(jitter=0, max_s=4), draw=lambda: 0.5, clock=Clock())
    assert [backoff.lost() for _ in range(6)] == pytest.approx([0.5, 1, 2, 4, 4, 4])


def test_a_thousand_tries_are_still_numbers() -> None:
    backoff = Backoff(ReconnectOptions(give_up_after_s=0), draw=lambda: 0.5, clock=Clock())
    assert [backoff.lost() for _ in range(5000)][-1] == pytest.approx(30)


def test_jitter_spreads_evenly_and_never_beyond_the_cap() -> None:
    draw = random.Random(5).random
    options = ReconnectOptions(initial_s=1, factor=1, max_s=1.2, jitter=0.5)
    waits = [Backoff(options, draw=draw, clock=Clock()).lost() for _ in range(400)]
    assert 0.5 <= min(waits) < 0.55 and max(waits) == 1.2
    assert sum(wait < 1 for wait in waits) == pytest.approx(200, abs=40)


def test_it_gives_up_after_the_limit_and_not_before() -> None:
    clock = Clock()
    backoff = Backoff(ReconnectOptions(jitter=0, give_up_after_s=10), draw=lambda: 0.5, clock=clock)
    waited = 0.0
    while (wait := backoff.lost()) is not None:
        waited += wait
        clock.now += wait
    assert waited == pytest.approx(10)


def test_zero_never_gives_up() -> None:
    clock = Clock()
    backoff = Backoff(ReconnectOptions(give_up_after_s=0), draw=lambda: 0.5, clock=clock)
    backoff.lost()
    clock.now += 1e9
    assert backoff.lost() is not None


def test_only_healthy_frames_end_an_outage() -> None:
    clock = Clock()
    options = ReconnectOptions(jitter=0, give_up_after_s=60, healthy_after_s=5)
    backoff = Backoff(options, draw=lambda: 0.5, clock=clock)
    waits = []
    for _ in range(3):  # one frame, then lost again: no new beginning
        waits.append(backoff.lost())
        backoff.frame()
        clock.now += 10
    assert waits == pytest.approx([0.5, 1, 2])
    backoff.frame()
    clock.now += 5
    backoff.frame()
    assert backoff.lost() == pytest.approx(0.5)
    clock.now += 59
    assert backoff.lost() is not None
    clock.now += 1
    assert backoff.lost() is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"initial_s": 0},
        {"factor": 0.5},
        {"max_s": 0.1},
        {"jitter": 1.0},
        {"jitter": -0.1},
        {"give_up_after_s": -1},
        {"stall_after_s": 0},
        {"open_timeout_s": float("nan")},
        {"max_s": float("inf")},
    ],
)
def test_values_keep_their_rules(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        ReconnectOptions(**wrong)


def test_rules_name_both_spellings() -> None:
    with pytest.raises(
        InputError, match=r"stall_after_s \(or --stall-after\).*more than 0; got 0\..*leave it out"
    ):
        ReconnectOptions(stall_after_s=0)
    with pytest.raises(InputError, match=r"give_up_after_s \(or --give-up-after\).*0 or more; got -1"):
        ReconnectOptions(give_up_after_s=-1)
