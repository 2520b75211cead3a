"""The step of stage 1: what its losses are, and which parameters each of them reaches."""

# ruff: noqa: E402
import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_training import streets, target_views, tiny_batch, tiny_network

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.train import recipe
from cpsl_deploy.train.assignment import sinkhorn
from cpsl_deploy.train.samples import Batch, TargetBatch
from cpsl_deploy.train.self_labelling import SelfLabelling
from cpsl_deploy.train.stage import predict
from cpsl_deploy.train.target_statistics import SoftLabels, TargetSummary
from cpsl_deploy.train.views import Geometric, warp_maps

PRIOR = torch.tensor([0.5, 0.3, 0.2])
NAMES = {"source", "target", "self_labelling", "consistency"}


@pytest.fixture
def make(tmp_path: Path):
    """Stages whose soft labels of the four target images are random."""

    def stage(predicted: tuple[float, ...] = (0.5, 0.3, 0.2), **settings: object) -> SelfLabelling:
        generator = torch.Generator().manual_seed(0)
        soft_labels = SoftLabels(tmp_path / "soft_labels")
        for index in range(4):
            soft_labels.write(index, (3 * torch.randn(3, 8, 12, generator=generator)).softmax(dim=0))
        summary = TargetSummary(torch.randn(3, 8, generator=generator), PRIOR, torch.tensor(predicted))
        options = {
            "iterations": 4,
            "batch": 2,
            "bank": 64,
            "pixels_per_image": 16,
            "mixing": "none",
            **settings,
        }
        chosen = recipe.SelfLabelling(**options)
        made = SelfLabelling(chosen, tiny_network(dropout=0.5), summary, soft_labels, target_statistics=True)
        return made.train()

    return stage


def losses_of(stage: SelfLabelling, batch: Batch | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return stage(batch or tiny_batch(), torch.Generator().manual_seed(seed))


def reached_by(stage: SelfLabelling, loss: torch.Tensor) -> set[str]:
    """Names of the parameters that a loss pulls at."""
    stage.zero_grad(set_to_none=True)
    loss.backward(retain_graph=True)
    parameters = stage.named_parameters()
    return {name for name, p in parameters if p.grad is not None and p.grad.abs().sum() > 0}


def test_all_losses_are_finite_and_all_that_learns_is_reached(make):
    stage = make(contrast_weight=0.1, mixing="cutmix", mixing_probability=1.0)
    losses_of(stage)
    losses = losses_of(stage)
    assert losses.keys() == NAMES | {"contrast"}
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    # A bias in front of a batch norm moves nothing.
    learns = {"prototypes", *(f"network.{name}" for name, _ in stage.network.named_parameters())}
    assert reached_by(stage, sum(losses.values())) >= learns - {"network.encoder.bias"}


def test_self_labelling_reaches_the_prototypes_alone(make):
    stage = make()
    assert reached_by(stage, losses_of(stage)["self_labelling"]) == {"prototypes"}


def test_self_labelling_reaches_the_student_s_features_if_asked(make):
    stage = make(student_features=True)
    reached = reached_by(stage, losses_of(stage)["self_labelling"])
    assert {"prototypes", "network.encoder.weight"} <= reached
    assert not any("classifier" in name for name in reached)


def test_contrast_reaches_the_student_s_features(make):
    stage = make(contrast_weight=0.1)
    assert "contrast" not in losses_of(stage), "an empty bank has nothing to contrast with"
    losses = losses_of(stage)
    assert "network.encoder.weight" in reached_by(stage, losses["contrast"])
    assert reached_by(stage, losses["self_labelling"]) == {"prototypes"}


def test_segmentation_and_consistency_reach_the_student_not_the_prototypes(make):
    stage = make()
    losses = losses_of(stage)
    for name in ("source", "target"):
        reached = reached_by(stage, losses[name])
        assert {
            "network.encoder.weight",
            "network.classifier.weight",
        } <= reached and "prototypes" not in reached
    reached = reached_by(stage, losses["consistency"])
    assert "network.encoder.weight" in reached and "prototypes" not in reached


@pytest.mark.parametrize("student_features", [False, True])
def test_nothing_reaches_the_teacher(make, student_features: bool):
    stage = make(student_features=student_features, contrast_weight=0.1)
    losses_of(stage)
    before = {key: value.clone() for key, value in stage.teacher.state_dict().items()}
    sum(losses_of(stage).values()).backward()
    assert all(p.grad is None and not p.requires_grad for p in stage.teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in stage.teacher.state_dict().items())


def test_consistency_is_zero_when_the_views_and_the_networks_are_one(make):
    """The strong view is the weak one and the student in eval mode is the teacher."""
    stage, batch = make(), tiny_batch()
    identity = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    everywhere = torch.ones_like(batch.target.valid)
    target = dataclasses.replace(
        batch.target, strong=batch.target.weak, strong_to_weak=identity, valid=everywhere
    )
    stage.network.eval()
    losses = losses_of(stage, Batch(batch.source, target))
    assert float(losses["consistency"].detach()) == pytest.approx(0, abs=1e-5)


def test_self_labelling_is_the_cross_entropy_with_the_balanced_assignment(make):
    """Re-derived in NumPy from what the bank holds after the step."""
    stage = make(self_labelling_weight=0.7)
    losses_of(stage, tiny_batch(1))
    loss = float(losses_of(stage)["self_labelling"].detach())
    features, scores, _ = (rows.double().numpy() for rows in stage.bank.rows())
    assert features.shape == (64, 8)
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    assert np.allclose(np.linalg.norm(scores, axis=1), 1, atol=1e-5)
    prototypes = stage.prototypes.detach().double().numpy()
    cosines = features @ (prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)).T
    batch = slice(32, 64)
    logits = cosines[batch] / 0.08
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    wanted = 0.0
    for of_bank in (cosines, scores):
        q = np.exp(of_bank / 0.05)
        for _ in range(3):
            q *= PRIOR.numpy() * len(q) / q.sum(axis=0)
            q /= q.sum(axis=1, keepdims=True)
        wanted -= 0.7 * (q[batch] * log_probs).sum(axis=1).mean()
    assert loss == pytest.approx(wanted, rel=1e-4)


def test_the_uniform_marginal_is_a_switch(make):
    aligned, uniform, of_uniform_prior = make(), make(align_distribution=False), make()
    of_uniform_prior.prior.fill_(1 / 3)
    stages = (aligned, uniform, of_uniform_prior)
    to_prior, to_uniform, wanted = (losses_of(stage)["self_labelling"] for stage in stages)
    assert torch.allclose(to_uniform, wanted) and not torch.allclose(to_prior, wanted, rtol=1e-3)


def test_the_bank_is_filled_with_the_teacher_s_pixels_and_their_labels(make):
    stage, batch = make(pixels_per_image=64, bank=200), tiny_batch()
    with torch.no_grad():
        losses_of(stage, batch)
    output = predict(stage.teacher.network, batch.target.weak)
    seen = stage.teach(batch.target)
    features, scores, labels = stage.bank.rows()
    assert len(labels) == 128, "no more pixels are drawn than there are"
    all_features = torch.nn.functional.normalize(output.features, dim=1).permute(0, 2, 3, 1).reshape(128, 8)
    distance, pixel = torch.cdist(features, all_features).min(dim=1)
    assert distance.max() < 1e-3 and sorted(pixel.tolist()) == list(range(128))
    all_scores = torch.nn.functional.normalize(output.logits, dim=1).permute(0, 2, 3, 1).reshape(128, 3)
    assert torch.allclose(scores, all_scores[pixel], atol=1e-5)
    assert torch.equal(labels, seen.rectified.argmax(dim=1).flatten()[pixel])


@pytest.mark.parametrize("wanted", [10, 60])
def test_pixels_are_drawn_inside_the_images_alone(make, wanted: int):
    views = target_views(streets(first_seed=100), weak=Geometric(scale=(0.45, 0.55)))
    batch = Batch(tiny_batch().source, views.batch([1, 0], range(4)))
    inside = batch.target.weak_inside((8, 8)).flatten(1)
    assert inside.sum(dim=1).min() > 10 and inside.sum(dim=1).max() < 60
    stage = make(pixels_per_image=wanted, bank=240, batch=4)
    drawn = stage.draw_pixels(torch.Size((4, 8, 8, 8)), batch.target, torch.Generator().manual_seed(0))
    assert drawn.shape == (4, wanted)
    assert inside.gather(1, drawn).all()
    for positions, share in zip(drawn, inside, strict=True):
        assert len(positions.unique()) == min(wanted, share.sum()), "none twice before all were drawn"
    assert torch.isfinite(losses_of(stage, batch)["self_labelling"])


def test_pseudo_labels_are_rectified_unless_switched_off(make):
    batch = tiny_batch()
    rectified, plain = make().teach(batch.target), make(rectify=False).teach(batch.target)
    soft = make().soft_labels.views(batch.target, batch.target.weak_to_image, (8, 8))
    product = soft * rectified.assignment
    assert torch.allclose(rectified.rectified, product / product.sum(dim=1, keepdim=True), atol=1e-6)
    assert torch.allclose(plain.rectified, soft / soft.sum(dim=1, keepdim=True), atol=1e-6)
    online = make(online_soft_labels=True, rectify=False).teach(batch.target)
    assert torch.allclose(online.rectified, online.output.logits.softmax(dim=1), atol=1e-6)


def test_pixels_outside_the_views_are_ignored(make):
    """What the strong view shows where it is not valid changes neither labels nor losses' targets."""
    stage, batch = make(), tiny_batch()
    assert not batch.target.valid.all()
    labels, _ = stage.strong_labels(batch.target, stage.teach(batch.target))
    assert torch.equal(labels == IGNORE, ~batch.target.valid)
    stage = make(threshold=0.9)
    kept, _ = stage.strong_labels(batch.target, stage.teach(batch.target))
    agree = kept == labels
    assert (agree | (kept == IGNORE)).all() and 0 < agree[batch.target.valid].float().mean() < 1


def test_without_a_valid_pixel_the_target_costs_nothing(make):
    stage, batch = make(), tiny_batch()
    nowhere = dataclasses.replace(batch.target, valid=torch.zeros_like(batch.target.valid))
    losses = losses_of(stage, Batch(batch.source, nowhere))
    assert float(losses["target"].detach()) == float(losses["consistency"].detach()) == 0


@pytest.mark.parametrize("kind", ["cutmix", "classmix"])
def test_source_pixels_are_pasted_with_their_labels(make, kind: str):
    stage, batch = make(mixing=kind, mixing_probability=1.0), tiny_batch()
    labels = torch.full_like(batch.source.labels, 1)
    images, mixed, pasted = stage.mix(
        batch.source, batch.target.strong, labels, torch.Generator().manual_seed(0)
    )
    assert 0 < pasted.float().mean() < 1
    assert torch.equal(mixed, torch.where(pasted, batch.source.labels, labels))
    for channel in range(3):
        wanted = torch.where(pasted, batch.source.images[:, channel], batch.target.strong[:, channel])
        assert torch.equal(images[:, channel], wanted)


def test_mixing_happens_as_often_as_asked(make):
    batch = tiny_batch()
    for probability in (0.0, 0.5, 1.0):
        stage = make(mixing="cutmix", mixing_probability=probability)
        labels = torch.zeros_like(batch.source.labels)
        mixed = [
            stage.mix(batch.source, batch.target.strong, labels, torch.Generator().manual_seed(s))[2].any()
            for s in range(60)
        ]
        assert np.mean(mixed) == pytest.approx(probability, abs=0.2 if probability == 0.5 else 0)


def test_the_teacher_follows_after_a_step_and_is_the_result(make):
    stage = make(momentum=0.9)
    (optimiser,) = stage.optimisers()
    sum(losses_of(stage).values()).backward()
    before = stage.teacher.prototypes.clone()
    optimiser.step()
    stage.after_step()
    assert torch.allclose(stage.teacher.prototypes, 0.9 * before + 0.1 * stage.prototypes.detach(), atol=1e-6)
    assert stage.result() is stage.teacher.network and not stage.result().training


def test_the_prototypes_learn_at_the_head_s_rate(make):
    stage = make(optimiser=recipe.Optimiser(lr=0.01, head_factor=5))
    groups = stage.optimisers()[0].param_groups
    (rate,) = {group["lr"] for group in groups if any(p is stage.prototypes for p in group["params"])}
    assert rate == pytest.approx(0.05)


def test_the_prior_follows_the_pseudo_labels_if_asked(make):
    still, moving = make(), make(prior_momentum=0.9)
    batch = tiny_batch()
    for stage in (still, moving):
        losses_of(stage, batch)
    assert torch.equal(still.prior, PRIOR)
    labels, _ = still.strong_labels(batch.target, still.teach(batch.target))
    shares = torch.bincount(labels[labels != IGNORE], minlength=3).float()
    assert torch.allclose(moving.prior, 0.9 * PRIOR + 0.1 * shares / shares.sum(), atol=1e-6)


def test_running_statistics_are_of_the_target_alone_if_asked(make):
    stage, batch = make(self_labelling_weight=0), tiny_batch()
    losses_of(stage, batch)
    reference = tiny_network(dropout=0.5).train()
    predict(reference, batch.target.strong)
    assert torch.allclose(stage.network.norm.running_mean, reference.norm.running_mean, atol=1e-6)


def test_diagnostics_tell_of_the_assignment(make):
    """Of both assignments, against the prior, after the iterations and before the first."""
    stage = make(sinkhorn_iterations=2)
    losses_of(stage)
    found = stage.diagnostics()
    features, logits, _ = stage.bank.rows()
    prototypes = torch.nn.functional.normalize(stage.prototypes.detach(), dim=1)
    for kind, scores in (("features", features @ prototypes.T), ("logits", logits)):
        after, before = sinkhorn(scores, PRIOR, 0.05, 2), (scores / 0.05).softmax(dim=1)
        for suffix, assignment in (("", after), ("_before", before)):
            off = float((assignment.mean(dim=0) - PRIOR).abs().sum() / 2)
            assert found[f"marginal_error_{kind}{suffix}"] == pytest.approx(off, abs=1e-6)
        assert found[f"marginal_error_{kind}"] < found[f"marginal_error_{kind}_before"]
        assert 0 <= found[f"assignment_entropy_{kind}"] <= np.log(3)


def test_diagnostics_tell_what_the_pseudo_labels_give_each_class(make):
    """Over all steps since they were last asked for: shares and mean confidence of the labels that count."""
    stage, seen = make(threshold=0.5, prior_momentum=0.9), []
    for micro in range(2):
        batch = tiny_batch(micro)
        losses_of(stage, batch)
        rectified = stage.teach(batch.target).rectified
        maps, _ = warp_maps(rectified, batch.target.strong_to_weak, (64, 64), (64, 64))
        full = torch.nn.functional.interpolate(maps, size=(64, 64), mode="bilinear")
        confidence, labels = (full / full.sum(dim=1, keepdim=True)).max(dim=1)
        counts = batch.target.valid & (confidence >= 0.5)
        seen.append((labels[counts].numpy(), confidence[counts].numpy()))
    labels, confidence = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    found = stage.diagnostics()
    assert found["pseudo_label_share"] == pytest.approx([(labels == k).mean() for k in range(3)])
    means = [confidence[labels == k].mean() for k in range(3)]
    assert found["pseudo_label_confidence"] == pytest.approx(means, rel=1e-5)
    assert found["confidence"] == pytest.approx(confidence.mean(), rel=1e-5)
    assert found["prior"] == stage.prior.tolist() != PRIOR.tolist()
    assert "pseudo_label_share" not in stage.diagnostics(), "the tally begins anew"


@pytest.mark.parametrize("settings", [{}, {"rectify": False}, {"align_pseudo_labels": True}])
def test_whole_images_are_labelled_as_in_training_and_nothing_changes(make, settings):
    """A weak view that is the whole image gets the labels that the evaluation gives that image."""
    stage, warm_up = make(**settings), tiny_network(seed=3).eval()
    image = torch.from_numpy(streets(1).image(0)).permute(2, 0, 1)[None]
    losses_of(stage)
    before = {key: value.clone() for key, value in stage.state_dict().items()}
    found = stage.label_image(image, (64, 96), warm_up)
    assert all(torch.equal(value, before[key]) for key, value in stage.state_dict().items())
    stage.soft_labels.write(0, predict(warm_up, image).logits.detach().softmax(dim=1)[0])
    same = torch.eye(3, dtype=torch.float64)[None]
    whole = TargetBatch(
        weak=image,
        strong=image,
        valid=torch.ones(1, 64, 96, dtype=torch.bool),
        weak_to_image=same,
        strong_to_weak=same,
        indices=torch.tensor([0]),
        sizes=((64, 96),),
    )
    trained, _ = stage.strong_labels(whole, stage.teach(whole))
    assert (trained == found).float().mean() > 0.95 and len(found.unique()) > 1


def test_online_soft_labels_of_whole_images_are_the_teacher_s(make):
    stage = make(online_soft_labels=True, rectify=False)
    image = torch.from_numpy(streets(1).image(0)).permute(2, 0, 1)[None]
    logits = predict(stage.teacher.network, image).logits.detach()
    full = torch.nn.functional.interpolate(logits.softmax(dim=1), size=(64, 96), mode="bilinear")
    assert torch.equal(stage.label_image(image, (64, 96), None), full.argmax(dim=1))


def test_aligned_pseudo_labels_give_each_class_its_prior(make):
    """Skewed predictions, seen again and again, are scaled until their mean is the prior's."""
    stage = make(align_pseudo_labels=True)
    skewed = torch.tensor([0.90, 0.08, 0.02]).view(1, 3, 1, 1) + 0.01 * torch.rand(4, 3, 8, 12)
    skewed = skewed / skewed.sum(dim=1, keepdim=True)
    inside = torch.ones(4, 8, 12, dtype=torch.bool)
    for _ in range(300):
        aligned = stage.aligned(skewed, inside)
    torch.testing.assert_close(aligned.mean(dim=(0, 2, 3)), PRIOR, atol=0.02, rtol=0)
    torch.testing.assert_close(aligned.sum(dim=1), torch.ones(4, 8, 12))


def test_alignment_counts_pixels_inside_alone(make):
    stage = make(align_pseudo_labels=True)
    maps = torch.full((1, 3, 2, 2), 1 / 3)
    maps[:, :, 0] = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1)
    inside = torch.tensor([[[False, False], [True, True]]])
    for _ in range(300):
        stage.aligned(maps, inside)
    torch.testing.assert_close(stage.given, torch.full((3,), 1 / 3), atol=1e-3, rtol=0)


def test_a_prior_that_follows_keeps_its_floor(make):
    """Pseudo labels of one class only: the others keep half of what they had, and the sum stays one."""
    stage = make(prior_momentum=0.5, prior_floor=0.5)
    for _ in range(50):
        stage.follow(torch.zeros(2, 8, 12, dtype=torch.long))
    assert float(stage.prior.sum()) == pytest.approx(1)
    torch.testing.assert_close(stage.prior[1:], 0.5 * PRIOR[1:])
    fixed = make(prior_momentum=0.5, prior_floor=1.0)
    fixed.follow(torch.zeros(2, 8, 12, dtype=torch.long))
    assert torch.equal(fixed.prior, PRIOR)
    free = make(prior_momentum=0.5)
    for _ in range(50):
        free.follow(torch.zeros(2, 8, 12, dtype=torch.long))
    assert float(free.prior[1:].max()) < 1e-6


def test_online_soft_labels_do_not_read_the_stored_ones(make):
    stage = make(online_soft_labels=True)
    for index in range(4):
        (stage.soft_labels.folder / f"{index:06d}.npy").unlink()
    assert all(torch.isfinite(loss) for loss in losses_of(stage).values())


def test_the_classifier_starts_at_the_prior_if_asked():
    """The bias moves by log(prior / predicted), by no more than two."""
    from cpsl_deploy.train.models import build
    from cpsl_deploy.train.self_labelling import align_classifier

    for name in ("squeezenet_fpn", "ddrnet23_slim"):
        network = build(name, 3)
        before = network.classifier_bias().detach().clone()
        align_classifier(network, PRIOR, torch.tensor([0.6, 0.3996, 0.0004]))
        moved = (network.classifier_bias() - before).detach()
        torch.testing.assert_close(moved, torch.tensor([np.log(5 / 6), np.log(0.3 / 0.3996), 2.0]).float())


def test_student_and_teacher_start_with_the_aligned_classifier(make, monkeypatch: pytest.MonkeyPatch):
    from tiny_training import TinySegmenter

    monkeypatch.setattr(TinySegmenter, "classifier_bias", lambda self: self.classifier.bias)
    plain, aligned = make(), make(align_classifier=True, predicted=(0.25, 0.25, 0.5))
    wanted = plain.network.classifier.bias.detach() + torch.tensor([2.0, 1.2, 0.4]).log()
    for network in (aligned.network, aligned.teacher.network):
        torch.testing.assert_close(network.classifier.bias.detach(), wanted)


def test_a_classifier_without_bias_cannot_be_aligned():
    from cpsl_deploy.errors import RecipeError
    from cpsl_deploy.train.models import Segmenter
    from cpsl_deploy.train.self_labelling import align_classifier

    with pytest.raises(RecipeError, match="has none"):
        align_classifier(Segmenter(), PRIOR, PRIOR)
