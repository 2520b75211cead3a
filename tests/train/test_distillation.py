"""The step of stages 2 and 3."""

# ruff: noqa: E402
import copy
import dataclasses
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tiny_training import tiny_batch, tiny_network

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.train import recipe
from cpsl_deploy.train.distillation import Distillation
from cpsl_deploy.train.samples import Batch
from cpsl_deploy.train.stage import predict
from cpsl_deploy.train.target_statistics import SoftLabels


@pytest.fixture
def make(tmp_path: Path):
    """Stages whose student is a copy of the frozen network unless ``student`` is another seed."""

    def stage(student: int | None = None, **settings: object) -> Distillation:
        soft_labels = SoftLabels(tmp_path / "soft_labels")
        generator = torch.Generator().manual_seed(0)
        for index in range(4):
            soft_labels.write(
                index, (4 * torch.randn(3, 8, 12, generator=generator)).softmax(dim=0).clamp(max=0.99)
            )
        frozen = tiny_network(dropout=0)
        network = copy.deepcopy(frozen) if student is None else tiny_network(student, dropout=0)
        chosen = recipe.Distillation(iterations=4, batch=2, **{"threshold": 0.6, **settings})
        made = Distillation("distillation_1", chosen, network, frozen, soft_labels, target_statistics=True)
        return made.train()

    return stage


def losses_of(stage: Distillation, batch: Batch | None = None) -> dict[str, torch.Tensor]:
    return stage(batch or tiny_batch(), torch.Generator().manual_seed(0))


def test_losses_are_finite_and_reach_the_student_never_the_frozen_network(make):
    stage = make(student=1)
    losses = losses_of(stage)
    assert losses.keys() == {"source", "target", "distillation"}
    for loss in losses.values():
        assert torch.isfinite(loss) and loss > 0
        stage.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        assert stage.network.encoder.weight.grad.any() and stage.network.classifier.weight.grad.any()
        assert all(p.grad is None and not p.requires_grad for p in stage.frozen.parameters())


def test_distillation_is_zero_when_the_student_is_the_frozen_network_and_positive_else(make):
    same = make()
    same.network.eval()
    assert float(losses_of(same)["distillation"].detach()) == pytest.approx(0, abs=1e-6)
    for seed in range(1, 6):
        other = make(student=seed)
        other.network.eval()
        assert losses_of(other)["distillation"] > 1e-4


def test_the_frozen_network_stays_as_it_is_in_eval_mode(make):
    stage = make(student=1)
    before = copy.deepcopy(stage.frozen.state_dict())
    stage.train()
    assert not stage.frozen.training and stage.network.training
    losses_of(stage)
    assert all(torch.equal(value, before[key]) for key, value in stage.frozen.state_dict().items())


def test_only_confident_pixels_inside_the_views_are_learnt(make):
    """Re-derived: soft labels at the strong views, kept where certain enough and valid."""
    stage, batch = make(student=1, threshold=0.8), tiny_batch()
    target = batch.target
    to_image = target.weak_to_image @ target.strong_to_weak
    probabilities = stage.soft_labels.views(target, to_image, (64, 64))
    kept = target.valid & (probabilities.amax(dim=1) >= 0.8)
    assert 0 < kept.sum() < target.valid.sum()
    with torch.no_grad():
        logits = predict(stage.network, target.strong).logits
        full = torch.nn.functional.interpolate(logits, size=(64, 64), mode="bilinear")
        per_pixel = -full.log_softmax(dim=1).gather(1, probabilities.argmax(dim=1, keepdim=True))[:, 0]
    assert torch.allclose(losses_of(stage)["target"], per_pixel[kept].mean(), rtol=1e-5)


def test_a_threshold_that_nothing_reaches_leaves_source_and_distillation(make):
    losses = losses_of(make(student=1, threshold=1.0))
    assert float(losses["target"].detach()) == 0
    assert losses["source"] > 0 and losses["distillation"] > 0


def test_without_a_valid_pixel_the_target_costs_nothing(make):
    batch = tiny_batch()
    nowhere = dataclasses.replace(batch.target, valid=torch.zeros_like(batch.target.valid))
    losses = losses_of(make(student=1), Batch(batch.source, nowhere))
    assert float(losses["target"].detach()) == float(losses["distillation"].detach()) == 0


def test_weights_scale_their_losses(make):
    plain = losses_of(make(student=1))
    weighted = losses_of(make(student=1, source_weight=2, target_weight=3, kl_weight=5))
    for name, factor in {"source": 2, "target": 3, "distillation": 5}.items():
        assert torch.allclose(weighted[name], factor * plain[name]), name


def test_pasted_source_pixels_bring_their_labels(make):
    """With no confident target pixel, what is learnt in the mixed crops is the pasted source."""
    stage = make(student=1, threshold=1.0, mixing="cutmix", mixing_probability=1.0)
    batch = tiny_batch()
    assert losses_of(stage)["target"] > 0
    unlabelled = dataclasses.replace(batch.source, labels=torch.full_like(batch.source.labels, IGNORE))
    assert float(losses_of(stage, Batch(unlabelled, batch.target))["target"].detach()) == 0


def test_pasted_pixels_are_distilled_though_the_target_is_not_valid_there(make):
    batch = tiny_batch()
    nowhere = dataclasses.replace(batch.target, valid=torch.zeros_like(batch.target.valid))
    mixed = make(student=1, mixing="cutmix", mixing_probability=1.0)
    assert losses_of(mixed, Batch(batch.source, nowhere))["distillation"] > 0


def test_the_result_is_the_student(make):
    stage = make()
    assert stage.result() is stage.network
