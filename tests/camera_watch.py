"""Watches the stream of a camera of the rig: what came, how old it really was, and what was lost of it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from camera_clip import read_place
from rtsp_rig import CameraServer, wait_until

DAMAGED = 6.0
"""Of 255, mean over 8x8 pixels: decoders' rounding stays far below, a packet lost far above."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A result of the stream."""

    at_s: float
    """`time.monotonic` when it was had."""
    place: int | None
    """In the clip; None if the picture does not tell."""
    index: int
    time_s: float | None
    size: tuple[int, int]
    """(height, width)."""
    age_ms: float
    """As the stream says."""
    true_age_ms: float | None
    """Since the camera sent the picture."""
    damage: float
    """`Clip.damage`."""

    @property
    def sent_s(self) -> float | None:
        """When the camera sent it."""
        return None if self.true_age_ms is None else self.at_s - self.true_age_ms / 1e3


class Judge:
    """Compares results with what their camera sent, and knows when it sent them.

    A clip is short and comes again: of the times at which a picture was sent, that one counts which makes its
    age go on from that of the frame just before; after a gap, the newest.
    """

    def __init__(self, camera: CameraServer, *, check_damage: bool = True) -> None:
        self.camera = camera
        self._check_damage = check_damage
        self._at_s = self._age_ms = 0.0

    def see(self, result: Any) -> Seen:
        now = time.monotonic()
        place = read_place(result.image)
        size = result.image.shape[:2]
        clip = self.camera.clip_of_size(size)
        damage = 255.0
        if clip is not None and place is not None and place < clip.count:
            damage = clip.damage(result.image, place) if self._check_damage else 0.0
        return Seen(
            at_s=now,
            place=place,
            index=result.index,
            time_s=result.time_s,
            size=size,
            age_ms=result.age_ms,
            true_age_ms=None if place is None else self._age_of(place, size, now),
            damage=damage,
        )

    def _age_of(self, place: int, size: tuple[int, int], now: float) -> float | None:
        sent = [one for one in list(self.camera.sent) if one.place == place and one.size == size]
        ages = [1e3 * (now - one.at_s) for one in sent]
        since_ms = 1e3 * (now - self._at_s)
        expected = self._age_ms if since_ms < 3000 else 0.0
        age = min((age for age in ages if age >= 0), key=lambda age: abs(age - expected), default=None)
        # Nothing grows older faster than time goes by: what was sent just now is not told of yet, and this is
        # the round of the clip before.
        if age is None or (since_ms < 3000 and age > self._age_ms + since_ms + 200):
            return None
        self._at_s, self._age_ms = now, age
        return age


class Watch:
    """Iterates a stream in a thread. A context manager; leaving it ends the stream."""

    def __init__(self, stream: Any, camera: CameraServer, *, check_damage: bool = True) -> None:
        self.stream, self.camera = stream, camera
        self.seen: list[Seen] = []
        self.error: BaseException | None = None
        self._judge = Judge(camera, check_damage=check_damage)
        self._thread = threading.Thread(target=self._run, name="watch")

    def _run(self) -> None:
        try:
            with self.stream as results:
                for result in results:
                    self.seen.append(self._judge.see(result))
        except BaseException as error:
            self.error = error

    @property
    def status(self) -> dict[str, Any]:
        return self.stream.health()["sources"][0]

    def since(self, moment: float) -> list[Seen]:
        """What came after this moment, of `time.monotonic`."""
        return [seen for seen in self.seen if seen.at_s > moment]

    def wait_for_frames(self, count: int, seconds: float = 15.0) -> None:
        """That many more than now."""
        goal = len(self.seen) + count
        self.wait(lambda: len(self.seen) >= goal, seconds, f"{count} frames more, after {len(self.seen)}")

    def wait_for_state(self, state: str, seconds: float = 15.0) -> None:
        self.wait(lambda: self.status["state"] == state, seconds, f"{state}; it is {self.status}")

    def wait(self, true: Callable[[], object], seconds: float, what: str) -> None:
        def reached() -> object:
            met = true()
            if not met and not self._thread.is_alive():
                raise AssertionError(f"the stream ended ({self.error!r}) before: {what}")
            return met

        wait_until(reached, seconds, what)

    def wait_for_end(self, seconds: float = 15.0) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"the stream still runs: {self.status}"

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.stop()
        self.wait_for_end(30)


@dataclass(frozen=True, kw_only=True)
class Held:
    """What this process holds; child processes and their own are left out unless they are the reader's."""

    threads: tuple[str, ...]
    descriptors: int
    readers: int


def held() -> Held:
    """Threads by name, open descriptors, and reader processes below this one."""
    return Held(
        threads=tuple(sorted(thread.name for thread in threading.enumerate())),
        descriptors=len(os.listdir("/proc/self/fd")),
        readers=len(reader_processes()),
    )


def reader_processes() -> list[int]:
    """Ids of the processes that decode for this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if parent == os.getpid() and b"cpsl_deploy.sources.reader" in command:
            found.append(int(entry.name))
    return found


def lost_between(camera: CameraServer, first: Seen, last: Seen) -> int:
    """Pictures that the camera sent between these two, or would have sent had it not been away."""
    assert first.sent_s is not None and last.sent_s is not None
    return max(0, round((last.sent_s - first.sent_s) * camera.clip.fps) - 1)


def assert_sound(seen: list[Seen]) -> None:
    """Every frame as it was sent, none twice, none out of order, and what is said of them grows."""
    assert seen
    damaged = [(at, one.place, round(one.damage)) for at, one in enumerate(seen) if one.damage > DAMAGED]
    assert not damaged, f"of {len(seen)} frames these are damaged: {damaged}"
    for before, after in pairwise(seen):
        assert before.sent_s is not None and after.sent_s is not None
        assert before.sent_s < after.sent_s, (before, after)
        assert before.index < after.index, (before, after)
        assert before.time_s is None or before.time_s < after.time_s, (before, after)


def ages(seen: Iterable[Seen]) -> dict[str, float]:
    """Percentiles of the true age in ms."""
    values = [one.true_age_ms for one in seen if one.true_age_ms is not None]
    return {f"p{p}": round(float(np.percentile(values, p)), 1) for p in (50, 90, 99, 100)} if values else {}
