"""Intervals by bootstrap: hand-made cases, and how often they hold the truth where it is known."""

from __future__ import annotations

import numpy as np
import pytest

from cpsl_deploy.bench import bootstrap
from cpsl_deploy.bench.bootstrap import FEW_IMAGES, iou_intervals, resampled_sums
from cpsl_deploy.errors import InputError

# A world of six classes: how many images have the class, pixels it has there, how much of it a model finds.
PRESENT = np.array([1, 1, 1, 0.9, 0.6, 0.3])
SIZE = np.array([2e5, 1e5, 8e4, 2e4, 1e4, 5e3])
SKILL = np.array([0.95, 0.9, 0.85, 0.7, 0.55, 0.4])


def draw_images(random: np.random.Generator, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, labelled and predicted pixels (N, K) of that world: an image is hard for all its classes."""
    shape = (images, len(SIZE))
    labelled = np.rint((random.random(shape) < PRESENT) * random.gamma(2, SIZE / 2, shape))
    ease = random.beta(8, 2, (images, 1))
    hits = np.rint(labelled * SKILL * ease * random.beta(9, 1, shape))
    false = np.rint((random.random(shape) < 0.8) * random.gamma(0.5, 0.24 * SIZE, shape))
    hits, labelled, false = (array.astype(np.int64) for array in (hits, labelled, false))
    return hits, labelled, hits + false


def true_iou() -> np.ndarray:
    """(K,) of endlessly many images: the means of the distributions above, but for rounding to pixels."""
    labelled = PRESENT * SIZE
    hits = labelled * SKILL * 0.8 * 0.9
    return hits / (labelled + 0.8 * 0.5 * 0.24 * SIZE)


def coverage(images: int, repetitions: int, level: float = 0.95) -> tuple[float, np.ndarray]:
    """Share of intervals that hold the truth: of the mean, and of each class."""
    random, truth = np.random.default_rng(2), true_iou()
    of_mean, of_classes, given = 0, np.zeros(len(truth)), np.zeros(len(truth))
    for repetition in range(repetitions):
        found = iou_intervals(*draw_images(random, images), level=level, resamples=400, seed=repetition)
        of_mean += found.miou[0] <= truth.mean() <= found.miou[1]
        low, high = found.classes.T
        given += ~np.isnan(low)
        of_classes += (low <= truth) & (truth <= high)
    return of_mean / repetitions, of_classes / given


def test_intervals_hold_the_truth_as_often_as_they_say():
    of_mean, of_classes = coverage(images=100, repetitions=500)
    assert 0.90 <= of_mean <= 0.98, of_mean
    assert (of_classes >= 0.88).all() and (of_classes <= 0.985).all(), of_classes
    half, _ = coverage(images=100, repetitions=300, level=0.5)
    assert 0.42 <= half <= 0.58, half


def test_few_images_give_intervals_that_are_too_narrow():
    few, _ = coverage(images=5, repetitions=300)
    enough, _ = coverage(images=FEW_IMAGES, repetitions=300)
    assert 0.70 <= few <= 0.88 and 0.89 <= enough <= 0.98, (few, enough)


def test_more_images_make_narrower_intervals():
    random = np.random.default_rng(5)
    widths = [np.diff(iou_intervals(*draw_images(random, n)).miou)[0] for n in (25, 100, 400)]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.35) == widths[1] / widths[2]


def test_images_that_are_all_alike_leave_nothing_open():
    hits, labelled, predicted = (np.tile(row, (7, 1)) for row in ([30, 5], [40, 10], [50, 5]))
    found = iou_intervals(hits, labelled, predicted)
    np.testing.assert_allclose(found.classes, [[0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(found.miou, 0.5)


def test_a_class_that_a_resample_lacks_enters_no_mean_there():
    # The second class is in the first of three images alone; (2/3)³, 30 %, of the resamples lack it.
    hits, labelled = np.array([[5, 8], [5, 0], [5, 0]]), np.array([[10, 8], [10, 0], [10, 0]])
    found = iou_intervals(hits, labelled, hits)
    assert found.miou == (0.5, 0.75)
    assert found.classes[0].tolist() == [0.5, 0.5]
    assert np.isnan(found.classes[1]).all()  # one image drawn again says nothing
    without = iou_intervals(hits, labelled, hits, left_out=np.array([False, True]))
    assert without.miou == (0.5, 0.5)


def test_a_class_in_some_images_has_the_interval_of_the_resamples_that_have_it():
    hits = np.array([[0], [9], [0], [0]])
    labelled = np.array([[10], [10], [0], [0]])
    found = iou_intervals(hits, labelled, hits)
    assert found.classes[0].tolist() == [0, 0.9] and found.miou == (0, 0.9)


def test_one_image_or_none_with_labels_has_no_interval():
    one = np.array([[3, 4]])
    empty = np.zeros((5, 2), np.int64)
    for found in (iou_intervals(one, one, one), iou_intervals(empty, empty, empty)):
        assert np.isnan(found.miou).all() and np.isnan(found.classes).all() and found.to_json() is None


def test_a_seed_gives_the_same_interval_again_and_another_one_another():
    counts = draw_images(np.random.default_rng(3), 40)
    first, again, other = (iou_intervals(*counts, resamples=200, seed=seed) for seed in (1, 1, 2))
    assert first.to_json() == again.to_json() != other.to_json()
    document = first.to_json()
    assert document["level"] == 0.95 and document["resamples"] == 200 and document["seed"] == 1
    assert document["low"] < document["high"]


def test_images_are_drawn_with_replacement_as_many_as_there_are(monkeypatch):
    monkeypatch.setattr(bootstrap, "_BLOCK", 12 * 70)  # several blocks, the last one shorter
    times = resampled_sums(np.eye(12, dtype=np.int64), 1000, seed=4)
    assert times.shape == (1000, 12) and (times.sum(axis=1) == 12).all()
    np.testing.assert_allclose(times.mean(axis=0), 1, atol=0.15)
    assert times.var() == pytest.approx(11 / 12, rel=0.1)  # of the binomial distribution
    assert len(np.unique(times, axis=0)) > 990


def test_counts_beyond_32_bits_stay_exact():
    counts = np.full((3, 1), 2**40 + 1)
    assert (resampled_sums(counts, 5, seed=0) == 3 * (2**40 + 1)).all()


def test_what_breaks_a_rule_is_refused():
    counts = np.ones((3, 2), np.int64)
    with pytest.raises(InputError, match=r"of one shape; got \(3, 2\), \(3, 1\)"):
        iou_intervals(counts, counts[:, :1], counts)
    for wrong in ({"level": 1.0}, {"level": 0.0}, {"resamples": 0}):
        with pytest.raises(InputError, match="a level lies between 0 and 1"):
            iou_intervals(counts, counts, counts, **wrong)
