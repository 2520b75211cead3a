"""A rate that was measured beside other work says so, is measured again, and is not kept for good."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cpsl_deploy.machine import matrix_rate as module
from cpsl_deploy.machine import processor_share
from cpsl_deploy.machine.copy_rate import CopyRate
from cpsl_deploy.machine.matrix_rate import MatrixRate, matrix_rate
from cpsl_deploy.machine.processor_share import remember_undisturbed
from cpsl_deploy.machine.rates import Rates


@pytest.fixture(autouse=True)
def product(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "SIDES", (100,))
    monkeypatch.setattr(module, "TURN_S", 0.0)
    monkeypatch.setattr(module, "_LIBRARIES", {"one": lambda precision, threads, side: lambda: 0.1})
    matrix_rate.cache_clear()
    yield
    matrix_rate.cache_clear()


def shares(monkeypatch: pytest.MonkeyPatch, *values: float) -> list[float]:
    left = list(values)

    class Share:
        def __init__(self, threads: int) -> None: ...

        def value(self) -> float:
            return left.pop(0) if len(left) > 1 else left[0]

    monkeypatch.setattr(module, "ProcessorShare", Share)
    return left


def test_turns_are_repeated_until_one_is_undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    left = shares(monkeypatch, *[0.3] * 8, 0.95, 0.1, 0.2)
    assert not matrix_rate("f32", 1).disturbed
    assert left == [0.1, 0.2]


def test_a_machine_that_stays_busy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    shares(monkeypatch, 0.4)
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    rate = matrix_rate("f32", 1)
    copy = CopyRate(bytes_per_s=1e9, how="by hand")
    assert rate.disturbed and Rates(matrix={"f32": rate}, copy=copy).disturbed
    sound = MatrixRate(flops_per_s=1e9, how="by hand")
    assert not Rates(matrix={"f32": sound}, copy=copy).disturbed


def test_a_disturbed_rate_is_not_kept_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    made = iter(MatrixRate(flops_per_s=i, how="", disturbed=i < 3) for i in range(1, 9))
    rate = remember_undisturbed(lambda *key: next(made))
    assert rate("a").flops_per_s == rate("a").flops_per_s == 1
    monkeypatch.setattr(processor_share, "STALE_S", 0.0)
    assert [rate("a").flops_per_s for _ in range(4)] == [2, 3, 3, 3]
