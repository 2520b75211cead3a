"""What every segmentation network here is: an encoder, a feature map with prototypes' dimension, a head."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn


class SegmenterOutput(NamedTuple):
    """Features and logits at the network's stride."""

    features: Tensor
    """(N, D, h, w): what the classifier sees, before dropout (unless ``features_after_dropout``).
    Prototypes live in this space."""
    logits: Tensor
    """(N, C, h, w)."""


class Segmenter(nn.Module):
    """Base of the networks. ``forward`` takes (N, 3, H, W) RGB, already scaled by ``mean`` and ``std``,
    with H and W any size of at least one stride, and returns a SegmenterOutput.
    """

    stride: int = 8
    """Pixels of the image per pixel of the output."""
    feature_channels: int
    """D, the number of feature channels."""
    num_classes: int
    features_after_dropout: bool = False
    """Give the features that the classifier gets, dropout included, as the reference does while it trains."""
    align_corners: bool = False
    """How logits are upsampled to the image."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """RGB mean the network wants subtracted, for images scaled to 0..1."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def forward(self, image: Tensor) -> SegmenterOutput:
        raise NotImplementedError

    def load_pretrained(self, content: Any, origin: str) -> str:
        """Start from what a pretrained weights file holds (``read_weights``); say what was loaded.

        ``origin`` names the file in errors. Raises ModelFileError if the weights do not fit.
        """
        raise NotImplementedError

    def calibrate(self, image: Tensor) -> None:
        """Set what depends on the data before the first step; most networks have nothing to set.

        ``image``: as ``forward`` takes it.
        """

    def classifier_bias(self) -> Tensor | None:
        """The bias (C,) of the last layer, None if it has none."""
        return None

    def head_parameters(self) -> list[nn.Parameter]:
        """Parameters that train at the head's higher rate: all that did not come pretrained."""
        raise NotImplementedError

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The other parameters."""
        head = {id(p) for p in self.head_parameters()}
        return [p for p in self.parameters() if id(p) not in head]
