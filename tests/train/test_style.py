"""Style transfer: an image takes on another's colour statistics and keeps what it shows."""

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from tiny_training import SIZE, streets

from cpsl_deploy.train.samples import WorkingImages
from cpsl_deploy.train.style import reinhard, restyler


def picture(seed: int, mean: float, spread: float) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(mean, spread, (48, 64, 3))
    return np.clip(cv2.GaussianBlur(noise, (0, 0), 1), 0, 255).astype(np.uint8)


def lab_statistics(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(float)
    return lab.mean(axis=0), lab.std(axis=0)


def test_means_and_deviations_become_the_style_s():
    image, style = picture(0, 170, 60), picture(1, 80, 25) // np.array([1, 2, 1], np.uint8)
    mean, deviation = lab_statistics(reinhard(image, style))
    wanted_mean, wanted_deviation = lab_statistics(style)
    assert np.abs(mean - wanted_mean).max() < 0.2
    assert np.abs(deviation - wanted_deviation).max() < 0.2


def test_an_image_in_its_own_style_stays_as_it_is():
    image = picture(0, 120, 40)
    changed = reinhard(image, image).astype(int)
    through_lab = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), cv2.COLOR_LAB2RGB).astype(int)
    assert np.array_equal(changed, through_lab)


def test_a_flat_image_stays_finite_and_takes_the_mean():
    flat = np.full((16, 16, 3), 100, np.uint8)
    mean, deviation = lab_statistics(reinhard(flat, picture(0, 200, 20)))
    assert np.abs(mean - lab_statistics(picture(0, 200, 20))[0]).max() < 2 and deviation.max() < 1


def test_restyling_follows_its_generator_and_visits_the_targets():
    restyle = restyler(WorkingImages(streets(4), SIZE, cache_mib=1))
    image = picture(0, 120, 40)
    results = [restyle(image, np.random.default_rng(seed)).tobytes() for seed in range(30)]
    assert results == [restyle(image, np.random.default_rng(seed)).tobytes() for seed in range(30)]
    assert len(set(results)) == 4


def test_a_target_image_is_read_once(monkeypatch: pytest.MonkeyPatch):
    pictures, read = streets(3), []
    targets = WorkingImages(pictures, SIZE)  # keeps none
    restyle = restyler(targets)
    reading = pictures.image
    monkeypatch.setattr(pictures, "image", lambda index: read.append(index) or reading(index))
    image = picture(0, 120, 40)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        style = reading(int(np.random.default_rng(seed).integers(3)))
        assert np.array_equal(restyle(image, rng), reinhard(image, style))
    assert sorted(read) == [0, 1, 2]
