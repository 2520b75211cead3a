"""Intervals by bootstrap: hand-made cases, and how often they hold the truth where it is known."""

from __future__ import annotations

import numpy as np
import pytest

from cpsl_deploy.bench import bootstrap
from cpsl_deploy.bench.block_length import block_length
from cpsl_deploy.bench.bootstrap import FEW_IMAGES, image_influence, iou_intervals, resampled_sums
from cpsl_deploy.errors import InputError

# A world of six classes: how many images have the class, pixels it has there, how much of it a model finds.
PRESENT = np.array([1, 1, 1, 0.9, 0.6, 0.3])
SIZE = np.array([2e5, 1e5, 8e4, 2e4, 1e4, 5e3])
SKILL = np.array([0.95, 0.9, 0.85, 0.7, 0.55, 0.4])


def draw_images(
    random: np.random.Generator, images: int, ease: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, labelled and predicted pixels (N, K) of that world: an image is hard for all its classes."""
    shape = (images, len(SIZE))
    labelled = np.rint((random.random(shape) < PRESENT) * random.gamma(2, SIZE / 2, shape))
    ease = random.beta(8, 2, (images, 1)) if ease is None else ease
    hits = np.rint(labelled * SKILL * ease * random.beta(9, 1, shape))
    false = np.rint((random.random(shape) < 0.8) * random.gamma(0.5, 0.24 * SIZE, shape))
    hits, labelled, false = (array.astype(np.int64) for array in (hits, labelled, false))
    return hits, labelled, hits + false


def true_iou(mean_ease: float = 0.8) -> np.ndarray:
    """(K,) of endlessly many images: the means of the distributions above, but for rounding to pixels."""
    labelled = PRESENT * SIZE
    hits = labelled * SKILL * mean_ease * 0.9
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


def correlated(random: np.random.Generator, length: int, memory: float) -> np.ndarray:
    """(N,) standard normal values, each ``memory`` times the one before plus noise."""
    values = random.normal(size=length)
    for i in range(1, length):
        values[i] = memory * values[i - 1] + np.sqrt(1 - memory**2) * values[i]
    return values


def ease_of(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-1.4 - 0.6 * values))


def test_images_of_a_drive_need_runs():
    """Where an image is about as hard as the one before, drawing images one by one promises far too much."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    truth = true_iou((weights * ease_of(points)).sum() / weights.sum()).mean()
    random, in_runs, one_by_one = np.random.default_rng(6), 0, 0
    for seed in range(200):
        counts = draw_images(random, 400, ease_of(correlated(random, 400, 0.8))[:, None])
        for block in (None, 1):
            found = iou_intervals(*counts, resamples=300, seed=seed, block=block)
            holds = found.miou[0] <= truth <= found.miou[1]
            in_runs, one_by_one = in_runs + (holds and block is None), one_by_one + (holds and block == 1)
    assert in_runs > 0.83 * 200 and one_by_one < 0.68 * 200, (in_runs, one_by_one)


def test_block_length_is_the_best_one_of_an_autoregressive_series():
    # Politis and White: (1.5 (2 r / (1 - r²))² N)^(1/3) for a memory of r.
    random = np.random.default_rng(7)
    for memory in (0.5, 0.8):
        best = (1.5 * (2 * memory / (1 - memory**2)) ** 2 * 1000) ** (1 / 3)
        lengths = [block_length(correlated(random, 1000, memory)) for _ in range(40)]
        assert np.median(lengths) == pytest.approx(best, rel=0.25), memory


def test_block_length_of_values_that_say_nothing_of_each_other_is_1():
    random = np.random.default_rng(8)
    assert np.mean([block_length(random.normal(size=100)) == 1 for _ in range(200)]) > 0.93
    for series in (np.zeros(50), np.zeros(0), np.ones(2), np.tile([1.0, -1.0], 50)):
        assert block_length(series) == 1
    assert 10 <= block_length(np.arange(60.0)) <= 20 and 50 <= block_length(np.arange(900.0)) <= 90


def test_influence_is_what_leaving_an_image_out_changes():
    hits, labelled, predicted = draw_images(np.random.default_rng(9), 300)
    unions = labelled + predicted - hits
    influence = image_influence(hits, unions)
    whole = (hits.sum(axis=0) / unions.sum(axis=0)).mean()
    left = ((hits.sum(axis=0) - hits) / (unions.sum(axis=0) - unions)).mean(axis=1)
    assert np.corrcoef(influence, whole - left)[0, 1] > 0.999
    np.testing.assert_allclose(influence, whole - left, atol=0.05 * np.abs(influence).max())
    assert influence.sum() == pytest.approx(0, abs=1e-12)


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
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 12 * 70)  # several parts, the last one shorter
    times = resampled_sums(np.eye(12, dtype=np.int64), 1000, seed=4)
    assert times.shape == (1000, 12) and (times.sum(axis=1) == 12).all()
    np.testing.assert_allclose(times.mean(axis=0), 1, atol=0.15)
    assert times.var() == pytest.approx(11 / 12, rel=0.1)  # of the binomial distribution
    assert len(np.unique(times, axis=0)) > 990


def test_runs_are_of_successive_images_and_the_first_follows_the_last():
    times = resampled_sums(np.eye(10, dtype=np.int64), 500, seed=4, block=4)  # 4 + 4 + 2 images
    assert (times.sum(axis=1) == 10).all()
    starts_and_ends = np.abs(np.diff(times, axis=1, append=times[:, :1])).sum(axis=1)
    one_by_one = resampled_sums(np.eye(10, dtype=np.int64), 500, seed=4)
    assert starts_and_ends.max() == 6 < np.abs(np.diff(one_by_one, axis=1)).sum(axis=1).mean()
    np.testing.assert_allclose(times.mean(axis=0), 1, atol=0.15)
    assert (resampled_sums(np.eye(4, dtype=np.int64), 9, seed=0, block=4) == 1).all()


def test_counts_beyond_32_bits_stay_exact():
    counts = np.full((3, 1), 2**40 + 1)
    assert (resampled_sums(counts, 5, seed=0) == 3 * (2**40 + 1)).all()


def test_what_breaks_a_rule_is_refused():
    counts = np.ones((3, 2), np.int64)
    with pytest.raises(InputError, match=r"of one shape; got \(3, 2\), \(3, 1\)"):
        iou_intervals(counts, counts[:, :1], counts)
    for wrong in ({"level": 1.0}, {"level": 0.0}, {"resamples": 0}, {"block": 0}):
        with pytest.raises(InputError, match="a level lies between 0 and 1"):
            iou_intervals(counts, counts, counts, **wrong)
