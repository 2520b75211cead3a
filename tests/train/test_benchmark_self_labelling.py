"""The published procedure that ours is timed against gives the same loss where both see the same pixels."""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


def test_both_sides_of_the_benchmark_solve_the_same_problem(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import self_labelling_step as bench

    given = bench.material(bench.Case(images=1, pixels=64, bank=1024, channels=16, classes=5))
    published = bench.published_step(given)()
    theirs = given.prototypes.grad.clone()
    # Ours holds the batch within the bank: the oldest pixels make room, and are in neither assignment's way.
    bank = (
        torch.cat([torch.zeros(64, 16), given.bank_features]),
        torch.cat([torch.zeros(64, 5), given.bank_scores]),
    )
    ours = bench.our_step(bench.dataclasses.replace(given, bank_features=bank[0], bank_scores=bank[1]))()
    assert torch.allclose(ours, published, rtol=1e-4)
    assert torch.allclose(given.prototypes.grad, theirs, rtol=1e-3, atol=1e-6)
    assert float(theirs.abs().max()) > 1e-4
    sys.modules.pop("self_labelling_step")


def test_what_is_pushed_comes_first_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from published_assignment import PublishedBank

    bank = PublishedBank(torch.arange(4.0)[:, None].clone(), torch.arange(4.0)[:, None].clone())
    bank.push(torch.tensor([[8.0]]), torch.tensor([[9.0]]))
    assert bank.features.flatten().tolist() == [8, 0, 1, 2] and bank.scores.flatten().tolist() == [9, 0, 1, 2]
