"""The step of stage 1 computes what it computed before it was made fast, in parts and at once."""

# ruff: noqa: E402
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tiny_self_labelling import generator, losses_of, self_labelling, step
from tiny_training import tiny_batch

SETTINGS = {
    "published": {"mixing": "cutmix", "mixing_probability": 1.0},
    "classmix": {
        "mixing": "classmix",
        "mixing_probability": 1.0,
        "consistency_weight": 0.0,
        "align_pseudo_labels": True,
        "prior_momentum": 0.9,
    },
    "threshold": {
        "threshold": 0.45,
        "student_features": True,
        "online_soft_labels": True,
        "symmetric_alpha": 1.0,
        "symmetric_beta": 0.0,
    },
}
# Computed by the step as it was when it held all logits at full size: losses of three steps, then the sums
# of the absolute parameters of student and teacher, and the prior.
RECORDED = {
    "published": (
        {
            "source": [1.0926360, 0.6831416, 0.5063145],
            "target": [5.9064484, 4.3114243, 3.6438239],
            "self_labelling": [0.3529907, 0.3871681, 0.3886090],
            "consistency": [0.3021519, 0.3066263, 0.0507225],
        },
        74.4841673,
        69.8335494,
        [0.5, 0.3, 0.2],
    ),
    "classmix": (
        {
            "source": [1.0926360, 0.6655521, 0.4744017],
            "target": [5.6922650, 4.0797777, 3.9267495],
            "self_labelling": [0.3324096, 0.3619778, 0.3301271],
        },
        77.1595628,
        69.8347754,
        [0.3990775, 0.3770457, 0.2238767],
    ),
    "threshold": (
        {
            "source": [1.0926360, 0.8277519, 0.6293216],
            "target": [0.9311332, 0.8624777, 0.7603879],
            "self_labelling": [0.2458608, 0.4858036, 0.3080923],
            "consistency": [0.5617144, 0.4206431, 0.1458136],
        },
        71.7269303,
        69.8310774,
        [0.5, 0.3, 0.2],
    ),
}


def size_of(module: torch.nn.Module) -> float:
    return float(sum(p.detach().double().abs().sum() for p in module.parameters()))


@pytest.mark.parametrize("name", SETTINGS)
def test_three_steps_give_the_recorded_losses(name: str, tmp_path: Path):
    stage = self_labelling(tmp_path, **SETTINGS[name])
    (optimiser,) = stage.optimisers()
    for group in optimiser.param_groups:
        group["lr"] *= 100  # so that the steps show in the losses
    found = [step(stage, optimiser, number) for number in range(3)]
    losses, student, teacher, prior = RECORDED[name]
    assert list(found[0]) == list(losses)
    for term, wanted in losses.items():
        assert [float(losses[term].detach()) for losses in found] == pytest.approx(wanted, rel=1e-4), term
    assert size_of(stage.network) == pytest.approx(student, rel=1e-5)
    assert size_of(stage.teacher) == pytest.approx(teacher, rel=1e-6)
    assert stage.prior.tolist() == pytest.approx(prior, rel=1e-5)


def test_parts_one_after_the_other_have_the_gradients_of_all_at_once(tmp_path: Path):
    settings = SETTINGS["published"]
    at_once, apart = (self_labelling(tmp_path, **settings) for _ in range(2))
    losses = losses_of(at_once)
    torch.stack(list(losses.values())).sum().backward()
    torch.manual_seed(0)
    seen = []
    for part in apart.parts(tiny_batch(), generator()):
        torch.stack(list(part.values())).sum().backward()
        seen.append(list(part))
    assert seen == [["source"], ["target", "self_labelling", "consistency"]]
    for (name, one), other in zip(at_once.named_parameters(), apart.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            assert torch.allclose(one.grad, other.grad, rtol=1e-5, atol=1e-7), name


def test_without_consistency_no_assignment_is_warped(tmp_path: Path):
    stage = self_labelling(tmp_path, consistency_weight=0.0)
    target = tiny_batch().target
    seen = stage.teach(target)
    labels, warped = stage.strong_labels(target, seen)
    assert warped is None
    also, _ = self_labelling(tmp_path, consistency_weight=1.0).strong_labels(target, seen)
    assert torch.equal(labels, also)
