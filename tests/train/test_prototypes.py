"""Prototypes: the reference's numbers, cosines, and the running mean over images."""

# ruff: noqa: E402
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_training import golden

from cpsl_deploy.train.prototypes import (
    PrototypeEstimator,
    cosine_scores,
    cosines_of_unit_features,
    prototype_assignment,
)


def test_assignment_is_the_reference_s():
    case = golden("prototype_weights")
    found = prototype_assignment(
        torch.from_numpy(case["feat"]), torch.from_numpy(case["prototypes"]), float(case["temperature"])
    )
    np.testing.assert_allclose(found.numpy(), case["weights"], rtol=1e-5, atol=1e-8)


def test_estimate_is_the_reference_s():
    case = golden("prototype_init")
    estimator = PrototypeEstimator(*case["prototypes"].shape)
    for feature, logits in zip(
        case["feat"], case["logits"], strict=True
    ):  # one image at a time, as in training
        estimator.update(torch.from_numpy(feature)[None], torch.from_numpy(logits)[None])
    np.testing.assert_allclose(estimator.prototypes().numpy(), case["prototypes"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(estimator.counts.numpy(), case["counts"])


def test_cosines_do_not_depend_on_lengths_and_maps_agree_with_rows():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 6, 3, 5, generator=generator)
    prototypes = torch.randn(4, 6, generator=generator)
    maps = cosine_scores(features * 7, prototypes * torch.tensor([[0.1], [1], [10], [100]]))
    for n, y, x, k in [(0, 0, 0, 0), (1, 2, 4, 3), (1, 0, 3, 1)]:
        a, b = features[n, :, y, x].numpy(), prototypes[k].numpy()
        assert float(maps[n, k, y, x]) == pytest.approx(
            a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5
        )
    rows = cosine_scores(features.permute(0, 2, 3, 1).reshape(-1, 6), prototypes)
    assert torch.allclose(rows, maps.permute(0, 2, 3, 1).reshape(-1, 4), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cosines_keep_their_precision_under_autocast(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(4, 16, generator=generator)
    for shape in ((50, 16), (1, 16, 5, 10)):
        features = torch.randn(shape, generator=generator)
        with torch.autocast("cpu", dtype=dtype):
            cast = cosine_scores(features, prototypes)
        assert cast.dtype == torch.float32
        assert torch.allclose(cast, cosine_scores(features, prototypes), atol=1e-6)


def test_a_zero_feature_or_prototype_is_far_from_everything_and_finite():
    assignment = prototype_assignment(torch.zeros(2, 3), torch.eye(4, 3))
    assert torch.allclose(assignment, torch.full((2, 4), 0.25))


def test_mean_is_over_images_not_pixels_and_small_regions_say_nothing():
    generator = torch.Generator().manual_seed(0)
    estimator = PrototypeEstimator(3, 5, min_pixels=10)
    means = []
    for pixels_of_one in (12, 60, 9):
        labels = torch.zeros(100, dtype=torch.long)
        labels[:pixels_of_one] = 1
        features = torch.randn(5, 100, generator=generator)
        logits = torch.nn.functional.one_hot(labels, 3).T.float()
        estimator.update(features.reshape(1, 5, 10, 10), logits.reshape(1, 3, 10, 10))
        if pixels_of_one >= 10:
            means.append(features[:, :pixels_of_one].mean(dim=1))
    assert estimator.counts.tolist() == [3, 2, 0]
    assert torch.allclose(estimator.prototypes()[1], torch.stack(means).mean(dim=0), atol=1e-6)


def test_a_class_never_seen_takes_the_fallback():
    estimator = PrototypeEstimator(2, 4)
    logits = torch.tensor([5.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    estimator.update(torch.ones(1, 4, 4, 4), logits)
    assert torch.equal(estimator.prototypes()[1], torch.zeros(4))
    filled = estimator.prototypes(fallback=torch.full((2, 4), 9.0))
    assert torch.equal(filled, torch.tensor([[1.0] * 4, [9.0] * 4]))


def test_prototypes_are_a_copy_of_the_estimate():
    estimator = PrototypeEstimator(2, 4)
    estimator.prototypes().fill_(3)
    assert torch.equal(estimator.mean, torch.zeros(2, 4))


@pytest.mark.parametrize("autocast", [False, True])
def test_cosines_of_features_of_length_one_are_their_cosines(autocast: bool):
    features = torch.nn.functional.normalize(
        torch.randn(37, 8, generator=torch.Generator().manual_seed(0)), dim=1
    )
    prototypes = 3 * torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = cosines_of_unit_features(features, prototypes)
    assert found.dtype == torch.float32
    assert torch.allclose(found, cosine_scores(features, prototypes), atol=1e-6)
