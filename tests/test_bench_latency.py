"""Percentiles, the stopwatch and latency per class, on samples made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cpsl_deploy.bench import latency as latency_module
from cpsl_deploy.bench.class_cost import (
    FRAMES_PER_CLASS,
    class_latencies,
    extract_mask,
    mask_area,
    mask_contours,
    measure_extraction,
)
from cpsl_deploy.bench.frames import EncodedFrame, evenly_spaced, synthetic_frames
from cpsl_deploy.bench.latency import STAGES, LatencySamples, Stopwatch, measure_latency, summarise
from cpsl_deploy.classes import ClassSpace
from cpsl_deploy.errors import DataError, InputError


def test_percentiles_of_one_to_hundred_and_one():
    shuffled = np.random.default_rng(0).permutation(np.arange(1, 102))
    summary = summarise(shuffled)
    assert (summary.count, summary.mean, summary.max) == (101, 51.0, 101.0)
    assert (summary.p50, summary.p90, summary.p99) == (51.0, 91.0, 100.0)


def test_percentiles_interpolate_between_two_samples():
    summary = summarise([10.0, 20.0])
    assert summary.p50 == pytest.approx(15.0)
    assert summary.p90 == pytest.approx(19.0)
    assert summary.p99 == pytest.approx(19.9)


def test_no_samples_have_no_percentiles():
    with pytest.raises(InputError, match="at least one sample"):
        summarise([])


def test_stopwatch_laps_add_up_to_the_elapsed_time(monkeypatch):
    ticks = iter([1_000_000, 3_500_000, 4_000_000])
    monkeypatch.setattr(latency_module.time, "perf_counter_ns", lambda: next(ticks))
    watch = Stopwatch()
    assert (watch.lap(), watch.lap(), watch.elapsed()) == (2.5, 0.5, 3.0)


def samples_of(total_ms: list[float], predicted_pixels: list[list[int]]) -> LatencySamples:
    count = len(total_ms)
    return LatencySamples(
        frames=tuple(f"frame_{i}" for i in range(count)),
        sizes=((4, 4),) * count,
        stages_ms={stage: np.array(total_ms) for stage in STAGES},
        predicted_pixels=np.array(predicted_pixels),
        first_frame_ms=1.0,
    )


def test_class_latency_counts_only_frames_that_show_the_class():
    samples = samples_of([10.0, 20.0, 40.0], [[16, 0, 0], [8, 8, 0], [15, 1, 0]])
    everywhere, twice, never = class_latencies(samples)
    assert (everywhere.frames, everywhere.p50_ms, everywhere.p99_ms) == (3, 20.0, pytest.approx(39.6))
    assert (twice.frames, twice.p50_ms, twice.p99_ms) == (2, 30.0, pytest.approx(39.8))
    assert (never.frames, never.p50_ms, never.p99_ms) == (0, None, None)
    assert samples.fps == pytest.approx(1000 / (70 / 3))


def test_extraction_gives_mask_area_and_outer_contours():
    labels = np.zeros((12, 20), np.uint8)
    labels[1:5, 1:5] = 3
    labels[6:11, 8:18] = 3
    labels[8, 10] = 0  # a hole is no outer contour
    mask = extract_mask(labels, 3)
    assert mask.dtype == bool and mask_area(mask) == 16 + 50 - 1
    assert len(mask_contours(mask)) == 2


class FakePrediction:
    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels
        self.timings_ms = {"pre": 0.0, "inference": 0.0, "post": 0.0}


class FakeSegmenter:
    """Class 1 where a frame is white; counts its calls."""

    classes = ClassSpace(("road", "car", "tree"))

    def __init__(self) -> None:
        self.seen: list[int] = []

    def predict(self, frame: np.ndarray) -> FakePrediction:
        self.seen.append(int(frame[0, 0, 0]))
        return FakePrediction((frame[..., 0] > 200).astype(np.uint8))


class GreyFrame(EncodedFrame):
    def decode(self, encoded: bytes) -> np.ndarray:
        return np.full((8, 10, 3), encoded[0], np.uint8)


def grey_frames(*values: int) -> list[EncodedFrame]:
    return [GreyFrame(name=str(v), read=lambda v=v: bytes([v])) for v in values]


def test_first_frame_and_warm_up_are_not_among_the_samples():
    segmenter = FakeSegmenter()
    samples = measure_latency(segmenter, grey_frames(10, 250), count=3, warm_up=2)
    assert segmenter.seen == [10, 250, 10, 10, 250, 10]  # first, two to warm up, three measured
    assert samples.frames == ("10", "250", "10")
    assert samples.sizes == ((8, 10),) * 3
    assert samples.predicted_pixels.tolist() == [[80, 0, 0], [0, 80, 0], [80, 0, 0]]
    assert all(len(samples.stages_ms[stage]) == 3 for stage in STAGES)
    assert (samples.stages_ms["total"] >= samples.stages_ms["decode"]).all()


@pytest.mark.parametrize(("count", "warm_up"), [(0, 1), (1, -1)])
def test_impossible_numbers_of_frames_are_refused(count, warm_up):
    with pytest.raises(InputError, match="1 or more"):
        measure_latency(FakeSegmenter(), grey_frames(10), count=count, warm_up=warm_up)


def test_no_frames_are_refused():
    with pytest.raises(InputError, match="at least one frame"):
        measure_latency(FakeSegmenter(), [], count=1, warm_up=0)


def test_extraction_is_timed_on_a_few_frames_of_every_class_shown():
    frames = grey_frames(*([10] * 30), 250)
    samples = measure_latency(FakeSegmenter(), frames, count=40, warm_up=0)
    segmenter = FakeSegmenter()
    road, car, tree = measure_extraction(segmenter, frames, samples)
    assert road.frames == FRAMES_PER_CLASS and car.frames == 1 and tree is None
    assert segmenter.seen.count(250) == 1 and len(segmenter.seen) == FRAMES_PER_CLASS + 1
    assert road.total_ms == road.mask_ms + road.area_ms + road.contours_ms > 0


@pytest.mark.parametrize("total", [1, 2, 7, 100])
@pytest.mark.parametrize("count", [1, 2, 5, 99, 200])
def test_evenly_spaced_indices_are_distinct_and_start_at_the_first(total, count):
    indices = evenly_spaced(total, count)
    assert len(indices) == min(total, count) == len(set(indices))
    assert indices[0] == 0 and indices == sorted(indices)
    assert indices[-1] == total - 1 or count == 1


def test_synthetic_frames_are_the_same_every_time_and_differ_from_each_other():
    first, again = synthetic_frames((48, 64), 3), synthetic_frames((48, 64), 3)
    assert [frame.read() for frame in first] == [frame.read() for frame in again]
    assert len({frame.read() for frame in first}) == 3
    image = first[0].decode(first[0].read())
    assert image.shape == (48, 64, 3) and image.dtype == np.uint8


@pytest.mark.parametrize("encoded", [b"", b"this is no image"])
def test_bytes_that_are_no_image_are_an_error(encoded):
    with pytest.raises(DataError, match="frame_7 is not an image"):
        EncodedFrame(name="frame_7", read=lambda: encoded).decode(encoded)
