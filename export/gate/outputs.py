"""Confidence and logits of a file against torch's, on a few frames: labels do not tell of them.

Where a file gives them, they are given as its users get them, in full batches. Torch sees the frames as the
file's network does, resized as the file resizes: what that costs is in the labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cpsl_deploy.contract import CONFIDENCE, LABELS, LOGITS, Contract
from cpsl_deploy.errors import InputError
from cpsl_deploy.segmenter import Segmenter
from cpsl_deploy.spec import ModelSpec

from .batches import filled, frames_at_once, in_batches
from .frames import Frames, resized
from .probe import labels_size
from .reference import Reference, network_input, torch_logits

FRAMES = 2
CLOSE_SHARE = 0.999
"""Share of the pixels at which a float32 file's confidence is torch's within one level of 255: rounding."""
MOST_LEVELS = {"fp16": 2.0, "int8": 12.75}
"""Levels of 255 by which confidence in a lower precision may differ on average. A probability moves by at
most a quarter of what a logit does. Half precision errs by hundredths of a logit behind tens of layers, which
is under a level. Of eight bits 5 points of 100 are allowed, as 5 in 100 labels are."""
LEAST_DB = {"fp32": 60.0, "fp16": 30.0, "int8": 10.0}
"""Least power of torch's logits over that of the difference, in decibel. Float32 in another order gives over
90, half precision some 50, good INT8 files 15 to 30; at 10 the error is a third of the signal."""
_HIGHEST_DB = 200.0


@dataclass(frozen=True, kw_only=True)
class OutputCheck:
    """One output besides the labels."""

    name: str
    precision: str
    value: float
    """Confidence of float32 files: share of pixels within a level, 0..1; of others: mean absolute difference
    in levels of 255. Logits: signal-to-noise ratio in dB."""
    limit: float

    @property
    def passed(self) -> bool:
        if self.name == CONFIDENCE and self.precision != "fp32":
            return self.value <= self.limit
        return self.value >= self.limit

    @property
    def words(self) -> str:
        """What is demanded and what was found, without a full stop."""
        if self.name == LOGITS:
            return (
                f"the logits must be torch's with a signal-to-noise ratio of at least {self.limit:g} dB, and "
                f"have {self.value:.1f} dB"
            )
        if self.precision == "fp32":
            return (
                f"the confidence must be torch's within one level of 255 on at least {self.limit:.1%} of the "
                f"pixels, and is on {self.value:.2%}"
            )
        return (
            f"the confidence may differ from torch's by {self.limit:g} levels of 255 on average, and differs "
            f"by {self.value:.2f}"
        )

    def as_dict(self) -> dict[str, Any]:
        """For export.json."""
        of_confidence = "share_within_a_level" if self.precision == "fp32" else "mean_levels"
        kind = "sqnr_db" if self.name == LOGITS else of_confidence
        return {"measure": kind, "value": round(self.value, 6), "limit": self.limit, "passed": self.passed}


def check_outputs(segmenter: Segmenter, reference: Reference, precision: str) -> tuple[OutputCheck, ...]:
    """Hold confidence and logits of an opened file against the reference's model, on the first `FRAMES`.

    ``precision``: in which the file is computed. Empty for a file of labels alone. Confidence is compared
    where the labels agree. Raises InputError for a reference without a model.
    """
    wanted = [name for name in (CONFIDENCE, LOGITS) if name in segmenter.contract.outputs]
    if not wanted:
        return ()
    if reference.model is None:
        raise InputError(f"{' and '.join(wanted)} are compared with a model's, and the reference has none")
    close = pixels = levels = noise = signal = 0.0
    for image, got in _given(segmenter, reference.frames):
        logits = torch_logits(reference.model, _entering(image, segmenter.spec, segmenter.contract))
        if LOGITS in wanted:
            right = logits[0].cpu().numpy().astype(np.float64)
            noise += _power(got[LOGITS], right)
            signal += float((right**2).sum())
        if CONFIDENCE in wanted:
            difference = _confidence_difference(got, logits, image, segmenter)
            close += float((difference <= 1).sum())
            levels += float(difference.sum())
            pixels += difference.size
    found = []
    if CONFIDENCE in wanted and pixels:
        exact = precision == "fp32"
        found.append(
            OutputCheck(
                name=CONFIDENCE,
                precision=precision,
                value=(close if exact else levels) / pixels,
                limit=CLOSE_SHARE if exact else MOST_LEVELS[precision],
            )
        )
    if LOGITS in wanted:
        ratio = 10 * float(np.log10(signal / noise)) if noise and signal else _HIGHEST_DB if signal else 0.0
        found.append(OutputCheck(name=LOGITS, precision=precision, value=ratio, limit=LEAST_DB[precision]))
    return tuple(found)


def _given(segmenter: Segmenter, frames: Frames) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Frames uint8 (h, w, 3) BGR as the file gets them, and all that it gives for each."""
    images = (
        resized(image, segmenter.input_size(*image.shape[:2]))
        for image in itertools.islice(frames.images(), FRAMES)
    )
    count = frames_at_once(segmenter.backend)
    for batch in in_batches(images, count):
        given = np.stack(filled(batch, count))
        bgr = segmenter.contract.colour_order == "BGR"
        outputs = segmenter.backend.infer(given if bgr else np.ascontiguousarray(given[..., ::-1]))
        for place, image in enumerate(batch):
            yield image, {name: array[place] for name, array in outputs.items()}


def _entering(image: np.ndarray, spec: ModelSpec, contract: Contract) -> np.ndarray:
    """float32 (1, 3, h, w) RGB, normalised, of an image uint8 (H, W, 3) BGR, resized as the file does."""
    whole = network_input(image, spec, Contract())
    if contract.network_size in (None, image.shape[:2]):
        return whole
    tensor = torch.from_numpy(whole)
    return functional.interpolate(
        tensor, size=contract.network_size, mode="bilinear", align_corners=False
    ).numpy()


def _power(got: np.ndarray, right: np.ndarray) -> float:
    return float(((got.astype(np.float64) - right) ** 2).sum()) if got.shape == right.shape else np.inf


def _confidence_difference(
    got: dict[str, np.ndarray], logits: Tensor, image: np.ndarray, segmenter: Segmenter
) -> np.ndarray:
    """Absolute differences in levels where the labels agree, float32 (pixels,)."""
    size = labels_size(image.shape[:2], segmenter.contract)

    def upsampled(values: Tensor) -> Tensor:
        return functional.interpolate(
            values, size=size, mode="bilinear", align_corners=segmenter.spec.align_corners
        )

    maps = upsampled(logits)
    right = (255 * maps.softmax(1).amax(1))[0].cpu().numpy()
    if LABELS in got:
        own = got[LABELS]
    else:
        own = upsampled(torch.from_numpy(got[LOGITS][None])).argmax(1)[0].numpy()
    alike = maps.argmax(1)[0].cpu().numpy() == own
    difference: np.ndarray = np.abs(got[CONFIDENCE][alike].astype(np.float32) - right[alike])
    return difference
