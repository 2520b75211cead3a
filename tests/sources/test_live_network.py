"""A network stream through everything that happens to one, with a server that is really there."""

from __future__ import annotations

import io
import itertools
import logging
import os
import re
import signal
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from live_servers import CameraServer, all_frames, jpeg, next_frame, number_of, picture, running, until

from cpsl_deploy.errors import DataError, UnavailableError
from cpsl_deploy.sources.backoff import ReconnectOptions
from cpsl_deploy.sources.base import InputLimits
from cpsl_deploy.sources.live import LiveFeed
from cpsl_deploy.sources.reader_process import SLOTS
from cpsl_deploy.streams.inbox import Inbox, Pending

QUICK = ReconnectOptions(initial_s=0.05, max_s=0.2, stall_after_s=0.6, open_timeout_s=5)


def states(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of the state, in order."""
    texts = [record.getMessage() for record in caplog.records if record.name == "cpsl_deploy.streams"]
    return [text.split(": ", 1)[1].split(" (")[0] for text in texts]


def reader(feed: LiveFeed) -> int:
    assert feed._process is not None
    return feed._process.pid


def test_frames_come_in_order_with_their_times() -> None:
    with CameraServer() as server, running(LiveFeed(server.url), "lossless") as inbox:
        frames = [next_frame(inbox) for _ in range(20)]
        now = time.monotonic()
    assert [frame.index for frame in frames] == list(range(20))
    first = number_of(frames[0].image)
    assert [number_of(frame.image) for frame in frames] == [(first + step) % 31 for step in range(20)]
    assert frames[3].name == f"http-127.0.0.1-{server.port}-drive-000003"
    assert all(frame.image.shape == (48, 64, 3) and frame.image.dtype == np.uint8 for frame in frames)
    for before, after in itertools.pairwise(frames):
        assert before.time_s < after.time_s and before.captured_s <= after.captured_s <= now
        assert after.time_s - frames[0].time_s == pytest.approx(
            after.captured_s - frames[0].captured_s, abs=0.01
        )


def test_the_newest_frame_is_there_when_it_is_asked_for() -> None:
    with CameraServer() as server:
        feed = LiveFeed(server.url)
        with running(feed) as inbox:
            frames = []
            for _ in range(3):
                time.sleep(0.3)  # a slow model
                asked_s = time.monotonic()
                frames.append(next_frame(inbox))
                assert asked_s - frames[-1].captured_s < 0.15
            assert frames[2].index - frames[1].index > 5
            assert feed.status.counters.received >= frames[2].index + 1
        assert feed.live and feed.is_video and feed.count is None and feed.fps is None


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV])
def test_a_reader_that_dies_or_hangs_is_replaced(fault: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with CameraServer() as server:
        feed = LiveFeed(server.url, reconnect=QUICK)
        with running(feed) as inbox:
            before = next_frame(inbox)
            old = reader(feed)
            os.kill(old, fault)
            until(lambda: feed.status.state == "resumed", "recovery")
            assert not psutil.pid_exists(old) and reader(feed) != old
            after = [next_frame(inbox), next_frame(inbox)][-1]
            assert after.index > before.index and after.time_s > before.time_s
            assert feed.status.counters.reconnects == 1
    if fault == signal.SIGSTOP:
        assert states(caplog) == ["connected", "stalled", "reconnecting", "resumed", "ended"]
    else:
        assert states(caplog) == ["connected", "reconnecting", "resumed", "ended"]
        assert signal.Signals(fault).name in caplog.text


def test_a_server_that_vanishes_and_returns_at_another_size(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with CameraServer() as server:
        feed = LiveFeed(server.url, reconnect=QUICK)
        with running(feed) as inbox:
            before = next_frame(inbox)
            server.kill()
            until(lambda: feed.status.state == "reconnecting")
            time.sleep(0.3)  # several tries fail
            server.size = (96, 80)
            server.start()
            until(lambda: feed.status.state == "resumed")
            until(lambda: (frame := next_frame(inbox)).image.shape == (96, 80, 3) or not frame)
            after = next_frame(inbox)
            assert after.index > before.index and after.time_s - before.time_s == pytest.approx(
                after.captured_s - before.captured_s, abs=0.05
            )
    assert states(caplog) == ["connected", "reconnecting", "resumed", "ended"]
    assert caplog.text.count("frames are now 80x96; before, 64x48") == 1
    assert re.search(r"resumed \(80x96, after \d\.\d s without a frame\)", caplog.text)
    assert feed.status.snapshot()["size"] == [96, 80]


def test_a_size_that_changes_within_the_stream() -> None:
    with CameraServer() as server:
        sizes = [(48, 64), (240, 320), (50, 34), (480, 640)]
        server.part = lambda number: jpeg(number, sizes[number // 5 % 4])
        with running(LiveFeed(server.url, reconnect=QUICK), "lossless") as inbox:
            frames = [next_frame(inbox) for _ in range(40)]
            assert {frame.image.shape[:2] for frame in frames} == set(sizes)
            assert [number_of(frame.image) for frame in frames] == [
                (number_of(frames[0].image) + step) % 31 for step in range(40)
            ]


def test_a_pause_is_a_stall_and_the_stream_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with CameraServer() as server:
        feed = LiveFeed(server.url, reconnect=QUICK)
        with running(feed) as inbox:
            next_frame(inbox)
            server.running.clear()
            until(lambda: feed.status.state == "reconnecting")
            server.running.set()
            until(lambda: feed.status.state == "resumed")
            next_frame(inbox)
    assert states(caplog) == ["connected", "stalled", "reconnecting", "resumed", "ended"]
    assert "stalled (no frame for 0.6 s)" in caplog.text


def test_damaged_frames_are_counted_and_cost_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    good = [jpeg(number, (200, 200)) for number in range(31)]
    cut = good[5][: len(good[5]) // 2]
    with CameraServer() as server:
        server.part = lambda number: cut if number % 4 == 3 else good[number % 31]
        feed = LiveFeed(server.url, reconnect=QUICK)
        with running(feed, "lossless") as inbox:
            frames = [next_frame(inbox) for _ in range(30)]
            assert all(float(frame.image.std()) < 2 for frame in frames)  # no half pictures
            assert feed.status.counters.corrupt >= 9 and feed.status.counters.reconnects == 0
            gaps = [after.index - before.index for before, after in itertools.pairwise(frames)]
            assert set(gaps) == {1, 2} and sum(gap == 2 for gap in gaps) in (9, 10)
    assert caplog.text.count("a frame was skipped") == 1


def test_frames_beyond_a_limit_are_counted_and_the_stream_goes_on() -> None:
    with CameraServer() as server:
        server.part = lambda number: jpeg(number, (400, 400) if number % 3 == 2 else (48, 64))
        feed = LiveFeed(server.url, reconnect=QUICK, limits=InputLimits(max_pixels=100 * 100))
        with running(feed, "lossless") as inbox:
            assert {next_frame(inbox).image.shape for _ in range(12)} == {(48, 64, 3)}
            assert feed.status.counters.corrupt >= 5 and feed.status.counters.reconnects == 0


def test_garbage_without_end_is_a_stall() -> None:
    with CameraServer() as server:
        feed = LiveFeed(server.url, reconnect=QUICK)
        with running(feed) as inbox:
            next_frame(inbox)
            server.answer = server.babble
            server.running.clear()
            until(lambda: feed.status.state == "reconnecting")
            served = len(server.requests)
            until(lambda: len(server.requests) >= served + 1)
            server.running.set()
            server.answer = server._stream
            server.kill()  # the noise that is being served
            server.start()
            until(lambda: feed.status.state == "resumed")


def test_frames_beyond_a_limit_at_the_start_are_refused() -> None:
    with CameraServer(size=(400, 300)) as server:
        waiting = ReconnectOptions(wait=True)
        feed = LiveFeed(server.url, limits=InputLimits(max_pixels=100 * 100), reconnect=waiting)
        with pytest.raises(
            DataError, match=r"have 300x400 pixels, which is more than 10000.*--max-pixels\)$"
        ):
            feed.open()
        feed.close()


@pytest.mark.parametrize("scheme", ["rtsp", "http", "tcp"])
def test_a_host_without_an_address_is_named(scheme: str) -> None:
    feed = LiveFeed(f"{scheme}://admin:{SECRET}@camera.invalid:8554/drive")
    with pytest.raises(DataError, match=r"opened: the host camera\.invalid cannot be resolved") as refused:
        feed.open()
    feed.close()
    assert SECRET not in str(refused.value) and "admin" not in str(refused.value)


def test_noise_from_the_first_byte_is_refused() -> None:
    with CameraServer() as server:
        server.answer = server.babble
        feed = LiveFeed(server.url, reconnect=ReconnectOptions(open_timeout_s=2))
        with pytest.raises(DataError, match="cannot be opened"):
            feed.open()
        feed.close()
        assert feed.status.state == "failed"


def test_it_gives_up_after_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    options = ReconnectOptions(initial_s=0.05, max_s=0.1, give_up_after_s=0.5)
    with CameraServer() as server:
        feed = LiveFeed(server.url, reconnect=options)
        with running(feed) as inbox:
            next_frame(inbox)
            server.kill()
            until(lambda: inbox.take() is None and inbox.exhausted)
            assert isinstance(inbox.error, DataError) and "within 0.5 s" in str(inbox.error)
            assert "Connection refused" in str(inbox.error)
            assert feed.status.state == "failed"
    assert states(caplog) == ["connected", "reconnecting", "failed"]


def video(frames: int, fps: int = 20) -> bytes:
    """An MP4 file of noise under numbered pictures, so that it is not small."""
    noise = np.random.default_rng(0)
    written = io.BytesIO()
    with av.open(written, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 8_000_000
        stream.codec_context.time_base = Fraction(1, fps)
        for number in range(frames):
            image = picture(number, (240, 320))
            image[:, 160:] = noise.integers(0, 256, (240, 160, 1), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, "bgr24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return written.getvalue()


VIDEO = video(150)


@pytest.mark.parametrize("break_at", [None, len(VIDEO) // 2])
def test_a_file_over_http_ends_at_its_end(break_at: int | None) -> None:
    with CameraServer() as server:
        server.file(VIDEO, break_at)
        feed = LiveFeed(server.url)
        with running(feed, "lossless") as inbox:
            frames = all_frames(inbox)
            assert inbox.error is None and feed.status.state == "ended"
    assert feed.status.reason == "after 150 frames" and feed.status.size == (240, 320)
    assert not feed.live and feed.fps == 20
    assert [number_of(frame.image[:, :150]) for frame in frames] == [number % 31 for number in range(150)]
    assert [frame.time_s for frame in frames] == pytest.approx([number / 20 for number in range(150)])


def test_a_file_over_http_goes_on_where_it_broke_off() -> None:
    with CameraServer() as server:
        server.file(VIDEO)
        feed = LiveFeed(server.url, reconnect=QUICK)
        with running(feed, "lossless", depth=2) as inbox:
            frames = [next_frame(inbox) for _ in range(40)]
            os.kill(reader(feed), signal.SIGKILL)
            frames += all_frames(inbox)
            assert inbox.error is None and feed.status.counters.reconnects == 1
    assert [number_of(frame.image[:, :150]) for frame in frames] == [number % 31 for number in range(150)]
    assert [frame.time_s for frame in frames] == pytest.approx([number / 20 for number in range(150)])


SECRET = "hush-hush"
BAD_ADDRESSES = [
    f"rtsp://admin:{SECRET}@127.0.0.1:9/drive",
    f"http://admin:{SECRET}@127.0.0.1:9/drive?token={SECRET}",
    f"https://admin:{SECRET}@127.0.0.1:9/drive",
    f"rtmp://admin:{SECRET}@127.0.0.1:9/live/{SECRET}?key={SECRET}".replace(f"/{SECRET}", "/a"),
    f"tcp://admin:{SECRET}@127.0.0.1:9",
    f"rtsp://admin:{SECRET}/@x@127.0.0.1:9/drive",
    f"rtsp://admin:{SECRET}@no such host/drive",
    f"srt://admin:{SECRET}@127.0.0.1:9?passphrase={SECRET}",
]


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_a_refused_connection_tells_no_credentials(
    address: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    feed = LiveFeed(address, reconnect=ReconnectOptions(open_timeout_s=2))
    with pytest.raises((DataError, UnavailableError)) as refused:
        feed.open()
    feed.close()
    # The exception tells; a line in the log besides would say it twice.
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []
    told = [str(refused.value), repr(refused.value), caplog.text, feed.name, str(feed.status.snapshot())]
    told += [repr(feed.reference), *capfd.readouterr(), repr(refused.value.__cause__)]
    assert SECRET not in "".join(told) and "admin" not in "".join(told)
    assert feed.status.state == "failed" and feed.status.reason


@pytest.mark.parametrize("answer, reason", [("refuse", "401"), ("silence", "no answer within 1 s")])
def test_why_a_server_gives_nothing(answer: str, reason: str) -> None:
    with CameraServer() as server:
        server.answer = getattr(server, answer)
        url = server.url.replace("http://", f"http://admin:{SECRET}@")
        feed = LiveFeed(url, reconnect=ReconnectOptions(open_timeout_s=1))
        with pytest.raises(DataError, match=reason) as refused:
            feed.open()
        feed.close()
        assert SECRET not in str(refused.value)


def test_credentials_are_used_and_seen_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with CameraServer() as server:
        url = server.url.replace("http://", f"http://admin:{SECRET}@") + f"?token={SECRET}"
        feed = LiveFeed(url, reconnect=QUICK)
        with running(feed) as inbox:
            frame = next_frame(inbox)
            process = Path(f"/proc/{reader(feed)}")
            seen = [process / "cmdline", process / "environ", Path("/proc/self/cmdline")]
            told = [path.read_text(errors="replace") for path in seen if path.exists()]
            os.kill(reader(feed), signal.SIGSEGV)
            until(lambda: feed.status.state == "resumed")
            server.kill()
            until(lambda: feed.status.state == "reconnecting")
            told += [frame.name, frame.source, feed.name, str(feed.status.snapshot()), caplog.text]
    assert SECRET.encode() in server.requests[0]
    for text in told:
        assert SECRET not in text and "admin" not in text


def test_nothing_of_the_current_folder_is_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("before Python 3.11 nothing keeps -m from looking there")
    (tmp_path / "av.py").write_text("raise SystemExit('not this one')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    with CameraServer() as server, running(LiveFeed(server.url)) as inbox:
        next_frame(inbox)


class Hoard(Inbox):
    """Keeps every frame that it is offered."""

    def __init__(self) -> None:
        super().__init__("latest")
        self.kept: list[Pending] = []

    def put(self, pending: Pending) -> bool:
        self.kept.append(pending)
        return True


def test_the_reader_never_waits_for_the_newest_policy() -> None:
    """With every slot held on this side frames are dropped and counted over there; that is no stall."""
    with CameraServer() as server:
        feed, hoard = LiveFeed(server.url, reconnect=QUICK), Hoard()
        feed.open()
        feed.start(hoard)
        until(lambda: len(hoard.kept) == SLOTS)
        sent = server.sent
        until(lambda: server.sent > sent + 60)  # twice as long as a stall
        assert len(hoard.kept) == SLOTS and feed.status.state == "connected"
        frames = [pending.take() for pending in hoard.kept]
        until(lambda: len(hoard.kept) > SLOTS)
        later = hoard.kept[SLOTS].take()
        assert [frame.index for frame in frames] == list(range(SLOTS))
        assert number_of(later.image) == (number_of(frames[0].image) + later.index) % 31
        assert feed.status.counters.dropped >= later.index - SLOTS >= 50
        feed.close()
        for pending in hoard.kept[SLOTS + 1 :]:
            pending.drop()
