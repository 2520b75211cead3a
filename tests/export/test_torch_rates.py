"""Rates measured with torch, here on the CPU: the same code measures a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cpsl_deploy.errors import UnavailableError
from cpsl_deploy.export import torch_rates as module
from cpsl_deploy.export.torch_rates import torch_rates


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    small = {"LEAST_SIDE": 64, "MOST_SIDE": 128, "COPIED_BYTES": 1 << 20, "REPETITION_S": 0.0}
    for name, value in small.items():
        monkeypatch.setattr(module, name, value)
    for cached in (module._matrix_rate, module._copy_rate):
        cached.cache_clear()
    yield
    for cached in (module._matrix_rate, module._copy_rate):
        cached.cache_clear()


def test_rates_in_each_precision() -> None:
    before = torch.get_float32_matmul_precision()
    rates = torch_rates(["f32", "bf16"], device="cpu")
    assert set(rates.matrix) == {"f32", "bf16"} and rates.stated is None
    assert rates.matrix_rate("f32").flops_per_s > 1e6 and rates.copy.bytes_per_s > 1e6
    assert "in bf16 on the CPU" in rates.matrix_rate("bf16").how
    assert torch.get_float32_matmul_precision() == before
    assert torch_rates(["f32"], device="cpu").matrix["f32"] is rates.matrix["f32"]


def test_products_grow_until_they_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def product(precision: str, device: str, side: int) -> object:
        seen.append(side)
        return lambda: None

    monkeypatch.setattr(module, "_product", product)
    monkeypatch.setattr(module, "MOST_SIDE", 512)
    monkeypatch.setattr(module, "_seconds", lambda *_, once=False: 1e-9 * seen[-1] ** 3 / 1e1)
    rate = torch_rates(["f32"], device="cpu").matrix_rate("f32")
    assert seen == [64, 128, 256, 512] and rate.flops_per_s == pytest.approx(2e10)


def test_a_precision_that_torch_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(precision: str, device: str, side: int) -> object:
        raise RuntimeError("not implemented for 'Char'")

    monkeypatch.setattr(module, "_product", refuse)
    rates = torch_rates(["int8"], device="cpu")
    with pytest.raises(UnavailableError, match="no matrices in int8 on cpu"):
        rates.matrix_rate("int8")


def test_without_a_gpu_there_are_no_rates_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="finds no GPU"):
        torch_rates(["f32"], device="cuda")
