"""Output-space adversarial alignment of the warm-up (AdaptSegNet, arXiv 1802.10349), least-squares GAN."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

SOURCE, TARGET = 0.0, 1.0
PLANES = (64, 128, 256, 512)


class PatchDiscriminator(nn.Module):
    """Tells patches of source predictions from patches of target predictions.

    Five 3x3 and 1x1 convolutions, total stride 16. (N, C, h, w) class probabilities -> (N, 1, h/16, w/16).
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_classes, PLANES[0], 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(PLANES[0], PLANES[1], 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(PLANES[1], PLANES[2], 3, stride=2, padding=1)
        self.conv4 = nn.Conv2d(PLANES[2], PLANES[3], 3, stride=2, padding=1)
        self.classifier = nn.Conv2d(PLANES[-1], 1, 1)

    def forward(self, probs: Tensor) -> Tensor:
        x = F.relu(self.conv1(probs))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        x = F.leaky_relu(self.conv4(x), 0.2)
        return self.classifier(x)


def least_squares(judgement: Tensor, domain: float) -> Tensor:
    """Mean squared distance of a discriminator's judgement from a domain's value (SOURCE or TARGET)."""
    return (judgement - domain).square().mean()
