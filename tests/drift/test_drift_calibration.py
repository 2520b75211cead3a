"""Distances and their threshold, against closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from cpsl_deploy.drift import calibration
from cpsl_deploy.drift.calibration import (
    Space,
    left_out_distances,
    student_t_quantile,
    threshold,
    window_means,
)


@pytest.mark.parametrize("degrees", [1, 2, 9, 15, 200])
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.99, 0.9995])
def test_quantiles_of_students_t(degrees: int, probability: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.t.ppf(probability, degrees)
    assert student_t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_the_threshold_is_exceeded_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    above = []
    for _ in range(150):
        seen = [np.exp(rng.normal(0.3, 0.5, 1)) for _ in range(16)]
        above.append(np.mean(np.exp(rng.normal(0.3, 0.5, 400)) > threshold(seen, 0.05)))
    assert 0.035 < np.mean(above) < 0.065


def test_a_camera_that_stood_still_has_a_usable_threshold() -> None:
    distances = [np.array([0.0, 0.0]), np.array([0.3, 0.0])] * 8
    assert 0.1 <= threshold(distances, 0.01) < 1


def test_fewer_blocks_give_a_wider_bound() -> None:
    values = np.exp(np.random.default_rng(1).normal(0, 0.5, 48))
    few, many = (threshold(np.split(values, blocks), 0.01) for blocks in (3, 16))
    assert few > 1.5 * many


def test_distance_to_the_nearest_window() -> None:
    space = Space(
        mean=np.array([1.0, 0]), spread=np.array([0.5, 2.0]), correlation=np.eye(2),
        windows=np.array([[1.0, 0], [2.0, 4.0]]),
    )  # fmt: skip
    assert space.distance(np.array([2.0, 4.0])) == 0
    assert space.distance(np.array([2.5, 4.0])) == pytest.approx(np.sqrt(0.5)), "one spread in one of two"
    assert space.distance(np.array([1.0, -2.0])) == pytest.approx(np.sqrt(0.5))


def test_correlations_are_taken_out() -> None:
    """Against Mahalanobis' distance from the covariance itself."""
    rng = np.random.default_rng(2)
    frames = rng.normal(size=(400, 3)) @ np.array([[1, 0.8, 0], [0, 0.6, 0], [0, 0, 1]])
    space = Space.of(frames, shrinkage=0.0)
    away = np.array([1.0, -1.0, 0.0])
    point = space.windows[0] + away
    inverse = np.linalg.inv(np.cov(frames.T, bias=True))
    squared = min((point - window) @ inverse @ (point - window) for window in space.windows)
    assert space.distance(point) == pytest.approx(np.sqrt(squared / 3), rel=1e-6)


def test_a_statistic_that_never_moves_is_no_singularity() -> None:
    frames = np.random.default_rng(3).normal(size=(100, 2))
    space = Space.of(np.hstack([frames, np.zeros((100, 1))]))
    moved = space.windows[0] + [0, 0, calibration.LEAST_SPREAD]
    assert 0.1 < space.distance(moved) < 10


def test_window_means() -> None:
    frames = np.arange(12.0)[:, None]
    assert window_means(frames, 5).ravel().tolist() == [2.0, 7.0]
    assert window_means(frames[:3], 5).ravel().tolist() == [1.0]


def test_neighbours_of_a_block_are_left_out_with_it() -> None:
    """A block that only its neighbours look like is far from the rest."""
    frames = np.random.default_rng(4).normal(0, 0.1, (160, 2))
    frames[55:75] += 30  # block 6 of 16 is frames 60 to 69
    apart = left_out_distances(frames, blocks=16, gap=5)[6]
    together = left_out_distances(frames, blocks=16, gap=0)[6]
    assert apart.min() > 20 > 1 > together.max()


def test_many_statistics_do_without_correlations() -> None:
    size = calibration.MOST_CORRELATED + 1
    space = Space.of(np.random.default_rng(5).normal(size=(80, size)))
    assert np.count_nonzero(space.correlation - np.diag(np.diag(space.correlation))) == 0
