"""A source that is not there at the start is waited for, where that is asked for."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from live_servers import CameraServer, next_frame, running, until

from cpsl_deploy.errors import DataError, UnavailableError
from cpsl_deploy.sources.backoff import ReconnectOptions
from cpsl_deploy.sources.live import LiveFeed

WAIT = ReconnectOptions(initial_s=0.05, max_s=0.2, stall_after_s=0.6, open_timeout_s=5, wait=True)


@pytest.fixture
def absent() -> Iterator[CameraServer]:
    """A camera whose address is known, and that is off."""
    server = CameraServer()
    with server:
        pass
    yield server
    if server._listener is not None:
        server.kill()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.name == "cpsl_deploy.streams"]
    return [record.getMessage().split(": ", 1)[1] for record in records]


def test_a_camera_that_is_switched_on_later(absent: CameraServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    feed = LiveFeed(absent.url, reconnect=WAIT)
    switch = threading.Timer(1.0, absent.start)
    switch.start()
    with running(feed) as inbox:
        assert feed.status.state == "reconnecting" and "Connection refused" in feed.status.reason
        assert not inbox.ready and not inbox.exhausted and feed.live
        assert next_frame(inbox).index < 10  # a newer one may have taken the place of the first
        switch.join()
        assert feed.status.state == "connected" and feed.status.counters.reconnects == 0
        assert feed.status.reason.startswith("mjpeg, 64x48") and feed.status.size == (48, 64)
        absent.kill()
        until(lambda: feed.status.state == "reconnecting")
        absent.start()
        until(lambda: feed.status.state == "resumed")
        assert feed.status.counters.reconnects == 1
    states = [text.split(" (")[0] for text in told(caplog)]
    assert states == ["reconnecting", "connected", "reconnecting", "resumed", "ended"]
    assert "not there yet: Connection refused" in told(caplog)[0]


def test_the_frame_rate_is_taken_when_it_comes(absent: CameraServer) -> None:
    av = pytest.importorskip("av")
    written = io.BytesIO()
    with av.open(written, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(100):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "bgr24")))
        container.mux(stream.encode())
    absent.file(written.getvalue())
    feed = LiveFeed(absent.url, reconnect=WAIT)
    with running(feed, "lossless") as inbox:
        assert feed.fps is None
        absent.start()
        next_frame(inbox)
        assert feed.fps == 25 and feed.status.reason == "mpeg2video, 64x48, 25 frames/s"


def test_one_that_never_comes_has_failed(absent: CameraServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    options = ReconnectOptions(initial_s=0.05, max_s=0.1, give_up_after_s=0.5, wait=True)
    feed = LiveFeed(absent.url, reconnect=options)
    with running(feed) as inbox:
        until(lambda: inbox.exhausted)
        assert isinstance(inbox.error, DataError)
        assert "could not be reached within 0.5 s; at last: Connection refused" in str(inbox.error)
        assert "--give-up-after" in str(inbox.error) and feed.status.state == "failed"
    assert [text.split(" (")[0] for text in told(caplog)] == ["reconnecting", "failed"]


def test_waiting_ends_when_it_is_closed(absent: CameraServer) -> None:
    options = ReconnectOptions(initial_s=20, max_s=60, wait=True)
    with running(LiveFeed(absent.url, reconnect=options)):
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 2
    feed = LiveFeed(absent.url, reconnect=options)
    feed.open()
    feed.close()  # never started


def test_what_waiting_does_not_help_is_told_at_once() -> None:
    feed = LiveFeed("srt://127.0.0.1:9", reconnect=WAIT)
    try:
        feed.open()
    except UnavailableError as error:
        assert "srt://" in str(error) and feed.status.state == "failed"
    else:
        pytest.skip("this FFmpeg reads srt://")
    finally:
        feed.close()


def test_standard_input_is_not_waited_for() -> None:
    feed = LiveFeed("-", stdin=987, reconnect=WAIT)  # a descriptor that is not open
    with pytest.raises(DataError, match="standard input cannot be opened: it is closed"):
        feed.open()
    feed.close()
