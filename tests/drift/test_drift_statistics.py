"""The statistics of a frame, against values made by hand."""

from __future__ import annotations

import time

import numpy as np
import pytest
from drift_roads import CLASSES, SIZE, road_frame

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.drift.statistics import FrameStatistics, group_of, statistic_names
from cpsl_deploy.errors import InputError
from cpsl_deploy.segmenter import Prediction


def prediction(
    frame: np.ndarray, labels: np.ndarray, order: str = "BGR", **outputs: np.ndarray
) -> Prediction:
    return Prediction(
        labels=labels, classes=CLASSES, timings_ms={}, frame=frame, colour_order=order, **outputs
    )


def values(*arguments: np.ndarray, order: str = "BGR", **outputs: np.ndarray) -> dict[str, float]:
    found = FrameStatistics.of(prediction(*arguments, order=order, **outputs))
    return dict(zip(found.names, found.values.tolist(), strict=True))


def test_shares_are_of_the_pixels_that_have_a_class() -> None:
    frame, labels = road_frame(0)
    labels[:] = 0
    labels[:, :16] = 1
    labels[:, 48:] = IGNORE
    found = values(frame, labels)
    assert found["share:road"] ** 2 == pytest.approx(2 / 3) and found["share:sky"] ** 2 == pytest.approx(
        1 / 3
    )
    assert found["share:car"] == 0


def test_a_file_of_labels_alone_has_shares_and_look() -> None:
    found = FrameStatistics.of(prediction(*road_frame(0)))
    assert found.names == statistic_names(CLASSES.names, ("labels",))
    assert {group_of(name) for name in found.names} == {"labels", "image"}
    assert np.isfinite(found.values).all() and found.values.shape == (len(found.names),)


def test_confidence() -> None:
    confidence = np.full(SIZE, 204, np.uint8)
    confidence[:, :16] = 51
    found = values(*road_frame(0), confidence=confidence)
    assert found["confidence:mean"] == pytest.approx(0.75 * 0.8 + 0.25 * 0.2)
    assert found["confidence:low"] ** 2 == pytest.approx(0.25)


def test_logits() -> None:
    logits = np.zeros((3, 6, 8), np.float32)
    found = values(*road_frame(0), logits=logits)
    assert found["entropy:mean"] == pytest.approx(1) and found["margin:mean"] == 0
    logits[0], logits[1] = 9, 4
    logits += np.random.default_rng(0).normal(0, 50, (1, 6, 8)).astype(np.float32)  # softmax does not see it
    found = values(*road_frame(0), logits=logits)
    p = np.exp([9.0, 4, 0]) / np.exp([9.0, 4, 0]).sum()
    assert found["entropy:mean"] == pytest.approx(-(p * np.log(p)).sum() / np.log(3), abs=1e-5)
    assert found["margin:mean"] == pytest.approx(5, abs=1e-4)
    assert found["logit:road"] - found["logit:car"] == pytest.approx(9, abs=1e-4)
    assert sum(found[f"logit:{name}"] for name in CLASSES.names) == pytest.approx(0, abs=1e-4)


def test_logits_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(InputError, match="one logit for each of 3"):
        values(*road_frame(0), logits=np.zeros((4, 6, 8), np.float32))


def test_look() -> None:
    frame, labels = road_frame(0)
    own, dark = values(frame, labels), values((frame * 0.3).astype(np.uint8), labels)
    assert (
        dark["image:luminance"] < 0.4 * own["image:luminance"]
        and dark["image:contrast"] < own["image:contrast"]
    )
    noise = np.random.default_rng(0).normal(0, 30, frame.shape)
    assert values((frame + noise).clip(0, 255).astype(np.uint8), labels)["image:grain"] > own["image:grain"]
    red = frame.copy()
    red[..., 2] = 255
    assert values(red, labels)["image:red"] > own["image:red"] + 0.1
    of_rgb = values(np.ascontiguousarray(frame[..., ::-1]), labels, order="RGB")
    assert of_rgb == pytest.approx(own)


@pytest.mark.parametrize("size", [(16, 16), (1080, 1920), (17, 3000)])
@pytest.mark.parametrize("grey", [0, 255])
def test_any_size_and_flat_frames(size: tuple[int, int], grey: int) -> None:
    frame, labels = np.full((*size, 3), grey, np.uint8), np.full(size, IGNORE, np.uint8)
    found = FrameStatistics.of(prediction(frame, labels, logits=np.zeros((3, 2, 2), np.float32)))
    assert np.isfinite(found.values).all()


def test_the_size_of_the_frame_hardly_matters() -> None:
    frame, labels = road_frame(3)
    large = prediction(frame.repeat(12, 0).repeat(12, 1), labels.repeat(12, 0).repeat(12, 1))
    small = FrameStatistics.of(prediction(frame, labels))
    shares = slice(0, 5)  # and luminance, contrast
    assert FrameStatistics.of(large).values[shares] == pytest.approx(small.values[shares], abs=0.03)


def test_cost() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (540, 960, 3), np.uint8)
    labels = frame[..., 0] % 3
    given = prediction(
        frame, labels, confidence=frame[..., 1].copy(), logits=np.ones((3, 68, 120), np.float32)
    )
    times = []
    for _ in range(20):
        started = time.perf_counter()
        FrameStatistics.of(given)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.01, "two milliseconds are usual; a hundredth of a second is another algorithm"
