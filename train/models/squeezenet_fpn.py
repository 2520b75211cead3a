"""The small network: a SqueezeNet 1.1 encoder at stride 8 and a light decoder at stride 4.

Encoder: Iandola et al., "SqueezeNet" (arXiv 1602.07360), version 1.1 with torchvision's module names.
Decoder: one top-down step of a feature pyramid (Lin et al., arXiv 1612.03144) over dilated
depthwise-separable convolutions (Chen et al., arXiv 1802.02611). It trains in minutes on two CPU cores.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Segmenter, SegmenterOutput
from .weights import fit, state_dict_of

_SKIP_AFTER = 4
"""Index of the encoder's last module at stride 4; it gives 128 channels."""
_SKIP_CHANNELS, _DEEP_CHANNELS = 128, 512
_WIDTH = 128
"""Channels of the context layers at stride 8."""
_DROPOUT = 0.1


class Fire(nn.Module):
    """Squeeze by a 1x1 convolution, expand by a 1x1 and a 3x3 one side by side."""

    def __init__(self, inputs: int, squeeze: int, expand: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat((self.expand1x1(x), self.expand3x3(x)), 1))


class SqueezeNetFpn(Segmenter):
    """SqueezeNet 1.1 whose last pool keeps its resolution, batch norms between its modules, and a decoder.

    Differences from the classification network: padding in the first convolution and the pools, so that
    every halving rounds up; no stride in the last pool and dilation 2 after it; a batch norm after each
    fire module, without which the encoder does not train at the rates used here.
    """

    stride = 4
    feature_channels = 96

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            nn.MaxPool2d(3, stride=2, padding=1),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            nn.MaxPool2d(3, stride=1, padding=1),
            Fire(256, 48, 192, dilation=2),
            Fire(384, 48, 192, dilation=2),
            Fire(384, 64, 256, dilation=2),
            Fire(512, 64, 256, dilation=2),
        )
        self.norms = nn.ModuleDict(
            {
                str(index): nn.BatchNorm2d(2 * module.expand3x3.out_channels)
                for index, module in enumerate(self.features)
                if isinstance(module, Fire)
            }
        )
        self.decoder = Decoder(self.feature_channels)
        self.dropout = nn.Dropout2d(_DROPOUT)
        self.classifier = nn.Conv2d(self.feature_channels, num_classes, 1)
        for module in (*self.features.modules(), *self.decoder.modules(), self.classifier):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(self, image: Tensor) -> SegmenterOutput:
        x, skip = image, image
        for index, module in enumerate(self.features):
            x = module(x)
            if str(index) in self.norms:
                x = self.norms[str(index)](x)
            if index == _SKIP_AFTER:
                skip = x
        features = self.decoder(skip, x)
        dropped = self.dropout(features)
        return SegmenterOutput(dropped if self.features_after_dropout else features, self.classifier(dropped))

    @torch.no_grad()
    def calibrate(self, image: Tensor) -> None:
        """Make every batch norm of the encoder the identity on these images.

        The pretrained convolutions were trained without batch norms: a fresh one would take away the scale
        and the offset of each channel that the next module expects.
        """
        x = image
        for index, module in enumerate(self.features):
            x = module(x)
            if str(index) in self.norms:
                norm = self.norms[str(index)]
                assert isinstance(norm, nn.BatchNorm2d)
                assert norm.running_mean is not None and norm.running_var is not None
                variance, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(variance)
                norm.bias.copy_(mean)
                norm.weight.copy_((variance + norm.eps).sqrt())

    def load_pretrained(self, content: Any, origin: str) -> str:
        """Load an ImageNet SqueezeNet 1.1 (torchvision's key names) into the encoder."""
        state = state_dict_of(content, origin)
        encoder = {
            key.removeprefix("features."): value
            for key, value in state.items()
            if not key.startswith("classifier.")
        }
        return "encoder: " + fit(self.features, encoder, origin)

    def classifier_bias(self) -> Tensor | None:
        return self.classifier.bias

    def head_parameters(self) -> list[nn.Parameter]:
        """Decoder and classifier, which no pretrained file has."""
        return [p for part in (self.decoder, self.classifier) for p in part.parameters()]


class Decoder(nn.Module):
    """Deep features with wide context, brought to the skip's resolution and joined with it.

    The result is a batch norm's output without ReLU: signed, as prototypes compared by cosine want it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lateral = _conv_norm(_DEEP_CHANNELS, _WIDTH)
        self.scene = nn.Conv2d(_WIDTH, _WIDTH, 1)
        self.context = nn.ModuleList(_separable(_WIDTH, _WIDTH, dilation) for dilation in (4, 8))
        self.top_down = _conv_norm(_WIDTH, channels)
        self.skip = _conv_norm(_SKIP_CHANNELS, channels)
        self.fuse = _separable(channels, channels, 1)

    def forward(self, skip: Tensor, deep: Tensor) -> Tensor:
        """``skip`` (N, 128, h, w), ``deep`` (N, 512, h/2, w/2) -> (N, D, h, w)."""
        deep = F.relu(self.lateral(deep))
        # A mean exports to one ReduceMean, adaptive pooling to a chain. No batch norm: one value per image.
        deep = deep + F.relu(self.scene(deep.mean((2, 3), keepdim=True)))
        for layer in self.context:
            deep = deep + F.relu(layer(deep))
        deep = F.interpolate(self.top_down(deep), size=skip.shape[-2:], mode="bilinear", align_corners=False)
        return self.fuse(F.relu(deep + self.skip(skip)))


def _conv_norm(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


def _separable(inputs: int, outputs: int, dilation: int) -> nn.Sequential:
    """A 3x3 convolution per channel, then a 1x1 one across channels."""
    depthwise = nn.Conv2d(inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False)
    return nn.Sequential(depthwise, nn.BatchNorm2d(inputs), nn.ReLU(), *_conv_norm(inputs, outputs))
