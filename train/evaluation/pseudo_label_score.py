"""How right pseudo labels are, per class, on labelled target images. Nothing learns from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.data import Dataset
from cpsl_deploy.metrics import iou

from ..engine.processes import Processes, summed
from ..samples import WorkingImages
from .network_score import sample_of

LabelImage = Callable[[Tensor, tuple[int, int]], Tensor]
"""A uint8 RGB image (1, 3, h, w) and a size -> its pseudo labels (1, *size) int64, IGNORE where none."""


@dataclass(frozen=True)
class PseudoLabelScore:
    """Pseudo labels against the truth."""

    counts: np.ndarray
    """(C, C + 1) int64 pixels: rows are the truth, columns the pseudo label, the last one without any."""

    @property
    def confusion(self) -> np.ndarray:
        """(C, C), without pixels that have no pseudo label."""
        return self.counts[:, :-1]

    def mistaken_for(self) -> list[int | None]:
        """The class that each class's pixels are most often taken for instead; None if for no other."""
        others = self.confusion * (1 - np.eye(len(self.counts), dtype=np.int64))
        return [int(row.argmax()) if row.any() else None for row in others]

    def to_json(self) -> dict[str, Any]:
        """Lists in the order of the classes, 0..1; None where there is nothing to divide by.

        ``share``, ``true_share``: of the pseudo labels and of the labelled pixels. ``precision``: what is
        right of the pixels labelled so; ``recall``: of the class's true pixels. ``mistaken_for``,
        ``mistaken_share``: the class that its pixels are most often taken for, and how many of them are.
        """
        hits, given, truth = np.diag(self.confusion), self.confusion.sum(axis=0), self.counts.sum(axis=1)
        taken = self.mistaken_for()
        mistaken = [0 if other is None else self.counts[k, other] for k, other in enumerate(taken)]
        return {
            "share": _ratios(given, given.sum()),
            "true_share": _ratios(truth, truth.sum()),
            "precision": _ratios(hits, given),
            "recall": _ratios(hits, truth),
            "iou": [None if np.isnan(value) else float(value) for value in iou(self.confusion)],
            "mistaken_for": taken,
            "mistaken_share": _ratios(np.array(mistaken), truth),
        }


def _ratios(parts: np.ndarray, wholes: np.ndarray) -> list[float | None]:
    pairs = zip(parts.tolist(), np.broadcast_to(wholes, parts.shape).tolist(), strict=True)
    return [part / whole if whole else None for part, whole in pairs]


@torch.no_grad()
def score_pseudo_labels(
    label_image: LabelImage,
    dataset: Dataset,
    num_classes: int,
    size: tuple[int, int],
    device: torch.device,
    *,
    most: int,
    processes: Processes | None = None,
) -> PseudoLabelScore:
    """Score pseudo labels of at most ``most`` whole images, evenly spaced, at the labels' own size.

    ``size``: the working size that images are brought to. ``processes`` share out the images and get the same
    score.
    """
    images = WorkingImages(dataset, size)
    indices = sample_of(len(dataset), most)
    if processes is not None:
        indices = indices[processes.rank :: processes.world]
    counts = np.zeros((num_classes, num_classes + 1), np.int64)
    for index in indices.tolist():
        truth = dataset.label(index)
        image = torch.from_numpy(images.image(index)).permute(2, 0, 1)[None].to(device)
        height, width = truth.shape
        found = label_image(image, (height, width))[0].cpu().numpy()
        found = np.where(found == IGNORE, num_classes, found)
        rows = truth[truth != IGNORE].astype(np.int64) * (num_classes + 1) + found[truth != IGNORE]
        counts += np.bincount(rows, minlength=counts.size).reshape(counts.shape)
    if processes is not None:
        counts = summed(torch.from_numpy(counts).to(device)).cpu().numpy()
    return PseudoLabelScore(counts)
