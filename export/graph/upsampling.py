"""Labels from logits: upsample bilinearly, then argmax, with as little in memory as the sizes allow.

Upsampled logits are the largest thing a segmenter makes: 159 MB for one frame of 1024 x 2048 with 19 classes.
Where the sizes are fixed they are made in strips of rows, of which one is alive at a time: the width first,
which is small as long as there are few rows, then each strip's rows as one small matrix product. Nothing is
approximated: the matrices hold the bilinear weights themselves. With free sizes there are no such matrices,
and both steps are resizes, of the height first; then the frame's logits exist as a whole.

In both the classes come last before the argmax, so that it reads memory in order. Measured beside other
ways, with onnxruntime and OpenVINO, by ``benchmarks/upsampling.py``. A resize of the whole frame with the
classes last is faster still with onnxruntime where sizes are free, and more than twice as slow as the plain
one with OpenVINO. Strips with the classes first take a fifth of the time with OpenVINO, and half as much
again with onnxruntime for 19 classes at stride 8. Neither library runs this part of a file on a CPU unless it
gives confidence: the runtime makes the labels there (``cpsl_deploy/dense_argmax.py``), several times as fast.
Matrix products are exact in float32: a GPU's TF32 must be off.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

ROWS_PER_STRIP = 64
"""Rows of labels made at a time: 10 MB of logits at 2048 columns and 19 classes."""


class StripUpsampling(nn.Module):
    """Bilinear upsampling from one fixed size to another, strip by strip.

    ``source`` = (h, w) of the logits and ``target`` = (H, W), in pixels.
    """

    def __init__(self, source: tuple[int, int], target: tuple[int, int], *, align_corners: bool) -> None:
        super().__init__()
        self.source, self.target = source, target
        self.align_corners = align_corners
        self.spans: list[tuple[int, int]] = []
        """Per strip, the first row of ``source`` that it needs and the one after its last."""
        for strip in row_weights(source[0], target[0], align_corners).split(ROWS_PER_STRIP):
            (needed,) = strip.any(0).nonzero(as_tuple=True)
            first, end = int(needed[0]), int(needed[-1]) + 1
            self.register_buffer(
                f"rows_{len(self.spans)}", strip[:, first:end].contiguous(), persistent=False
            )
            self.spans.append((first, end))

    def forward(self, logits: Tensor) -> Iterator[Tensor]:
        """``logits`` (N, C, h, w) float32 -> strips (N, rows, W, C), from the top of the image down."""
        if self.source == self.target:
            yield logits.permute(0, 2, 3, 1)
            return
        size = (self.source[0], self.target[1])
        wide = functional.interpolate(logits, size=size, mode="bilinear", align_corners=self.align_corners)
        pixel = (self.target[1], logits.shape[1])
        rows = wide.permute(0, 2, 3, 1).flatten(2)
        for index, (first, end) in enumerate(self.spans):
            yield (self.get_buffer(f"rows_{index}") @ rows[:, first:end]).unflatten(2, pixel)


def row_weights(source: int, target: int, align_corners: bool) -> Tensor:
    """How much of each of ``source`` rows goes into each of ``target`` rows: (target, source) float32.

    Taken from torch's own interpolation of unit vectors, so that the two cannot differ.
    """
    units = torch.eye(source).reshape(1, source, source, 1)
    answer = functional.interpolate(units, size=(target, 1), mode="bilinear", align_corners=align_corners)
    return answer[0, :, :, 0].T


def upsample_whole(logits: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """``logits`` (N, C, h, w) -> (N, ``height``, ``width``, C), for sizes known only when a frame comes."""
    tall = functional.interpolate(
        logits, size=(height, logits.shape[3]), mode="bilinear", align_corners=align_corners
    ).permute(0, 2, 3, 1)
    # Seen as H images of w x C, whose C stays: a resize of the last two axes, which every runtime knows.
    return functional.interpolate(
        tall, size=(width, logits.shape[1]), mode="bilinear", align_corners=align_corners
    )


def winners(logits: Tensor) -> Tensor:
    """(N, rows, W, C) -> index of the largest, (N, rows, W), as float32.

    Float, because TensorRT knows uint8 only as what enters and leaves a network: the cast to it comes last.
    """
    return logits.argmax(3).float()


def winners_probability(logits: Tensor) -> Tensor:
    """(N, rows, W, C) -> 255 times the softmax probability of the largest, rounded, (N, rows, W) float32."""
    largest = logits.amax(3, keepdim=True)
    return (255 / (logits - largest).exp().sum(3)).round()
