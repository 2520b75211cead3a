"""What the stages share: the schedule, the optimisers' rates, how images and statistics enter."""

# ruff: noqa: E402
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_training import tiny_network

from cpsl_deploy.train.recipe import Optimiser
from cpsl_deploy.train.stage import (
    kept_statistics,
    learning_rate_factor,
    network_optimiser,
    normalised,
    predict,
    upsampled,
)


def test_the_schedule_is_polynomial():
    factors = [learning_rate_factor(i, 100, Optimiser(poly_power=0.9)) for i in range(100)]
    assert factors[0] == 1
    assert factors[25] == pytest.approx(0.75**0.9)
    assert factors == sorted(factors, reverse=True)


@pytest.mark.parametrize("iteration", [100, 101, 5000])
@pytest.mark.parametrize("power", [0.9, 1, 2])
def test_the_schedule_clamps_past_the_end(iteration: int, power: float):
    factor = learning_rate_factor(iteration, 100, Optimiser(poly_power=power))
    assert isinstance(factor, float) and factor == 0


def test_the_rate_rises_linearly_first():
    settings = Optimiser(poly_power=1, warm_up_iterations=4)
    factors = [learning_rate_factor(i, 10**9, settings) for i in range(7)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_head_and_extra_parameters_learn_faster(name: str):
    network, extra = tiny_network(), torch.nn.Parameter(torch.zeros(3))
    settings = Optimiser(name=name, lr=0.01, head_factor=5, weight_decay=0.02, momentum=0.8)
    optimiser = network_optimiser(network, settings, [extra])
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert rates[id(network.encoder.weight)] == pytest.approx(0.01)
    assert rates[id(network.classifier.weight)] == rates[id(extra)] == pytest.approx(0.05)
    assert set(rates) == {id(p) for p in [*network.parameters(), extra]}
    assert all(group["weight_decay"] == 0.02 for group in optimiser.param_groups)
    if name == "sgd":
        assert all(group["momentum"] == 0.8 for group in optimiser.param_groups)


def test_images_are_scaled_as_the_network_wants_them():
    network = tiny_network()
    network.mean, network.std = (0.5, 0.25, 0.0), (0.5, 1.0, 2.0)
    image = torch.tensor([255, 51, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    assert normalised(image, network).flatten().tolist() == pytest.approx([1, -0.05, 0])


def test_predictions_are_float32_under_autocast():
    image = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, logits = predict(tiny_network(), image)
    assert features.dtype == logits.dtype == torch.float32


@pytest.mark.parametrize("align_corners", [False, True])
def test_maps_are_upsampled_as_the_network_was_trained(align_corners: bool):
    network = tiny_network()
    network.align_corners = align_corners
    ramp = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    found = upsampled(ramp, (8, 8), network)[0, 0, 3].numpy()
    at = np.linspace(0, 3, 8) if align_corners else np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    np.testing.assert_allclose(found, at, atol=1e-6)


def test_kept_statistics_normalises_by_the_batch_and_keeps_the_running_ones():
    network, image = tiny_network().train(), torch.randn(4, 3, 16, 16)
    network.norm.running_mean.fill_(3)
    with kept_statistics(network):
        kept = network(image).features
        assert torch.equal(network.norm.running_mean, torch.full((8,), 3.0))
    by_batch = network(image).features
    assert torch.equal(kept, by_batch)
    assert not torch.equal(network.norm.running_mean, torch.full((8,), 3.0)), "afterwards they follow again"


def test_kept_statistics_is_undone_by_an_error_too():
    network = tiny_network()
    with pytest.raises(KeyError), kept_statistics(network):
        raise KeyError
    assert network.norm.momentum == torch.nn.BatchNorm2d(1).momentum
