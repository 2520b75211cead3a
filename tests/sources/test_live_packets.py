"""The last packet of a stream is known as such, and a reader that hangs holds nothing up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from cpsl_deploy.sources.packet_loss import PacketLoss
from cpsl_deploy.sources.packets import Packets


def packet(name: str, size: int = 1) -> SimpleNamespace:
    return SimpleNamespace(name=name, size=size)


def test_the_last_packet_is_known_as_the_last() -> None:
    packets = Packets(iter([packet("a"), packet("b"), packet("c"), packet("end", 0), packet("after")]))
    told = []
    while (given := packets.next()) is not None:
        told.append((given.name, packets.was_last()))
    assert told == [("a", False), ("b", False), ("c", True)]
    assert packets.next() is None


def test_a_packet_with_none_behind_it_is_not_held_back() -> None:
    go_on = threading.Event()

    def reading() -> Iterator[SimpleNamespace]:
        yield packet("a")
        go_on.wait(10)
        yield packet("b")

    packets = Packets(reading())
    assert packets.next().name == "a"
    asked_s = time.monotonic()
    assert not packets.was_last()
    assert time.monotonic() - asked_s < 0.1
    assert packets.reading
    go_on.set()
    assert packets.next().name == "b"
    assert packets.next() is None


def test_what_reading_raises_comes_after_the_packets() -> None:
    def reading() -> Iterator[SimpleNamespace]:
        yield packet("a")
        raise OSError("cut")

    packets = Packets(reading())
    assert packets.next().name == "a"
    with pytest.raises(OSError, match="cut"):
        packets.next()


def test_it_reads_ahead_so_far_and_no_further() -> None:
    read = []

    def reading() -> Iterator[SimpleNamespace]:
        for at in range(200):
            read.append(at)
            yield packet(str(at))

    packets = Packets(reading())
    time.sleep(0.05)
    assert len(read) < 70
    given = []
    while (following := packets.next()) is not None:
        given.append(following.name)
    assert given == [str(at) for at in range(200)]


def test_what_is_read_around_a_loss_is_incomplete() -> None:
    """FFmpeg gives a picture when the next one begins: the loss may be of this one or of the next."""
    loss = PacketLoss()

    def reading() -> Iterator[SimpleNamespace]:
        for at in range(8):
            if at == 3:
                loss.handle(
                    logging.makeLogRecord({"msg": "RTP: missed 2 packets", "levelno": logging.WARNING})
                )
            loss.handle(logging.makeLogRecord({"msg": "max delay reached", "levelno": logging.WARNING}))
            yield packet(str(at))

    packets = Packets(reading(), loss)
    incomplete = []
    while (given := packets.next()) is not None:
        if packets.incomplete:
            incomplete.append(given.name)
    assert incomplete == ["3", "4"]
