"""What tests of training share: a network of two layers, datasets of a few made-up images, batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cpsl_deploy.classes import IGNORE, ClassSpace
from cpsl_deploy.train.models import Segmenter, SegmenterOutput
from cpsl_deploy.train.samples import Batch, Sampler, SourceViews, TargetViews, WorkingImages
from cpsl_deploy.train.views import Geometric, Photometric

CLASSES = ClassSpace(("road", "sky", "car"))
SIZE = (64, 96)
CROP = (64, 64)


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of a golden file, copied out of it."""
    with np.load(Path(__file__).parent / "golden" / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


class TinySegmenter(Segmenter):
    """One convolution of stride 8 with a batch norm, and a classifier behind dropout."""

    stride = 8

    def __init__(
        self, num_classes: int = len(CLASSES), feature_channels: int = 8, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.num_classes, self.feature_channels = num_classes, feature_channels
        self.encoder = nn.Conv2d(3, feature_channels, 8, stride=8)
        self.norm = nn.BatchNorm2d(feature_channels)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(feature_channels, num_classes, 1)

    def forward(self, image: Tensor) -> SegmenterOutput:
        features = self.norm(self.encoder(image)).tanh()
        dropped = self.dropout(features)
        return SegmenterOutput(dropped if self.features_after_dropout else features, self.classifier(dropped))

    def head_parameters(self) -> list[nn.Parameter]:
        return list(self.classifier.parameters())


def tiny_network(seed: int = 0, **options: float) -> TinySegmenter:
    torch.manual_seed(seed)
    return TinySegmenter(**options)


class Pictures:
    """A labelled dataset in memory, with what training reads of a Dataset."""

    classes = CLASSES
    has_labels = True
    split = "train"

    def __init__(self, images: list[np.ndarray], labels: list[np.ndarray], name: str = "pictures") -> None:
        self._images, self._labels, self.name = images, labels, name
        self.names = [f"{name}/{i}" for i in range(len(images))]

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> np.ndarray:
        return self._images[index].copy()

    def label(self, index: int) -> np.ndarray:
        return self._labels[index].copy()


def street(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """A noisy picture of sky over road with a car, and its labels with some pixels unlabelled."""
    rng = np.random.default_rng(seed)
    label = np.zeros(size, np.uint8)
    label[: rng.integers(size[0] // 4, size[0] // 2)] = 1
    top, left = size[0] // 2 + rng.integers(8), rng.integers(size[1] - 24)
    label[top : top + 16, left : left + 24] = 2
    colours = np.array([[90, 80, 90], [120, 170, 230], [200, 40, 30]])
    image = np.clip(colours[label] + rng.normal(0, 12, (*size, 3)), 0, 255).astype(np.uint8)
    label[-4:] = IGNORE
    return image, label


def streets(count: int = 4, first_seed: int = 0) -> Pictures:
    made = [street(first_seed + i) for i in range(count)]
    return Pictures([image for image, _ in made], [label for _, label in made])


def coordinates(size: tuple[int, int] = (120, 160)) -> np.ndarray:
    """An image that says in red and green where a pixel is: x and y."""
    ys, xs = np.mgrid[: size[0], : size[1]]
    return np.dstack([xs, ys, np.full(size, 128)]).astype(np.uint8)


def source_views(dataset: Pictures, **changes: object) -> SourceViews:
    values = {
        "images": WorkingImages(dataset, SIZE, cache_mib=8),
        "sampler": Sampler(len(dataset), 5),
        "crop": CROP,
        "geometric": Geometric(),
        "photometric": Photometric(),
    }
    return SourceViews(**{**values, **changes})


def target_views(dataset: Pictures, **changes: object) -> TargetViews:
    values = {
        "images": WorkingImages(dataset, SIZE, cache_mib=8),
        "sampler": Sampler(len(dataset), 6),
        "crop": CROP,
        "weak": Geometric(scale=(0.8, 1.5)),
        "strong_geometric": Geometric(scale=(0.9, 1.1), flip=True, rotation=10, translation=0.1, shear=5),
        "strong_photometric": Photometric(brightness=0.3, contrast=0.3, blur=0.5, cutout=1),
    }
    return TargetViews(**{**values, **changes})


def tiny_batch(micro: int = 0, count: int = 2) -> Batch:
    """Two source and two target crops of 64x64."""
    positions = range(micro * count, (micro + 1) * count)
    return Batch(
        source_views(streets(first_seed=0)).batch([1, 0], positions),
        target_views(streets(first_seed=100)).batch([1, 0], positions),
    )
