"""Drives as targets: which frames are kept and why, what is held out, what is written down."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from drives import FPS, drive, write_video

from cpsl_deploy.data import Dataset, dataset_splits, open_dataset
from cpsl_deploy.data.frame_choice import (
    DUPLICATE,
    Moment,
    choose,
    difference,
    evenly,
    held_out_spans,
    measures,
)
from cpsl_deploy.data.video_file import frames_at
from cpsl_deploy.errors import DataError

PARTS = [("moving", 6), ("standing", 4), ("moving", 4), ("blurred", 1), ("moving", 4), ("black", 2)]
PARTS += [("moving", 5)]
"""26 s: standing from 6 s, out of focus from 14 s, black from 19 s."""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("drive") / "drive.avi", drive(PARTS))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def manifest_of(dataset: Dataset) -> dict:
    assert dataset.footage is not None
    return json.loads(dataset.footage.manifest.read_text())


def times(dataset: Dataset) -> np.ndarray:
    """Of a split's frames, in seconds."""
    return np.array([e["time_s"] for e in manifest_of(dataset)["frames"] if e["split"] == dataset.split])


def inside(times_s: np.ndarray, start: float, end: float) -> int:
    return int(((times_s >= start - 1e-6) & (times_s < end - 1e-6)).sum())


# ---- what is kept and what is not


def test_sharp_moving_frames_are_kept_the_others_dropped_for_their_reason(video: Path, cache: Path) -> None:
    dataset = open_dataset(video, "train", cache=cache, hold_out_s=0)
    kept = times(dataset)
    assert inside(kept, 0, 6) >= 25 and inside(kept, 10, 14) >= 15 and inside(kept, 21, 26) >= 20
    assert inside(kept, 6, 10) <= 1  # standing: one picture of it is enough
    assert inside(kept, 14, 15) == 0 and inside(kept, 19, 21) == 0
    assert np.diff(kept).min() > 0.09
    why = {entry["time_s"]: entry["why"] for entry in manifest_of(dataset)["dropped"]}
    for first, last, reason in ((6.3, 10, "duplicate"), (14, 15, "blurred"), (19, 21, "dark")):
        found = {reason for time_s, reason in why.items() if first <= time_s < last - 1e-6}
        assert found == {reason}, (reason, why)


def test_every_moment_is_accounted_for(video: Path, cache: Path) -> None:
    dataset = open_dataset(video, "train", cache=cache)
    footage, manifest = dataset.footage, manifest_of(dataset)
    assert footage is not None
    assert footage.moments == 130 == len(manifest["frames"]) + len(manifest["dropped"])  # 26 s, every 0.2 s
    assert footage.dropped == Counter(entry["why"] for entry in manifest["dropped"])
    assert footage.frames["train"] == len(dataset)
    assert footage.seconds == pytest.approx(26, abs=0.2)
    first, second, third = footage.words()
    assert first.startswith(f"drive.avi, 0:26.0: 130 moments looked at, {len(dataset)} frames to train on")
    assert "10 dark or blank" in second and "standing" in second
    assert third.startswith("never trained on: 0:")


def test_the_frames_kept_are_the_frames_of_their_times(video: Path, cache: Path) -> None:
    dataset = open_dataset(video, "train", cache=cache)
    frames = drive(PARTS)
    for i in (0, len(dataset) // 2, len(dataset) - 1):
        number = int(dataset.names[i])
        assert number == pytest.approx(times(dataset)[i] * FPS)
        assert np.abs(dataset.image(i)[..., ::-1].astype(int) - frames[number]).mean() < 6
        assert dataset.image_size(i) == frames[0].shape[:2]


def test_no_more_frames_than_asked_for_evenly_spread(video: Path, cache: Path) -> None:
    dataset = open_dataset(video, "train", frames=12, cache=cache, hold_out_s=0)
    kept = times(dataset)
    assert len(dataset) == 12
    assert inside(kept, 0, 6) >= 3 and inside(kept, 10, 19) >= 4 and inside(kept, 21, 26) >= 2


def test_a_drive_in_fog_keeps_its_frames(tmp_path: Path) -> None:
    foggy = write_video(tmp_path / "fog.avi", drive([("fog", 8)]))
    clear = write_video(tmp_path / "clear.avi", drive([("moving", 8)]))
    fog, sun = (open_dataset(v, "train", cache=tmp_path / "c", hold_out_s=0) for v in (foggy, clear))
    sharpness = [np.mean([e["sharpness"] for e in manifest_of(d)["frames"]]) for d in (fog, sun)]
    assert sharpness[0] < 0.1 * sharpness[1]
    assert len(fog) >= 0.9 * len(sun) > 30


def test_fades_are_dropped(tmp_path: Path) -> None:
    faded = write_video(tmp_path / "cut.avi", drive([("moving", 3), ("fading", 1), ("moving", 3)]))
    dataset = open_dataset(faded, "train", cache=tmp_path / "c", hold_out_s=0)
    assert inside(times(dataset), 3.3, 4) == 0
    assert {entry["why"] for entry in manifest_of(dataset)["dropped"]} == {"blurred", "dark"}
    assert inside(times(dataset), 0, 3.3) >= 14 and inside(times(dataset), 4, 7) >= 13


def test_the_sharpest_of_neighbouring_frames_is_taken(tmp_path: Path) -> None:
    frames = drive([("moving", 8)], fps=25)
    for i in range(len(frames)):
        if i % 5 != 3:
            frames[i] = cv2.GaussianBlur(frames[i], (0, 0), 1.0)
    video = write_video(tmp_path / "a.avi", frames, fps=25)
    dataset = open_dataset(video, "train", cache=tmp_path / "c", hold_out_s=0)
    assert len(dataset) > 30 and all(int(name) % 5 == 3 for name in dataset.names)


def test_a_change_of_exposure_alone_is_a_duplicate_and_movement_is_none() -> None:
    here, there = drive([("moving", 0.4)])[0], drive([("moving", 0.4)])[2]
    _, one = measures(here)
    _, brighter = measures(cv2.convertScaleAbs(here, alpha=0.8, beta=30))
    _, moved = measures(there)
    noise = np.random.default_rng(0).normal(0, 5, here.shape)
    _, noisy = measures(np.clip(here + noise, 0, 255).astype(np.uint8))
    assert max(difference(one, brighter), difference(one, noisy)) < DUPLICATE < difference(one, moved)


# ---- the seconds held out


@pytest.mark.parametrize("hold_out_s", [None, 6.0])
def test_what_is_held_out_is_never_trained_on_nor_its_neighbourhood(
    video: Path, cache: Path, hold_out_s: float | None
) -> None:
    train = open_dataset(video, "train", cache=cache, hold_out_s=hold_out_s)
    held_out = open_dataset(video, "val", cache=cache, hold_out_s=hold_out_s)
    footage = train.footage
    assert footage is not None and footage.held_out
    total = sum(span.seconds for span in footage.held_out)
    assert total == pytest.approx(2.6 if hold_out_s is None else 6.0, abs=0.01)
    assert len(footage.held_out) == (1 if hold_out_s is None else 2)
    for span in footage.held_out:
        assert span.video == video
        away = np.maximum(span.start_s - times(train), times(train) - span.end_s)
        assert away.min() >= footage.guard_s - 1e-3 and footage.guard_s >= 1.3
        assert inside(times(held_out), span.start_s, span.end_s + 1e-3) > 0
    assert not set(train.names) & set(held_out.names)
    within = [inside(times(held_out), span.start_s, span.end_s + 1e-3) for span in footage.held_out]
    assert sum(within) == len(held_out)


@pytest.mark.parametrize(("until", "span"), [(28, (26.5, 29.5)), (35, (19.5, 22.5))])
def test_a_picture_that_held_out_seconds_show_is_not_trained_on(until: int, span: tuple) -> None:
    """A car stands from 10 s on, traffic crosses at 20 s. Only the guard of the second span shows it."""
    moments = [moment(at_s) for at_s in range(120)]
    standing = [at_s for at_s in range(10, until) if at_s != 20]
    for at_s in standing:
        moments[at_s] = dataclasses.replace(moments[10], at_s=float(at_s))
    choice = choose(moments, seconds=120, frames=1000, hold_out_s=None)
    assert choice.spans[0] == pytest.approx(span) and choice.guard_s == 1.5
    assert choice.dropped[10] == "guard" and not set(standing) & set(choice.train)
    assert {9, *range(37, 48)} <= set(choice.train)


def test_nothing_is_held_out_if_told_so(video: Path, cache: Path) -> None:
    dataset = open_dataset(video, "train", cache=cache, hold_out_s=0)
    assert dataset.splits() == ("train",) == dataset_splits(video, hold_out_s=0)
    assert dataset.footage is not None and not dataset.footage.held_out
    with pytest.raises(DataError, match="has no split 'val'"):
        open_dataset(video, "val", cache=cache, hold_out_s=0)


def test_a_long_drive_holds_out_blocks_all_over_it_and_a_short_one_its_end() -> None:
    hour = [float(t) for t in range(0, 3600, 3)]
    spans, guard = held_out_spans(hour, 3600, None)
    assert guard == 2 and [end - start for start, end in spans] == pytest.approx([15] * 4)
    assert [sum(span) / 2 for span in spans] == pytest.approx([450, 1350, 2250, 3150], abs=3)
    spans, guard = held_out_spans([t / 5 for t in range(50)], 10, None)
    assert spans == [pytest.approx((8, 10))] and guard == pytest.approx(1)
    # Blocks are where something can be used: the second half of this hour is black.
    spans, _ = held_out_spans([t for t in hour if t < 1800], 3600, None)
    assert all(end < 1800 for _, end in spans) and len(spans) == 4
    # Usable moments that crowd together share a block, and no blocks overlap.
    spans, _ = held_out_spans([10.0, 10.2, 10.4, 10.6], 600, 60)
    assert spans == [pytest.approx((2.8, 18), abs=0.3)] or len(spans) == 1


def test_half_of_a_drive_at_most_is_held_out(video: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=r"20 s were asked for and it has 26\.0 s.*--hold-out"):
        open_dataset(video, "train", cache=cache, hold_out_s=20)
    assert not [p for p in (cache / "video_frames").iterdir() if p.name.startswith(".")]


# ---- what is kept on the disk


def test_a_video_is_decoded_once_for_the_same_settings(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    told: list[tuple[int, int]] = []
    names = open_dataset(video, "train", frames=20, cache=cache, progress=lambda *t: told.append(t)).names
    assert told[-1] == (260, 260) and told[0] == (25, 260)
    open_dataset(video, "train", frames=21, cache=cache)
    assert len(list((cache / "video_frames").iterdir())) == 2
    video.touch()
    open_dataset(video, "train", frames=20, cache=cache)
    assert len(list((cache / "video_frames").iterdir())) == 3
    monkeypatch.setattr(cv2, "VideoCapture", None)
    assert open_dataset(video, "train", frames=20, cache=cache).names == names
    assert len(open_dataset(video, "val", frames=20, cache=cache)) > 0


def test_a_header_that_errs_costs_no_frames(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that announces nothing, and no frame rate: windows grow while reading."""
    cv2_capture = cv2.VideoCapture

    class Modest:
        def __init__(self, path: str) -> None:
            self.capture = cv2_capture(path)

        def __getattr__(self, name: str) -> object:
            return getattr(self.capture, name)

        def get(self, key: int) -> float:
            unknown = (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS)
            return 0.0 if key in unknown else self.capture.get(key)

    monkeypatch.setattr(cv2, "VideoCapture", Modest)
    dataset = open_dataset(video, "train", frames=10, cache=tmp_path, hold_out_s=0)
    assert dataset.footage is not None and 20 <= dataset.footage.moments <= 40
    assert len(dataset) == 10 and dataset.footage.seconds == pytest.approx(26, abs=0.2)
    assert inside(times(dataset), 0, 6) >= 2 and inside(times(dataset), 21, 26) >= 2


def test_a_variable_frame_rate_is_read_by_its_time_stamps(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2_capture = cv2.VideoCapture

    class Slowing:
        """From 13 s on, frames come 0.3 s apart instead of 0.1 s."""

        def __init__(self, path: str) -> None:
            self.capture = cv2_capture(path)

        def __getattr__(self, name: str) -> object:
            return getattr(self.capture, name)

        def get(self, key: int) -> float:
            value = self.capture.get(key)
            slow = key == cv2.CAP_PROP_POS_MSEC and value > 13000
            return 13000 + 3 * (value - 13000) if slow else value

    monkeypatch.setattr(cv2, "VideoCapture", Slowing)
    dataset = open_dataset(video, "train", cache=tmp_path, hold_out_s=0)
    assert dataset.footage is not None and dataset.footage.seconds == pytest.approx(52, abs=0.5)
    late = times(dataset)[-1]
    assert late == pytest.approx(13 + 3 * (int(dataset.names[-1]) / FPS - 13)) and late > 50


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_frames_are_found_again_by_their_time(tmp_path: Path, suffix: str) -> None:
    frames = drive([("moving", 12)])
    video = write_video(tmp_path / f"drive{suffix}", frames)
    found = list(frames_at(video, [5.0, 5.1, 5.25, 11.9, 12.5]))
    assert len(found) == 4  # there is nothing at 12.5 s
    for frame, number in zip(found, (50, 51, 53, 119), strict=True):
        errors = [np.abs(frame.astype(int) - other).mean() for other in frames]
        assert int(np.argmin(errors)) == number


# ---- several videos, and what is no video


def test_a_folder_of_videos_is_one_recording(tmp_path: Path) -> None:
    folder = tmp_path / "drives"
    write_video(folder / "b.avi", drive([("moving", 6)], seed=1))
    write_video(folder / "a" / "b.avi", drive([("moving", 6)], seed=2))
    (folder / "notes.txt").write_text("by day")
    train, val = (open_dataset(folder, split, cache=tmp_path / "c") for split in ("train", "val"))
    assert train.name == "drives" and train.footage is not None
    assert [v.relative_to(folder).as_posix() for v in train.footage.videos] == ["a/b.avi", "b.avi"]
    assert {name.rpartition("/")[0] for name in train.names} == {"a/b", "b"}
    assert all(item.image.is_file() for item in (*train.items, *val.items))
    assert train.footage.seconds == pytest.approx(12, abs=0.1)
    assert train.footage.words()[0].startswith("2 videos, 0:12.0")
    assert {span.video for span in train.footage.held_out} == {folder / "b.avi"}  # its end
    assert train.footage.held_out[0].end_s == pytest.approx(6, abs=0.2)


def test_photos_beside_videos_are_used_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_video(tmp_path / "drive.avi", drive([("moving", 1)]))
    cv2.imwrite(str(tmp_path / "a.png"), drive([("moving", 0.1)])[0])
    assert open_dataset(tmp_path, "train").names == ["a"]
    assert "photos and 1 videos: the photos are used" in caplog.text


def test_a_video_that_ends_early_is_used_as_far_as_it_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    video = write_video(tmp_path / "drive.avi", drive([("moving", 10)]))
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    dataset = open_dataset(video, "train", cache=tmp_path / "c")
    assert len(dataset) >= 10
    assert "announces 100 frames and" in caplog.text and "ends early" in dataset.remarks[0]


@pytest.mark.parametrize(
    ("parts", "counts"),
    [
        ([("black", 3)], "0: of 15 moments looked at, 15 dark or blank"),
        ([("standing", 3)], "0: of 15 moments looked at, 14 nearly the same picture"),
    ],
)
def test_too_few_usable_frames_are_an_error_with_the_counts(
    tmp_path: Path, parts: list[tuple[str, float]], counts: str
) -> None:
    video = write_video(tmp_path / "drive.avi", drive(parts))
    with pytest.raises(DataError, match=r"4 frames or more are needed.*drive\.avi gives") as error:
        open_dataset(video, "train", cache=tmp_path / "c")
    assert counts in str(error.value) and "while moving" in str(error.value)


def test_what_is_no_video(tmp_path: Path, video: Path) -> None:
    (tmp_path / "text.mp4").write_bytes(b"not a video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "cut.avi").write_bytes(video.read_bytes()[:600])
    for name, message in (
        ("text.mp4", r"text\.mp4 is not a video that OpenCV can open"),
        ("empty.mp4", r"empty\.mp4 is empty \(0 bytes\)"),
        ("cut.avi", r"cut\.avi"),
    ):
        with pytest.raises(DataError, match=message):
            open_dataset(tmp_path / name, "train", cache=tmp_path / "c")
    with pytest.raises(DataError, match="has no split 'test'"):
        open_dataset(video, "test", cache=tmp_path / "c")
    assert not list((tmp_path / "c").rglob("*.*"))


@pytest.mark.parametrize("options", [{"frames": 3}, {"hold_out_s": -1.0}, {"hold_out_s": float("nan")}])
def test_settings_without_sense(video: Path, options: dict[str, float]) -> None:
    with pytest.raises(DataError, match="got"):
        open_dataset(video, "train", **options)


def test_frames_are_kept_where_the_environment_says(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPSL_CACHE", str(tmp_path / "kept"))
    kept = open_dataset(video, "val", frames=8).items[0].image
    assert kept.is_relative_to(tmp_path / "kept" / "video_frames")


# ---- the choice alone


def moment(at_s: float, sharpness: float = 100.0, level: float = 0.0) -> Moment:
    picture = np.random.default_rng(int(1000 * at_s)).uniform(0, 255, (36, 64)).astype(np.float32)
    picture = picture if level == 0 else np.full((36, 64), level, np.float32)
    return Moment(video=0, frame=0, time_s=at_s, at_s=at_s, sharpness=sharpness, thumbnail=picture)


def test_blur_is_judged_against_neighbours_in_time() -> None:
    # Three times as dull from the middle on is another scene; one dull moment is a blurred one.
    moments = [moment(t, 100 if t < 60 else 30) for t in range(120)]
    moments[20], moments[100] = moment(20, 50), moment(100, 15)
    choice = choose(moments, seconds=120, frames=1000, hold_out_s=0)
    assert choice.dropped == {20: "blurred", 100: "blurred"}


def test_bright_and_blank_is_blank_too() -> None:
    moments = [moment(t, level=230 if t == 3 else 0) for t in range(8)]
    assert choose(moments, seconds=8, frames=10, hold_out_s=0).dropped == {3: "dark"}


def test_evenly_takes_the_middles() -> None:
    assert evenly(list(range(100)), 4) == [12, 37, 62, 87]
    assert evenly([3, 5], 4) == [3, 5] and evenly([], 4) == []
