"""What the machine can do at most: its rates of matrix products and of memory, measured or stated.

A frame takes at least its arithmetic by the first and its bytes by the second: the roofline of S. Williams,
A. Waterman and D. Patterson, "Roofline: an insightful visual performance model for multicore architectures",
Communications of the ACM 52(4), 2009.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import InputError, UnavailableError
from .copy_rate import CopyRate, copy_rate
from .matrix_rate import MatrixRate, matrix_rate

STATED = "as stated by the user"


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Of one device. Whoever can measure a GPU, for example with torch, makes one of these by hand."""

    matrix: Mapping[str, MatrixRate]
    """By precision: "f32", "bf16", "f16", "int8"."""
    copy: CopyRate
    missing: Mapping[str, str] = field(default_factory=dict)
    """Precision to the reason why there is no rate of it."""
    stated: MatrixRate | None = None
    """Given by the user, for whatever precision the model computes in; None if rates were measured."""

    @property
    def disturbed(self) -> bool:
        """Whether other work had the cores while one of them was measured: it is too low."""
        return self.copy.disturbed or any(rate.disturbed for rate in self.matrix.values())

    def matrix_rate(self, precision: str) -> MatrixRate:
        """Of one precision. Raises UnavailableError with the reason if there is none."""
        rate = self.stated or self.matrix.get(precision)
        if rate is None:
            raise UnavailableError(
                self.missing.get(precision, f"the rate of matrix products in {precision} was not measured")
            )
        return rate


def measure_rates(precisions: Iterable[str], *, threads: int | None = None) -> Rates:
    """The CPU's rates in the given precisions, with as many threads as the model has.

    ``threads``: None is one for each core that the process may use. Takes about a second for each precision,
    once in a process: what was measured before is given again.
    """
    count = threads or usable_threads()
    matrix, missing = {}, {}
    for precision in precisions:
        try:
            matrix[precision] = matrix_rate(precision, count)
        except UnavailableError as error:
            missing[precision] = str(error)
    return Rates(matrix=matrix, copy=copy_rate(count), missing=missing)


def stated_rates(*, matrix_flops: float, copy_bytes: float) -> Rates:
    """Rates that the user states, both per second, for a device on which they cannot be measured.

    Raises InputError unless both are above 0.
    """
    if not (0 < matrix_flops < float("inf") and 0 < copy_bytes < float("inf")):
        raise InputError(f"stated rates are numbers above 0; got {matrix_flops} and {copy_bytes}")
    return Rates(
        matrix={},
        copy=CopyRate(bytes_per_s=copy_bytes, how=STATED),
        stated=MatrixRate(flops_per_s=matrix_flops, how=STATED),
    )


def usable_threads() -> int:
    """One for each core that the process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
