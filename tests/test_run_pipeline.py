"""The threads around inference: order, bounds, exceptions, and that none is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator

import pytest

from cpsl_deploy.pipeline import Prefetch, Sink


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("cpsl-")] == []


class Counter:
    """A generator of 0, 1, ... that says how far it was asked and whether it was closed."""

    def __init__(self, length: int, fail_at: int | None = None) -> None:
        self.made, self.closed, self.length, self.fail_at = 0, False, length, fail_at

    def items(self) -> Generator[int, None, None]:
        try:
            for i in range(self.length):
                if i == self.fail_at:
                    raise ValueError(f"item {i}")
                self.made += 1
                yield i
        finally:
            self.closed = True


def test_prefetch_keeps_the_order() -> None:
    counter = Counter(100)
    with Prefetch(counter.items(), depth=3) as items:
        assert list(items) == list(range(100))
    assert counter.closed


def test_prefetch_reads_no_further_ahead_than_its_depth() -> None:
    counter = Counter(100)
    with Prefetch(counter.items(), depth=3) as items:
        assert next(iter(items)) == 0
        time.sleep(0.2)
        assert counter.made <= 1 + 3 + 1  # taken, queued, in hand
    assert counter.closed


def test_prefetch_raises_after_the_items_before() -> None:
    seen = []
    with pytest.raises(ValueError, match="item 5"), Prefetch(Counter(9, fail_at=5).items()) as items:
        for item in items:
            seen.append(item)
    assert seen == list(range(5))


def test_prefetch_left_early_by_an_error() -> None:
    counter = Counter(1000)
    with pytest.raises(RuntimeError, match="consumer"), Prefetch(counter.items(), depth=2) as items:
        for _ in items:
            raise RuntimeError("consumer")
    assert counter.closed and counter.made < 10


def test_sink_consumes_everything_in_order() -> None:
    seen: list[int] = []
    with Sink(seen.append, depth=2) as sink:
        for i in range(50):
            sink.put(i)
    assert seen == list(range(50))


def test_sink_holds_back_the_producer() -> None:
    release = threading.Event()
    done = []

    def slow(item: int) -> None:
        release.wait(5)
        done.append(item)

    with Sink(slow, depth=2) as sink:
        put = threading.Thread(target=lambda: [sink.put(i) for i in range(10)])
        put.start()
        time.sleep(0.1)
        assert put.is_alive() and done == []
        release.set()
        put.join()
    assert done == list(range(10))


def fail(item: int) -> None:
    raise ValueError(f"cannot write {item}")


def test_sink_raises_at_the_next_put() -> None:
    with pytest.raises(ValueError, match="cannot write 0"), Sink(fail, depth=1) as sink:
        for i in range(1000):
            sink.put(i)
            time.sleep(0.001)
        raise AssertionError("put never raised")


def test_sink_raises_on_leaving() -> None:
    with pytest.raises(ValueError, match="cannot write 0"), Sink(fail) as sink:
        sink.put(0)


def test_sink_drops_what_is_queued_after_an_error_of_the_block() -> None:
    seen: list[int] = []

    def slow(item: int) -> None:
        time.sleep(0.05)
        seen.append(item)

    with pytest.raises(RuntimeError, match="block"), Sink(slow, depth=8) as sink:
        for i in range(8):
            sink.put(i)
        raise RuntimeError("block")
    assert len(seen) < 8
