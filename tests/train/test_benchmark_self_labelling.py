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


def test_the_limit_is_of_each_byte_and_operation_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import self_labelling_step as bench

    case = bench.Case(bank=1000, channels=64, classes=10)
    found = bench.limits_ms(case, bytes_per_s=1e6, flops_per_s=1e6)
    # The bank 256 kB, its scores 40, then twice 40 read, 40 written and 3 x 2 x 40 read.
    assert found["memory"] == pytest.approx(256 + 40 + 2 * (40 + 40 + 240))
    # 10,000 scores of 64 products and sums each; two products a score in each of three iterations, twice.
    assert found["arithmetic"] == pytest.approx(10 * 64 * 2 + 2 * 3 * 2 * 10 * 2)
    sys.modules.pop("self_labelling_step")


def test_the_published_bank_is_scored_as_it_is_stored(monkeypatch: pytest.MonkeyPatch):
    """Rows have length one when they are pushed; to normalise them again would make the baseline slower."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import published_assignment

    sizes = []
    normalize = torch.nn.functional.normalize

    def counted(values: torch.Tensor, **options: int) -> torch.Tensor:
        sizes.append(len(values))
        return normalize(values, **options)

    monkeypatch.setattr(published_assignment.F, "normalize", counted)
    bank = published_assignment.PublishedBank(torch.eye(4).repeat(8, 1), torch.eye(3).repeat(11, 1)[:32])
    features, logits = torch.randn(2, 5, 4).unbind(), torch.randn(2, 5, 3).unbind()
    published_assignment.published_self_labelling(
        list(features), list(logits), torch.randn(3, 4), bank, torch.full((3,), 1 / 3)
    )
    assert max(sizes) == 5
