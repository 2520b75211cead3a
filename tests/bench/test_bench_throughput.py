"""The rate with overlapping stages is what the slowest allows, and is told apart from single frames."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from live_feeds import stand_in

from cpsl_deploy.bench.encoded_feed import EncodedFeed, in_memory
from cpsl_deploy.bench.frames import EncodedFrame, synthetic_frames
from cpsl_deploy.bench.throughput import busy_seconds, measure_throughput, stretch_quartiles
from cpsl_deploy.errors import DataError, InputError
from cpsl_deploy.streams.options import StreamOptions
from cpsl_deploy.streams.stream import Stream

SIZE = (32, 48)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlowFrame(EncodedFrame):
    """Decoding takes ``seconds`` more, without the processor."""

    seconds: float = 0.0

    def decode(self, encoded: bytes) -> np.ndarray:
        time.sleep(self.seconds)
        return super().decode(encoded)


def slow_frames(seconds: float) -> list[EncodedFrame]:
    return [
        SlowFrame(name=frame.name, read=frame.read, seconds=seconds) for frame in synthetic_frames(SIZE, 3)
    ]


def stages(decode: float, inference: float) -> dict[str, np.ndarray]:
    parts = {"read": 0.0, "decode": decode, "pre": 0.2, "inference": inference, "post": 0.1}
    return {name: np.full(5, ms) for name, ms in (parts | {"total": sum(parts.values())}).items()}


@pytest.mark.parametrize(
    ("decode_ms", "inference_ms", "slowest"), [(20, 40, "inference"), (40, 20, "decode")]
)
def test_overlapped_stages_reach_the_slowest_ones_rate(
    decode_ms: float, inference_ms: float, slowest: str
) -> None:
    times = stages(decode_ms, inference_ms)
    frames = slow_frames(decode_ms / 1e3)
    found = measure_throughput(stand_in(inference_ms / 1e3), frames, times, count=16)
    assert (found.frames, found.slowest_stage) == (16, slowest)
    assert 0.5 < found.share_of_slowest <= 1  # the queues fill and empty for a part of 48 frames
    assert found.single_fps == pytest.approx(1000 / 60.3)
    # Above one after the other, and never above the slowest stage: the sleeps take their time.
    assert found.single_fps < found.fps <= found.slowest_stage_fps
    assert found.share_of_slowest == pytest.approx(found.fps / found.slowest_stage_fps)
    assert found.fps == pytest.approx(found.frames / found.seconds)
    low, _, high = found.fps_quartiles
    assert low <= high and low < 1.02 * found.fps and high > 0.98 * found.fps
    assert 0 < found.cpu_cores_used < 1.5


def test_transfers_belong_to_the_inference_thread() -> None:
    times = {
        "pre": 500.0,
        "host_to_device": 1000.0,
        "inference": 3000.0,
        "device_to_host": 1000.0,
        "post": 100.0,
    }
    assert busy_seconds([times, times]) == pytest.approx(
        {"decode": 0, "pre": 1, "inference": 10, "post": 0.2, "encode": 0}
    )


def test_a_machine_that_was_slower_before_gives_no_share_above_one() -> None:
    """Latencies of single frames that took ten times as long: they are not held against this run."""
    found = measure_throughput(stand_in(0.01), synthetic_frames(SIZE, 2), stages(1, 100), count=8)
    assert found.share_of_slowest <= 1
    # 100 a second, and of eight frames a little more: the clock starts when the first is under way.
    assert found.fps <= found.slowest_stage_fps <= 110


def test_quartiles_are_of_parts_of_the_run() -> None:
    even = np.arange(25) * 0.1
    assert stretch_quartiles(even) == pytest.approx((10, 10, 10))
    slower = np.append(even, even[-1] + np.arange(1, 25) * 0.2)  # the second half at half the rate
    assert stretch_quartiles(slower) == pytest.approx((5, 7.5, 10))
    assert stretch_quartiles([0.0, 0.5]) == (2, 2, 2)


def test_the_section_has_the_schemas_names() -> None:
    section = measure_throughput(stand_in(), synthetic_frames(SIZE, 2), stages(1, 1), count=3).to_json()
    assert list(section) == [
        "frames", "seconds", "fps", "fps_quartiles", "single_fps", "slowest_stage", "slowest_stage_fps",
        "share_of_slowest", "cpu_cores_used",
    ]  # fmt: skip


def test_a_frame_that_does_not_decode_ends_the_measurement() -> None:
    broken = EncodedFrame(name="broken", read=lambda: b"no image")
    with pytest.raises(DataError, match="broken is not an image"):
        measure_throughput(stand_in(), [broken], stages(1, 1), count=3)


@pytest.mark.parametrize(("frames", "count"), [([], 3), (synthetic_frames(SIZE, 1), 0)])
def test_nothing_to_measure_is_refused(frames: list[EncodedFrame], count: int) -> None:
    with pytest.raises(InputError, match="throughput needs one frame or more"):
        measure_throughput(stand_in(), frames, stages(1, 1), count=count)
    with pytest.raises(InputError, match="one frame or more, gives one or more"):
        EncodedFeed("nothing", frames, count)


def test_frames_kept_in_memory_are_read_once() -> None:
    reads = []
    data = synthetic_frames(SIZE, 1)[0].read()
    frames = [EncodedFrame(name=str(i), read=lambda i=i: reads.append(i) or data) for i in range(9)]
    kept = in_memory(frames, most=3)
    assert reads == [0, 4, 8]
    assert [frame.read() for frame in (*kept, *kept)] == [data] * 6
    assert len(reads) == 3


def test_a_paced_source_drops_what_it_is_too_late_for() -> None:
    """Decoding takes three periods: about two of three frames are dropped before they are decoded, and every
    one is accounted for; ages count from when a frame was due."""
    feed = EncodedFeed("camera", slow_frames(0.03), 30, fps=100)
    with Stream([feed], stand_in(), StreamOptions(policy="latest")) as stream:
        results = list(stream)
    counters = feed.status.counters
    assert counters.delivered + counters.dropped == 30
    assert 14 <= counters.dropped <= 28
    assert results[-1].index == 29
    assert min(result.age_ms for result in results) >= 30
