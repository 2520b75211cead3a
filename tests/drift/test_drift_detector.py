"""The detector: windows, the alarm and its hysteresis, and what it says."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable

import numpy as np
import pytest
from drift_roads import road_reference, road_statistics

from cpsl_deploy.drift.detector import DriftDetector, DriftPolicy, DriftState
from cpsl_deploy.drift.reference import DriftReference, DriftScore
from cpsl_deploy.drift.words import causes
from cpsl_deploy.errors import InputError


@pytest.fixture(scope="module")
def reference() -> DriftReference:
    return road_reference()


def drive(
    detector: DriftDetector, fps: float, seconds: float, gain: Callable[[float], float], start_s: float = 0.0
) -> list[DriftState]:
    """A drive at a rate; one second of the road is one frame of the reference's."""
    states = []
    for place in range(round(seconds * fps)):
        time_s = start_s + place / fps
        if detector.wants(time_s):
            state = detector.update(road_statistics(400 + int(time_s), gain=gain(time_s)), time_s)
            states += [state] if state else []
    return states


def turns(states: list[DriftState]) -> list[tuple[bool, int]]:
    return [(state.alarm, round(state.time_s)) for state in states if state.changed]


def test_own_roads_give_no_alarm(reference: DriftReference) -> None:
    states = drive(DriftDetector(reference), 1, 120, lambda t: 1.0)
    assert len(states) == 115 and not any(state.alarm for state in states)
    assert np.mean([state.score > 1 for state in states]) < 0.05


@pytest.mark.parametrize("fps", [0.5, 1, 5, 30])
def test_an_alarm_at_any_rate_and_its_end(reference: DriftReference, fps: float) -> None:
    """Dark from 40 to 80 s. The window is half dark after 5 s, and the alarm holds for 2 s more."""
    states = drive(DriftDetector(reference), fps, 120, lambda t: 0.4 if 40 <= t < 80 else 1.0)
    (on, begin), (off, end) = turns(states)
    assert on and not off and 42 <= begin <= 54 and 82 <= end <= 95


def test_frames_that_come_fast_are_not_all_looked_at(reference: DriftReference) -> None:
    detector = DriftDetector(reference, DriftPolicy(sample_s=0.5))
    states = drive(detector, 50, 20, lambda t: 1.0)
    assert len(states) == 30 and max(state.frames for state in states) == 21


def test_nothing_is_said_before_half_a_window(reference: DriftReference) -> None:
    states = drive(DriftDetector(reference, DriftPolicy(window_s=8)), 5, 10, lambda t: 0.3)
    assert states[0].time_s == 4.0 and states[0].score > 1 and not states[0].alarm


def test_a_short_time_above_the_threshold_is_no_alarm(reference: DriftReference) -> None:
    policy = DriftPolicy(window_s=2, hold_s=6)
    states = drive(DriftDetector(reference, policy), 5, 60, lambda t: 0.3 if 20 <= t < 23 else 1.0)
    assert any(state.score > 1 for state in states) and not turns(states)


@pytest.mark.parametrize("before", [0.5, 2.0])
def test_between_release_and_threshold_nothing_changes(
    reference: DriftReference, monkeypatch: pytest.MonkeyPatch, before: float
) -> None:
    scores = itertools.chain([before] * 20, itertools.repeat(0.9))
    monkeypatch.setattr(
        DriftReference, "score", lambda self, window: DriftScore(value=next(scores), parts={"look": 0.9})
    )
    states = drive(DriftDetector(reference), 1, 60, lambda t: 1.0)
    assert states[-1].score == 0.9 and states[-1].alarm == (before > 1) and len(turns(states)) == (before > 1)


def test_above_and_below_the_threshold_by_turns_is_no_alarm(
    reference: DriftReference, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = itertools.cycle([1.2, 1.2, 0.95])
    monkeypatch.setattr(
        DriftReference, "score", lambda self, window: DriftScore(value=next(scores), parts={"look": 1.0})
    )
    assert not turns(drive(DriftDetector(reference), 1, 60, lambda t: 1.0))


def test_state_changes_are_logged_once(reference: DriftReference, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="cpsl_deploy.drift")
    drive(DriftDetector(reference, name="front"), 1, 120, lambda t: 0.4 if 40 <= t < 80 else 1.0)
    on, off = (record.getMessage() for record in caplog.records)
    assert on.startswith("front: the model no longer fits") and "darker (luminance" in on
    assert off.startswith("front: the model fits again")


def test_a_clock_that_goes_back_and_a_long_gap_begin_anew(reference: DriftReference) -> None:
    detector = DriftDetector(reference)
    drive(detector, 1, 30, lambda t: 0.4)
    assert detector.alarm
    (first, *_) = drive(detector, 1, 30, lambda t: 1.0)
    assert first.time_s == 5 and first.score < 1, "nothing of the dark frames is left"
    (first, *_) = drive(detector, 1, 30, lambda t: 1.0, start_s=200)
    assert first.time_s == 205


def test_constant_memory(reference: DriftReference) -> None:
    detector = DriftDetector(reference, DriftPolicy(window_s=86400, sample_s=0))
    statistics = road_statistics(0)
    for i in range(4200):
        detector._append(i / 1000, statistics.values)
    assert len(detector._window) == 4096


def test_snapshot(reference: DriftReference) -> None:
    detector = DriftDetector(reference)
    empty = detector.snapshot()
    assert empty["score"] is None and empty["alarm"] is False and empty["causes"] == []
    assert detector.causes() == []
    drive(detector, 1, 30, lambda t: 0.4)
    found = json.loads(json.dumps(detector.snapshot()))
    assert found["alarm"] is True and found["alarms"] == 1 and found["score"] > found["threshold"] == 1
    assert set(found["parts"]) == {"answers", "look"} and len(found["causes"]) == 3


def test_causes_in_words(reference: DriftReference) -> None:
    window = reference.mean.copy()
    at = {name: place for place, name in enumerate(reference.names)}
    window[at["share:sky"]] = np.sqrt(0.03)
    window[at["image:luminance"]] = 0.1
    window[at["image:grain"]] += np.log(3)
    words = {cause.name: cause.words for cause in causes(reference, window)}
    before = reference.mean[at["share:sky"]] ** 2
    assert words["share:sky"] == f"sky {100 * before:.0f} % -> 3.0 %"
    assert words["image:luminance"].startswith("darker (luminance ")
    assert words["image:grain"] == "more grain (300 % of it)"
    assert causes(reference, reference.mean) == []


def test_other_statistics_are_refused(reference: DriftReference) -> None:
    with pytest.raises(InputError, match="of another"):
        DriftDetector(reference).update(road_statistics(0, confidence=200), 0.0)


@pytest.mark.parametrize(
    "values",
    [{"window_s": 0}, {"window_s": float("nan")}, {"sample_s": -1}, {"hold_s": 1e9}, {"min_frames": 1},
     {"min_frames": 10**6}, {"release": 0}, {"release": 1.1}],
)  # fmt: skip
def test_policies_that_make_no_sense(values: dict) -> None:
    with pytest.raises(InputError, match=str(next(iter(values)) if "release" not in values else "released")):
        DriftPolicy(**values)
