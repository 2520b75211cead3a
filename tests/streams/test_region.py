"""Region of interest: which pixels are looked at, and what a whole frame's prediction says of the others."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_onnx import nearest_colour, street, write_tiny_onnx

from cpsl_deploy.classes import IGNORE, ClassSpace
from cpsl_deploy.errors import DataError, InputError
from cpsl_deploy.overlay import encode_label_png
from cpsl_deploy.segmenter import Prediction, load
from cpsl_deploy.sources.base import InputLimits
from cpsl_deploy.streams.region import Region

CLASSES = ClassSpace(("road", "sky"))


def prediction(labels: np.ndarray, frame: np.ndarray, confidence: np.ndarray | None = None) -> Prediction:
    return Prediction(
        labels=labels,
        classes=CLASSES,
        timings_ms={"inference": 1.0},
        frame=frame,
        colour_order="BGR",
        confidence=confidence,
        logits=np.zeros((2, 4, 4), np.float32),
    )


@pytest.mark.parametrize(
    ("text", "size", "rows", "columns"),
    [
        ("100,200,640,360", (720, 1280), (200, 560), (100, 740)),
        (" 0, 0, 32, 16 ", (16, 32), (0, 16), (0, 32)),
        ("0.1,0.3,0.8,0.7", (360, 480), (108, 360), (48, 432)),
        ("0,0,1,1", (96, 160), (0, 96), (0, 160)),
        ("0,.5,1,.5", (97, 160), (48, 97), (0, 160)),
    ],
)
def test_which_pixels(text: str, size: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]):
    assert Region.parse(text).box(*size) == (slice(*rows), slice(*columns))


def test_parts_side_by_side_share_no_pixel_and_miss_none():
    for width in range(64, 200):
        left, right = Region(0, 0, 0.3, 1).box(64, width)[1], Region(0.3, 0, 0.7, 1).box(64, width)[1]
        assert (left.start, left.stop, right.stop) == (0, right.start, width)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1,2,3",
        "1,2,3,4,5",
        "a,b,c,d",
        "-1,0,64,64",
        "0,0,nan,1",
        "0,0,inf,1",
        "0,0,1e2,64",
        "0,0,0,64",
        "0.5,0.5,0.6,0.5",
        "0.5,10,64,64",
        "0,0,64.5,64",
        "0x10,0,64,64",
        "٣,0,64,64",
        "9" * 5000 + ",0,64,64",
    ],
)
def test_text_that_is_no_region_is_refused_with_the_rule(text: str):
    with pytest.raises(InputError, match=r"X,Y,WIDTH,HEIGHT.*got|reaches beyond") as caught:
        Region.parse(text)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("values", [(True, 0, 64, 64), ("0", 0, 64, 64), (0, 0, float("nan"), 64)])
def test_values_that_are_no_numbers_are_refused(values: tuple):
    with pytest.raises(InputError, match="four numbers"):
        Region(*values)


def test_a_region_beyond_the_frame_is_an_error_of_that_frame_and_parts_follow_its_size():
    pixels, parts = Region(100, 0, 60, 96), Region.parse("0.5,0,0.5,1")
    assert pixels.view(np.zeros((96, 160, 3), np.uint8)).shape == (96, 60, 3)
    with pytest.raises(DataError, match=r"100,0,60,96 reaches beyond a frame of 159x96 .* in parts"):
        pixels.view(np.zeros((96, 159, 3), np.uint8))
    with pytest.raises(DataError, match="beyond a frame of 160x95"):
        pixels.box(95, 160)
    assert parts.view(np.zeros((96, 160, 3), np.uint8)).shape == (96, 80, 3)
    assert parts.view(np.zeros((480, 640, 3), np.uint8)).shape == (480, 320, 3)


def test_a_region_below_the_least_side_is_refused_at_the_start_where_that_is_known():
    with pytest.raises(InputError, match=r"min_side.*0,0,8,64"):
        Region(0, 0, 8, 64).check(InputLimits())
    Region(0, 0, 8, 64).check(InputLimits(min_side=8))
    parts = Region.parse("0,0,0.1,1")
    parts.check(InputLimits())
    with pytest.raises(DataError, match=r"15x96 pixels in a frame of 150x96.*min_side"):
        parts.box(96, 150)
    parts.box(96, 150, InputLimits(min_side=15))


def test_the_view_is_the_frames_memory():
    frame = np.zeros((96, 160, 3), np.uint8)
    Region(32, 16, 64, 48).view(frame)[...] = 7
    assert frame[16:64, 32:96].min() == 7 and frame.sum() == 7 * 3 * 48 * 64


def test_a_placed_prediction_is_of_the_whole_frame():
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (96, 160, 3), np.uint8)
    region = Region(32, 16, 64, 48)
    inside = rng.integers(0, 2, (48, 64), np.uint8)
    sure = rng.integers(1, 256, (48, 64), np.uint8)
    of_region = prediction(inside, region.view(frame), sure)
    placed = region.place(of_region, frame)
    expected = np.full((96, 160), IGNORE, np.uint8)
    expected[16:64, 32:96] = inside
    assert np.array_equal(placed.labels, expected)
    assert placed.frame is frame and placed.logits is None and placed.timings_ms == of_region.timings_ms
    assert placed.confidence is not None
    assert np.array_equal(placed.confidence[16:64, 32:96], sure)
    assert placed.confidence.astype(int).sum() == sure.astype(int).sum()
    assert of_region.labels is inside and of_region.logits is not None

    share = region.share(96, 160)
    assert share == 48 * 64 / (96 * 160)
    assert placed.areas()["sky"] == pytest.approx((inside == 1).sum() / (96 * 160))
    assert sum(placed.areas().values()) == pytest.approx(share)
    assert placed.areas()["road"] / share == pytest.approx(of_region.areas()["road"])

    outside = placed.labels == IGNORE
    assert np.array_equal(placed.overlay(legend=False)[outside], frame[outside])
    assert encode_label_png(placed.labels, CLASSES)


def test_a_prediction_of_another_size_is_not_placed():
    frame = np.zeros((96, 160, 3), np.uint8)
    with pytest.raises(DataError, match=r"\(48, 64\).*prediction has \(96, 160\)"):
        Region(32, 16, 64, 48).place(prediction(np.zeros((96, 160), np.uint8), frame), frame)


def test_a_region_without_confidence_has_none_and_a_model_takes_the_view(tmp_path):
    frame = np.ascontiguousarray(street()[:, :, ::-1])
    region = Region.parse("0.25,0.25,0.5,0.5")
    with load(write_tiny_onnx(tmp_path / "m.onnx", size=(48, 80))) as segmenter:
        placed = region.place(segmenter.predict(region.view(frame)), frame)
    assert placed.confidence is None
    rows, columns = region.box(96, 160)
    assert np.array_equal(placed.labels[rows, columns], nearest_colour(street())[rows, columns])
    assert (placed.labels != IGNORE).sum() == 48 * 80
