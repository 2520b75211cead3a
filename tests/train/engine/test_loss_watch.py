"""The watch over losses: means, the first bad value, what counts as an explosion."""

# ruff: noqa: E402
import pytest

torch = pytest.importorskip("torch")

from tiny_training import tiny_batch

from cpsl_deploy.train.engine.loss_watch import JUMP, LARGEST, NEEDED, BadLoss, LossWatch, listed
from cpsl_deploy.train.samples import Batch

NOTHING = Batch(None, None)


def watched(values: list[float], watch: LossWatch | None = None) -> BadLoss | None:
    watch = watch or LossWatch()
    for iteration, value in enumerate(values, start=1):
        watch.see(iteration, {"term": torch.tensor(value)}, NOTHING)
    return watch.judge()


def test_means_are_over_the_steps_since_the_last_call():
    watch = LossWatch()
    assert watched([1.0, 2.0, 6.0], watch) is None
    assert watch.means() == {"term": 3.0}
    watched([4.0], watch)
    watched([5.0], watch)
    assert watch.means() == {"term": 4.5}


def test_a_term_of_some_steps_alone_is_taken_as_zero_in_the_others():
    watch = LossWatch()
    watch.see(1, {"a": torch.tensor(1.0)}, NOTHING)
    watch.see(2, {"a": torch.tensor(3.0), "b": torch.tensor(4.0)}, NOTHING)
    assert watch.judge() is None
    assert watch.means() == {"a": 2.0, "b": 2.0}


def test_the_first_bad_value_is_told_with_its_step_term_and_images():
    watch, batches = LossWatch(), [tiny_batch(i) for i in range(4)]
    for i, batch in enumerate(batches):
        losses = {"sound": torch.tensor(1.0), "broken": torch.tensor(float("nan") if i in (1, 3) else 2.0)}
        watch.see(i + 1, losses, batch)
    bad = watch.judge()
    assert (bad.iteration, bad.term) == (2, "broken")
    assert bad.images == batches[1].names != batches[0].names
    assert set(bad.images) == {"source", "target"} and all(len(names) == 2 for names in bad.images.values())
    assert "term 'broken' is nan at iteration 2" in str(bad)
    first, second = bad.images["source"]
    assert listed(bad.images).startswith(f"source images {first}, {second}; target images ")


def test_a_loss_explodes_above_the_limit():
    assert watched([1.0, 0.99 * LARGEST, LARGEST]) is None
    assert watched([1.0, 1.01 * LARGEST, 5 * LARGEST]).iteration == 2
    assert watched([1.0, -1.01 * LARGEST]).iteration == 2


def test_a_loss_explodes_far_above_its_median():
    calm = [0.1, 0.2, 0.3] * NEEDED
    assert watched([*calm, 0.99 * JUMP * 0.2]) is None
    bad = watched([*calm, 1.01 * JUMP * 0.2])
    assert bad.iteration == len(calm) + 1 and "1000 times its median, which is 0.2" in bad.rule


def test_few_values_and_small_losses_are_not_judged_by_a_median():
    assert watched([0.001] * (NEEDED - 1) + [50.0]) is None
    assert watched([0.001] * NEEDED + [50.0]) is not None
    assert watched([1e-9] * NEEDED + [9.0]) is None


def test_nothing_is_judged_twice():
    watch = LossWatch()
    assert watched([float("inf")], watch) is not None
    assert watch.judge() is None
