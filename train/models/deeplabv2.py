"""DeepLabV2 with a ResNet-101, as CPSL and ProDA use it, with their state-dict keys.

Chen et al., "DeepLab" (arXiv 1606.00915); Zhang et al., "ProDA" (arXiv 2101.10979), whose head has group
norms and a squeeze-and-excitation block; Li et al., "CPSL" (arXiv 2203.09744). Published checkpoints load
and reproduce the reference's forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpsl_deploy.errors import ModelFileError

from .base import Segmenter, SegmenterOutput
from .weights import fit, read_weights, state_dict_of

_BLOCKS = (3, 4, 23, 3)
_DEEP_CHANNELS = 2048
_BRANCH_DILATIONS = (6, 12, 18, 24)
_GROUPS = 32
_SE_REDUCTION = 16
_DROPOUT = 0.1
_HEAD_STD = 0.001
"""Of the classifier's initial weights, so that training starts from nearly equal class probabilities."""


class Bottleneck(nn.Module):
    """ResNet bottleneck with its stride in the first 1x1 convolution (He et al., arXiv 1512.03385)."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, *, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, planes, 1, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
            if project
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


class SqueezeExcitation(nn.Module):
    """Channels weighed by what the whole image holds (Hu et al., arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.se = nn.Sequential(
            nn.Linear(channels, channels // _SE_REDUCTION),
            nn.ReLU(),
            nn.Linear(channels // _SE_REDUCTION, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.se(x.mean((2, 3)))[:, :, None, None]


class AtrousHead(nn.Module):
    """Branches of growing dilation, joined, weighed and reduced to the features; then the classifier."""

    def __init__(self, inputs: int, channels: int, num_classes: int) -> None:
        super().__init__()
        branches = [nn.Conv2d(inputs, channels, 1)]
        branches += [nn.Conv2d(inputs, channels, 3, padding=d, dilation=d) for d in _BRANCH_DILATIONS]
        self.conv2d_list = nn.ModuleList(
            nn.Sequential(conv, nn.GroupNorm(_GROUPS, channels), nn.ReLU()) for conv in branches
        )
        joined = channels * len(branches)
        self.bottleneck = nn.Sequential(
            SqueezeExcitation(joined),
            nn.Conv2d(joined, channels, 3, padding=1),
            nn.GroupNorm(_GROUPS, channels),
        )
        classifier = nn.Conv2d(channels, num_classes, 1, bias=False)
        nn.init.normal_(classifier.weight, std=_HEAD_STD)
        self.head = nn.Sequential(nn.Dropout2d(_DROPOUT), classifier)

    def forward(self, x: Tensor, *, features_after_dropout: bool = False) -> SegmenterOutput:
        features = self.bottleneck(torch.cat([branch(x) for branch in self.conv2d_list], 1))
        dropout, classifier = self.head
        dropped = dropout(features)
        return SegmenterOutput(dropped if features_after_dropout else features, classifier(dropped))


class DeepLabV2(Segmenter):
    """ResNet-101 at stride 8 (dilation 2 and 4 in its last two stages) and the head above.

    ``norm_before_head``: a batch norm on the encoder's output, the variant the reference calls "bn_clr"
    and distils into from self-supervised weights, whose activations have another scale. An image side of
    8 n pixels gives n + 1 outputs, as in the reference: its pool rounds up.
    """

    stride = 8
    feature_channels = 256
    align_corners = True
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def __init__(self, num_classes: int, *, norm_before_head: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        self.layer1 = _stage(64, 64, _BLOCKS[0])
        self.layer2 = _stage(256, 128, _BLOCKS[1], stride=2)
        self.layer3 = _stage(512, 256, _BLOCKS[2], dilation=2)
        self.layer4 = _stage(1024, 512, _BLOCKS[3], dilation=4)
        self.layer5 = AtrousHead(_DEEP_CHANNELS, self.feature_channels, num_classes)
        self.bn_pretrain = nn.BatchNorm2d(_DEEP_CHANNELS) if norm_before_head else None

    def forward(self, image: Tensor) -> SegmenterOutput:
        x = self.maxpool(F.relu(self.bn1(self.conv1(image))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        if self.bn_pretrain is not None:
            x = self.bn_pretrain(x)
        return self.layer5(x, features_after_dropout=self.features_after_dropout)

    def load_pretrained(self, content: Any, origin: str) -> str:
        """Load a published CPSL or ProDA checkpoint whole, or a ResNet-101 into the encoder.

        ResNet-101 weights are torchvision's or a self-supervised export ``{"state_dict": ...}``: the keys
        and shapes are the same. Torchvision's were trained with the stride in the 3x3 convolution.
        """
        state = _published_state(content)
        if state is not None:
            return "whole model: " + fit(self, state, origin)
        encoder = {k: v for k, v in state_dict_of(content, origin).items() if not k.startswith("fc.")}
        own = [k for k in self.state_dict() if k.startswith(("layer5.", "bn_pretrain."))]
        return "encoder: " + fit(self, encoder, origin, optional=own)

    def head_parameters(self) -> list[nn.Parameter]:
        """The head and, where there is one, the batch norm before it."""
        norm = [] if self.bn_pretrain is None else list(self.bn_pretrain.parameters())
        return norm + list(self.layer5.parameters())


def load_published(path: str | Path) -> tuple[DeepLabV2, Tensor | None]:
    """A published CPSL or ProDA checkpoint: the network in eval mode, and its prototypes (C, 256) if saved.

    The variant and the number of classes are read from the weights. Raises ModelFileError if the file is
    missing, damaged or of another kind.
    """
    content = read_weights(path)
    state = _published_state(content)
    if state is None or "layer5.head.1.weight" not in state:
        raise ModelFileError(
            f"{path} is not a published checkpoint: it lacks ResNet101 / model_state with a head. ImageNet "
            "weights are given to build(..., init=...) instead."
        )
    num_classes = state["layer5.head.1.weight"].shape[0]
    model = DeepLabV2(num_classes, norm_before_head="bn_pretrain.weight" in state)
    fit(model, state, str(path))
    prototypes = content["ResNet101"].get("prototypes_ema")
    if prototypes is None:
        return model.eval(), None
    wanted = (num_classes, model.feature_channels)
    if not isinstance(prototypes, Tensor) or tuple(prototypes.shape) != wanted:
        found = tuple(prototypes.shape) if isinstance(prototypes, Tensor) else type(prototypes).__name__
        raise ModelFileError(f"prototypes are one row per class, {wanted}; {path} has {found}.")
    return model.eval(), prototypes.float()


def _published_state(content: Any) -> dict[str, Tensor] | None:
    """The state dict of a checkpoint ``{"ResNet101": {"model_state": ...}}``; None for anything else."""
    if not isinstance(content, Mapping) or not isinstance(content.get("ResNet101"), Mapping):
        return None
    state = content["ResNet101"].get("model_state")
    return {**state} if isinstance(state, Mapping) else None


def _stage(inputs: int, planes: int, blocks: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Blocks of one width; the first changes width and stride. All but it have the identity as shortcut."""
    first = Bottleneck(inputs, planes, stride=stride, dilation=dilation, project=True)
    width = planes * Bottleneck.expansion
    rest = [Bottleneck(width, planes, stride=1, dilation=dilation, project=False) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)
