"""Weights of the classes in the cross entropy on labels, so that rare ones are learnt by short schedules.

Not of CPSL. Inverse-frequency weights in the manner of Eigen and Fergus (arXiv 1411.4734, section 6.3.2),
tempered by a power.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

RAREST_SHARE = 1e-4
"""A class of a smaller share of the pixels is weighted as if it had this one."""


def class_weights(pixels: np.ndarray, power: float) -> Tensor:
    """Weights in proportion to share ** -power, their mean over all labelled pixels 1.

    pixels: (C,) labelled pixels of each class. ``power``: 0 weighs all classes alike, 1 gives all classes
    the same part of the loss. Returns (C,) float32; all 1 without any pixel.
    """
    total = pixels.sum()
    if total == 0:
        return torch.ones(len(pixels))
    share = pixels / total
    weights = np.maximum(share, RAREST_SHARE) ** -power
    return torch.from_numpy(weights / (weights * share).sum()).float()
