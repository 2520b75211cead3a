"""The patch discriminator against the published one, and its least-squares loss."""

# ruff: noqa: E402
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from formula_weights import fill
from tiny_training import golden

from cpsl_deploy.train.adversarial import SOURCE, TARGET, PatchDiscriminator, least_squares

SHAPES = Path(__file__).parent.parent / "golden" / "discriminator_state_dict_shapes.json"


def test_keys_shapes_and_forward_are_the_published_ones():
    shapes = json.loads(SHAPES.read_text())
    discriminator = PatchDiscriminator(19)
    state = {key: list(value.shape) for key, value in discriminator.state_dict().items()}
    assert state == shapes and list(state) == list(shapes)

    fill(discriminator)
    case = golden("discriminator")
    with torch.inference_mode():
        judgement = discriminator(torch.from_numpy(case["probs"]))
        np.testing.assert_allclose(judgement.numpy(), case["out"], rtol=1e-4, atol=1e-6)
        fooled, told = float(least_squares(judgement, SOURCE)), float(least_squares(judgement, TARGET))
    assert fooled == pytest.approx(float(case["generator_loss"]), rel=1e-5)
    assert told == pytest.approx(float(case["discriminator_loss_if_target"]), rel=1e-5)


def test_a_patch_is_sixteen_positions_wide():
    assert PatchDiscriminator(4)(torch.zeros(2, 4, 64, 96)).shape == (2, 1, 4, 6)


def test_least_squares_is_the_mean_squared_distance():
    assert float(least_squares(torch.tensor([0.0, 1.0, 3.0]), 1.0)) == pytest.approx((1 + 0 + 4) / 3)


def test_it_learns_to_tell_two_kinds_of_predictions_apart():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(3)
    optimiser = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
    source = torch.tensor([0.9, 0.05, 0.05]).view(1, 3, 1, 1).expand(2, 3, 16, 16)
    target = torch.tensor([0.4, 0.3, 0.3]).view(1, 3, 1, 1).expand(2, 3, 16, 16)
    for _ in range(15):
        optimiser.zero_grad()
        loss = least_squares(discriminator(source), SOURCE) + least_squares(discriminator(target), TARGET)
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        assert discriminator(source).mean() < 0.3 and discriminator(target).mean() > 0.7
