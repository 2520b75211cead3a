"""Tens of thousands of frames through reader, engine and sinks, in memory that does not grow."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from camera_watch import reader_processes

import cpsl_deploy
from cpsl_deploy.sinks.callback import CallbackSink
from cpsl_deploy.sinks.json_lines import AreasSink
from cpsl_deploy.sinks.overlay_video import OverlaySink
from cpsl_deploy.sources.live import LiveFeed
from cpsl_deploy.sources.live_options import LiveOptions
from cpsl_deploy.streams.stream import Stream

SIZE = (48, 64)
FRAMES = 20_000
WARM_UP = 5_000
EVERY = 250
MOST = 24.0
"""Bytes a frame. Seen: 0 to 5; a kept number costs 40, a kept frame 9216 at least."""


@contextmanager
def frames_in_a_pipe(count: int) -> Iterator[int]:
    """The end to read raw BGR frames from, as fast as they are taken."""
    reading, writing = os.pipe()
    some = [np.full((*SIZE, 3), 10 * value, np.uint8).tobytes() for value in range(25)]

    def write() -> None:
        with os.fdopen(writing, "wb") as pipe:
            try:
                for at in range(count):
                    pipe.write(some[at % len(some)])
            except BrokenPipeError:
                pass

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield reading
    finally:
        os.close(reading)
        writer.join()


def resident_bytes(pid: int | str = "self") -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def bytes_per_frame(frames: list[int], resident: list[int]) -> float:
    """Median growth from one eighth of the run to the next: what grows does so in each, while an allocator
    takes another megabyte once in a while."""
    means = [np.mean(part) for part in np.array_split(resident, 8)]
    return float(np.median(np.diff(means))) / ((frames[-1] - frames[0]) / 8)


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads /proc: Linux only")
def test_memory_does_not_grow_with_the_frames(tiny_model: Path, tmp_path: Path) -> None:
    handed = [0]

    def count(result: object) -> None:
        handed[0] += 1

    sinks = [AreasSink(tmp_path, piece_s=60), OverlaySink(tmp_path, piece_s=60), CallbackSink(count)]
    options = LiveOptions(raw_format="bgr24", raw_size=SIZE, raw_fps=25)
    with frames_in_a_pipe(FRAMES) as pipe, cpsl_deploy.load(tiny_model, threads=1) as segmenter:
        feed = LiveFeed("-", options=options, stdin=pipe)
        places, own, reader = [], [], []
        with Stream([feed], segmenter, sinks=sinks) as results:
            for at, result in enumerate(results):
                assert result.index == at
                if at >= WARM_UP and at % EVERY == 0:
                    places.append(at)
                    own.append(resident_bytes())
                    readers = reader_processes()
                    if readers:  # it is done before us
                        reader.append(resident_bytes(readers[0]))
    assert at == FRAMES - 1 and handed[0] == FRAMES
    assert bytes_per_frame(places, own) < MOST, own
    assert len(reader) > 20
    assert bytes_per_frame(places[: len(reader)], reader) < MOST, reader
