"""Common practice: a segmentation network deployed as most write it, the yardstick of `frames.py`.

The network goes to ONNX with its logits upsampled to the frame's size; around the session NumPy normalises,
takes the argmax and looks the colours up, and OpenCV reads, resizes, blends and encodes. The session runs
with onnxruntime's defaults, and every step is the usual call for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from cpsl_deploy.train.models.base import Segmenter as Network

OPSET = 18


def export_float(network: Network, size: tuple[int, int], path: Path, *, upsampled: bool = True) -> None:
    """``image`` float32 (1, 3, H, W), normalised RGB -> ``logits`` float32 (1, C, H, W); at the network's
    stride if not ``upsampled``."""
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

    class Deployed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Tensor) -> Tensor:
            logits: Tensor = self.network(image).logits
            if not upsampled:
                return logits
            return functional.interpolate(
                logits, size=size, mode="bilinear", align_corners=network.align_corners
            )

    torch.onnx.export(
        Deployed().eval(),
        (torch.zeros(1, 3, *size),),
        path,
        dynamo=True,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        external_data=False,
        verbose=False,
    )


class Normalised(NamedTuple):
    """A frame uint8 (H, W, 3) BGR, and what the network takes, float32 (1, 3, h, w)."""

    frame: np.ndarray
    image: np.ndarray


class Scored(NamedTuple):
    """The frame, and logits float32 (1, C, h, w)."""

    frame: np.ndarray
    logits: np.ndarray


class Labelled(NamedTuple):
    """The frame, and labels uint8 (H, W)."""

    frame: np.ndarray
    labels: np.ndarray


class Drawn(NamedTuple):
    """Labels uint8 (H, W), and the overlay uint8 (H, W, 3) BGR."""

    labels: np.ndarray
    overlay: np.ndarray


class CommonPractice:
    """The steps from a JPEG file to the JPEG of its overlay; each takes what the one before gave.

    ``palette``: uint8 (C, 3) RGB. ``size``: (height, width) that the file takes. ``mean`` and ``std``: of RGB
    from 0 to 1.
    """

    def __init__(
        self,
        model: Path,
        *,
        palette: Sequence[Sequence[int]],
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        self.palette = np.array(palette, np.uint8)[:, ::-1]
        self.size = size
        self.mean, self.std = np.array(mean, np.float32), np.array(std, np.float32)

    def read(self, path: Path) -> np.ndarray:
        return cv2.imread(str(path))

    def pre(self, frame: np.ndarray) -> Normalised:
        image = frame
        if frame.shape[:2] != self.size:
            image = cv2.resize(frame, self.size[::-1])
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.float32) / 255
        image = (image - self.mean) / self.std
        return Normalised(frame, np.ascontiguousarray(image.transpose(2, 0, 1)[None]))

    def infer(self, normalised: Normalised) -> Scored:
        return Scored(normalised.frame, self.session.run(None, {"image": normalised.image})[0])

    def post(self, scored: Scored) -> Labelled:
        labels = scored.logits[0].argmax(axis=0).astype(np.uint8)
        height, width = scored.frame.shape[:2]
        if labels.shape != (height, width):
            labels = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
        return Labelled(scored.frame, labels)

    def overlay(self, labelled: Labelled) -> Drawn:
        colours = self.palette[labelled.labels]
        return Drawn(labelled.labels, cv2.addWeighted(labelled.frame, 0.5, colours, 0.5, 0))

    def encode(self, drawn: Drawn) -> tuple[np.ndarray, bytes]:
        return drawn.labels, cv2.imencode(".jpg", drawn.overlay)[1].tobytes()
