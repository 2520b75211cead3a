"""A file at work: every frame, or as if it were live."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from video_files import write_video

from cpsl_deploy import DataError, InputError
from cpsl_deploy.sources import file_feed
from cpsl_deploy.sources.base import Frame, InputLimits
from cpsl_deploy.sources.file_feed import FileFeed
from cpsl_deploy.streams.inbox import Inbox


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("cpsl-")] == []


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(12):
        cv2.imwrite(str(folder / f"{index:02d}.png"), np.full((32, 48, 3), 20 * index, np.uint8))
    return folder


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


def frames_of(inbox: Inbox) -> Iterator[Frame]:
    while True:
        until(lambda: inbox.ready or inbox.exhausted)
        frame = inbox.take()
        if frame is None:
            return
        yield frame


def test_lossless_gives_every_frame_of_a_video_and_holds_it_back(tmp_path: Path) -> None:
    feed = FileFeed(write_video(tmp_path / "drive.mp4", 30))
    assert (feed.name, feed.live, feed.is_video, feed.count, feed.fps) == ("drive", False, True, 30, 10.0)
    assert feed.size == feed.status.size is not None and feed.status.snapshot()["size"] == list(feed.size)
    inbox = Inbox("lossless", depth=3)
    feed.open()
    assert feed.status.state == "connected"
    feed.start(inbox)
    until(lambda: feed.status.counters.received >= 4)
    time.sleep(0.05)
    assert feed.status.counters.received == 4  # three wait, one is held
    assert [frame.index for frame in frames_of(inbox)] == list(range(30))
    until(lambda: feed.status.state == "ended")
    assert inbox.error is None and feed.problems == () and feed.status.counters.received == 30
    feed.close()
    feed.close()


def test_unreadable_images_are_counted_and_told_of(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in (0, 4, 5, 11):
        (photos / f"{index:02d}.png").write_bytes(b"not a picture")
    monkeypatch.setattr(file_feed, "MOST_PROBLEMS", 3)
    feed, inbox = FileFeed(photos), Inbox("lossless")
    assert not feed.is_video and feed.fps is None and feed.count == 12 and feed.size is None
    feed.open()
    feed.start(inbox)
    assert [frame.index for frame in frames_of(inbox)] == [1, 2, 3, 6, 7, 8, 9, 10]
    assert feed.status.counters.corrupt == feed.problem_count == 4
    assert feed.status.counters.received == 8 and feed.status.size == (32, 48)
    *told, more = feed.problems
    assert ["00.png" in told[0], "04.png" in told[1], "05.png" in told[2]] == [True] * 3
    assert len(told) == 3 and more == "and 1 more like these"
    feed.close()


def test_a_video_is_played_as_if_it_were_live(tmp_path: Path) -> None:
    """Frames come when their time stamps say, also where these are not even."""
    times_ms = [0, 50, 100, 300, 320, 340, 600]
    feed = FileFeed(write_video(tmp_path / "drive.mp4", 7, times_ms=times_ms))
    inbox = Inbox("latest")
    feed.open()
    feed.start(inbox)
    seen = []
    for frame in frames_of(inbox):
        seen.append((frame.index, frame.captured_s, time.monotonic()))
    feed.close()
    dropped = 7 - len(seen)
    assert dropped <= 2  # of two that are 20 ms apart, when this thread was asleep
    first = seen[0][1]
    for index, captured_s, taken_s in seen:
        assert captured_s - first == pytest.approx(times_ms[index] / 1000, abs=1e-6)
        assert captured_s <= taken_s
    assert seen[-1][0] == 6


def test_frames_that_nobody_takes_in_time_are_dropped_and_none_comes_twice(tmp_path: Path) -> None:
    drops = []
    feed = FileFeed(write_video(tmp_path / "drive.mp4", 30, rate=100))
    inbox = Inbox("latest", on_drop=lambda: drops.append(1))
    feed.open()
    feed.start(inbox)
    seen = []
    for frame in frames_of(inbox):
        seen.append(frame.index)
        time.sleep(0.05)
    feed.close()
    assert seen == sorted(set(seen)) and seen[-1] == 29
    assert len(seen) + len(drops) == feed.status.counters.received == 30 and len(drops) >= 10


def test_closing_interrupts_the_wait_for_a_frame_that_is_due_later(tmp_path: Path) -> None:
    feed = FileFeed(write_video(tmp_path / "drive.mkv", 3, times_ms=[0, 500_000, 500_100]))
    inbox = Inbox("latest")
    feed.open()
    feed.start(inbox)
    until(lambda: inbox.ready)
    start = time.monotonic()
    feed.close()
    assert time.monotonic() - start < 2 and inbox.exhausted


@pytest.mark.parametrize("policy", ["lossless", "latest"])
def test_closing_ends_a_feed_that_nobody_takes_from(tmp_path: Path, photos: Path, policy: str) -> None:
    for source in (photos, write_video(tmp_path / "drive.mp4", 30)):
        feed, inbox = FileFeed(source), Inbox(policy, depth=1)
        feed.open()
        feed.start(inbox)
        until(lambda inbox=inbox: inbox.ready)
        feed.close()
        assert inbox.exhausted and inbox.take() is None


def test_a_video_that_cannot_keep_up_is_played_slower_and_not_ever_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file_feed, "_LATE_S", 0.1)
    feed = FileFeed(write_video(tmp_path / "drive.mp4", 40, rate=100))
    frames = feed._source.frames

    def slowly() -> Iterator[Frame]:
        for frame in frames():
            time.sleep(0.02)
            yield frame

    monkeypatch.setattr(feed._source, "frames", slowly)
    inbox = Inbox("latest")
    feed.open()
    feed.start(inbox)
    ages = [time.monotonic() - frame.captured_s for frame in frames_of(inbox)]
    feed.close()
    assert len(ages) >= 30 and max(ages[-10:]) < 0.25
    assert sum("played slower" in record.message for record in caplog.records) == 1


def test_images_in_the_latest_policy_go_from_hand_to_hand(photos: Path) -> None:
    drops = []
    feed = FileFeed(photos)
    inbox = Inbox("latest", on_drop=lambda: drops.append(1))
    feed.open()
    feed.start(inbox)
    seen = []
    for frame in frames_of(inbox):
        seen.append(frame.index)
        time.sleep(0.01)
        assert time.monotonic() - frame.captured_s < 5
    feed.close()
    assert seen == list(range(12)) and drops == []


def test_images_in_the_latest_policy_at_a_rate(photos: Path) -> None:
    feed, inbox = FileFeed(photos, fps=40), Inbox("latest")
    feed.open()
    start = time.monotonic()
    feed.start(inbox)
    seen = [(frame.index, frame.captured_s) for frame in frames_of(inbox)]
    feed.close()
    assert time.monotonic() - start >= 11 / 40
    index, captured = (np.array(values) for values in zip(*seen, strict=True))
    assert np.ptp(captured - index / 40) < 1e-6


def test_an_error_of_the_source_ends_the_inbox_with_it(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed, inbox = FileFeed(photos), Inbox("lossless", depth=20)
    frames = feed._source.frames

    def broken() -> Iterator[Frame]:
        yield next(frames())
        raise OSError(5, "Input/output error", "photo.png?token=hunter2")

    monkeypatch.setattr(feed._source, "frames", broken)
    feed.open()
    feed.start(inbox)
    until(lambda: inbox.error)
    assert isinstance(inbox.error, OSError) and inbox.take().index == 0 and inbox.exhausted
    assert feed.status.state == "failed" and "Input/output error" in feed.status.reason
    assert "hunter2" not in feed.status.reason
    feed.close()


def test_every_nth(photos: Path) -> None:
    for policy in ("lossless", "latest"):
        feed, inbox = FileFeed(photos), Inbox(policy, every=5)
        feed.open()
        feed.start(inbox)
        assert [frame.index for frame in frames_of(inbox)] == [0, 5, 10]
        feed.close()


def test_a_bad_configuration_never_starts(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(DataError, match="no file or folder"):
        FileFeed(tmp_path / "nowhere")
    for fps in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="above 0"):
            FileFeed(photos, fps=fps)
    with pytest.raises(DataError, match="limit max_pixels"):
        FileFeed(write_video(tmp_path / "drive.mp4", 2), limits=InputLimits(max_pixels=400))
    FileFeed(photos).close()  # one that never started


def test_a_name_of_ones_own(tmp_path: Path) -> None:
    feed, inbox = FileFeed(write_video(tmp_path / "drive.mp4", 2), name="../left\n2"), Inbox("lossless")
    assert feed.name == feed.status.name == "_left_2"
    feed.open()
    feed.start(inbox)
    assert [(f.source, f.name) for f in frames_of(inbox)] == [
        ("_left_2", "_left_2-000000"),
        ("_left_2", "_left_2-000001"),
    ]
    feed.close()
