"""Speeds of files against each other, by a clock that the test winds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cpsl_deploy.bench import interleaved
from cpsl_deploy.bench.interleaved import LEAST_ROUNDS, compare_speed, measure_in_turns
from cpsl_deploy.errors import InputError

FRAMES = [np.full((2, 2, 3), i, np.uint8) for i in range(2)]


class Clock:
    """``perf_counter`` and ``sleep`` of a machine on which only the files take time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        self.seen: list[int] = []

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.calls.append("pause")

    def file(self, name: str, *milliseconds: float) -> Callable[[np.ndarray], None]:
        """Each call takes the next of the times, from the first again after the last."""
        done = 0

        def segment(frame: np.ndarray) -> None:
            nonlocal done
            self.calls.append(name)
            self.seen.append(int(frame[0, 0, 0]))
            self.now += milliseconds[done % len(milliseconds)] / 1e3
            done += 1

        return segment


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(interleaved, "time", clock)
    return clock


def test_ratios_are_to_the_first_file(clock: Clock) -> None:
    files = {"fp32": clock.file("fp32", 30), "int8": clock.file("int8", 12), "slow": clock.file("slow", 60)}
    found = compare_speed(files, FRAMES)
    assert list(found) == list(files)
    assert [s.median_ms for s in found.values()] == pytest.approx([30, 12, 60])
    assert [s.ratio for s in found.values()] == pytest.approx([1, 2.5, 0.5])
    assert found["int8"].low == pytest.approx(2.5) == found["int8"].high


def test_a_slow_moment_moves_neither_median_nor_ratio(clock: Clock) -> None:
    times = [20.0] * 9
    times[8] = 5000.0  # the last round's timed call
    found = compare_speed(
        {"a": clock.file("a", 40), "b": clock.file("b", *times)}, FRAMES, rounds=4, warm_up=1
    )
    assert found["b"].median_ms == pytest.approx(20) and found["b"].ratio == pytest.approx(2)
    assert found["b"].low < 2


def test_files_take_turns_after_a_pause_and_an_untimed_call(clock: Clock) -> None:
    compare_speed({"a": clock.file("a", 1), "b": clock.file("b", 1)}, FRAMES, rounds=2, warm_up=3)
    rounds = [["pause", "a", "a", "pause", "b", "b"], ["pause", "b", "b", "pause", "a", "a"]]
    assert clock.calls == [*"aaabbb", *rounds[0], *rounds[1]]
    assert clock.seen[6:] == [0] * 4 + [1] * 4, "a round has one frame"


def test_the_time_of_a_batch_is_shared_by_its_frames(clock: Clock) -> None:
    found = compare_speed({"a": clock.file("a", 30), "b": clock.file("b", 15)}, FRAMES, at_once=3)
    assert found["a"].median_ms == pytest.approx(10) and found["b"].ratio == pytest.approx(2)


@pytest.mark.parametrize(
    ("names", "frames", "rounds", "got"),
    [("", 2, 1, "0, 2 and 1"), ("a", 0, 1, "1, 0"), ("a", 2, 0, "2 and 0")],
)
def test_nothing_to_time_is_refused(names: str, frames: int, rounds: int, got: str) -> None:
    files = {name: lambda frame: None for name in names}
    with pytest.raises(InputError, match=f"one file or more.* got .*{got}"):
        compare_speed(files, FRAMES[:frames], rounds=rounds)


def test_a_budget_takes_rounds_away(clock: Clock) -> None:
    """A round costs two frames of each file and its pause: 0.12 + 0.01 s and 0.04 + 0.01 s."""

    def rounds(budget_s: float) -> int:
        files = {"a": clock.file("a", 60), "b": clock.file("b", 20)}
        times = measure_in_turns(files, FRAMES, budget_s=budget_s)
        assert len(times["a"]) == len(times["b"])
        return len(times["a"])

    assert rounds(1.81) == 10 and rounds(100) == 25
    assert rounds(0.001) == LEAST_ROUNDS


def test_what_takes_long_is_not_run_more_than_needed(clock: Clock) -> None:
    measure_in_turns({"slow": clock.file("slow", 900), "fast": clock.file("fast", 1)}, FRAMES, rounds=1)
    warm_up, measured = ["slow"] * 2 + ["fast"] * 3, ["pause", "slow", "pause", "fast", "fast"]
    assert clock.calls == [*warm_up, *measured]


def test_progress_is_told_between_rounds(clock: Clock) -> None:
    told = []
    files = {"a": clock.file("a", 1)}
    measure_in_turns(files, FRAMES, rounds=2, progress=lambda *step: told.append(step))
    assert told == [("variants", 0, 2), ("variants", 1, 2), ("variants", 2, 2)]
