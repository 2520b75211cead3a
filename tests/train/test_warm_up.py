"""The step of the warm-up: who learns from what."""

# ruff: noqa: E402
import pytest

torch = pytest.importorskip("torch")

from tiny_training import tiny_batch, tiny_network

from cpsl_deploy.train import recipe
from cpsl_deploy.train.stage import predict
from cpsl_deploy.train.warm_up import WarmUp


def make(target_statistics: bool = True, **settings: object) -> WarmUp:
    chosen = recipe.WarmUp(iterations=4, batch=2, **settings)
    stage = WarmUp(chosen, tiny_network(dropout=0), target_statistics=target_statistics)
    torch.manual_seed(1)
    for parameter in stage.discriminator.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return stage.train()


def losses_of(stage: WarmUp) -> dict[str, torch.Tensor]:
    return stage(tiny_batch(), torch.Generator().manual_seed(0))


def reached_by(stage: WarmUp, loss: torch.Tensor) -> set[str]:
    stage.zero_grad(set_to_none=True)
    loss.backward(retain_graph=True)
    return {name.split(".")[0] for name, p in stage.named_parameters() if p.grad is not None and p.grad.any()}


def test_each_loss_is_finite_and_reaches_its_own_network_alone():
    stage = make()
    losses = losses_of(stage)
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    reached = {name: reached_by(stage, loss) for name, loss in losses.items()}
    assert reached == {"source": {"network"}, "adversarial": {"network"}, "discriminator": {"discriminator"}}


def test_the_discriminator_learns_although_it_is_held_still_for_the_segmenter():
    stage = make()
    sum(losses_of(stage).values()).backward()
    assert all(p.requires_grad and p.grad is not None for p in stage.discriminator.parameters())


def test_losses_are_the_least_squares_game():
    """The segmenter wants target predictions judged 0, the discriminator source as 0 and target as 1."""
    stage, batch = make(adversarial_weight=0.3), tiny_batch()
    losses = losses_of(stage)
    with torch.no_grad():
        of_source, of_target = (
            stage.discriminator(predict(stage.network, images).logits.softmax(dim=1))
            for images in (batch.source.images, batch.target.weak)
        )
    game = {
        "adversarial": 0.3 * of_target.square().mean(),
        "discriminator": 0.5 * (of_source.square().mean() + (of_target - 1).square().mean()),
    }
    for name, value in game.items():
        assert torch.allclose(losses[name], value, rtol=1e-4), name


def test_each_network_has_its_own_optimiser():
    stage = make(discriminator_lr=3e-4)
    of_network, of_discriminator = stage.optimisers()
    owned = [
        {id(p) for group in o.param_groups for p in group["params"]} for o in (of_network, of_discriminator)
    ]
    assert owned[0] == {id(p) for p in stage.network.parameters()}
    assert owned[1] == {id(p) for p in stage.discriminator.parameters()}
    assert isinstance(of_discriminator, torch.optim.Adam)
    group = of_discriminator.param_groups[0]
    assert group["lr"] == 3e-4 and tuple(group["betas"]) == (0.9, 0.99)


@pytest.mark.parametrize("target_statistics", [True, False])
def test_running_statistics_are_of_the_target_alone_if_asked(target_statistics: bool):
    stage, batch = make(target_statistics), tiny_batch()
    losses_of(stage)
    reference = tiny_network(dropout=0).train()
    if not target_statistics:
        predict(reference, batch.source.images)
    predict(reference, batch.target.weak)
    assert torch.allclose(stage.network.norm.running_mean, reference.norm.running_mean, atol=1e-6)


def test_unlabelled_source_pixels_enter_nothing():
    stage, batch = make(), tiny_batch()
    blank = torch.full_like(batch.source.labels, 255)
    losses = stage(
        type(batch)(type(batch.source)(batch.source.images, blank), batch.target), torch.Generator()
    )
    assert float(losses["source"].detach()) == 0
