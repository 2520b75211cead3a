"""Ages in a live stream: at delivery, at their peak, and of the results that show a class."""

from __future__ import annotations

import numpy as np
import pytest
from live_feeds import stand_in

from cpsl_deploy.bench.frames import EncodedFrame, _jpeg_frame, synthetic_frames
from cpsl_deploy.bench.stream_age import Delivered, PacedRun, _shown, measure_stream_age, play
from cpsl_deploy.errors import InputError

SIZE = (32, 48)


def test_a_stray_pixel_is_no_class_that_appears() -> None:
    labels = np.zeros((50, 100), np.uint8)
    labels[0, :4], labels[1, :5] = 1, 2  # of 5000 pixels
    assert _shown(labels, 4).tolist() == [True, False, True, False]


def frame_of(value: int) -> EncodedFrame:
    return _jpeg_frame(f"value{value}", np.full((*SIZE, 3), value, np.uint8))


def test_peak_age_is_what_a_result_has_reached_when_the_next_comes() -> None:
    stream = Delivered(captured_s=[0.0, 0.1, 0.3], delivered_s=[0.05, 0.17, 0.34])
    np.testing.assert_allclose(stream.age_ms, [50, 70, 40])
    np.testing.assert_allclose(stream.peak_age_ms(0.34), [170, 240])
    # The last result is not replaced within the measurement: it counts once it is older than all others.
    np.testing.assert_allclose(stream.peak_age_ms(0.5), [170, 240])
    np.testing.assert_allclose(stream.peak_age_ms(0.8), [170, 240, 500])
    alone = Delivered(captured_s=[0.2], delivered_s=[0.25])
    np.testing.assert_allclose(alone.peak_age_ms(0.25), [50])


def test_a_stream_that_starves_is_not_left_out_of_the_peak_age() -> None:
    fed = Delivered(captured_s=[0.0, 0.5, 1.0], delivered_s=[0.1, 0.6, 1.1], frames=3)
    starved = Delivered(captured_s=[0.0], delivered_s=[0.1], frames=3)
    run = PacedRun(streams=(fed, starved, Delivered(frames=3)), seconds=1.0)
    np.testing.assert_allclose(run.peak_age_ms, [600, 600, 1100])
    assert (run.frames, run.delivered) == (9, 4)


def test_a_model_slower_than_its_source_grows_the_peak_and_hardly_the_age() -> None:
    """30 ms a frame at 100 frames a second: a result every 30 ms, of a frame up to 10 ms old when taken."""
    found = measure_stream_age(stand_in(0.03), synthetic_frames(SIZE, 2), fps=100, seconds=1.0)
    assert found.frames == 100
    assert found.delivered + found.dropped == found.frames
    assert 8 <= found.delivered <= 35
    assert found.age_ms.count == found.delivered
    assert 30 <= found.age_ms.p50 < 100
    assert found.peak_age_ms.p50 >= found.age_ms.p50 + 25
    section = found.to_json()
    assert list(section) == [
        "source_fps", "seconds", "frames", "delivered", "dropped", "age_ms", "peak_age_ms"
    ]  # fmt: skip
    assert section["age_ms"]["p99"] == found.age_ms.p99


def test_a_model_that_keeps_up_delivers_every_frame() -> None:
    found = measure_stream_age(stand_in(), synthetic_frames(SIZE, 2), fps=20, seconds=0.8)
    assert found.delivered >= 12  # of 16: an overburdened machine may miss one
    assert found.peak_age_ms.p50 == pytest.approx(found.age_ms.p50 + 50, abs=25)


def test_a_class_has_the_age_of_the_results_that_show_it() -> None:
    """The model's label is the pixel modulo four: half of the frames show class 1, half class 2, none 3."""
    found = measure_stream_age(stand_in(), [frame_of(101), frame_of(202)], fps=40, seconds=0.5)
    none, first, second, third = found.classes
    assert (none.frames, third.frames) == (0, 0)
    assert none.p50_ms is None and none.p99_ms is None
    assert first.frames + second.frames == found.delivered
    assert 5 <= first.frames <= 10
    assert first.p50_ms is not None and first.p99_ms is not None
    assert found.age_ms.max >= first.p99_ms >= first.p50_ms


@pytest.mark.parametrize(("streams", "fps", "seconds"), [(0, 25, 1), (1, 0, 1), (1, 25, 0), (1, 1, 1)])
def test_too_little_to_measure_is_refused(streams: int, fps: float, seconds: float) -> None:
    with pytest.raises(InputError, match="one source or more"):
        play(stand_in(), synthetic_frames(SIZE, 1), streams=streams, fps=fps, seconds=seconds)
