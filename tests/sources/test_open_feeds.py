"""From references to feeds: options have somebody to use them, limits speak in whole sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from video_files import write_video

from cpsl_deploy.errors import DataError, InputError
from cpsl_deploy.sources.base import Frame, InputLimits
from cpsl_deploy.sources.file_feed import FileFeed
from cpsl_deploy.sources.live_options import OPTIONS, LiveOptions
from cpsl_deploy.sources.open import open_feeds
from cpsl_deploy.streams.options import StreamOptions

RTSP = "rtsp://192.0.2.1/drive"
GIVEN = {
    "rtsp_transport": {"rtsp_transport": "udp"},
    "camera_size": {"camera_size": (480, 640)},
    "camera_fps": {"camera_fps": 10.0},
    "raw_format": {"raw_format": "bgr24", "raw_size": (480, 640)},
    "raw_fps": {"raw_fps": 10.0},
}
USERS = {
    "rtsp_transport": RTSP,
    "camera_size": 0,
    "camera_fps": "/dev/video0",
    "raw_format": "-",
    "raw_fps": "-",
}


@pytest.mark.parametrize("name", GIVEN)
def test_an_option_that_no_source_can_use_is_refused(name: str, tmp_path: Path) -> None:
    options = StreamOptions(live=LiveOptions(**GIVEN[name]))  # type: ignore[arg-type]
    video = write_video(tmp_path / "drive.mp4", 2)
    others: list[str | int | Path] = [video, "http://192.0.2.1/", *{*USERS.values()} - {USERS[name]}]
    if name.startswith("camera"):
        others = [other for other in others if other not in (0, "/dev/video0")]
    with pytest.raises(InputError) as refused:
        open_feeds(others, options)
    assert str(refused.value).startswith(f"{name} ({OPTIONS[name]}) is for ")
    assert "Leave it out" in str(refused.value)
    for feed in open_feeds([video, USERS[name]], options):  # type: ignore[list-item]
        feed.close()


def test_options_left_alone_suit_every_source(tmp_path: Path) -> None:
    feeds = open_feeds([write_video(tmp_path / "drive.mp4", 2), RTSP, 0, "-"], StreamOptions())
    assert [feed.size is None for feed in feeds] == [False, True, True, True]
    for feed in feeds:
        feed.close()


@pytest.mark.parametrize(
    "limits, remedy",
    [
        (
            {"max_pixels": 400},
            r"announces frames of \d+x\d+ pixels, which is more than 400 \(limit max_pixels\)\. Scale it, or "
            r"raise the limit \(of cpsl-run: --max-pixels\)",
        ),
        (
            {"max_side": 20},
            r"announces frames of \d+x\d+ pixels, with a side above 20 \(limit max_side\)\. Scale it, or "
            r"change the limit \(in Python",
        ),
    ],
)
def test_a_limit_is_told_in_a_sentence(limits: dict[str, int], remedy: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=remedy):
        FileFeed(write_video(tmp_path / "drive.mp4", 2), limits=InputLimits(**limits))


def test_a_frame_is_shown_without_its_pixels() -> None:
    frame = Frame(source="a", index=0, name="a-0", image=np.zeros((4, 4, 3), np.uint8), captured_s=1.0)
    assert "array" not in repr(frame) and "name='a-0'" in repr(frame)
