"""Streams of real cameras, over RTSP and as MJPEG over HTTP, that are killed, paused, changed and spoiled.

Every frame that is delivered is compared with what the camera sent: none is damaged, none comes twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from camera_clip import Clip, write_clip
from camera_watch import Watch, assert_sound, held, lost_between, reader_processes
from rtsp_rig import NO_RTSP, CameraServer, Relay, rtsp_python

import cpsl_deploy
from cpsl_deploy.errors import DataError
from cpsl_deploy.segmenter import Segmenter
from cpsl_deploy.sources.backoff import ReconnectOptions
from cpsl_deploy.sources.live_options import LiveOptions

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks into /proc: Linux only")
needs_rtsp = pytest.mark.skipif(rtsp_python() is None, reason=NO_RTSP)
KINDS = [pytest.param("rtsp", marks=needs_rtsp), "http"]
QUICK = ReconnectOptions(
    initial_s=0.1, max_s=0.3, stall_after_s=0.6, open_timeout_s=1.5, healthy_after_s=0.3, give_up_after_s=60
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Clip]:
    folder = tmp_path_factory.mktemp("clips")
    return {
        "rtsp": write_clip(folder / "rtsp", count=125),
        "http": write_clip(folder / "http", codec="mjpeg", count=125),
        "wide": write_clip(folder / "wide", size=(448, 240), fps=20, count=60),
        "jpeg": write_clip(folder / "jpeg", size=(256, 160), codec="mjpeg", count=60),
    }


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segmenter]:
    tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)
    path = tiny_onnx.write_tiny_onnx(tmp_path_factory.mktemp("model") / "tiny.onnx")
    with cpsl_deploy.load(path, backend="onnxruntime", threads=1) as opened:
        yield opened


@pytest.fixture
def states(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The states that were logged, in their order."""
    caplog.set_level(logging.INFO, logger="cpsl_deploy")

    def logged() -> list[str]:
        lines = [r.getMessage() for r in caplog.records if r.name == "cpsl_deploy.streams"]
        return [line.split(": ", 1)[1].split(" ", 1)[0] for line in lines]

    return logged


@pytest.fixture
def watch(segmenter: Segmenter) -> Callable[..., Watch]:
    def start(camera: CameraServer, url: str | None = None, **options: Any) -> Watch:
        options = {"reconnect": QUICK, **options}
        return Watch(cpsl_deploy.stream(url or camera.address(), segmenter, **options), camera)

    return start


@pytest.fixture
def camera(clips: dict[str, Clip], request: pytest.FixtureRequest) -> Iterator[CameraServer]:
    """Started; after the test, what the stream held must be gone."""
    kind = getattr(request, "param", "rtsp")
    with CameraServer(clips[kind], http=kind == "http") as server:
        before = held()
        yield server
        # The camera may be down or up by now: its own pipes do not count.
        after = held()
        assert [name for name in after.threads if name.startswith(("cpsl", "watch"))] == []
        assert after.readers == 0
        assert after.descriptors <= before.descriptors


of_both_kinds = pytest.mark.parametrize("camera", KINDS, indirect=True)


@of_both_kinds
def test_a_camera_that_is_killed_and_comes_back(camera: CameraServer, watch: Any, states: Any) -> None:
    with watch(camera) as watched:
        watched.wait_for_frames(8)
        camera.kill()
        watched.wait_for_state("reconnecting")
        time.sleep(0.3)  # tries that fail
        camera.start()
        back_s = time.monotonic()
        watched.wait_for_frames(8)
        assert watched.status["reconnects"] == 1
    assert watched.error is None
    assert_sound(watched.seen)
    assert watched.since(back_s)[0].at_s - back_s < 3
    assert states() == ["connected", "reconnecting", "resumed", "ended"]


@of_both_kinds
def test_a_camera_that_stops_in_the_middle(camera: CameraServer, watch: Any, states: Any) -> None:
    """Its connections stay open, so nothing but the watch on the time tells."""
    with watch(camera) as watched:
        watched.wait_for_frames(8)
        camera.pause()
        paused_s = time.monotonic()
        watched.wait_for_state("reconnecting")
        assert 0.4 < time.monotonic() - paused_s < 2, "stall_after_s is 0.6"
        time.sleep(0.3)
        camera.resume()
        watched.wait_for_frames(8)
    assert_sound(watched.seen)
    assert states() == ["connected", "stalled", "reconnecting", "resumed", "ended"]


@needs_rtsp
def test_a_camera_that_comes_back_with_another_size_and_codec(
    camera: CameraServer, clips: dict[str, Clip], watch: Any
) -> None:
    with watch(camera) as watched:
        watched.wait_for_frames(8)
        for name in ("wide", "jpeg"):
            camera.kill()
            watched.wait_for_state("reconnecting")
            changed_s = time.monotonic()
            camera.restart(clips[name])
            watched.wait_for_frames(8)
            after = watched.since(changed_s)
            assert {seen.size for seen in after} == {(clips[name].height, clips[name].width)}
    assert_sound(watched.seen)


@needs_rtsp
def test_a_size_that_changes_within_the_stream(
    camera: CameraServer, clips: dict[str, Clip], watch: Any
) -> None:
    with watch(camera) as watched:
        watched.wait_for_frames(8)
        camera.switch(clips["wide"])
        watched.wait(lambda: watched.seen[-1].size == (240, 448), 5, "frames of the new size")
        changed_s = time.monotonic()
        watched.wait_for_frames(8)
        assert watched.status["reconnects"] == 0
    assert_sound(watched.since(changed_s))


@needs_rtsp
def test_packets_lost_on_the_way_cost_frames_and_show_in_none(camera: CameraServer, watch: Any) -> None:
    camera.lose(0.05)
    patient = replace(QUICK, stall_after_s=3)
    with watch(camera, live=LiveOptions(rtsp_transport="udp"), reconnect=patient) as watched:
        watched.wait(lambda: watched.status["corrupt"] >= 10, 15, "damage")
        camera.lose(0)
        watched.wait_for_frames(25)
    assert_sound(watched.seen)
    assert watched.status["reconnects"] == 0


@needs_rtsp
def test_a_network_too_slow_for_the_camera_does_not_make_frames_old(camera: CameraServer, watch: Any) -> None:
    """What the network holds back grows older and older; frames of seconds ago are not passed off as new."""
    patience = replace(QUICK, max_late_s=1.5)
    with (
        Relay(camera.port) as relay,
        watch(camera, camera.address(relay.port), reconnect=patience) as watched,
    ):
        watched.wait_for_frames(8)
        relay.bytes_per_s = 0.4 * camera.clip.bytes_per_s
        slow_s = time.monotonic()
        time.sleep(4.5)
        slow = watched.since(slow_s)
        relay.bytes_per_s = None
        assert len(slow) > 20
        assert max(seen.true_age_ms for seen in slow) < 3500
        # Not told is what the first frames of a connection took already: here those of the fast network.
        first = [seen for seen in slow if seen.at_s < slow_s + 2]
        assert max(seen.age_ms for seen in first) > 500
        assert max(abs(seen.true_age_ms - seen.age_ms) for seen in first) < 400
        watched.wait(lambda: watched.seen[-1].true_age_ms < 200, 10, "fresh frames, there is room again")
    assert_sound(watched.seen)


@of_both_kinds
def test_a_connection_that_is_reset(camera: CameraServer, watch: Any, states: Any) -> None:
    with Relay(camera.port) as relay, watch(camera, camera.address(relay.port)) as watched:
        watched.wait_for_frames(8)
        relay.cut()
        watched.wait_for_state("resumed")
        watched.wait_for_frames(8)
    assert_sound(watched.seen)
    assert states() == ["connected", "reconnecting", "resumed", "ended"]


@of_both_kinds
def test_a_network_that_holds_everything_back(camera: CameraServer, watch: Any, states: Any) -> None:
    with Relay(camera.port) as relay, watch(camera, camera.address(relay.port)) as watched:
        watched.wait_for_frames(8)
        relay.stalled = True
        watched.wait_for_state("reconnecting")
        relay.stalled = False
        watched.wait_for_state("resumed")
        watched.wait_for_frames(8)
    assert_sound(watched.seen)
    assert states() == ["connected", "stalled", "reconnecting", "resumed", "ended"]


@of_both_kinds
def test_a_camera_that_never_comes_back(camera: CameraServer, watch: Any, states: Any) -> None:
    options = ReconnectOptions(initial_s=0.1, max_s=0.3, open_timeout_s=1.5, give_up_after_s=1.0)
    with watch(camera, reconnect=options) as watched:
        watched.wait_for_frames(8)
        camera.kill()
        killed_s = time.monotonic()
        watched.wait_for_end()
        assert 0.8 < time.monotonic() - killed_s < 4
    assert isinstance(watched.error, DataError)
    assert "within 1 s" in str(watched.error)
    assert states() == ["connected", "reconnecting", "failed"]


@needs_rtsp
def test_a_camera_lost_for_good_leaves_the_others_alone(
    camera: CameraServer, clips: dict[str, Clip], segmenter: Segmenter
) -> None:
    with CameraServer(clips["http"], http=True) as other:
        both = cpsl_deploy.stream([camera.address(), other.address()], segmenter, reconnect=QUICK)
        with Watch(both, camera, check_damage=False) as watched:
            watched.wait_for_frames(30)
            camera.kill()
            killed_s = time.monotonic()
            watched.wait_for_state("reconnecting")
            watched.wait_for_frames(30, seconds=4)
            gaps = [seen.at_s for seen in watched.since(killed_s)]
            assert max(after - before for before, after in pairwise(gaps)) < 0.5


@needs_rtsp
def test_a_wrong_password_is_an_error_without_it(clips: dict[str, Clip], watch: Any, caplog: Any) -> None:
    with CameraServer(clips["rtsp"], user="viewer", password="right-one") as camera:
        with watch(camera, camera.address(user="viewer", password="wr0ng-one")) as watched:
            watched.wait_for_end()
        assert isinstance(watched.error, DataError)
        assert "401" in str(watched.error) or "nauthorized" in str(watched.error)
        assert "wr0ng-one" not in str(watched.error) + repr(watched.error) + caplog.text


@needs_rtsp
def test_the_right_password_is_seen_nowhere(clips: dict[str, Clip], watch: Any, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    with CameraServer(clips["rtsp"], user="viewer", password="r1ght:one") as camera:
        with watch(camera, camera.address(user="viewer", password="r1ght%3Aone")) as watched:
            watched.wait_for_frames(5)
            (reader,) = reader_processes()
            told = Path(f"/proc/{reader}/cmdline").read_bytes() + Path(f"/proc/{reader}/environ").read_bytes()
            told += repr(watched.stream.health()).encode()
            camera.kill()
            watched.wait_for_state("reconnecting")
            told += repr(watched.stream.health()).encode()
        told += caplog.text.encode()
    assert b"r1ght" not in told


@needs_rtsp
def test_the_start_costs_what_is_lost_and_no_more(camera: CameraServer, watch: Any) -> None:
    """From asking to the first frame, and how old that one is."""
    asked_s = time.monotonic()
    with watch(camera) as watched:
        watched.wait_for_frames(25)
    first = watched.seen[0]
    assert first.at_s - asked_s < 5
    assert first.true_age_ms < 600
    assert lost_between(camera, watched.seen[0], watched.seen[-1]) < 60
