"""Cameras. None is needed: a device that is missing is real, and a stand-in gives frames and then none."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest

from cpsl_deploy.errors import DataError
from cpsl_deploy.sources import camera
from cpsl_deploy.sources.base import InputLimits
from cpsl_deploy.sources.decoded import Damaged, Decoded, Opened, SourceLost
from cpsl_deploy.sources.live import LiveFeed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="device files of Linux")
@pytest.mark.parametrize("device", [973, "973", "/dev/video973"])
def test_a_device_that_is_not_there(device: int | str) -> None:
    feed = LiveFeed(device)
    with pytest.raises(DataError, match="there is no device /dev/video973"):
        feed.open()
    feed.close()
    assert feed.status.state == "failed" and feed.name == "camera-973"


class StandIn:
    """cv2.VideoCapture as far as it is used, with the frames of ``images``, then a device that is gone."""

    images: list[np.ndarray]
    opened = True
    released = 0

    def __init__(self, *_: object) -> None:
        self.asked: dict[int, float] = {}
        self.left = list(self.images)

    def isOpened(self) -> bool:
        return self.opened

    def get(self, key: int) -> float:
        return {cv2.CAP_PROP_FRAME_WIDTH: 64.0, cv2.CAP_PROP_FRAME_HEIGHT: 48.0, cv2.CAP_PROP_FPS: 30.0}[key]

    def set(self, key: int, value: float) -> bool:
        self.asked[key] = value
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        return (True, self.left.pop(0)) if self.left else (False, None)

    def release(self) -> None:
        StandIn.released += 1


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr(camera.cv2, "VideoCapture", StandIn)
    monkeypatch.setattr(camera.sys, "platform", "elsewhere")
    monkeypatch.setattr(StandIn, "opened", True)
    return StandIn


def test_frames_until_the_device_is_gone(stand_in: type[StandIn]) -> None:
    grey, wide = np.full((48, 64), 7, np.uint8), np.zeros((48, 5000, 3), np.uint8)
    stand_in.images = [np.full((48, 64, 3), 5, np.uint8), grey, wide, np.zeros((48, 64, 3), np.uint16)]
    released = StandIn.released
    decoding = camera.decode_camera("0", size=(48, 64), fps=30, limits=InputLimits(max_pixels=10_000))
    opened, first, second, third, fourth = (next(decoding) for _ in range(5))
    assert opened == Opened(what="64x48", fps=30)
    into = np.empty((48, 64, 3), np.uint8)
    for given, value in ((first, 5), (second, 7)):
        assert isinstance(given, Decoded)
        given.write(into)
        assert (into == value).all()
    assert isinstance(third, Damaged) and third.reason.startswith("it has 5000x48 pixels, which is")
    assert isinstance(fourth, Damaged) and "uint16" in fourth.reason
    with pytest.raises(SourceLost, match="the camera gives no more frames"):
        next(decoding)
    assert StandIn.released == released + 1


def test_a_device_that_does_not_open(stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.images = []
    monkeypatch.setattr(StandIn, "opened", False)
    with pytest.raises(SourceLost, match="cannot be opened"):
        next(camera.decode_camera("0", size=None, fps=None, limits=InputLimits()))
    with pytest.raises(SourceLost, match="the pipeline cannot be opened"):
        next(camera.decode_gstreamer("x ! appsink", limits=InputLimits()))


def test_a_size_beyond_the_limits_never_starts(stand_in: type[StandIn]) -> None:
    stand_in.images = []
    with pytest.raises(SourceLost, match="max_pixels"):
        next(camera.decode_camera("0", size=None, fps=None, limits=InputLimits(max_pixels=1000)))
