"""Frames through a pipe, JPEG or raw, whole or not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from live_servers import all_frames, jpeg, next_frame, number_of, picture, running, until

from cpsl_deploy.errors import DataError, InputError
from cpsl_deploy.sources.backoff import ReconnectOptions
from cpsl_deploy.sources.base import InputLimits
from cpsl_deploy.sources.live import LiveFeed
from cpsl_deploy.sources.live_options import LiveOptions


class Pipe:
    """The writing end of what a feed reads."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.writing, data) :]

    def close(self) -> None:
        if self.writing >= 0:
            os.close(self.writing)
            self.writing = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()
    os.close(made.reading)


def send(pipe: Pipe, data: bytes) -> threading.Thread:
    def work() -> None:
        pipe.write(data)
        pipe.close()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def read(pipe: Pipe, data: bytes, options: LiveOptions, **more: object) -> tuple[LiveFeed, list]:
    """All frames of this input."""
    feed = LiveFeed("-", options=options, stdin=pipe.reading, **more)  # type: ignore[arg-type]
    thread = send(pipe, data)
    with running(feed, "lossless") as inbox:
        frames = all_frames(inbox)
        thread.join()
        if inbox.error is not None:
            raise inbox.error
    return feed, frames


def test_jpegs_with_garbage_between_them(pipe: Pipe) -> None:
    # Larger than all slots together: the child waits for room, and nothing is lost.
    images = [jpeg(number) for number in range(60)]
    images[20:20] = [b"\x00\x01garbage" * 100]
    images[40:40] = [jpeg(3, (400, 400))[:500]]
    feed, frames = read(pipe, b"".join(images), LiveOptions(raw_fps=10))
    assert [number_of(frame.image) for frame in frames] == [number % 31 for number in range(60)]
    assert feed.status.counters.corrupt == 2 and feed.status.state == "ended"
    assert [frame.index for frame in frames] == [n for n in range(62) if n not in (20, 40)]
    assert [frame.time_s for frame in frames] == pytest.approx([frame.index / 10 for frame in frames])
    assert not feed.live and feed.fps == 10


def test_the_last_image_is_cut_off(pipe: Pipe) -> None:
    feed, frames = read(pipe, jpeg(1) + jpeg(2)[:-10], LiveOptions())
    assert [number_of(frame.image) for frame in frames] == [1]
    assert feed.status.counters.corrupt == 1 and feed.status.state == "ended"


COLOUR = (40, 90, 200)


@pytest.mark.parametrize("raw", ["bgr24", "rgb24", "gray8", "yuv420p", "nv12"])
def test_raw_frames(raw: str, pipe: Pipe) -> None:
    image = np.full((32, 48, 3), COLOUR, np.uint8)
    image[:16] = image[:16, :, ::-1]
    expected = image
    if raw == "gray8":
        data = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        expected = np.repeat(data[..., None], 3, axis=2)
    elif raw == "rgb24":
        data = np.ascontiguousarray(image[..., ::-1])
    elif raw == "bgr24":
        data = image
    else:
        data = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
        if raw == "nv12":
            luma, u, v = data[:32], data.ravel()[32 * 48 :][: 16 * 24], data.ravel()[-16 * 24 :]
            data = np.concatenate([luma.ravel(), np.stack([u, v], 1).ravel()])
    whole = data.tobytes()
    options = LiveOptions(raw_format=raw, raw_size=(32, 48), raw_fps=4)  # type: ignore[arg-type]
    feed, frames = read(pipe, whole * 10 + whole[:-1], options)
    assert len(frames) == 10 and feed.status.counters.corrupt == 1
    assert [frame.time_s for frame in frames] == [number / 4 for number in range(10)]
    for frame in frames:
        assert frame.image.shape == (32, 48, 3)
        assert np.abs(frame.image.astype(int) - expected).max() <= (3 if raw in ("yuv420p", "nv12") else 0)


def test_images_beyond_the_limits_are_counted(pipe: Pipe) -> None:
    bomb = bytearray(jpeg(5, (64, 64)))
    at = bomb.index(b"\xff\xc0")
    bomb[at + 5 : at + 9] = b"\x4e\x20\x4e\x20"  # says that it is 20000 x 20000
    data = jpeg(1) + bytes(bomb) + jpeg(2, (8, 8)) + jpeg(3)
    feed, frames = read(pipe, data, LiveOptions(), limits=InputLimits(max_pixels=10_000))
    assert [number_of(frame.image) for frame in frames] == [1, 3] and feed.status.counters.corrupt == 2


@pytest.mark.parametrize(
    "data, what",
    [
        (b"", "standard input is closed"),
        (b"GARBAGE\x00" * 10_000, "standard input ended without a single frame"),
    ],
)
def test_an_input_without_a_frame_is_an_error(data: bytes, what: str, pipe: Pipe) -> None:
    with pytest.raises(DataError, match=f"{what}.*JPEG") as refused:
        read(pipe, data, LiveOptions())
    assert "process" not in str(refused.value)


def test_standard_input_that_was_closed_before_the_start() -> None:
    script = (
        "from cpsl_deploy.sources.live import LiveFeed\n"
        "from cpsl_deploy.errors import DataError\n"
        "feed = LiveFeed('-')\n"
        "try: feed.open()\n"
        "except DataError as error: print(error)\n"
        "feed.close()\n"
    )
    command = ["sh", "-c", 'exec "$0" -W error -c "$1" <&-', sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("standard input cannot be opened: it is closed. It takes JPEG images")
    assert done.stderr == ""


def test_a_raw_size_beyond_the_limits_never_starts(pipe: Pipe) -> None:
    options = LiveOptions(raw_format="gray8", raw_size=(20_000, 20_000))
    feed = LiveFeed("-", options=options, stdin=pipe.reading, limits=InputLimits(max_pixels=10_000))
    with pytest.raises(
        DataError, match=r"20000x20000 pixels, which is more than 10000 .*--stdin-size.*--max-pixels"
    ):
        feed.open()
    feed.close()


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"raw_format": "png"}, ["--stdin-format", "mjpeg, bgr24", "'png'"]),
        (
            {"raw_format": "bgr24"},
            [r"raw frames \(bgr24\)", "need their size", r"raw_size=\(.*--stdin-size HxW"],
        ),
        ({"raw_size": (10, 12)}, ["JPEG images", "10x12", "Leave it out", "--stdin-format bgr24"]),
        (
            {"raw_format": "nv12", "raw_size": (31, 48)},
            ["nv12 frames have even sides", "31x48", "--stdin-size"],
        ),
        ({"raw_size": (0, 48), "raw_format": "nv12"}, ["raw frames", "1 pixel or more", r"\(0, 48\)"]),
        ({"raw_fps": 0}, ["more than 0; got 0", r"raw_fps \(--stdin-fps\)"]),
        ({"camera_fps": float("nan")}, ["more than 0; got nan", r"camera_fps \(--camera-fps\)"]),
        ({"rtsp_transport": "pigeon"}, ["tcp or udp", "--rtsp-transport", "'pigeon'"]),
        ({"camera_size": (0, 5)}, ["asked of a camera", r"\(0, 5\)", r"camera_size=\(.*--camera-size HxW"]),
    ],
)
def test_options_keep_their_rules(wrong: dict, told: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        LiveOptions(**wrong)
    for text in told:
        assert re.search(text, str(refused.value)), text


def test_a_pause_is_told_and_waited_for(pipe: Pipe) -> None:
    feed = LiveFeed("-", stdin=pipe.reading, reconnect=ReconnectOptions(stall_after_s=0.2))
    with running(feed, "lossless") as inbox:
        pipe.write(jpeg(1))
        next_frame(inbox)
        until(lambda: feed.status.state == "stalled")
        pipe.write(jpeg(2))
        assert number_of(next_frame(inbox).image) == 2
        assert feed.status.state == "resumed" and feed.status.counters.reconnects == 0


def test_a_slow_consumer_is_no_stall(pipe: Pipe) -> None:
    feed = LiveFeed("-", stdin=pipe.reading, reconnect=ReconnectOptions(stall_after_s=0.2))
    thread = send(pipe, b"".join(jpeg(number) for number in range(30)))
    with running(feed, "lossless", depth=100) as inbox:
        until(lambda: feed._process is not None and feed._process.waits_for_us)
        time.sleep(0.5)
        assert feed.status.state == "connected"
        assert len(all_frames(inbox)) == 30
        thread.join()


def test_closing_while_the_source_waits_for_room_or_for_data(pipe: Pipe) -> None:
    pipe.write(jpeg(0) * 20)
    feed = LiveFeed("-", stdin=pipe.reading)
    with running(feed, "lossless", depth=1) as inbox:
        until(lambda: inbox.ready)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 2


def test_a_real_standard_input() -> None:
    script = (
        "from cpsl_deploy.sources.live import LiveFeed\n"
        "from cpsl_deploy.streams.inbox import Inbox\n"
        "import threading\n"
        "changed = threading.Condition()\n"
        "feed, inbox, count = LiveFeed('-'), Inbox('lossless', changed=changed), 0\n"
        "feed.open(); feed.start(inbox)\n"
        "while True:\n"
        "    with changed: changed.wait_for(lambda: inbox.ready or inbox.exhausted)\n"
        "    if inbox.exhausted: break\n"
        "    count += inbox.take().image.shape == (48, 64, 3)\n"
        "feed.close()\n"
        "print(count, feed.status.state)\n"
    )
    data = b"".join(cv2.imencode(".jpg", picture(number))[1].tobytes() for number in range(25))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], input=data, capture_output=True, timeout=60
    )
    assert (done.stdout, done.stderr) == (b"25 ended\n", b"")
