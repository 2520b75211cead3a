"""Times of a stream that are wrong are not believed, and a decoder that is too slow leaves frames out."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cpsl_deploy.sources import network
from cpsl_deploy.sources.stream_clock import StreamClock


def test_times_count_from_the_first_frame() -> None:
    clock = StreamClock()
    assert [clock.since_first(5000 + step / 10, 70 + step / 10) for step in range(3)] == pytest.approx(
        [0, 0.1, 0.2]
    )


def test_a_burst_keeps_the_times_of_the_stream() -> None:
    clock = StreamClock()
    assert [clock.since_first(step / 10, 70.0) for step in range(3)] == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize("jump", [1e6, -1e6])
def test_a_jump_is_left_out(jump: float) -> None:
    clock = StreamClock()
    clock.since_first(100.0, 70.0)
    clock.since_first(101.0, 71.0)
    assert clock.since_first(102.0 + jump, 72.0) == pytest.approx(2)
    assert clock.since_first(103.0 + jump, 73.1) == pytest.approx(3)


def test_times_never_go_back() -> None:
    clock = StreamClock()
    times = [clock.since_first(stamp, 70.0 + place) for place, stamp in enumerate([0, 2, 1, 3])]
    assert times == sorted(times)


def test_the_times_of_a_file_have_nothing_to_do_with_their_arrival() -> None:
    clock = StreamClock(trust=True)
    clock.since_first(0.0, 70.0)
    assert clock.since_first(1000.0, 70.1) == 1000


class Wall:
    """Stands in for the clock, to be slow on."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    made = Wall()
    monkeypatch.setattr(network, "time", made)
    return made


def left_out(
    wall: Wall, packets: int, *, waits_s: float, decodes_s: float, key_every: int = 1, allowed: bool = True
) -> list[bool]:
    """What is left out of so many packets, each waited for and then decoded for so long."""
    catch_up = network._CatchUp(lambda: allowed)
    told = []
    for place in range(packets):
        asked_s = wall.now
        wall.now += waits_s
        told.append(catch_up.leave_out(asked_s, SimpleNamespace(is_keyframe=place % key_every == 0)))
        wall.now += 0 if told[-1] else decodes_s
    return told


def test_nothing_is_left_out_while_the_decoder_waits_for_the_stream(wall: Wall) -> None:
    assert not any(left_out(wall, 1000, waits_s=0.01, decodes_s=0.03))


def test_a_short_burst_is_decoded_whole(wall: Wall) -> None:
    assert not any(left_out(wall, 50, waits_s=0, decodes_s=0.03))


def test_a_stream_that_is_too_fast_is_thinned(wall: Wall) -> None:
    told = left_out(wall, 2000, waits_s=0.0005, decodes_s=0.05, key_every=10)
    late = told[100:]
    assert not any(told[:39]) and 0.9 < sum(late) / len(late) < 1
    # Only frames that stand for themselves are decoded.
    assert all(place % 10 == 0 for place, left in enumerate(told) if not left and place >= 100)


def test_nothing_is_left_out_where_every_frame_is_wanted(wall: Wall) -> None:
    assert not any(left_out(wall, 500, waits_s=0, decodes_s=0.05, allowed=False))
