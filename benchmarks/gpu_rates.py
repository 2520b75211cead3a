"""What a GPU can do at most, measured with torch: its rates of matrix products and of memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from cpsl_deploy.machine.copy_rate import CopyRate
from cpsl_deploy.machine.matrix_rate import MatrixRate
from cpsl_deploy.machine.rates import Rates

SIDE = 8192
"""Of the square matrices: 1.1e12 operations a product, which takes every GPU some milliseconds."""
COPIED = 2**29
"""Bytes, far more than any cache."""
REPEATS = 10
_KINDS = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def gpu_rates(*, device: str = "cuda", side: int = SIDE, copied: int = COPIED) -> Rates:
    """Of torch's device, by the fastest of `REPEATS` products and copies. float32 without TF32, as files are
    run here. There is no rate of int8: torch has no product of it on every GPU."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    try:
        matrix = {}
        for name, kind in _KINDS.items():
            a, b = (torch.ones(side, side, dtype=kind, device=device) for _ in range(2))
            out = torch.empty_like(a)
            seconds = _fastest(lambda a=a, b=b, out=out: torch.matmul(a, b, out=out), device)
            how = f"product of {side}x{side} matrices in torch {torch.__version__}"
            matrix[name] = MatrixRate(flops_per_s=2 * side**3 / seconds, how=how)
    finally:
        matmul.allow_tf32 = before
    source, target = (torch.zeros(copied, dtype=torch.uint8, device=device) for _ in range(2))
    seconds = _fastest(lambda: target.copy_(source), device)
    how = f"copy of {copied >> 20} MiB within the device in torch {torch.__version__}"
    missing = {"int8": "torch has no product of int8 matrices to measure a GPU's rate by"}
    return Rates(matrix=matrix, copy=CopyRate(bytes_per_s=2 * copied / seconds, how=how), missing=missing)


def _fastest(work: Callable[[], object], device: str) -> float:
    """Seconds."""
    times = []
    for _ in range(REPEATS + 1):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
