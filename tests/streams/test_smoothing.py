"""Smoothing in time: its arithmetic, its lag, what ends its memory, and that it follows what moves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from cpsl_deploy.classes import IGNORE, ClassSpace
from cpsl_deploy.errors import DataError, InputError, UnavailableError
from cpsl_deploy.segmenter import Prediction
from cpsl_deploy.streams.continuity import Continuity
from cpsl_deploy.streams.smoothing import LogitSmoothing, MajoritySmoothing, Smoothing, majority

CLASSES = ClassSpace(("road", "sky", "tree", "car"))
HIGHWAY = Path(__file__).parents[3] / "shared" / "data" / "video" / "highway.mp4"
SIZE = (96, 160)


def scene(seed: int = 0, size: tuple[int, int] = SIZE, cell: int = 6) -> np.ndarray:
    """A smooth texture that flow can follow, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (size[0] // cell, size[1] // cell, 3), np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def prediction(
    frame: np.ndarray,
    labels: np.ndarray,
    logits: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
) -> Prediction:
    return Prediction(
        labels=labels,
        classes=CLASSES,
        timings_ms={"inference": 1.0},
        frame=frame,
        colour_order="BGR",
        logits=logits,
        confidence=confidence,
    )


def of_logits(frame: np.ndarray, logits: np.ndarray) -> Prediction:
    return prediction(frame, logits.argmax(0).astype(np.uint8), logits)


def random_logits(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> np.ndarray:
    return rng.normal(0, 1, (4, *size)).astype(np.float32)


def noisy(rng: np.random.Generator, labels: np.ndarray, share: float = 0.1) -> np.ndarray:
    """Labels of which a share is another at random."""
    wrong = rng.random(labels.shape) < share
    return np.where(wrong, (labels + rng.integers(1, 4, labels.shape)) % 4, labels).astype(np.uint8)


def test_from_text():
    assert Smoothing.parse("logits:0.6") == LogitSmoothing(alpha=0.6)
    assert Smoothing.parse(" logits:.25 ") == LogitSmoothing(alpha=0.25)
    assert Smoothing.parse("majority:5") == MajoritySmoothing(frames=5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "logits",
        "logits:",
        "logits:0",
        "logits:0.0",
        "logits:1",
        "logits:1.5",
        "logits:nan",
        "logits:-0.5",
        "majority",
        "majority:1",
        "majority:4",
        "majority:17",
        "majority:5.0",
        "median:5",
        "0.6",
        "majority:" + "9" * 5000,
    ],
)
def test_text_that_is_no_smoothing_is_refused_with_the_rule(text):
    with pytest.raises(InputError, match=r"logits:ALPHA.*majority:N.*got") as caught:
        Smoothing.parse(text)
    assert len(str(caught.value)) < 400


def test_the_stated_lag_of_the_exponential_mean_is_that_of_its_weights():
    for alpha in (0.1, 0.3, 0.5, 0.6, 0.9):
        ages = np.arange(2000)
        weights = alpha * (1 - alpha) ** ages
        assert LogitSmoothing(alpha=alpha).lag_frames == pytest.approx((weights * ages).sum())
    assert [MajoritySmoothing(frames=n).lag_frames for n in (3, 5, 9)] == [1, 2, 4]


def test_logits_are_a_running_mean():
    rng = np.random.default_rng(0)
    frame, alpha = scene(), 0.3
    smoother = LogitSmoothing(alpha=alpha).start()
    expected = None
    for index in range(6):
        logits = random_logits(rng)
        smoothed = smoother.apply(of_logits(frame, logits), index, index / 25)
        wide = logits.astype(np.float64)
        expected = wide if expected is None else alpha * wide + (1 - alpha) * expected
        top_two = np.sort(expected, axis=0)[-2:]
        clear = top_two[1] - top_two[0] > 1e-4
        assert clear.mean() > 0.99
        assert np.array_equal(smoothed.labels[clear], expected.argmax(0)[clear])
        assert smoothed.labels.dtype == np.uint8 and smoothed.logits is logits
        assert smoothed.timings_ms["inference"] == 1.0 and smoothed.timings_ms["smoothing"] > 0


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.25, 0.3, 0.45, 0.6, 0.9])
def test_a_step_of_the_logits_is_shown_after_the_stated_frames(alpha):
    frame = scene()
    smoothing = LogitSmoothing(alpha=alpha)
    smoother = smoothing.start()
    before, after = np.zeros((4, *SIZE), np.float32), np.zeros((4, *SIZE), np.float32)
    before[2], after[3] = 1, 1
    for index in range(3):
        smoother.apply(of_logits(frame, before), index, index / 25)
    for frames in range(1, 40):
        labels = smoother.apply(of_logits(frame, after), 2 + frames, (2 + frames) / 25).labels
        if (labels == 3).all():
            break
        assert (labels == 2).all()
    assert frames == smoothing.step_frames


def test_logits_at_the_networks_stride_give_labels_at_the_frames_size():
    rng = np.random.default_rng(0)
    for align in (False, True):
        smoother = LogitSmoothing(alpha=0.5).start(align_corners=align)
        first, second = (random_logits(rng, (12, 20)) for _ in range(2))
        labels = np.zeros(SIZE, np.uint8)
        smoother.apply(prediction(scene(), labels, first), 0, 0.0)
        smoothed = smoother.apply(prediction(scene(), labels, second), 1, 0.04).labels
        mean = (first + second) / 2
        if align:
            at = [np.linspace(0, few - 1, many) for few, many in zip((12, 20), SIZE, strict=True)]
        else:
            at = [np.clip((np.arange(many) + 0.5) / 8 - 0.5, 0, None) for many in SIZE]
        low = [np.minimum(a.astype(int), few - 1) for a, few in zip(at, (12, 20), strict=True)]
        high = [np.minimum(i + 1, few - 1) for i, few in zip(low, (12, 20), strict=True)]
        down, across = (a - i for a, i in zip(at, low, strict=True))
        rows = mean[:, low[0]] * (1 - down)[:, None] + mean[:, high[0]] * down[:, None]
        full = rows[:, :, low[1]] * (1 - across) + rows[:, :, high[1]] * across
        top_two = np.sort(full, axis=0)[-2:]
        clear = top_two[1] - top_two[0] > 1e-4
        assert np.array_equal(smoothed[clear], full.argmax(0)[clear])


def test_the_majority_is_the_most_frequent_label():
    rng = np.random.default_rng(0)
    for count in (1, 2, 4, 8):
        maps = rng.choice([0, 1, 2, 3, IGNORE], (count + 1, 30, 40)).astype(np.uint8)
        found = majority(maps[0], maps[1:])
        for place in np.ndindex(30, 40):
            votes = maps[(slice(None), *place)]
            counts = {label: int((votes == label).sum()) for label in votes if label != IGNORE}
            if votes[0] == IGNORE:
                expected = IGNORE
            else:
                most = max(counts.values())
                expected = next(label for label in votes if counts.get(label) == most)
            assert found[place] == expected
        assert found is not maps[0] and not np.shares_memory(found, maps)


@pytest.mark.parametrize("frames", [3, 5, 9])
def test_what_the_model_notices_in_a_picture_that_stays_is_shown_after_half_of_the_frames(frames):
    frame = scene()
    smoother = MajoritySmoothing(frames=frames).start()
    nothing, car = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    car[30:60, 40:90] = 3
    for index in range(frames):
        assert np.array_equal(smoother.apply(prediction(frame, nothing), index, index / 25).labels, nothing)
    for late in range(frames):
        index = frames + late
        labels = smoother.apply(prediction(frame, car), index, index / 25).labels
        assert np.array_equal(labels, car if late >= (frames - 1) / 2 else nothing)


def test_no_more_frames_vote_than_asked_for():
    smoother = MajoritySmoothing(frames=3).start()
    for index, label in enumerate((0, 0, 1, 2)):
        labels = smoother.apply(prediction(scene(), np.full(SIZE, label, np.uint8)), index, index / 25).labels
    assert (labels == 2).all()  # of 2, 1, 0 the newest; a fourth vote would have made it 0


@pytest.mark.parametrize("scale", [1, 2])
def test_the_majority_follows_the_picture(scale):
    """The picture moves by whole pixels; a tenth of the labels is noise, new in every frame. Votes that did
    not move along would smear the borders. The larger frame is reduced for its flow."""
    rng = np.random.default_rng(0)
    large = scene(1, (300 * scale, 480 * scale), cell=14 * scale)
    rows, columns = np.arange(300 * scale) // (15 * scale), np.arange(480 * scale) // (20 * scale)
    truth = (np.add.outer(rows, columns) % 4).astype(np.uint8)
    smoother = MajoritySmoothing(frames=5).start()
    seen = []
    for index in range(8):
        top, left = scale * (20 + 2 * index), scale * (100 - 5 * index)
        part = slice(top, top + 192 * scale), slice(left, left + 320 * scale)
        seen.insert(0, noisy(rng, truth[part]))
        labels = smoother.apply(prediction(large[part], seen[0]), index, index / 25).labels
    inner = slice(16 * scale, -16 * scale), slice(32 * scale, -32 * scale)  # what came into view has no past
    wrong = (labels != truth[part])[inner].mean()
    smeared = (majority(seen[0], seen[1:5]) != truth[part])[inner].mean()
    assert wrong < 0.03 and smeared > 0.2


def test_an_object_that_comes_into_view_is_shown_at_once():
    frame, labels = scene(), np.zeros(SIZE, np.uint8)
    smoother = MajoritySmoothing(frames=9).start()
    for index in range(9):
        smoother.apply(prediction(frame, labels), index, index / 25)
    frame, labels = frame.copy(), labels.copy()
    place = slice(30, 70), slice(40, 90)
    frame[place] = scene(7)[place]
    labels[place] = 3
    shown = smoother.apply(prediction(frame, labels), 9, 9 / 25).labels
    assert (shown[place] == 3).mean() > 0.8
    shown[place] = 0
    assert not shown.any()


def test_a_frame_of_another_size_than_the_flows_keeps_still_what_is_still():
    rng = np.random.default_rng(0)
    size = (406, 722)
    frame = scene(3, size)
    truth = (np.add.outer(np.arange(406) // 40, np.arange(722) // 50) % 4).astype(np.uint8)
    smoother = MajoritySmoothing(frames=5).start()
    for index in range(5):
        labels = smoother.apply(prediction(frame, noisy(rng, truth, 0.02)), index, index / 25).labels
    assert (labels != truth).mean() < 1e-3


def test_outside_of_a_region_of_interest_there_is_no_vote():
    frame = scene()
    inside = np.full(SIZE, IGNORE, np.uint8)
    inside[20:80, 20:120] = 1
    smoother = MajoritySmoothing(frames=3).start()
    for index in range(4):
        wider = np.ones(SIZE, np.uint8) if index < 3 else inside
        labels = smoother.apply(prediction(frame, wider), index, index / 25).labels
    assert np.array_equal(labels, inside)


def test_the_confidence_of_another_label_is_the_most_it_can_be():
    frame = scene()
    sure = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    smoother = MajoritySmoothing(frames=3).start()
    zeros, other = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    other[:, 80:] = 1
    for index in range(2):
        result = smoother.apply(prediction(frame, zeros, confidence=sure), index, index / 25)
        assert np.array_equal(result.confidence, sure)
    result = smoother.apply(prediction(frame, other, confidence=sure), 2, 2 / 25)
    assert not result.labels.any() and result.confidence is not None
    assert np.array_equal(result.confidence[:, :80], sure[:, :80])
    most = np.minimum(sure[:, 80:].astype(int), 255 - sure[:, 80:].astype(int))
    assert result.confidence.dtype == np.uint8 and np.array_equal(result.confidence[:, 80:], most)


def test_the_confidence_of_smoothed_logits_is_theirs():
    rng = np.random.default_rng(0)
    smoother = LogitSmoothing(alpha=0.4).start()
    first, second = random_logits(rng), random_logits(rng)
    for index, logits in enumerate((first, second)):
        given = dataclasses.replace(of_logits(scene(), logits), confidence=np.zeros(SIZE, np.uint8))
        result = smoother.apply(given, index, index / 25)
    mean = 0.4 * second + 0.6 * first
    probabilities = np.exp(mean) / np.exp(mean).sum(0)
    assert result.confidence is not None
    assert np.abs(result.confidence - 255 * probabilities.max(0)).max() < 1


WAYS = [LogitSmoothing(alpha=0.2), MajoritySmoothing(frames=5)]


@pytest.mark.parametrize("smoothing", WAYS)
def test_arrays_are_neither_written_into_nor_kept(smoothing):
    """Two smoothers see the same; the one's arrays are overwritten after every frame."""
    rng = np.random.default_rng(0)
    one, other = smoothing.start(), smoothing.start()
    frame = scene()
    for index in range(6):
        logits = random_logits(rng)
        first, second = of_logits(frame.copy(), logits.copy()), of_logits(frame.copy(), logits.copy())
        for array in (first.frame, first.labels, first.logits):
            array.setflags(write=False)
        kept = one.apply(first, index, index / 25).labels.copy()
        changed = other.apply(second, index, index / 25).labels
        assert np.array_equal(kept, changed)
        for array in (second.frame, second.labels, second.logits, changed):
            array[...] = 1


@pytest.mark.parametrize("smoothing", WAYS)
@pytest.mark.parametrize("change", ["size", "gap", "cut", "again", "index without times", "none"])
def test_what_ends_the_memory(smoothing, change):
    frame = scene()
    index, time_s, size = 5, 0.2, SIZE
    if change == "size":
        frame, size = cv2.resize(scene(), (160, 80)), (80, 160)
    elif change == "gap":
        time_s = 4 / 25 + 1.5
    elif change == "cut":
        frame = scene(5)
    elif change == "again":
        index, time_s = 0, 0.0
    elif change == "index without times":
        index = 6
    smoother = smoothing.start()
    before, after = np.zeros((4, *SIZE), np.float32), np.zeros((4, *size), np.float32)
    before[0], after[1] = 1, 1
    without_times = change == "index without times"
    for number in range(5):
        smoother.apply(of_logits(scene(), before), number, None if without_times else number / 25)
    labels = smoother.apply(of_logits(frame, after), index, None if without_times else time_s).labels
    assert labels.shape == size
    assert (labels == (0 if change == "none" else 1)).all()


@pytest.mark.parametrize("smoothing", WAYS)
def test_dropped_frames_and_another_exposure_do_not_end_it(smoothing):
    smoother = smoothing.start()
    before, after = np.zeros((4, *SIZE), np.float32), np.zeros((4, *SIZE), np.float32)
    before[0], after[1] = 1, 1
    for number in range(0, 25, 5):
        smoother.apply(of_logits(scene(), before), number, number / 25)
    brighter = cv2.convertScaleAbs(scene(), alpha=0.95, beta=8)
    assert not smoother.apply(of_logits(brighter, after), 40, 40 / 25).labels.any()


def test_scenes_without_contrast_are_one_scene():
    continuity = Continuity()
    dark, light = np.zeros((*SIZE, 3), np.uint8), scene()
    follows = [
        continuity.follows(frame, i, i / 25) for i, frame in enumerate([dark, dark, light, light, dark])
    ]
    assert follows == [False, True, False, True, False]


def test_on_a_real_drive_every_frame_follows_and_other_scenes_do_not():
    if not HIGHWAY.is_file():
        pytest.skip(f"needs {HIGHWAY}")
    capture = cv2.VideoCapture(str(HIGHWAY))
    try:
        frames = [capture.read()[1] for _ in range(60)]
    finally:
        capture.release()
    each, some = Continuity(), Continuity()
    found = [each.follows(frame, i, i / 25) for i, frame in enumerate(frames)]
    assert found == [False] + [True] * 59
    found = [some.follows(frame, i, i / 25) for i, frame in list(enumerate(frames))[::8]]
    assert found == [False] + [True] * 7
    assert not some.follows(scene(0, frames[0].shape[:2]), 60, 60 / 25)


def test_logits_that_are_no_numbers_pass_and_leave_nothing_behind():
    smoother = LogitSmoothing(alpha=0.2).start()
    road, sky = np.zeros((4, *SIZE), np.float32), np.zeros((4, *SIZE), np.float32)
    road[0], sky[1] = 1, 1
    bad = sky.copy()
    bad[1, 3, 4] = np.nan
    smoother.apply(of_logits(scene(), road), 0, 0.0)
    given = of_logits(scene(), bad)
    assert np.array_equal(smoother.apply(given, 1, 0.04).labels, given.labels)
    for index, logits in ((2, road), (3, sky)):
        assert not smoother.apply(of_logits(scene(), logits), index, index / 25).labels.any()


def test_a_file_without_logits_is_refused_with_the_remedy():
    with pytest.raises(UnavailableError, match=r"labels, confidence alone.*--outputs logits.*majority:5"):
        LogitSmoothing(alpha=0.5).check(("labels", "confidence"))
    LogitSmoothing(alpha=0.5).check(("labels", "logits"))
    MajoritySmoothing(frames=3).check(("labels",))
    with pytest.raises(UnavailableError, match="--outputs logits"):
        LogitSmoothing(alpha=0.5).start().apply(prediction(scene(), np.zeros(SIZE, np.uint8)), 0, 0.0)


def test_a_frame_longer_than_opencv_can_move_is_an_error_of_that_frame():
    long = np.zeros((16, 1 << 15, 3), np.uint8)
    with pytest.raises(DataError, match="32766"):
        MajoritySmoothing(frames=3).start().apply(prediction(long, long[..., 0]), 0, 0.0)
