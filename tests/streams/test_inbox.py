"""The two policies, frame by frame."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from cpsl_deploy.streams.inbox import Inbox, Pending


class Held:
    """Numbers as pending frames; remembers which were let go of."""

    def __init__(self) -> None:
        self.dropped: list[int] = []

    def pending(self, number: int) -> Pending:
        give: Callable = lambda: number  # noqa: E731
        return Pending(give, lambda: self.dropped.append(number))


def test_lossless_keeps_order_and_waits_for_room() -> None:
    held, inbox = Held(), Inbox("lossless", depth=2)
    assert inbox.put(held.pending(0)) and inbox.put(held.pending(1))
    third = threading.Thread(target=inbox.put, args=(held.pending(2),))
    third.start()
    third.join(0.1)
    assert third.is_alive(), "there is no room for a third frame"
    assert inbox.take() == 0
    third.join(5)
    assert not third.is_alive()
    assert [inbox.take(), inbox.take(), inbox.take()] == [1, 2, None]
    assert held.dropped == []


def test_latest_gives_the_newest_and_counts_the_others() -> None:
    counted: list[int] = []
    held = Held()
    inbox = Inbox("latest", on_drop=lambda: counted.append(1))
    for number in range(5):
        assert inbox.put(held.pending(number))
    assert inbox.take() == 4
    assert inbox.take() is None, "a frame is given once"
    assert held.dropped == [0, 1, 2, 3] and len(counted) == 4


@pytest.mark.parametrize("policy", ["lossless", "latest"])
def test_every_third_frame_is_let_in(policy) -> None:
    skipped: list[int] = []
    held = Held()
    inbox = Inbox(policy, every=3, depth=10, on_skip=lambda: skipped.append(1))
    taken = []
    for number in range(8):
        inbox.put(held.pending(number))
        if (frame := inbox.take()) is not None:
            taken.append(frame)
    assert taken == [0, 3, 6] and len(skipped) == 5 and held.dropped == [1, 2, 4, 5, 7]


def test_what_waits_at_the_end_can_still_be_taken() -> None:
    held, inbox = Held(), Inbox("lossless")
    inbox.put(held.pending(0))
    inbox.end()
    assert not inbox.exhausted
    assert inbox.take() == 0 and inbox.exhausted
    assert not inbox.put(held.pending(1)) and held.dropped == [1]


def test_closing_lets_go_of_what_waits_and_wakes_the_source() -> None:
    held, inbox = Held(), Inbox("lossless", depth=1)
    inbox.put(held.pending(0))
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(inbox.put(held.pending(1))))
    waiting.start()
    inbox.close()
    waiting.join(5)
    assert answers == [False] and sorted(held.dropped) == [0, 1]


def test_the_first_error_is_kept() -> None:
    inbox, first = Inbox("latest"), ValueError("first")
    inbox.end(first)
    inbox.end(ValueError("second"))
    assert inbox.error is first
