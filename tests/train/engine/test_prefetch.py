"""What is made ahead in threads: without OpenCV's own, which are given back afterwards."""

import threading

import cv2
import pytest

pytest.importorskip("torch")

from cpsl_deploy.train.engine.prefetch import AHEAD, InBackground, prefetched


@pytest.fixture(autouse=True)
def opencv_threads():
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    yield
    cv2.setNumThreads(before)


def test_opencv_has_one_thread_per_worker_and_then_what_it_had():
    seen = list(prefetched(lambda i: cv2.getNumThreads(), 0, 5, workers=2))
    assert seen == [1] * 5
    assert cv2.getNumThreads() == 2


def test_who_stops_early_or_fails_gives_opencv_its_threads_back():
    made = prefetched(lambda i: i, 0, 100, workers=1)
    assert next(made) == 0
    made.close()
    assert cv2.getNumThreads() == 2

    def fail(i: int) -> int:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        next(prefetched(fail, 0, 3, workers=1))
    assert cv2.getNumThreads() == 2


def test_workers_work_at_once():
    """Each waits for the other: one alone would never come to its end."""
    meeting = threading.Barrier(2)
    assert list(prefetched(lambda i: meeting.wait(timeout=10) >= 0, 0, 8, workers=2)) == [True] * 8


def test_no_more_is_made_ahead_than_said():
    made: list[int] = []
    waiting = prefetched(lambda i: made.append(i) or i, 0, 100, workers=3)
    for asked in range(1, 6):
        next(waiting)
        assert len(made) <= asked - 1 + 3 + AHEAD
    waiting.close()


def test_what_is_done_in_the_background_is_done_in_order_by_the_end():
    done: list[int] = []
    with InBackground() as background:
        for i in range(30):
            background.run(done.append, i)
    assert done == list(range(30))


def test_the_background_never_falls_far_behind():
    gate, done = threading.Event(), []
    given: list[int] = []

    def give(background: InBackground) -> None:
        for i in range(30):
            given.append(i)
            background.run(lambda i=i: gate.wait(10) and done.append(i))

    with InBackground() as background:
        giver = threading.Thread(target=give, args=(background,))
        giver.start()
        giver.join(timeout=0.2)
        assert giver.is_alive() and len(given) <= 2 * AHEAD + 1
        gate.set()
        giver.join()
    assert done == list(range(30))


def test_an_error_in_the_background_is_raised_at_the_end_at_the_latest():
    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), InBackground() as background:
        background.run(fail)


def test_an_error_of_the_block_is_the_one_that_is_raised():
    gate, done = threading.Event(), []
    with pytest.raises(KeyboardInterrupt), InBackground() as background:
        background.run(gate.wait, 10)
        background.run(done.append, 1)
        gate.set()
        raise KeyboardInterrupt
    assert done in ([], [1])
