"""What the torch model says of the comparison frames: computed once, held against many candidate files."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import InputError
from cpsl_deploy.segmenter import runtime_size
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.models.base import Segmenter
from cpsl_deploy.train.stage import in_eval_mode

from .frames import Frames, resized, resized_labels
from .probe import labels_size

_log = logging.getLogger(__name__)

MARGIN_EDGES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, float("inf"))
"""Bins of the margins, in units of the logits: a margin m means that the first class is e^m times as probable
as the second one, so that under 0.1 both are within 11 % of each other."""
_LARGEST = float(np.finfo(np.float16).max)
_LOG_EVERY_S = 10.0

Progress = Callable[[int, int], None]
"""Told how many frames are done, of how many."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """The torch model's answers, 4 bytes a pixel. The frames themselves are read again when needed."""

    spec: ModelSpec
    contract: Contract
    """What the answers are of: its output stride, and its inner size unless the model is at its own."""
    frames: Frames
    labels: tuple[np.ndarray, ...]
    """uint8 (H, W) each, sides divided by the output stride."""
    margins: tuple[np.ndarray, ...]
    """float16 (H, W) each, 0 and up: the highest of the upsampled logits less the second highest."""
    truth: tuple[np.ndarray, ...]
    """uint8 (H, W) each: ground truth, IGNORE where there is none."""
    model: Segmenter | None = field(default=None, repr=False)
    """Who gave the answers, to be asked about more than labels; None for answers written down by hand."""

    @property
    def has_truth(self) -> bool:
        """Whether some pixel has a ground truth."""
        return any((truth != IGNORE).any() for truth in self.truth)

    @property
    def described(self) -> str:
        return self.frames.described

    def margin_counts(self) -> np.ndarray:
        """Pixels per bin of `MARGIN_EDGES`, int64."""
        return sum((count_margins(m) for m in self.margins), start=np.zeros(len(MARGIN_EDGES) - 1, np.int64))


def make_reference(
    model: Segmenter,
    spec: ModelSpec,
    frames: Frames,
    *,
    contract: Contract | None = None,
    own_size: bool = False,
    progress: Progress | None = None,
) -> Reference:
    """Ask the torch model, on the device it is on, about every frame.

    Nothing of the exported graph is used: channels are ordered, scaled and upsampled here by themselves, so
    that a mistake in the graph shows. ``contract``: of the files to compare. ``own_size``: the model sees
    each frame at its own size (`segmenter.runtime_size`), as the runtime would give it to an ordinary file,
    whatever the contract's inner size: what another size costs is then in the comparison. Raises InputError
    without frames, DataError for an image that cannot be read.
    """
    if not len(frames):
        raise InputError("an exported file is compared with its model on one frame or more; none was given")
    contract = contract or Contract()
    labels, margins, truth = [], [], []
    started = said = time.perf_counter()
    for done in range(len(frames)):
        frame, known = frames.read(done)
        said_labels, margin = torch_answer(model, spec, frame, contract, own_size=own_size)
        labels.append(said_labels)
        margins.append(margin)
        truth.append(_fitted(known, said_labels.shape))
        if progress is not None:
            progress(done + 1, len(frames))
        now = time.perf_counter()
        if now - said > _LOG_EVERY_S:
            said, rate = now, (done + 1) / (now - started)
            _log.info("the model's own answers: %d of %d frames, %.2f a second", done + 1, len(frames), rate)
    return Reference(
        spec=spec,
        contract=contract,
        frames=frames,
        labels=tuple(labels),
        margins=tuple(margins),
        truth=tuple(truth),
        model=model,
    )


def torch_labels(
    model: Segmenter, spec: ModelSpec, frame: np.ndarray, contract: Contract | None = None
) -> np.ndarray:
    """What the torch model says about one frame, uint8 (H, W, 3) BGR -> uint8 (H, W)."""
    return torch_answer(model, spec, frame, contract or Contract())[0]


def torch_answer(
    model: Segmenter, spec: ModelSpec, frame: np.ndarray, contract: Contract, *, own_size: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Labels uint8 and margins float16 of one frame, uint8 (H, W, 3) BGR, at the size of a file's labels."""
    if own_size:
        seen, inside = resized(frame, runtime_size(spec, *frame.shape[:2])), Contract()
    else:
        seen, inside = frame, contract
    logits = torch_logits(model, network_input(seen, spec, inside))
    return decided(logits, labels_size(frame.shape[:2], contract), align_corners=spec.align_corners)


def network_input(frame: np.ndarray, spec: ModelSpec, contract: Contract) -> np.ndarray:
    """The image that should enter the network: uint8 (H, W, 3) BGR -> float32 (1, 3, h, w) RGB, normalised.

    Where the file resizes frames by itself this is resized as training does (`frames.resized`).
    """
    if contract.network_size is not None and frame.shape[:2] != contract.network_size:
        frame = resized(frame, contract.network_size)
    rgb = np.ascontiguousarray(frame[..., ::-1], np.float32) / 255
    image = (rgb - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None])


@torch.no_grad()
def torch_logits(model: Segmenter, tensor: np.ndarray) -> Tensor:
    """Logits float32 (1, C, h, w), on the model's device, of a normalised RGB image float32 (1, 3, H, W)."""
    with in_eval_mode(model):
        return model(torch.from_numpy(tensor).to(next(model.parameters()).device)).logits.float()


@torch.no_grad()
def decided(logits: Tensor, size: tuple[int, int], *, align_corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """Logits (1, C, h, w) -> labels uint8 (*size) and margins float16 (*size) of the upsampled logits."""
    maps = functional.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
    first, labels = maps.max(1, keepdim=True)
    second = maps.scatter_(1, labels, -torch.inf).amax(1, keepdim=True)
    margins = (first - second).clamp(0, _LARGEST)[0, 0]
    return labels[0, 0].to(torch.uint8).cpu().numpy(), margins.half().cpu().numpy()


def count_margins(margins: np.ndarray) -> np.ndarray:
    """How many of the margins, float of any shape, are in each bin of `MARGIN_EDGES`: int64."""
    bins = np.searchsorted(MARGIN_EDGES[1:-1], margins.ravel().astype(np.float32), side="right")
    return np.bincount(bins, minlength=len(MARGIN_EDGES) - 1).astype(np.int64)


def _fitted(truth: np.ndarray | None, size: tuple[int, ...]) -> np.ndarray:
    height, width = size
    if truth is None:
        return np.full((height, width), IGNORE, np.uint8)
    return resized_labels(truth, (height, width))
