"""cpsl_deploy.stream: what a person would guess, and nothing left behind."""

from __future__ import annotations

import dataclasses
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from live_feeds import CountingFeed, stand_in, threads_now, values

import cpsl_deploy
from cpsl_deploy import DataError, InputError, OutputError, StreamResult, UnavailableError
from cpsl_deploy.sinks.base import Sink
from cpsl_deploy.sinks.callback import CallbackSink
from cpsl_deploy.streams.options import StreamOptions
from cpsl_deploy.streams.stream import Stream

tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)
pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    before, files = threads_now(), len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    yield
    assert threads_now() == before
    assert psutil.Process().children() == []
    if files:
        assert len(os.listdir("/proc/self/fd")) <= files + 1  # the listing's own


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        picture = np.roll(tiny_onnx.street(), 9 * number, axis=1)[..., ::-1]
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    return folder


def test_results_in_a_with_block(tiny_model: Path, photos: Path) -> None:
    with cpsl_deploy.stream(photos, tiny_model, threads=1) as results:
        seen = list(results)
        health = results.health()
    assert [r.frame.name for r in seen] == ["0", "1", "2", "3"]
    for result in seen:
        expected = tiny_onnx.nearest_colour(result.image[..., ::-1])
        np.testing.assert_array_equal(result.labels, expected)
        assert result.age_ms >= result.latency_ms > 0
        assert result.overlay().shape == result.image.shape
    assert health["sources"][0]["state"] == "ended" and health["sources"][0]["delivered"] == 4


def test_leaving_a_plain_loop_ends_everything(tiny_model: Path, photos: Path) -> None:
    for result in cpsl_deploy.stream(str(photos), tiny_model, threads=1):
        assert result.index == 0
        break


def test_never_iterated_nothing_happens(tiny_model: Path, photos: Path) -> None:
    stream = cpsl_deploy.stream(photos, tiny_model, threads=1)
    assert stream.health()["sources"][0]["state"] == "connecting"
    stream.close()
    stream.close()
    assert list(stream) == []
    with pytest.raises(InputError, match="closed"):
        stream.start()


def test_in_a_thread_and_stopped_from_another(tiny_model: Path) -> None:
    feed = CountingFeed(count=10**6, live=True, period_s=0.002)
    stream = Stream([feed], stand_in())
    taken: list[int] = []
    enough = threading.Event()

    def work() -> None:
        for result in stream:
            taken.append(result.index)
            if len(taken) == 5:
                enough.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert enough.wait(10)
    stream.stop()
    thread.join(10)
    assert not thread.is_alive() and taken == sorted(set(taken))


def test_the_segmenter_that_was_given_stays_open(tiny_model: Path, photos: Path) -> None:
    with cpsl_deploy.load(tiny_model, threads=1) as segmenter:
        assert len(list(cpsl_deploy.stream(photos, segmenter))) == 4
        assert len(list(cpsl_deploy.stream([photos, photos], segmenter))) == 8


def test_two_sources_of_one_name_are_told_apart(tiny_model: Path, photos: Path) -> None:
    results = list(cpsl_deploy.stream([photos, photos], tiny_model, threads=1))
    assert sorted({r.source for r in results}) == ["photos", "photos-2"]


def test_a_region_is_segmented_alone(tiny_model: Path, photos: Path) -> None:
    (result,) = cpsl_deploy.stream(photos / "0.png", tiny_model, threads=1, roi="40,16,80,64")
    outside = np.ones(result.labels.shape, bool)
    outside[16:80, 40:120] = False
    assert (result.labels[outside] == cpsl_deploy.IGNORE).all()
    expected = tiny_onnx.nearest_colour(result.image[16:80, 40:120, ::-1])
    assert (result.labels[16:80, 40:120] == expected).mean() > 0.9  # it is shown larger


def test_a_region_that_does_not_fit_a_frame_is_counted(tiny_model: Path, photos: Path) -> None:
    cv2.imwrite(str(photos / "0.png"), np.zeros((40, 40, 3), np.uint8))
    with cpsl_deploy.stream(photos, tiny_model, threads=1, roi="40,16,80,64") as results:
        assert [r.frame.name for r in results] == ["1", "2", "3"]
        assert results.unreadable == 1 and "region" in results.problems[0]


def test_majority_smoothing_takes_a_flicker_out() -> None:
    """Every third frame the model says something else of a picture that hardly changes."""

    class Flicker(CountingFeed):
        def _frame(self, index: int, now: float):
            frame = super()._frame(index, now)
            textured = tiny_onnx.street()[..., ::-1].copy()
            textured[..., 0] = np.where(index % 3, 100, 101)  # the stand-in's labels are this modulo 4
            return dataclasses.replace(frame, image=textured)

    def labels(**options: object) -> list[int]:
        stream = Stream([Flicker(count=12)], stand_in(), StreamOptions(**options))  # type: ignore[arg-type]
        return [int(np.bincount(r.labels.ravel()).argmax()) for r in stream]

    assert labels() == [1, 0, 0] * 4
    assert labels(smooth="majority:3")[2:] == [0] * 10


def test_photos_are_not_smoothed_over_time(tiny_model: Path, photos: Path) -> None:
    with pytest.raises(InputError, match="photos is images"):
        cpsl_deploy.stream(photos, tiny_model, smooth="majority:3")


def test_tiles_need_logits(tiny_model: Path, photos: Path) -> None:
    with pytest.raises(UnavailableError, match="--outputs logits"):
        cpsl_deploy.stream(photos, tiny_model, threads=1, tile="0.25")


def test_sinks_get_every_result_in_order() -> None:
    seen: list[int] = []
    with Stream(
        [CountingFeed(count=25)], stand_in(), sinks=[CallbackSink(lambda r: seen.append(r.index))]
    ) as stream:
        assert len(list(stream)) == 25
    assert seen == list(range(25))


def test_an_exception_of_a_callback_ends_the_stream() -> None:
    def function(result: object) -> None:
        raise ZeroDivisionError("mine")

    stream = Stream([CountingFeed(count=1000)], stand_in(), sinks=[CallbackSink(function)])
    with pytest.raises(ZeroDivisionError, match="mine"):
        list(stream)


def test_a_slow_sink_of_a_live_stream_gets_no_old_frames() -> None:
    sink_s, ages = 0.05, []

    def slow(result: StreamResult) -> None:
        ages.append(time.monotonic() - result.frame.captured_s)
        time.sleep(sink_s)

    feed = CountingFeed(count=10**6, live=True, period_s=0.005)
    with Stream([feed], stand_in(0.01), StreamOptions(max_frames=20), sinks=[CallbackSink(slow)]) as stream:
        list(stream)
    assert max(ages) < 6 * sink_s, "one result waits before the sink, one before the caller"


def test_a_stream_is_iterated_once() -> None:
    with Stream([CountingFeed(count=3)], stand_in()) as stream:
        assert len(list(stream)) == 3
        with pytest.raises(InputError, match="once"):
            list(stream)


def test_a_stream_that_was_forgotten_ends_itself_and_says_so() -> None:
    stream = Stream([CountingFeed(count=10**6, live=True, period_s=0.01)], stand_in())
    stream.start()
    with pytest.warns(ResourceWarning, match="never closed"):
        del stream
        gc.collect()


class FullDisk(Sink):
    name = "full"

    def write(self, result: object) -> None:
        raise OutputError("the disk is full")

    def close(self) -> None:
        pass


def test_a_full_disk_ends_a_lossless_stream() -> None:
    with pytest.raises(OutputError, match="full"):
        list(Stream([CountingFeed(count=1000)], stand_in(), sinks=[FullDisk()]))


def test_a_full_disk_does_not_end_a_live_stream() -> None:
    seen: list[int] = []
    sinks = [FullDisk(), CallbackSink(lambda r: seen.append(r.index))]
    with Stream([CountingFeed(count=30, live=True, period_s=0.005)], stand_in(), sinks=sinks) as stream:
        delivered = [r.index for r in stream]
        (full, callback) = stream.health()["sinks"]
    assert seen == delivered
    assert full["state"] == "failed" and "full" in full["reason"] and full["lost"] > 0
    assert callback["state"] == "ok"


class Unusable(FullDisk):
    def check(self) -> None:
        raise UnavailableError("no such codec")


def test_a_bad_configuration_starts_nothing(tiny_model: Path, photos: Path) -> None:
    feed = CountingFeed(count=3)
    with pytest.raises(UnavailableError, match="codec"):
        list(Stream([feed], stand_in(), sinks=[Unusable()]))
    assert feed.put == 0
    for options, words in (
        ({"polizy": "latest"}, "polizy"),
        ({"policy": "newest"}, "lossless or latest"),
        ({"roi": "1,2,3"}, "region"),
        ({"smooth": "median:3"}, "majority"),
        ({"roi": 3}, "Region"),
    ):
        with pytest.raises(InputError, match=words):
            cpsl_deploy.stream(photos, tiny_model, **options)
    with pytest.raises(DataError):
        cpsl_deploy.stream("nowhere/at/all", tiny_model)
    with pytest.raises(InputError, match="one source or more"):
        cpsl_deploy.stream([], tiny_model)
    with pytest.raises(InputError, match="once"):
        cpsl_deploy.stream(["-", "-"], tiny_model)


def test_a_source_that_fails_leaves_the_others_their_frames() -> None:
    feeds = [CountingFeed("a", count=3, error=DataError("gone")), CountingFeed("b", count=20)]
    taken = []
    with pytest.raises(DataError, match="gone"), Stream(feeds, stand_in(0.002)) as stream:
        for result in stream:
            taken.append(result)
    assert len([r for r in taken if r.source == "b"]) == 20 and values(taken).count(0) == 2


def test_importing_it_brings_neither_torch_nor_the_web() -> None:
    code = (
        "import sys, cpsl_deploy; cpsl_deploy.stream; "
        "print([m for m in ('torch', 'aiohttp', 'matplotlib', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_options_are_told_apart_from_texts() -> None:
    options = StreamOptions(roi="0.1,0.2,0.5,0.5", smooth="majority:5", tile="0.25")
    assert [type(v).__name__ for v in (options.roi, options.smooth, options.tile)] == [
        "Region",
        "MajoritySmoothing",
        "Tiling",
    ]
