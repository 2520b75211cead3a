"""DDRNet-23-slim, the network to deploy: plain convolutions, two resolutions, real time on edge devices.

Hong et al., "Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road
Scenes" (arXiv 2101.06085), with the authors' state-dict keys. The auxiliary head of their training is left
out. Sizes that are no multiple of 8 round up instead of down; at the others the arithmetic is theirs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpsl_deploy.errors import TrainingError

from .base import Segmenter, SegmenterOutput
from .weights import fit, state_dict_of

_PLANES, _POOL_PLANES, _HEAD_PLANES = 32, 128, 64
_POOLS = ((5, 2), (9, 4), (17, 8))
"""Window and stride of the pyramid's average pools, at stride 64."""
_CLASSIFICATION_PARTS = ("down5.", "last_layer.", "linear.")
_TRAINING_PARTS = ("seghead_extra.", "loss.")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; ``last`` leaves the ReLU to whoever reads the result."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, *, stride: int = 1, last: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _projection(inputs, planes, stride)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x)) + shortcut
        return x if self.last else F.relu(x)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions that double the channels, and a shortcut, without a ReLU at the end."""

    expansion = 2

    def __init__(self, inputs: int, planes: int, *, stride: int = 1) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x)) + shortcut


class PyramidPooling(nn.Module):
    """Deep aggregation pyramid pooling (DAPPM, section III-C): wider and wider averages, joined in order."""

    def __init__(self, inputs: int, planes: int, outputs: int) -> None:
        super().__init__()
        self.scale0 = _norm_conv(inputs, planes, 1)
        self.scale1, self.scale2, self.scale3 = (
            nn.Sequential(
                nn.AvgPool2d(window, stride=stride, padding=window // 2), *_norm_conv(inputs, planes, 1)
            )
            for window, stride in _POOLS
        )
        self.scale4 = nn.Sequential(GlobalMean(), *_norm_conv(inputs, planes, 1))
        self.process1, self.process2, self.process3, self.process4 = (
            _norm_conv(planes, planes, 3) for _ in range(4)
        )
        self.compression = _norm_conv(5 * planes, outputs, 1)
        self.shortcut = _norm_conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        levels = [self.scale0(x)]
        for scale, process in (
            (self.scale1, self.process1),
            (self.scale2, self.process2),
            (self.scale3, self.process3),
            (self.scale4, self.process4),
        ):
            levels.append(process(_resize(scale(x), size) + levels[-1]))
        return self.compression(torch.cat(levels, 1)) + self.shortcut(x)


class GlobalMean(nn.Module):
    """The mean over the image, (N, C, 1, 1). As a mean it exports to one node; adaptive pooling does not."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class Head(nn.Module):
    """From the joined branches to features and logits."""

    def __init__(self, inputs: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> SegmenterOutput:
        features = F.relu(self.bn2(self.conv1(F.relu(self.bn1(x)))))
        return SegmenterOutput(features, self.conv2(features))


class DdrNet23Slim(Segmenter):
    """A branch that stays at stride 8 (names ending in ``_``) and one that goes down to stride 64; they
    exchange features twice (section III-B). Features and logits are at stride 8.
    """

    stride = 8
    feature_channels = _HEAD_PLANES

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        p, high = _PLANES, 2 * _PLANES
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, p, 3, stride=2, padding=1),
            nn.BatchNorm2d(p),
            nn.ReLU(),
            nn.Conv2d(p, p, 3, stride=2, padding=1),
            nn.BatchNorm2d(p),
            nn.ReLU(),
        )
        self.layer1 = _pair(p, p)
        self.layer2 = _pair(p, 2 * p, stride=2)
        self.layer3 = _pair(2 * p, 4 * p, stride=2)
        self.layer4 = _pair(4 * p, 8 * p, stride=2)
        self.layer5 = nn.Sequential(Bottleneck(8 * p, 8 * p, stride=2))
        self.layer3_ = _pair(2 * p, high)
        self.layer4_ = _pair(high, high)
        self.layer5_ = nn.Sequential(Bottleneck(high, high))
        self.compression3 = _conv_norm(4 * p, high, 1)
        self.compression4 = _conv_norm(8 * p, high, 1)
        self.down3 = _conv_norm(high, 4 * p, 3, stride=2)
        self.down4 = nn.Sequential(
            *_conv_norm(high, 4 * p, 3, stride=2), nn.ReLU(), *_conv_norm(4 * p, 8 * p, 3, stride=2)
        )
        self.spp = PyramidPooling(16 * p, _POOL_PLANES, 4 * p)
        self.final_layer = Head(4 * p, _HEAD_PLANES, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> SegmenterOutput:
        if self.training and image.shape[0] == 1:
            raise TrainingError(
                "DDRNet trains on batches of 2 images or more: the batch norm after its global mean sees one "
                "value per image and channel, and this batch has 1 image. Raise the batch size."
            )
        x = F.relu(self.layer2(F.relu(self.layer1(self.conv1(image)))))
        low, high = self.layer3(x), self.layer3_(x)
        low, high = (
            low + self.down3(F.relu(high)),
            high + _resize(self.compression3(F.relu(low)), high.shape[-2:]),
        )
        low, high = self.layer4(F.relu(low)), self.layer4_(F.relu(high))
        low, high = (
            low + self.down4(F.relu(high)),
            high + _resize(self.compression4(F.relu(low)), high.shape[-2:]),
        )
        high = self.layer5_(F.relu(high))
        low = self.spp(self.layer5(F.relu(low)))
        return self.final_layer(high + _resize(low, high.shape[-2:]))

    def load_pretrained(self, content: Any, origin: str) -> str:
        """Load the authors' ImageNet weights (all but pyramid and head), or a segmentation checkpoint whole.

        The parts that classification or their training adds are left aside.
        """
        aside = _CLASSIFICATION_PARTS + _TRAINING_PARTS
        state = state_dict_of(content, origin, aside=aside)
        if any(key.startswith("final_layer.") for key in state):
            return "whole model: " + fit(self, state, origin)
        own = [key for key in self.state_dict() if key.startswith(("spp.", "final_layer."))]
        return "encoder: " + fit(self, state, origin, optional=own)

    def classifier_bias(self) -> Tensor | None:
        return self.final_layer.conv2.bias

    def head_parameters(self) -> list[nn.Parameter]:
        """The pyramid and the head, which ImageNet weights lack."""
        return [*self.spp.parameters(), *self.final_layer.parameters()]


def _pair(inputs: int, planes: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(BasicBlock(inputs, planes, stride=stride), BasicBlock(planes, planes, last=True))


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The shortcut of a block that changes width or resolution; None where the identity does."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))


def _conv_norm(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def _norm_conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), conv)


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
