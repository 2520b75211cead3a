"""Segmenters small enough to export in seconds, for the tests of the export."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.models.base import Segmenter, SegmenterOutput

CLASS_NAMES = ("road", "sky", "tree", "car")
PALETTE = ((128, 64, 128), (70, 130, 180), (107, 142, 35), (0, 0, 142))


class Small(Segmenter):
    """Strided convolutions with zero padding, a batch norm, and a pyramid that pools to one pixel."""

    feature_channels = 8
    stride = 4

    def __init__(self, num_classes: int = len(CLASS_NAMES)) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.pool = nn.AvgPool2d(129, stride=128, padding=64)
        self.classifier = nn.Conv2d(8, num_classes, 1)

    def forward(self, image: Tensor) -> SegmenterOutput:
        x = functional.relu(self.body(self.stem(image)))
        wide = functional.interpolate(self.pool(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        x = x - wide - x.mean((2, 3), keepdim=True)
        return SegmenterOutput(x, self.classifier(x))

    def head_parameters(self) -> list[nn.Parameter]:
        return list(self.classifier.parameters())

    def classifier_bias(self) -> Tensor | None:
        return self.classifier.bias


class RedSees(Segmenter):
    """Class 3 where a pixel's red is above ``threshold`` of 255, else class 0; blind to the others."""

    feature_channels = 3
    stride = 1
    threshold = 150
    num_classes = len(CLASS_NAMES)
    mean, std = (0.3, 0.4, 0.5), (0.1, 0.2, 0.25)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, self.num_classes, 1)
        nn.init.zeros_(self.conv.weight)
        nn.init.constant_(self.conv.bias, -1e6)
        with torch.no_grad():
            self.conv.weight[3, 0] = 1
            self.conv.bias[0] = 0
            self.conv.bias[3] = -(self.threshold / 255 - self.mean[0]) / self.std[0]

    def forward(self, image: Tensor) -> SegmenterOutput:
        return SegmenterOutput(image, self.conv(image))


def small_model(seed: int = 0, num_classes: int = len(CLASS_NAMES)) -> Small:
    """Random weights, with running statistics as after training, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Small(num_classes)
        nn.init.uniform_(model.stem[1].running_mean, -0.5, 0.5)
        nn.init.uniform_(model.stem[1].running_var, 0.5, 2)
        model.eval()
        with torch.no_grad():  # no class wins everywhere
            model.classifier.bias -= model(torch.randn(1, 3, 96, 96)).logits.mean((0, 2, 3))
    return model


def spec_for(model: Segmenter, *, size: tuple[int, int] = (64, 96), **values: object) -> ModelSpec:
    usual = {
        "architecture": "small",
        "class_names": CLASS_NAMES,
        "palette": PALETTE,
        "mean": model.mean,
        "std": model.std,
        "stride": model.stride,
        "size": size,
    }
    return ModelSpec(**{**usual, **values})
