"""Weights that golden forwards were computed with: a formula of key and shape, so that none are stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


def formula_weight(key: str, shape: Sequence[int]) -> Tensor:
    """A sine of the element's index and the key, scaled by what the tensor is for."""
    phase = 0.618 * (sum((i + 1) * ord(c) for i, c in enumerate(key)) % 9973)
    wave = np.sin(12.9898 * np.arange(np.prod(shape), dtype=np.float64) + phase).reshape(shape)
    if key.endswith("running_mean"):
        wave = 0.1 * wave
    elif key.endswith("bias"):
        wave = 0.05 * wave
    elif len(shape) == 1:
        wave = 1 + 0.1 * wave
    else:
        wave = wave * np.sqrt(1.5 / np.prod(shape[1:]))
    return torch.from_numpy(wave.astype(np.float32))


def fill(module: nn.Module) -> nn.Module:
    """The module with every floating tensor of its state set by the formula."""
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            value.copy_(formula_weight(key, tuple(value.shape)))
    return module
