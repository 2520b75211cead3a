"""What a network holds back is told from clocks that differ, jump or pause."""

from __future__ import annotations

import numpy as np
import pytest

from cpsl_deploy.sources.lateness import Lateness


def lateness(stamps: list[float], arrivals: list[float]) -> list[float]:
    late = Lateness()
    return [late.of(stamp, arrived) for stamp, arrived in zip(stamps, arrivals, strict=True)]


FRAMES = [at / 25 for at in range(250)]


def test_a_network_half_as_fast_as_the_camera() -> None:
    late = lateness(FRAMES, [100 + 2 * at for at in FRAMES])
    assert late == pytest.approx([at for at in FRAMES], abs=0.02)


def test_what_was_held_back_and_comes_at_once() -> None:
    """Nothing for two seconds, then everything: the first is two seconds late, the last in time."""
    arrivals = [at if at < 4 else max(6.0, at) for at in FRAMES]
    late = lateness(FRAMES, arrivals)
    assert late[:100] == pytest.approx([0] * 100, abs=1e-6)
    assert late[100] == pytest.approx(2, abs=0.01)
    assert late[-1] < 0.01


def test_jitter_is_late_by_itself_alone() -> None:
    random = np.random.default_rng(0)
    late = lateness(FRAMES, [at + 0.03 * random.random() for at in FRAMES])
    assert max(late) < 0.031


@pytest.mark.parametrize("rate", [1.0003, 0.9997])
def test_clocks_that_differ_are_no_delay(rate: float) -> None:
    hours = [float(at) for at in range(36000)]
    assert max(lateness([at * rate for at in hours], hours)) < 0.01


def test_a_clock_that_is_set_is_no_delay() -> None:
    stamps = [at if at < 3 else at - 100 if at < 6 else at + 5000 for at in FRAMES]
    assert max(lateness(stamps, FRAMES)) < 0.05


def test_a_frame_without_a_stamp_is_as_late_as_the_one_before() -> None:
    late = Lateness()
    assert late.of(None, 1) == 0
    late.of(0, 10)
    assert late.of(1, 13) == pytest.approx(2, abs=0.01)
    assert late.of(None, 14) == pytest.approx(2, abs=0.01)
    assert late.of(2, 14) == pytest.approx(2, abs=0.01)
