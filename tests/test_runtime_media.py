"""Videos out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from cpsl_deploy import DataError, OutputError, UnavailableError
from cpsl_deploy.media import check_codec, video_info, video_writer


def grey(level: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*size, 3), level, np.uint8)


def make_video(path: Path, frames: int = 10, fps: float = 12.5, codec: str | None = None) -> Path:
    """A video whose frame i has the grey level 20 i, again from 0 after 12."""
    with video_writer(path, size=(48, 64), fps=fps, codec=codec) as append:
        for i in range(frames):
            append(grey(20 * (i % 12)))
    return path


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
