"""The memory bank: rows keep what belongs together, the newest pixels survive."""

# ruff: noqa: E402
import pytest

torch = pytest.importorskip("torch")

from cpsl_deploy.train.memory_bank import MemoryBank


def pixels(numbers: range | list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels that carry their number in feature, score and label."""
    label = torch.tensor(list(numbers))
    return label[:, None] + torch.tensor([0.0, 0.5]), label[:, None] * torch.ones(3), label


def held(bank: MemoryBank) -> set[int]:
    """Numbers of the pixels in the bank, each of whose parts must tell the same number."""
    features, scores, labels = bank.rows()
    assert torch.equal(features, labels[:, None] + torch.tensor([0.0, 0.5]))
    assert torch.equal(scores, labels[:, None] * torch.ones(3))
    assert len(set(labels.tolist())) == len(labels)
    return set(labels.tolist())


def test_it_is_empty_at_first_and_fills_up():
    bank = MemoryBank(10, 2, 3)
    assert len(bank) == 0 and held(bank) == set()
    bank.push(*pixels(range(1, 5)))
    assert len(bank) == 4 and held(bank) == {1, 2, 3, 4}


@pytest.mark.parametrize("step", [1, 3, 7, 10])
def test_rows_stay_together_and_the_last_ones_are_kept_over_many_turns(step: int):
    bank = MemoryBank(10, 2, 3)
    for start in range(1, 60, step):
        bank.push(*pixels(range(start, start + step)))
        newest = start + step - 1
        assert held(bank) == set(range(max(1, newest - 9), newest + 1))
        assert bank.labels[bank.newest(step)].tolist() == list(range(start, start + step))


def test_a_push_larger_than_the_bank_keeps_its_last_pixels():
    bank = MemoryBank(4, 2, 3)
    bank.push(*pixels([90, 91, 92]))
    bank.push(*pixels(range(1, 12)))
    assert len(bank) == 4 and held(bank) == {8, 9, 10, 11}
    assert bank.labels[bank.newest(4)].tolist() == [8, 9, 10, 11]
    bank.push(*pixels([12]))
    assert held(bank) == {9, 10, 11, 12}


def test_nothing_is_moved_when_pixels_are_added():
    bank = MemoryBank(10, 2, 3)
    bank.push(*pixels(range(1, 11)))
    address, before = bank.features.data_ptr(), bank.features.clone()
    bank.push(*pixels([50, 51]))
    assert bank.features.data_ptr() == address
    assert torch.equal(bank.features[2:], before[2:])


def test_an_empty_push_changes_nothing():
    bank = MemoryBank(4, 2, 3)
    bank.push(*pixels([1, 2]))
    bank.push(torch.zeros(0, 2), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    assert held(bank) == {1, 2}


def test_it_goes_on_from_its_state():
    bank, copy = MemoryBank(4, 2, 3), MemoryBank(4, 2, 3)
    bank.push(*pixels(range(1, 7)))
    copy.load_state_dict(bank.state_dict())
    for each in (bank, copy):
        each.push(*pixels([7]))
    assert held(copy) == held(bank) == {4, 5, 6, 7}
    assert copy.newest(2).tolist() == bank.newest(2).tolist()


def test_rows_hold_no_gradient():
    bank = MemoryBank(4, 2, 3)
    features, scores, labels = pixels([1, 2])
    bank.push(features.requires_grad_(), scores, labels)
    assert not bank.rows()[0].requires_grad


def test_a_loaded_bank_goes_on_where_the_saved_one_stopped():
    first, second = MemoryBank(10, 2, 3), MemoryBank(10, 2, 3)
    for start in (0, 7):
        numbers = torch.arange(start, start + 7)
        first.push(numbers[:, None].repeat(1, 2), numbers[:, None].repeat(1, 3), numbers)
    second.load_state_dict(first.state_dict())
    for bank in (first, second):
        bank.push(torch.full((2, 2), 50.0), torch.full((2, 3), 50.0), torch.tensor([50, 51]))
    assert len(second) == 10 and torch.equal(first.newest(2), second.newest(2))
    assert all(torch.equal(a, b) for a, b in zip(first.rows(), second.rows(), strict=True))
