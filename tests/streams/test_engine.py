"""What is delivered, in which order, how old, and that nothing stays behind."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from live_feeds import SIZE, CountingFeed, StandInBackend, stand_in, threads_now, values

from cpsl_deploy.errors import DataError, InputError
from cpsl_deploy.segmenter import Segmenter
from cpsl_deploy.streams.engine import Engine
from cpsl_deploy.streams.options import StreamOptions
from cpsl_deploy.streams.status import SourceStatus
from cpsl_deploy.streams.view import View


def run(feeds, segmenter=None, **options) -> list:
    engine = Engine(feeds, View(segmenter or stand_in()), StreamOptions(**options))
    try:
        engine.open()
        engine.start()
        return list(engine.results())
    finally:
        engine.close()


def test_lossless_delivers_every_frame_in_order() -> None:
    feed = CountingFeed(count=60)
    results = run([feed], stand_in(0.001))
    assert values(results) == list(range(60))
    assert [r.index for r in results] == list(range(60))
    for result in results:
        assert (result.labels == result.image[..., 0] % 4).all(), "the labels are those of this frame"
    assert feed.status.counters.delivered == 60 and feed.status.counters.dropped == 0


def test_frames_are_segmented_at_the_size_of_the_model_and_labels_come_back() -> None:
    (result,) = run([CountingFeed(count=1, size=(48, 80))])
    assert result.labels.shape == (48, 80)


def test_latest_keeps_the_age_under_twice_an_inference() -> None:
    """The model takes four times as long as the source needs for a frame."""
    inference_s = 0.1
    feed = CountingFeed(count=160, period_s=inference_s / 4, live=True)
    results = run([feed], stand_in(inference_s))
    ages = sorted(r.age_ms for r in results)
    assert ages[int(0.99 * len(ages))] < 2 * 1e3 * inference_s
    given = values(results)
    assert given == sorted(set(given)), "no frame twice, none out of order"
    counters = feed.status.counters
    assert counters.dropped + counters.delivered == counters.received == 160
    assert counters.dropped > 80


def test_latest_without_load_drops_next_to_nothing() -> None:
    feed = CountingFeed(count=40, period_s=0.02, live=True)
    assert len(run([feed])) >= 36


def test_sources_take_turns() -> None:
    """A fast source does not starve a slow one."""
    feeds = [
        CountingFeed("fast", count=1000, live=True, period_s=0.001),
        CountingFeed("slow", count=1000, live=True, period_s=0.03),
    ]
    results = run(feeds, stand_in(0.01), max_seconds=1.5)
    slow = sum(r.source == "slow" for r in results)
    assert slow >= 0.7 * 1.5 / 0.03
    assert len(results) - slow > slow


def test_sources_of_a_lossless_stream_share_fairly_and_completely() -> None:
    feeds = [CountingFeed("a", count=30), CountingFeed("b", count=30)]
    results = run(feeds, stand_in(0.002))
    for name in "ab":
        assert values([r for r in results if r.source == name]) == list(range(30))
    first = [r.source for r in results[:30]]
    assert 10 <= first.count("a") <= 20


@pytest.mark.parametrize("per_frame", [True, False])
def test_batches_are_made_only_where_they_pay(per_frame: bool) -> None:
    segmenter = stand_in(0.01, batch=None, per_frame=per_frame)
    feeds = [CountingFeed(name, count=12) for name in "abc"]
    results = run(feeds, segmenter)
    assert len(results) == 36
    backend = segmenter.backend
    assert isinstance(backend, StandInBackend)
    measured = 8
    assert (max(backend.batches[measured:]) > 1) is not per_frame


def test_a_file_with_a_fixed_batch_is_filled_up() -> None:
    segmenter = stand_in(batch=4)
    assert values(run([CountingFeed(count=6)], segmenter)) == list(range(6))
    assert set(segmenter.backend.batches) == {4}  # type: ignore[attr-defined]


def test_frames_of_two_sizes_are_not_put_into_one_batch() -> None:
    feeds = [CountingFeed("a", count=5, size=SIZE), CountingFeed("b", count=5, size=(SIZE[1], SIZE[0]))]
    results = run(feeds, stand_in(batch=None), batch=2)
    assert sorted(values(results)) == sorted([*range(5), *range(5)])


def test_it_ends_after_so_many_frames_or_seconds() -> None:
    before = threads_now()
    assert len(run([CountingFeed(count=1000)], max_frames=7)) == 7
    started = time.monotonic()
    run([CountingFeed(count=1000, period_s=0.01, live=True)], max_seconds=0.3)
    assert 0.25 < time.monotonic() - started < 5
    assert threads_now() == before


def test_a_silent_source_does_not_hold_the_time_limit_back() -> None:
    assert run([CountingFeed(count=2, period_s=600, live=True)], max_seconds=0.3)


def test_the_error_of_a_source_comes_after_its_frames() -> None:
    feed = CountingFeed(count=5, error=DataError("the cable is cut"))
    engine = Engine([feed], View(stand_in()), StreamOptions())
    engine.open()
    engine.start()
    taken = []
    with pytest.raises(DataError, match="cable"):
        for result in engine.results():
            taken.append(result)
    engine.close()
    assert len(taken) == 5


def test_the_error_of_the_model_ends_the_stream_and_its_threads() -> None:
    before = threads_now()
    segmenter = stand_in()

    def broken(frames: np.ndarray) -> dict:
        raise InputError("no")

    segmenter.backend.infer_impl = broken  # type: ignore[method-assign]
    with pytest.raises(InputError, match="no"):
        run([CountingFeed(count=1000)], segmenter)
    assert threads_now() == before


class Picky(View):
    """Refuses every third frame."""

    def prepare(self, image, buffers):
        if image[0, 0, 0] % 3 == 0:
            raise DataError("I do not like it")
        return super().prepare(image, buffers)


def test_a_frame_that_cannot_be_looked_at_is_counted_and_skipped() -> None:
    feed = CountingFeed(count=9)
    engine = Engine([feed], Picky(stand_in()), StreamOptions())
    engine.open()
    engine.start()
    assert values(list(engine.results())) == [1, 2, 4, 5, 7, 8]
    engine.close()
    assert feed.status.counters.corrupt == 3


def test_a_skipped_frame_does_not_take_the_buffer_of_another() -> None:
    """Frames are resized into buffers; those queued and those with the model keep theirs."""

    class SlowAndExact(StandInBackend):
        def infer_impl(self, frames: np.ndarray) -> dict[str, np.ndarray]:
            time.sleep(0.004)  # the next ones are prepared meanwhile
            return super().infer_impl(frames)

    segmenter = Segmenter(SlowAndExact(batch=4), "slow")
    engine = Engine([CountingFeed(count=120, size=(48, 80))], Picky(segmenter), StreamOptions())
    engine.open()
    engine.start()
    results = list(engine.results())
    engine.close()
    assert values(results) == [value for value in range(120) if value % 3]
    for result in results:
        assert (result.labels == result.image[..., 0] % 4).all()


def test_a_slow_caller_gets_frames_no_older_than_it_is_slow() -> None:
    caller_s = 0.06
    feed = CountingFeed(count=10**6, period_s=0.005, live=True)
    engine = Engine([feed], View(stand_in(0.02)), StreamOptions(max_frames=15))
    engine.open()
    engine.start()
    ages = []
    for result in engine.results():
        ages.append(result.age_ms)
        time.sleep(caller_s)
    engine.close()
    assert max(ages) < 1e3 * 2.5 * caller_s, "one result waits, and not a queue of them"


def test_time_is_up_even_if_results_wait() -> None:
    engine = Engine([CountingFeed(count=10**6)], View(stand_in()), StreamOptions(max_seconds=0.3))
    engine.open()
    engine.start()
    started = time.monotonic()
    for _ in engine.results():
        time.sleep(0.02)
    engine.close()
    assert time.monotonic() - started < 3
    assert "max_seconds" in engine.ended_by


def test_stop_before_the_start_is_not_forgotten() -> None:
    before = threads_now()
    engine = Engine([CountingFeed(count=10**6)], View(stand_in()), StreamOptions())
    engine.stop()
    engine.open()
    engine.start()
    assert list(engine.results()) == []
    engine.close()
    assert threads_now() == before


class SlowToOpen(CountingFeed):
    """As a camera that does not answer, until it is closed."""

    closed = threading.Event()

    def open(self) -> None:
        self.closed.wait(20)
        raise DataError("it did not answer")

    def close(self) -> None:
        self.closed.set()
        super().close()


def test_stop_while_a_camera_does_not_answer_ends_the_waiting() -> None:
    engine = Engine([SlowToOpen()], View(stand_in()), StreamOptions())
    threading.Timer(0.2, engine.stop).start()
    started = time.monotonic()
    engine.open()
    engine.start()
    assert list(engine.results()) == []
    engine.close()
    assert time.monotonic() - started < 10


def test_percentiles_of_ages_are_told_apart() -> None:
    status = SourceStatus("camera")
    for age_ms in range(1, 1001):
        status.deliver(float(age_ms))
    for percent, expected in ((50, 500), (90, 900), (99, 990), (100, 1000)):
        found = status.age_percentile_ms(percent)
        assert found is not None and expected <= found < 1.07 * expected


def test_leaving_early_leaves_no_thread_behind() -> None:
    before = threads_now()
    for live in (False, True):
        engine = Engine([CountingFeed(count=1000, live=live)], View(stand_in(0.001)), StreamOptions())
        engine.open()
        engine.start()
        results = engine.results()
        next(results)
        engine.close()
    assert threads_now() == before


def test_stop_from_another_thread_ends_the_loop() -> None:
    engine = Engine([CountingFeed(count=10**6, live=True, period_s=0.005)], View(stand_in()), StreamOptions())
    engine.open()
    engine.start()
    threading.Timer(0.2, engine.stop).start()
    assert list(engine.results())
    engine.close()


def test_decoding_preparing_and_inference_overlap() -> None:
    """Three stages of 10 ms each would take 30 ms a frame one after the other."""

    class SlowPrepare(View):
        def prepare(self, image, buffers):
            time.sleep(0.01)
            return super().prepare(image, buffers)

    feed = CountingFeed(count=50, period_s=0.01)
    engine = Engine([feed], SlowPrepare(stand_in(0.01)), StreamOptions())
    engine.open()
    engine.start()
    started = time.monotonic()
    for _ in engine.results():
        time.sleep(0.01)
    took = time.monotonic() - started
    engine.close()
    assert took < 50 * 0.025


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"policy": "newest"}, "lossless or latest"),
        ({"every": 0}, "1 or more"),
        ({"batch": 0}, "1 frame or more"),
        ({"max_frames": 0}, "max_frames"),
        ({"max_seconds": 0}, "max_seconds"),
    ],
)
def test_options_have_rules(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        StreamOptions(**options)
