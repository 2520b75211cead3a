"""The growth that `benchmarks/scaling.py` reports is that of its figures."""

from pathlib import Path

import pytest

pytest.importorskip("torch")

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_exponent_is_that_of_the_power(power: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scaling

    sizes = [10, 20, 80]
    assert scaling.exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


def test_every_size_takes_its_turn_in_each_round(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scaling

    seen: list[str] = []
    found = scaling.in_turns({1: lambda: seen.append("a"), 2: lambda: seen.append("b")}, rounds=3)
    assert seen == ["a", "b"] * 4 and list(found) == [1, 2]
