"""What a network costs, from its architecture alone: no weights, no run, no arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..models import build


@dataclass(frozen=True)
class NetworkCost:
    """Size and work of a network."""

    parameters: int
    macs: int
    """Multiply-accumulate operations of convolutions and matrix products, for one image."""


def network_cost(architecture: str, num_classes: int, size: tuple[int, int]) -> NetworkCost:
    """Cost of labelling an image of ``size`` (height, width), counted on tensors without memory.

    Raises RecipeError for an unknown architecture.
    """
    with torch.device("meta"):
        network = build(architecture, num_classes).eval()
        image = torch.empty(1, 3, *size)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(image)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return NetworkCost(parameters, counter.get_total_flops() // 2)
