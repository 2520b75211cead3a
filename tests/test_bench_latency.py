"""Percentiles, stages, outliers and latency per class, on samples and backends made by hand."""

from __future__ import annotations

import dataclasses
import time
from functools import partial

import numpy as np
import pytest
from bench_backends import SIZE, DeviceBackend, GreyFrame, KnownBackend, grey_frames, segmenter_of

from cpsl_deploy.bench.class_cost import (
    FRAMES_PER_CLASS,
    class_latencies,
    extract_mask,
    mask_area,
    mask_contours,
    measure_extraction,
)
from cpsl_deploy.bench.drift import drift_of
from cpsl_deploy.bench.frames import EncodedFrame, decoded_frames, evenly_spaced, synthetic_frames
from cpsl_deploy.bench.latency import STAGES, FrameTimer, LatencySamples, measure_latency, summarise
from cpsl_deploy.bench.latency_interval import latency_intervals
from cpsl_deploy.bench.steady import SteadyRule, WarmUp
from cpsl_deploy.bench.synchronisation import Synchronisation
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


def samples_of(total_ms: list[float], predicted_pixels: list[list[int]]) -> LatencySamples:
    count = len(total_ms)
    return LatencySamples(
        frames=tuple(f"frame_{i}" for i in range(count)),
        sizes=((4, 4),) * count,
        stages_ms={stage: np.array(total_ms) for stage in STAGES},
        predicted_pixels=np.array(predicted_pixels),
        warm_up=WarmUp(first_frame_ms=1.0, frames=0, ms=1.0, steady=None, rule="none"),
        synchronisation=Synchronisation(checked_frames=1, left_after_return_ms=0.0),
    )


def test_class_latency_counts_only_frames_that_show_the_class():
    samples = samples_of([10.0, 20.0, 40.0], [[16, 0, 0], [8, 8, 0], [15, 1, 0]])
    everywhere, twice, never = class_latencies(samples)
    assert (everywhere.frames, everywhere.p50_ms, everywhere.p99_ms) == (3, 20.0, pytest.approx(39.6))
    assert (twice.frames, twice.p50_ms, twice.p99_ms) == (2, 30.0, pytest.approx(39.8))
    assert (never.frames, never.p50_ms, never.p99_ms) == (0, None, None)
    assert samples.fps == pytest.approx(1000 / (70 / 3))


def test_a_stray_pixel_is_no_class_that_appears():
    samples = samples_of([10.0, 20.0], [[4996, 4], [4995, 5]])
    samples = dataclasses.replace(samples, sizes=((50, 100),) * 2)
    assert [latency.frames for latency in class_latencies(samples)] == [2, 1]


def test_a_note_says_that_every_class_is_in_every_frame():
    (note,) = samples_of([10.0, 20.0], [[8, 8, 0], [4, 12, 0]]).notes()
    assert note.startswith("Every class that is predicted is in every frame")
    assert samples_of([10.0, 20.0], [[8, 8, 0], [16, 0, 0]]).notes() == []


def test_a_note_says_that_latency_moved_while_it_was_measured():
    random = np.random.default_rng(0)
    pixels = [[16, 0]] * 120
    steady = 100 + random.normal(0, 3, 120)
    assert samples_of(steady, pixels).notes() == []
    (note,) = samples_of(steady + np.linspace(-8, 8, 120), pixels).notes()
    assert note.startswith("Latency rose by 1") and "first third" in note
    (note,) = samples_of((steady + np.linspace(-8, 8, 120))[::-1], pixels).notes()
    assert note.startswith("Latency fell by")


def test_chance_and_a_busy_moment_are_no_drift():
    random = np.random.default_rng(1)
    found = [drift_of(100 * np.exp(0.15 * random.normal(size=60))) for _ in range(100)]
    assert sum(drift is not None for drift in found) <= 5
    assert drift_of(np.r_[np.full(50, 10.0), np.full(10, 40.0), np.full(60, 10.0)]) is None


def test_intervals_hold_the_percentiles_and_are_wider_where_neighbours_are_alike():
    random = np.random.default_rng(2)
    apart = 100 + 10 * random.normal(size=300)
    found = latency_intervals(apart)
    for name, value in (("p50", np.median(apart)), ("p90", np.percentile(apart, 90))):
        assert found[name]["low"] <= value <= found[name]["high"]
    alike = np.convolve(random.normal(size=339), np.ones(40) / 40**0.5, "valid") * 10 + 100
    wider = latency_intervals(alike)
    assert wider["block"] > found["block"]
    width, wide = (one["p50"]["high"] - one["p50"]["low"] for one in (found, wider))
    assert wide > 1.5 * width
    assert latency_intervals(apart[:19]) is None


def test_the_first_class_after_an_inference_pays_for_no_cold_cache(monkeypatch):
    order = []
    monkeypatch.setattr(
        "cpsl_deploy.bench.class_cost.time_extraction", lambda labels, k: order.append(k) or (len(order),) * 3
    )
    samples = samples_of([1.0] * 3, [[8, 8, 0, 0]] * 3)
    measure_extraction(segmenter_of(KnownBackend()), grey_frames(10, 20, 30), samples)
    assert order == [0, 0, 1, 0, 1, 0, 0, 0, 1]  # one not counted, then in turns
    #                ^        ^        ^


def test_extraction_gives_mask_area_and_outer_contours():
    labels = np.zeros((12, 20), np.uint8)
    labels[1:5, 1:5] = 3
    labels[6:11, 8:18] = 3
    labels[8, 10] = 0  # a hole is no outer contour
    mask = extract_mask(labels, 3)
    assert mask.dtype == bool and mask_area(mask) == 16 + 50 - 1
    assert len(mask_contours(mask)) == 2


def test_first_frame_and_warm_up_are_not_among_the_samples():
    backend = KnownBackend()
    samples = measure_latency(segmenter_of(backend), grey_frames(10, 251), count=3, warm_up=2)
    checked = 2 * [10, 251]  # whether the backend waits for its work, in two ways
    assert backend.seen == [10, *checked, 251, 10, 10, 251, 10]  # first, two to warm up, three measured
    assert samples.frames == ("10", "251", "10")
    assert samples.sizes == (SIZE,) * 3
    pixels = SIZE[0] * SIZE[1]
    assert samples.predicted_pixels.tolist() == [
        [0, 0, pixels, 0],
        [0, 0, 0, pixels],
        [0, 0, pixels, 0],
    ]
    assert samples.warm_up.frames == 2 and samples.warm_up.steady is None
    assert samples.first_frame_ms == samples.warm_up.first_frame_ms > 0
    assert samples.synchronisation.checked_frames == 2


def test_stages_of_a_backend_in_the_hosts_memory():
    samples = measure_latency(segmenter_of(KnownBackend(0.002)), grey_frames(10), count=4, warm_up=0)
    assert list(samples.stages_ms) == ["read", "decode", "pre", "inference", "post", "encode", "total"]
    parts = sum(times for stage, times in samples.stages_ms.items() if stage != "total")
    assert all(len(times) == 4 and (times >= 0).all() for times in samples.stages_ms.values())
    assert (samples.stages_ms["total"] >= parts - 1e-6).all()
    assert samples.stages_ms["inference"].min() >= 2.0


def test_transfers_are_told_apart_where_there_are_any():
    samples = measure_latency(segmenter_of(DeviceBackend(0.004)), grey_frames(10), count=4, warm_up=0)
    assert tuple(samples.stages_ms) == STAGES == tuple(samples.summary())
    np.testing.assert_allclose(samples.stages_ms["host_to_device"], 2.0)
    np.testing.assert_allclose(samples.stages_ms["device_to_host"], 4.0)
    assert samples.stages_ms["inference"].min() >= 4.0
    parts = sum(times for stage, times in samples.stages_ms.items() if stage != "total")
    assert (samples.stages_ms["total"] >= parts - 1e-6).all()


def test_reading_decoding_and_encoding_are_inside_the_clock():
    class SlowFrame(GreyFrame):
        def decode(self, encoded: bytes) -> np.ndarray:
            time.sleep(0.004)
            return super().decode(encoded)

    def read() -> bytes:
        time.sleep(0.002)
        return bytes([10])

    frame = SlowFrame(name="slow", read=read)
    samples = measure_latency(segmenter_of(KnownBackend()), [frame], count=3, warm_up=0)
    assert samples.stages_ms["read"].min() >= 2 and samples.stages_ms["decode"].min() >= 4
    assert samples.stages_ms["encode"].min() > 0 and samples.stages_ms["total"].min() >= 6


def test_every_file_is_looked_at_before_anything_is_timed():
    reads: list[int] = []
    backend = KnownBackend()

    def read(value: int) -> bytes:
        reads.append(len(backend.seen))
        return bytes([value])

    frames = [GreyFrame(name=str(v), read=partial(read, v)) for v in range(5)]
    measure_latency(segmenter_of(backend), frames, count=4, warm_up=0)
    assert reads[:4] == [0] * 4 and reads[4:5] == [
        0
    ]  # the fifth is not measured: the next is the first frame


def test_without_a_number_frames_run_until_they_are_steady():
    rule = SteadyRule(window=4, tolerance=10.0)
    samples = measure_latency(segmenter_of(KnownBackend()), grey_frames(10, 251), count=1, steady_rule=rule)
    assert samples.warm_up.steady is True and samples.warm_up.frames == 12
    assert samples.warm_up.rule == rule.sentence()


def test_five_milliseconds_more_are_measured_as_five_milliseconds_more():
    """In turns, so that both see the same machine, and by the least, which nothing else on it can lower."""
    timers = {delay: FrameTimer(segmenter_of(KnownBackend(delay))) for delay in (0.001, 0.006)}
    frame = grey_frames(10)[0]
    rows = []
    for i in range(60):
        order = sorted(timers, reverse=bool(i % 2))
        rows.append({delay: timers[delay].run(frame)[0] for delay in order})
    differences = {
        stage: min(row[0.006][stage] for row in rows) - min(row[0.001][stage] for row in rows)
        for stage in ("decode", "pre", "inference", "post", "encode", "total")
    }
    assert differences.pop("inference") == pytest.approx(5.0, abs=0.5)
    assert differences.pop("total") == pytest.approx(5.0, abs=0.5)
    assert max(map(abs, differences.values())) < 0.25


def test_outliers_are_named_and_stay_in_the_figures():
    totals = [10.0, 10.1, 9.9, 10.2, 30.0, 9.8, 10.0, 10.05]
    samples = samples_of(totals, [[16, 0, 0]] * 8)
    (outlier,) = samples.outliers()
    assert (outlier.index, outlier.frame, outlier.total_ms) == (4, "frame_4", 30.0)
    section = samples.to_json()
    assert section["outliers"]["count"] == 1
    assert section["outliers"]["frames"] == [{"index": 4, "frame": "frame_4", "total_ms": 30.0}]
    assert "kept in every figure" in section["outliers"]["rule"]
    assert section["stages_ms"]["total"]["max"] == 30.0 and section["stages_ms"]["total"]["count"] == 8
    assert section["fps"] == pytest.approx(8000 / sum(totals))


@pytest.mark.parametrize(
    ("totals", "outliers"),
    [
        ([10.0] * 9 + [10.09], 0),  # no spread at all, and less than a hundredth more
        ([10.0] * 9 + [10.11], 1),
        (list(np.linspace(5, 15, 50)), 0),
        ([5.0] * 20 + [15.0] * 19, 1),  # the rule sees one size of frames, and names the other
    ],
)
def test_what_is_an_outlier(totals, outliers):
    found = samples_of(totals, [[16, 0, 0]] * len(totals)).outliers()
    assert (len(found) > 0) == bool(outliers) and all(totals[one.index] == one.total_ms for one in found)


@pytest.mark.parametrize(("count", "warm_up"), [(0, 1), (1, -1)])
def test_impossible_numbers_of_frames_are_refused(count, warm_up):
    with pytest.raises(InputError, match="1 or more"):
        measure_latency(segmenter_of(KnownBackend()), grey_frames(10), count=count, warm_up=warm_up)


def test_no_frames_are_refused():
    with pytest.raises(InputError, match="at least one frame"):
        measure_latency(segmenter_of(KnownBackend()), [], count=1, warm_up=0)


def test_extraction_is_timed_on_a_few_frames_of_every_class_shown():
    frames = grey_frames(*([4] * 30), 5)
    samples = measure_latency(segmenter_of(KnownBackend()), frames, count=40, warm_up=0)
    backend = KnownBackend()
    road, sky, tree, car = measure_extraction(segmenter_of(backend), frames, samples)
    assert road.frames == FRAMES_PER_CLASS and sky.frames == 1 and tree is None and car is None
    assert backend.seen.count(5) == 1 and len(backend.seen) == FRAMES_PER_CLASS + 1
    assert road.total_ms == road.mask_ms + road.area_ms + road.contours_ms > 0


def test_frames_in_memory_are_evenly_spaced_and_of_the_size_asked_for():
    frames = grey_frames(10, 20, 30, 40, 50)
    assert [int(image[0, 0, 0]) for image in decoded_frames(frames, 3)] == [10, 30, 50]
    (image,) = decoded_frames(frames, 1, (32, 20))
    assert image.shape == (32, 20, 3) and (image == 10).all()


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
