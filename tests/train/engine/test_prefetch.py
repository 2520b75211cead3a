"""What is made ahead in threads: without OpenCV's own, which are given back afterwards."""

import threading

import cv2
import pytest

pytest.importorskip("torch")

from cpsl_deploy.train.engine.prefetch import AHEAD, prefetched


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
