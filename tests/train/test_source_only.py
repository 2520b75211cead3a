"""Supervised training on one domain."""

# ruff: noqa: E402
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_training import tiny_batch, tiny_network

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.train import recipe
from cpsl_deploy.train.samples import Batch
from cpsl_deploy.train.source_only import Supervised
from cpsl_deploy.train.stage import predict


def make() -> Supervised:
    return Supervised(
        "source_only", recipe.SourceOnly(iterations=4, batch=2), tiny_network(dropout=0)
    ).train()


def test_the_loss_is_the_cross_entropy_at_full_resolution():
    stage, source = make(), tiny_batch().source
    (loss,) = stage(Batch(source, None), torch.Generator()).values()
    logits = predict(stage.network, source.images).logits
    full = torch.nn.functional.interpolate(logits, size=(64, 64), mode="bilinear", align_corners=False)
    log_probs = full.detach().double().log_softmax(dim=1).permute(0, 2, 3, 1).reshape(-1, 3).numpy()
    labels = source.labels.flatten().numpy()
    counted = labels != IGNORE
    wanted = -log_probs[np.flatnonzero(counted), labels[counted]].mean()
    assert 0.5 < counted.mean() < 1
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)


def test_everything_that_can_learn_is_reached():
    stage = make()
    sum(stage(tiny_batch(), torch.Generator()).values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in stage.parameters())
    assert stage.network.encoder.weight.grad.any() and stage.network.classifier.weight.grad.any()


def test_the_target_is_not_asked_for():
    assert not make().needs_target
