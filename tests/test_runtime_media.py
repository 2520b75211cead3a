"""Images, folders, globs and videos in, videos out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from cpsl_deploy import DataError, OutputError, UnavailableError
from cpsl_deploy.media import (
    ImageSource,
    VideoSource,
    check_codec,
    open_source,
    video_info,
    video_writer,
)


def grey(level: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*size, 3), level, np.uint8)


def make_video(path: Path, frames: int = 10, fps: float = 12.5, codec: str | None = None) -> Path:
    """A video whose frame i has the grey level 20 i, again from 0 after 12."""
    with video_writer(path, size=(48, 64), fps=fps, codec=codec) as append:
        for i in range(frames):
            append(grey(20 * (i % 12)))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    for name, level in (("b.png", 2), ("a.jpg", 1), ("c.PNG", 3), ("inner/d.png", 4)):
        cv2.imwrite(str(folder / name), grey(level))
    (folder / "notes.txt").write_text("no image")
    return folder


def test_folder_is_sorted_and_not_recursive(photos: Path) -> None:
    source = open_source(photos)
    frames = list(source.frames())
    assert isinstance(source, ImageSource) and source.count == 3 and source.name == "photos"
    assert [frame.name for frame in frames] == ["a", "b", "c"]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert [int(frame.image.mean()) for frame in frames] == [1, 2, 3]
    assert all(frame.time_s is None for frame in frames)


def test_glob_and_single_image(photos: Path) -> None:
    assert [f.name for f in open_source(f"{photos}/*.png").frames()] == ["b"]
    assert [f.name for f in open_source(f"{photos}/**/[bd].png").frames()] == ["d"]
    source = open_source(photos / "a.jpg")
    assert source.name == "a" and source.count == 1


def test_names_stay_unique(tmp_path: Path) -> None:
    for name in ("x/a.png", "x/a.jpg", "y/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), grey(9))
    assert [f.name for f in open_source(tmp_path / "x").frames()] == ["a_jpg", "a_png"]
    names = [f.name for f in open_source(f"{tmp_path}/*/a.*").frames()]
    assert names == ["x_a_jpg", "x_a_png", "y_a_png"]


def test_images_are_bgr_and_upright(tmp_path: Path) -> None:
    image = np.zeros((16, 24, 3), np.uint8)
    image[..., 0] = 250  # blue
    cv2.imwrite(str(tmp_path / "blue.png"), image)
    frame = next(open_source(tmp_path / "blue.png").frames())
    np.testing.assert_array_equal(frame.image, image)
    assert frame.suffix == ".png"


def test_one_unreadable_image_does_not_stop_the_others(photos: Path) -> None:
    data = (photos / "a.jpg").read_bytes()
    (photos / "a.jpg").write_bytes(data[: len(data) // 2])
    frames = list(open_source(photos).frames())
    assert frames[0].image is None and "a.jpg" in frames[0].problem
    assert [frame.image is None for frame in frames] == [True, False, False]


@pytest.mark.parametrize("kind", ["missing", "no images", "glob", "text file", "video folder"])
def test_nothing_to_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/drive.mp4").write_bytes(b"x")
    (tmp_path / "a.txt").write_text("hello")
    reference, message = {
        "missing": (tmp_path / "nowhere", "no file or folder"),
        "no images": (tmp_path / "empty", r"has no image in it \(0 files"),
        "glob": (f"{tmp_path}/*.txt", r"no image matches .*\(1 files do\)"),
        "text file": (tmp_path / "a.txt", "neither an image nor a video"),
        "video folder": (tmp_path / "videos", r"name that file"),
    }[kind]
    with pytest.raises(DataError, match=message):
        open_source(reference)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_video_round_trip(tmp_path: Path, suffix: str) -> None:
    path = make_video(tmp_path / f"drive{suffix}")
    source = open_source(path)
    assert isinstance(source, VideoSource) and source.name == "drive"
    assert source.info.size == (48, 64)
    assert source.fps == pytest.approx(12.5)
    assert source.count == 10
    frames = list(source.frames())
    assert [round(frame.image.mean() / 20) for frame in frames] == list(range(10))
    assert frames[3].name == "drive-000003" and frames[3].time_s == pytest.approx(0.24)
    assert os.listdir(tmp_path) == [path.name]  # no temporary file is left


def test_video_that_ends_early_says_so_after_its_last_frame(tmp_path: Path) -> None:
    path = make_video(tmp_path / "drive.avi", frames=40, codec="MJPG")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"movi") + (len(data) - data.index(b"movi")) // 3])
    *frames, last = VideoSource(path).frames()
    assert 0 < len(frames) < 40 and all(frame.image is not None for frame in frames)
    assert last.image is None
    assert f"promises 40 frames and {len(frames)} can be read" in last.problem


def test_whole_video_has_no_such_frame(tmp_path: Path) -> None:
    frames = list(VideoSource(make_video(tmp_path / "drive.mp4")).frames())
    assert frames and all(frame.image is not None for frame in frames)


def test_video_without_frames(tmp_path: Path) -> None:
    path = make_video(tmp_path / "drive.avi", frames=3, codec="MJPG")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"movi") + 4])
    with pytest.raises(DataError, match=r"drive\.avi"):
        video_info(path)


def test_unknown_codec_names_those_that_work(tmp_path: Path) -> None:
    check_codec("mp4v", ".mp4")
    for codec in ("QQQQ", "x"):
        with pytest.raises(UnavailableError, match=r"These work for \.mp4 files: mp4v"):
            check_codec(codec, ".mp4")
    with (
        pytest.raises(UnavailableError, match="QQQQ"),
        video_writer(tmp_path / "a.mp4", size=(48, 64), fps=25, codec="QQQQ"),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_failed_video_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = make_video(tmp_path / "drive.mp4", frames=5)
    before = path.read_bytes()
    with (
        pytest.raises(DataError, match="frame 1 is"),
        video_writer(path, size=(48, 64), fps=25) as append,
    ):
        append(grey(1))
        append(grey(1, (48, 66)))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["drive.mp4"]


def test_full_disk_ends_the_video_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([1 << 30, 1000])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=next(free, 1000)))
    appended = 0
    with (
        pytest.raises(OutputError, match="the disk is full"),
        video_writer(tmp_path / "a.mp4", size=(48, 64), fps=25) as append,
    ):
        for _ in range(1000):
            append(grey(1))
            appended += 1
    assert appended < 100 and os.listdir(tmp_path) == []


def test_video_cut_off_by_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """OpenCV's writer on a full disk: it reports nothing."""

        fourcc = staticmethod(cv2.VideoWriter.fourcc)

        def __init__(self, path: str, *_: object) -> None:
            Path(path).write_bytes(b"\0" * 64)

        def isOpened(self) -> bool:
            return True

        def write(self, frame: np.ndarray) -> None:
            pass

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoWriter", Full)
    with (
        pytest.raises(OutputError, match="only 0 of 2 frames"),
        video_writer(tmp_path / "a.mp4", size=(48, 64), fps=25) as append,
    ):
        append(grey(1))
        append(grey(2))
    assert os.listdir(tmp_path) == []
