"""Mixed precision: what runs in half precision, and what must not."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Run the block's matrix work in ``precision`` (fp32, bf16 or fp16)."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


def keep_depthwise_in_fp32(network: nn.Module) -> None:
    """Let a network's grouped convolutions compute in float32 whatever autocast says.

    With torch 2.13 on the CPU the weight gradient of a dilated depthwise convolution in bfloat16 now and then
    holds uninitialised memory (about one backward pass in seven, seen as NaN). They are a small share of the
    work.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.forward = _in_fp32(module)  # type: ignore[method-assign]


def _in_fp32(conv: nn.Conv2d):
    def forward(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.conv2d(
                x.float(), conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
            )

    return forward
