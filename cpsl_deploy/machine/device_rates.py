"""The rates of a device that is not the CPU, measured by whatever installed package can.

That is an entry point, since the core does not know torch.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Protocol

from ..errors import UnavailableError
from .rates import Rates

ENTRY_POINTS = "cpsl_deploy.machine.rates"
"""Group of entry points, each a `MeasureDevice`."""


class MeasureDevice(Protocol):
    """What an entry point of `ENTRY_POINTS` is."""

    def __call__(self, precisions: Sequence[str], *, device: str) -> Rates:
        """The rates of ``device``, "cuda", in some of "f32", "bf16", "f16" and "int8"; a precision that is
        not to be had is told in ``missing``. Raises UnavailableError without the device."""
        ...


def device_rates(precisions: Sequence[str], *, device: str) -> Rates:
    """Measured by the first entry point that can. Raises UnavailableError, with the reasons, if none can."""
    reasons = []
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            measure: MeasureDevice = entry.load()
            return measure(precisions, device=device)
        except (ModuleNotFoundError, UnavailableError) as error:
            reasons.append(str(error))
    raise UnavailableError(
        f"the rates of {device!r} cannot be measured here ({'; '.join(reasons) or 'nothing installed can'}): "
        "state them with --matrix-tflops and --copy-gbs"
    )
