"""The class prior: shares of the labels that count."""

# ruff: noqa: E402
import pytest

torch = pytest.importorskip("torch")

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.train.class_prior import ClassPrior, kept_above


def test_shares_are_counted_over_all_updates_without_ignored_pixels():
    prior = ClassPrior(3)
    prior.update(torch.tensor([[0, 0, 1], [IGNORE, IGNORE, 1]]))
    prior.update(torch.tensor([0, -1, 3]))  # values that are no class do not count
    assert prior.shares().tolist() == pytest.approx([3 / 5, 2 / 5, 0])


def test_it_is_uniform_before_any_label():
    assert ClassPrior(4).shares().tolist() == [0.25] * 4


def test_smoothing_lets_no_class_be_forbidden():
    prior = ClassPrior(4, smoothing=0.2)
    prior.update(torch.tensor([0, 0, 0, 1]))
    shares = prior.shares()
    assert shares.tolist() == pytest.approx([0.65, 0.25, 0.05, 0.05])
    assert float(shares.sum()) == pytest.approx(1)


def test_counts_of_a_whole_data_set_are_exact():
    prior = ClassPrior(2)
    prior.pixels[0] = 2**24  # where float32 stops counting
    prior.update(torch.tensor([0]))
    assert float(prior.pixels[0]) == 2**24 + 1


def test_counts_are_part_of_the_state():
    prior, copy = ClassPrior(3), ClassPrior(3)
    prior.update(torch.tensor([2, 2, 0]))
    copy.load_state_dict(prior.state_dict())
    assert torch.equal(copy.shares(), prior.shares())


def test_a_soft_prior_counts_probabilities_and_a_hard_one_winners():
    probabilities = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    soft, hard = ClassPrior(3, soft=True), ClassPrior(3)
    soft.see(probabilities)
    hard.see(probabilities)
    torch.testing.assert_close(soft.shares(), torch.tensor([0.6, 0.3, 0.1]))
    assert hard.shares().tolist() == [1, 0, 0]


def test_what_a_floor_takes_comes_from_what_others_have_above_theirs():
    first = torch.tensor([0.4, 0.3, 0.2, 0.1])
    found = kept_above(torch.tensor([0.7, 0.3, 0.0, 0.0]), first, 0.5)
    # Floors: 0.2, 0.15, 0.1, 0.05. Above them are 0.5 and 0.15, which share the other half.
    torch.testing.assert_close(found, torch.tensor([0.2 + 0.5 * 50 / 65, 0.15 + 0.5 * 15 / 65, 0.1, 0.05]))
    assert float(found.sum()) == pytest.approx(1)


def test_shares_above_their_floors_stay():
    shares = torch.tensor([0.5, 0.3, 0.2])
    torch.testing.assert_close(kept_above(shares, torch.tensor([0.2, 0.5, 0.3]), 0.6), shares)
    torch.testing.assert_close(kept_above(shares, torch.tensor([0.0, 0.0, 1.0]), 0.0), shares)


@pytest.mark.parametrize("shares", [[1.0, 0.0, 0.0], [0.21, 0.33, 0.46]])
def test_with_a_floor_of_one_the_first_shares_stay_to_the_bit(shares: list[float]):
    first = torch.tensor([0.21, 0.33, 0.46])
    assert torch.equal(kept_above(torch.tensor(shares), first, 1.0), first)
