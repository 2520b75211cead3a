"""What can be asked of an exported file, told before anything slow is done. No torch."""

from __future__ import annotations

from cpsl_deploy.contract import MAX_SIDE, Contract
from cpsl_deploy.errors import InputError
from cpsl_deploy.spec import ModelSpec

_SMALLEST_SIDE = 16


def check_limits(
    spec: ModelSpec, *, contract: Contract, size: tuple[int, int] | None, batch: int | None
) -> None:
    """Arguments as of `onnx_file.onnx_model`. Raises InputError for a size under one stride or 16 pixels, or
    above `MAX_SIDE`, a batch below 1, or an output stride above the network's."""
    least = max(_SMALLEST_SIDE, spec.stride)
    for what, sides in (("an exported size", size), ("a network size", contract.network_size)):
        if sides is not None and not least <= min(sides) <= max(sides) <= MAX_SIDE:
            raise InputError(
                f"{what} is at least {least} pixels a side and at most {MAX_SIDE}; got {sides[0]}x{sides[1]}"
            )
    if batch is not None and batch < 1:
        raise InputError(f"an exported batch is 1 frame or more, or free; got {batch}")
    check_output_stride(spec, contract)


def check_output_stride(spec: ModelSpec, contract: Contract) -> None:
    """Raises InputError for one above the network's."""
    if contract.output_stride > spec.stride:
        raise InputError(
            "an output stride is at most the network's stride, beyond which labels would be thrown away; got "
            f"{contract.output_stride}, and the network's is {spec.stride}. Give --output-stride "
            f"{spec.stride} or less."
        )
