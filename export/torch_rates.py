"""What a device can do at most, measured with torch: its rates of matrix products and of its memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch

from cpsl_deploy.errors import UnavailableError
from cpsl_deploy.machine.copy_rate import CopyRate
from cpsl_deploy.machine.matrix_rate import MatrixRate
from cpsl_deploy.machine.rates import Rates

_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "int8": torch.int8}
LEAST_SIDE, MOST_SIDE = 1024, 8192
LONG_S = 0.005
"""A product that takes as long keeps the device busy; smaller ones are made larger until they do."""
COPIED_BYTES = 512 << 20
"""Or an eighth of the memory that is free."""
REPETITIONS, REPETITION_S = 10, 0.03


def torch_rates(precisions: Sequence[str], *, device: str) -> Rates:
    """The rates of a device in the given precisions; an entry point of `cpsl_deploy.machine.device_rates`.

    float32 is float32, not TF32, as in the files that are exported. Takes a second for each precision, once
    in a process. Raises UnavailableError without the device.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise UnavailableError(f"torch {torch.__version__} finds no GPU")
    matrix, missing = {}, {}
    for precision in precisions:
        try:
            matrix[precision] = _matrix_rate(precision, device)
        except (RuntimeError, NotImplementedError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            missing[precision] = f"torch multiplies no matrices in {precision} on {device} ({reason})"
    return Rates(matrix=matrix, copy=_copy_rate(device), missing=missing)


@cache
def _matrix_rate(precision: str, device: str) -> MatrixRate:
    side = LEAST_SIDE
    with torch.no_grad(), _exact_float32():
        product = _product(precision, device, side)
        seconds = _seconds(product, device, once=True)
        while seconds < LONG_S and side < MOST_SIDE:
            side *= 2
            product = _product(precision, device, side)
            seconds = _seconds(product, device, once=True)
        seconds = _seconds(product, device)
    how = f"torch {torch.__version__}, {side} x {side} x {side} in {precision} on {_name(device)}"
    return MatrixRate(flops_per_s=2 * side**3 / seconds, how=how)


def _product(precision: str, device: str, side: int) -> Callable[[], object]:
    if precision == "int8":
        left, right = (torch.ones(side, side, dtype=torch.int8, device=device) for _ in range(2))
        return lambda: torch._int_mm(left, right)
    left, right = (torch.rand(side, side, device=device).to(_DTYPES[precision]) for _ in range(2))
    result = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=result)


@cache
def _copy_rate(device: str) -> CopyRate:
    free = COPIED_BYTES if device == "cpu" else torch.cuda.mem_get_info()[0] // 8
    size = min(COPIED_BYTES, free)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    seconds = _seconds(lambda: target.copy_(source), device)
    how = f"torch {torch.__version__}, copies of {size >> 20} MiB on {_name(device)}"
    return CopyRate(bytes_per_s=2 * size / seconds, how=f"{how}, bytes read and written")


def _seconds(work: Callable[[], object], device: str, *, once: bool = False) -> float:
    """Of one piece of work, the best of several repetitions; each is of many, so that launches are hidden."""

    def run(times: int) -> float:
        _wait(device)
        began = time.perf_counter()
        for _ in range(times):
            work()
        _wait(device)
        return (time.perf_counter() - began) / times

    run(1)
    alone = run(1)
    if once:
        return alone
    times = max(1, int(REPETITION_S / max(alone, 1e-6)))
    return min(run(times) for _ in range(REPETITIONS))


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _name(device: str) -> str:
    return "the CPU" if device == "cpu" else torch.cuda.get_device_name()


@contextlib.contextmanager
def _exact_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
