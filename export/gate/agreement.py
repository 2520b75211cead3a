"""Is an exported file still the model it was made from? Labels compared pixel by pixel on frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from cpsl_deploy.errors import AccuracyError, InputError, MissingExtraError, ModelFileError
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.models.base import Segmenter

try:
    import onnxruntime
except ModuleNotFoundError as error:
    raise MissingExtraError("onnxruntime", "export", "checking an exported model") from error

MIN_AGREEMENT = 0.999
"""Share of pixels that must agree. Two exact float32 implementations differ on about 2 in 100,000: ties."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two sets of label maps agree."""

    classes: tuple[str, ...]
    frames: int
    pixels: int
    equal: int
    """Pixels with the same label in both."""
    class_pixels: tuple[int, ...]
    """Per class, pixels that the torch model gives it."""
    class_equal: tuple[int, ...]
    """Per class, how many of those the exported file gives it, too."""

    @property
    def share(self) -> float:
        """Share of all pixels that agree, 0 to 1."""
        return self.equal / self.pixels

    @property
    def per_class(self) -> dict[str, float]:
        """Share of each class's pixels that agree, 0 to 1; classes the model saw nowhere are left out."""
        return {
            name: equal / pixels
            for name, pixels, equal in zip(self.classes, self.class_pixels, self.class_equal, strict=True)
            if pixels
        }

    @property
    def worst_class(self) -> tuple[str, float]:
        """Name and share of the class that agrees least."""
        return min(self.per_class.items(), key=lambda item: item[1])

    def require(self, minimum: float) -> None:
        """Raises AccuracyError if less than ``minimum`` of the pixels agree."""
        if self.share < minimum:
            name, share = self.worst_class
            raise AccuracyError(
                f"the exported file must agree with its model on {minimum:.3%} of the pixels and agrees on "
                f"{self.share:.3%} of {self.pixels:,} ({self.frames} frames); least on {name}: {share:.3%}. "
                "The file was not put in place. A fixed --size or another torch or onnxruntime may help."
            )

    def as_dict(self) -> dict[str, Any]:
        """For a report, shares rounded to six digits."""
        name, share = self.worst_class
        return {
            "frames": self.frames,
            "pixels": self.pixels,
            "agreement": round(self.share, 6),
            "worst_class": {"name": name, "agreement": round(share, 6)},
            "per_class": {key: round(value, 6) for key, value in self.per_class.items()},
        }


def compare_labels(
    classes: Sequence[str], expected: Sequence[np.ndarray], got: Sequence[np.ndarray]
) -> Agreement:
    """Compare label maps, uint8 (H, W) each. Raises ModelFileError if two differ in shape."""
    pixels, equal = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for want, have in zip(expected, got, strict=True):
        if want.shape != have.shape:
            raise ModelFileError(
                f"an exported file gives labels at frame size {want.shape}; it gave {have.shape}"
            )
        pixels += np.bincount(want.ravel(), minlength=256)
        equal += np.bincount(want[want == have], minlength=256)
    count = len(classes)
    return Agreement(
        classes=tuple(classes),
        frames=len(expected),
        pixels=int(pixels.sum()),
        equal=int(equal.sum()),
        class_pixels=tuple(int(n) for n in pixels[:count]),
        class_equal=tuple(int(n) for n in equal[:count]),
    )


def verify(
    onnx_path: str | os.PathLike[str], model: Segmenter, spec: ModelSpec, frames: Sequence[np.ndarray]
) -> Agreement:
    """Run an exported file with onnxruntime and its model with torch on ``frames``, uint8 (H, W, 3) BGR.

    The frames must have the file's size if that is fixed. The torch side repeats nothing of the exported
    graph: it orders, scales and upsamples by itself, so that a mistake in the graph shows, too. Raises
    InputError without frames, ModelFileError if onnxruntime refuses the file.
    """
    if not frames:
        raise InputError("an exported file is compared with its model on one frame or more; none was given")
    try:
        # The providers are named: onnxruntime's GPU builds would choose another one by themselves.
        session = onnxruntime.InferenceSession(os.fspath(onnx_path), providers=["CPUExecutionProvider"])
        got = [session.run(["labels"], {"image": frame[None]})[0][0] for frame in frames]
    except Exception as error:  # onnxruntime's exception classes have no public base of their own
        raise ModelFileError(
            f"onnxruntime {onnxruntime.__version__} cannot run the exported file: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return compare_labels(spec.class_names, [torch_labels(model, spec, frame) for frame in frames], got)


@torch.no_grad()
def torch_labels(model: Segmenter, spec: ModelSpec, frame: np.ndarray) -> np.ndarray:
    """What the torch model says about one frame, uint8 (H, W, 3) BGR -> uint8 (H, W)."""
    height, width = frame.shape[:2]
    rgb = np.ascontiguousarray(frame[..., ::-1], np.float32) / 255
    image = (rgb - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].to(next(model.parameters()).device)
    logits = functional.interpolate(
        model.eval()(tensor).logits, size=(height, width), mode="bilinear", align_corners=spec.align_corners
    )
    return logits.argmax(1)[0].to(torch.uint8).cpu().numpy()
