"""Boundary scores against a slow re-derivation pixel by pixel, hand-made shapes, and their properties."""

from __future__ import annotations

from dataclasses import fields

import cv2
import numpy as np
import pytest
from painted_backend import blotches

from cpsl_deploy.bench.boundary import BoundaryCounts, boundary_counts, inner_band
from cpsl_deploy.classes import IGNORE
from cpsl_deploy.errors import InputError


def slow_band(label_map: np.ndarray, reach: int) -> np.ndarray:
    """Pixel by pixel: is there a known pixel of another class in the square around it?"""
    band = np.zeros(label_map.shape, bool)
    for y, x in np.argwhere(label_map != IGNORE):
        around = label_map[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        band[y, x] = ((around != IGNORE) & (around != label_map[y, x])).any()
    return band


def slow_near(points: np.ndarray, others: np.ndarray, reach: int) -> int:
    """How many of the points (n, 2) have one of the others (m, 2) within ``reach``, by all distances."""
    if not len(points) or not len(others):
        return 0
    distances = np.hypot(*(points[:, None] - others[None]).transpose(2, 0, 1))
    return int((distances.min(axis=1) <= reach).sum())


def slow_counts(
    labels: np.ndarray, predictions: np.ndarray, classes: int, reach: int
) -> dict[str, list[int]]:
    predictions = np.where(labels == IGNORE, IGNORE, predictions)
    bands = slow_band(labels, reach), slow_band(predictions, reach)
    contours = slow_band(labels, 1), slow_band(predictions, 1)
    counts: dict[str, list[int]] = {field.name: [] for field in fields(BoundaryCounts)}
    for k in range(classes):
        truth, found = bands[0] & (labels == k), bands[1] & (predictions == k)
        outline, drawn = (
            np.argwhere(contour & (label_map == k))
            for contour, label_map in zip(contours, (labels, predictions), strict=True)
        )
        counts["band_hits"].append(int((truth & found).sum()))
        counts["band_labelled"].append(int(truth.sum()))
        counts["band_predicted"].append(int(found.sum()))
        counts["contour_labelled"].append(len(outline))
        counts["contour_found"].append(slow_near(outline, drawn, reach))
        counts["contour_predicted"].append(len(drawn))
        counts["contour_right"].append(slow_near(drawn, outline, reach))
    return counts


@pytest.mark.parametrize("reach", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_counts_equal_a_slow_derivation(seed, reach):
    labels = blotches(seed, (23, 31), [0, 1, 2, 4, IGNORE], cell=6)
    predictions = np.where(
        blotches(seed + 10, (23, 31), [0, 1], cell=5), labels, blotches(seed + 20, (23, 31), [0, 1, 2, 3])
    )
    predictions[labels == IGNORE] = 1
    counts = boundary_counts(labels, predictions.astype(np.uint8), 5, reach)
    expected = slow_counts(labels, predictions, 5, reach)
    assert {name: getattr(counts, name).tolist() for name in expected} == expected
    assert 0 < counts.band_hits.sum() < counts.band_labelled.sum()
    assert 0 < counts.contour_right.sum() < counts.contour_predicted.sum()


def with_square(rows: slice, columns: slice, side: int = 40) -> np.ndarray:
    label_map = np.zeros((side, side), np.uint8)
    label_map[rows, columns] = 1
    return label_map


def test_a_shift_by_one_pixel_is_forgiven_by_the_f_score_and_not_by_boundary_iou():
    labels = with_square(slice(10, 30), slice(10, 30))
    counts = boundary_counts(labels, with_square(slice(10, 30), slice(11, 31)), 2, 3)
    assert counts.f_score.tolist() == [1, 1]
    # The band of the square: 20² - 14² = 204; two of them a column apart share 20·19 - 14·15 = 170.
    assert counts.band_labelled[1] == counts.band_predicted[1] == 204 and counts.band_hits[1] == 170
    assert counts.iou[1] == pytest.approx(170 / 238)


def test_a_shift_by_more_than_the_tolerance_is_seen_by_both():
    labels = with_square(slice(10, 30), slice(10, 30))
    shifted = with_square(slice(10, 30), slice(14, 34))
    strict, lenient = boundary_counts(labels, shifted, 2, 3), boundary_counts(labels, shifted, 2, 4)
    # Of the outline's 76 pixels the left column (20) is 4 from the other one, and so is the right but for 4
    # at each end, near the top and bottom row of the other.
    assert strict.contour_found[1] == 76 - 20 - 12 and strict.f_score[1] == pytest.approx(44 / 76)
    assert lenient.f_score[1] == 1 > lenient.iou[1] > strict.iou[1]


def test_bands_are_those_of_the_published_code_away_from_the_image_border():
    """Which erodes by 3x3 as often as the band is wide, per class."""
    labels = np.pad(blotches(3, (40, 60), [1, 2]), 8)
    for reach in (1, 2, 4):
        for k in (1, 2):
            mask = (labels == k).astype(np.uint8)
            published = mask - cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=reach)
            np.testing.assert_array_equal(inner_band(labels, reach) & (labels == k), published.astype(bool))


def test_the_image_border_is_no_boundary():
    halves = np.zeros((10, 20), np.uint8)
    halves[:, 10:] = 1
    assert inner_band(halves, 2).sum(axis=0).tolist() == [0] * 8 + [10] * 4 + [0] * 8
    alone = boundary_counts(np.zeros_like(halves), np.zeros_like(halves), 2, 2)
    assert np.isnan(alone.iou).all() and np.isnan(alone.f_score).all()


def test_what_is_ignored_is_unknown_to_truth_and_prediction():
    labels = blotches(5, (40, 50), [0, 1, 2, IGNORE])
    under = np.where(labels == IGNORE, blotches(6, (40, 50), [0, 1, 2, 3, IGNORE]), labels)
    counts = boundary_counts(labels, under, 4, 3)
    assert counts.iou[:3].tolist() == counts.f_score[:3].tolist() == [1, 1, 1]
    assert np.isnan(counts.iou[3]) and np.isnan(counts.f_score[3])
    # A strip of two ignored columns between two classes: 3 pixels reach over it, 2 see one column, 1 none.
    strip = np.zeros((10, 20), np.uint8)
    strip[:, 9:11], strip[:, 11:] = IGNORE, 1
    assert [int(inner_band(strip, reach).sum()) for reach in (1, 2, 3)] == [0, 0, 20]


def test_a_class_on_one_side_alone_scores_zero():
    square = with_square(slice(10, 30), slice(10, 30))
    for labels, predictions in ((square, np.zeros_like(square)), (np.zeros_like(square), square)):
        counts = boundary_counts(labels, predictions, 3, 3)
        assert counts.iou[:2].tolist() == counts.f_score[:2].tolist() == [0, 0]
        assert np.isnan(counts.iou[2]) and np.isnan(counts.f_score[2])


def test_scores_of_several_images_are_of_their_summed_counts():
    small, large = with_square(slice(5, 9), slice(5, 9)), with_square(slice(5, 35), slice(5, 35))
    missed = boundary_counts(small, np.zeros_like(small), 2, 2)
    found = boundary_counts(large, large, 2, 2)
    both = missed + found + BoundaryCounts.zeros(2)
    outlines = [12, 116]
    assert both.iou[1] == pytest.approx(found.band_hits[1] / (16 + found.band_hits[1]))
    recall = outlines[1] / sum(outlines)
    assert both.f_score[1] == pytest.approx(2 * recall / (1 + recall))


def test_the_255th_class_is_not_taken_for_ignored():
    labels = np.full((8, 8), 254, np.uint8)
    labels[:, 4:] = 0
    counts = boundary_counts(labels, labels, 255, 1)
    assert counts.iou[254] == counts.f_score[254] == counts.iou[0] == 1 and counts.band_labelled[254] == 8


@pytest.mark.parametrize(
    ("labels", "predictions", "pixels", "reason"),
    [
        (np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8), 3, "of one shape"),
        (np.zeros((4, 4), np.int64), np.zeros((4, 4), np.uint8), 3, "uint8"),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), 0, "1 pixel or more; got 0"),
        (np.full((4, 4), 7, np.uint8), np.zeros((4, 4), np.uint8), 3, "a label is a class from 0 to 2"),
        (np.zeros((4, 4), np.uint8), np.full((4, 4), IGNORE, np.uint8), 3, "a prediction is a class"),
    ],
)
def test_what_breaks_a_rule_is_refused(labels, predictions, pixels, reason):
    with pytest.raises(InputError, match=reason):
        boundary_counts(labels, predictions, 3, pixels)
