"""Video files keep the stamps of their frames, and are whole or absent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from full_disk import small_disk
from sink_results import nothing_left, visible, wait_until

from cpsl_deploy.errors import DataError, InputError, OutputError, UnavailableError
from cpsl_deploy.sinks.video_codec import CODECS, find_codec
from cpsl_deploy.sinks.video_file import VideoWriter, check_codec, video_writer

SIZE = (48, 64)


def grey(value: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def decoded(path: Path) -> list[tuple[float, np.ndarray]]:
    """(time stamp, BGR frame) of each frame, by FFmpeg's libraries."""
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="bgr24")) for frame in container.decode(video=0)]


def decoded_by_opencv(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    capture.release()
    return frames


@pytest.mark.parametrize(
    ("suffix", "codec", "tick_s"),
    [
        (".mp4", None, 1 / 90_000),
        (".mp4", "mpeg4", 1 / 60_000),
        (".mp4", "hevc", 1 / 90_000),
        (".mkv", None, 1 / 1000),
        (".mkv", "ffv1", 1 / 1000),
        (".webm", None, 1 / 1000),
        (".webm", "vp8", 1 / 1000),
        (".avi", None, 1 / 50),
        (".avi", "mpeg4", 1 / 50),
    ],
)
def test_frames_keep_their_own_times(tmp_path: Path, suffix: str, codec: str | None, tick_s: float) -> None:
    times = [0.0, 0.04, 0.1234, 0.5, 0.54, 3.0]
    path = tmp_path / f"a{suffix}"
    with VideoWriter(path, size=SIZE, fps=50, codec=codec) as writer:
        for index, time_s in enumerate(times):
            writer.append(grey(40 * index), time_s)
        (unfinished,) = visible(tmp_path)
        assert re.fullmatch(rf"\.a\.\d+\.{os.getpid()}\.tmp\{suffix}", unfinished)
    assert visible(tmp_path) == [path.name]
    frames = decoded(path)
    assert [time_s for time_s, _ in frames] == pytest.approx(times, abs=tick_s / 2 + 1e-6)
    for index, (_, image) in enumerate(frames):
        assert image.shape == (*SIZE, 3)
        assert abs(image.mean() - 40 * index) < 6
    assert len(decoded_by_opencv(path)) == len(times)


def test_without_times_the_rate_is_constant_and_the_last_frame_lasts_as_long(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with video_writer(path, size=SIZE, fps=30000 / 1001) as append:
        for index in range(30):
            append(grey(8 * index))
    times = [time_s for time_s, _ in decoded(path)]
    assert times == pytest.approx([index * 1001 / 30000 for index in range(30)], abs=1e-5)
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(29.97, abs=0.01)
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 30
    capture.release()


def test_stamps_that_stand_still_or_go_back_become_the_next_tick(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, size=SIZE, fps=25) as writer:
        for time_s in (-1.0, 0.5, 0.5, 0.2, 1.0):
            writer.append(grey(100), time_s)
    tick = 1 / 90_000
    assert [time_s for time_s, _ in decoded(path)] == pytest.approx(
        [0, 0.5, 0.5 + tick, 0.5 + 2 * tick, 1.0], abs=tick / 4
    )


def test_an_odd_side_loses_its_last_row_or_column(tmp_path: Path) -> None:
    image = np.zeros((49, 65, 3), np.uint8)
    image[:48, :64] = 200
    with VideoWriter(tmp_path / "a.mkv", size=(49, 65), fps=25, codec="ffv1") as writer:
        writer.append(image)
    ((_, frame),) = decoded(tmp_path / "a.mkv")
    assert frame.shape == (48, 64, 3)
    assert (frame == 200).all()


def test_names_of_codecs_that_users_know() -> None:
    assert find_codec("mp4v", ".mp4") is CODECS["mpeg4"]
    assert find_codec("MJPG", ".avi") is find_codec(None, ".avi") is CODECS["mjpeg"]
    assert find_codec("avc1", ".mp4") is find_codec(None, ".MP4") is CODECS["h264"]
    assert find_codec("XVID", ".avi") is CODECS["mpeg4"]


@pytest.mark.parametrize(("codec", "suffix"), [("QQQQ", ".mp4"), ("vp8", ".mp4"), ("h264", ".webm")])
def test_a_codec_that_does_not_work_is_told_with_those_that_do(codec: str, suffix: str) -> None:
    works = {".mp4": "h264", ".webm": "vp9"}[suffix]
    with pytest.raises(UnavailableError, match=rf"{codec}.*{suffix} files\. These work .*: .*{works}"):
        check_codec(codec, suffix)


def test_every_codec_named_as_working_can_be_checked() -> None:
    check_codec(None, ".mp4")
    with pytest.raises(UnavailableError, match=r"No codec works for .jpg files; write one of .mp4") as told:
        check_codec("h264", ".jpg")
    assert "MJPG" not in str(told.value)


def test_a_codec_that_does_not_fit_the_file_leaves_nothing(tmp_path: Path) -> None:
    for codec, name in (("QQQQ", "a.mp4"), ("vp8", "a.mp4"), (None, "a.jpg")):
        with pytest.raises(UnavailableError):
            VideoWriter(tmp_path / name, size=SIZE, fps=25, codec=codec)
    assert visible(tmp_path) == []


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 2x2"):
        VideoWriter(tmp_path / "a.mp4", size=(1, 64), fps=25)
    for fps in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="frame rate"):
            VideoWriter(tmp_path / "a.mp4", size=SIZE, fps=fps)
    with VideoWriter(tmp_path / "a.mp4", size=SIZE, fps=25) as writer:
        writer.append(grey(1))
        with pytest.raises(DataError, match=r"\(48, 64, 3\); frame 1 is uint8 \(64, 48, 3\)"):
            writer.append(grey(1, (64, 48)))
    with pytest.raises(InputError, match="closed"):
        writer.append(grey(1))
    assert len(decoded(tmp_path / "a.mp4")) == 1


def test_an_error_leaves_what_was_there_before(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"earlier")
    with pytest.raises(ZeroDivisionError), nothing_left(), video_writer(path, size=SIZE, fps=25) as append:
        append(grey(1))
        raise ZeroDivisionError
    assert path.read_bytes() == b"earlier"
    assert visible(tmp_path) == ["a.mp4"]


def test_without_a_frame_there_is_no_file(tmp_path: Path) -> None:
    with nothing_left(), VideoWriter(tmp_path / "a.mp4", size=SIZE, fps=25):
        pass
    assert visible(tmp_path) == []


def test_closing_or_aborting_twice_changes_nothing(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", size=SIZE, fps=25)
    writer.append(grey(1))
    writer.close()
    writer.close()
    writer.abort()
    assert len(decoded(tmp_path / "a.mp4")) == 1


@pytest.mark.parametrize("codec", ["ffv1", "h264"])
def test_a_full_disk_is_told_and_leaves_nothing(codec: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 240, 320, 3), dtype=np.uint8)
    with small_disk(1) as folder:
        with (
            nothing_left(),
            pytest.raises(OutputError, match="the disk is full") as told,
            VideoWriter(folder / "a.mkv", size=(240, 320), fps=25, codec=codec) as writer,
        ):
            for index in range(2000):
                writer.append(noise[index % 8])
        assert str(folder / "a.mkv") in str(told.value)
        assert visible(folder) == []


def test_a_disk_that_is_full_at_the_end_is_told_and_leaves_nothing() -> None:
    """What waits in memory until the end, with what makes the file readable, has no room."""
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    with small_disk(1) as folder:
        writer = VideoWriter(folder / "a.mp4", size=SIZE, fps=25, codec="mpeg4")
        for _ in range(5):
            writer.append(noise)
        with (folder / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError):
            while True:
                ballast.write(bytes(1 << 12))
        with pytest.raises(OutputError, match="the disk is full"):
            writer.close()
        assert visible(folder) == ["ballast"]


_ENDLESS = """
import sys
import numpy as np
from cpsl_deploy.sinks.video_file import VideoWriter
noise = np.random.default_rng(0).integers(0, 256, (8, 240, 320, 3), dtype=np.uint8)
for number in range(1000000):
    with VideoWriter(f"{sys.argv[1]}/{number}.mp4", size=(240, 320), fps=25) as writer:
        for index in range(20):
            writer.append(noise[index % 8])
            if number == 1 and index == 10:
                print("writing", flush=True)
"""


def test_a_killed_process_leaves_videos_that_play_or_none(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _ENDLESS, str(tmp_path)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"writing\n"
            wait_until(lambda: any(".tmp." in name for name in visible(tmp_path)))
            time.sleep(0.03)
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    finished = sorted(tmp_path.glob("[0-9]*.mp4"))
    assert finished
    assert all(len(decoded(path)) == 20 for path in finished)
