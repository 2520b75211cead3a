"""Scores of a network on a labelled set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cpsl_deploy.data import Dataset
from cpsl_deploy.metrics import confusion_matrix, iou, mean_iou, pixel_accuracy

from ..engine.processes import Processes, summed
from ..models import Segmenter
from ..samples import WorkingImages
from ..stage import predict, upsampled
from ..target_statistics import Progress


@dataclass(frozen=True)
class Score:
    """How well label maps agree with the truth."""

    confusion: np.ndarray
    """(C, C) int64: rows are the truth, columns the prediction."""

    @property
    def iou(self) -> list[float | None]:
        """Per class, 0..1; None where a class never occurs."""
        return [None if np.isnan(v) else float(v) for v in iou(self.confusion)]

    @property
    def mean_iou(self) -> float:
        return mean_iou(self.confusion)

    def to_json(self) -> dict:
        return {"mean_iou": self.mean_iou, "pixel_accuracy": pixel_accuracy(self.confusion), "iou": self.iou}


def sample_of(count: int, most: int) -> np.ndarray:
    """Indices of at most ``most`` of ``count`` images, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, most).astype(int))


@torch.no_grad()
def label_map(
    network: Segmenter, image: np.ndarray, size: tuple[int, int], device: torch.device
) -> np.ndarray:
    """Labels (*size) uint8 of an RGB image at working size: logits upsampled to ``size``, then argmax."""
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)
    logits = upsampled(predict(network, batch).logits, size, network)
    return logits.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()


def evaluate(
    network: Segmenter,
    dataset: Dataset,
    size: tuple[int, int],
    device: torch.device,
    *,
    most: int | None = None,
    progress: Progress | None = None,
    processes: Processes | None = None,
) -> Score:
    """Score a network (put in eval mode) on a labelled set, at the labels' own size.

    ``most``: use at most so many images, evenly spaced. ``processes`` share out the images and get the same
    score.
    """
    was_training = network.training
    network.eval()
    images = WorkingImages(dataset, size)
    indices = np.arange(len(dataset)) if most is None else sample_of(len(dataset), most)
    if processes is not None:
        indices = indices[processes.rank :: processes.world]
    confusion = np.zeros((network.num_classes,) * 2, np.int64)
    for done, index in enumerate(indices.tolist(), start=1):
        truth = dataset.label(index)
        found = label_map(network, images.image(index), truth.shape, device)
        confusion += confusion_matrix(truth, found, network.num_classes)
        if progress is not None:
            progress(done, len(indices))
    network.train(was_training)
    if processes is not None:
        confusion = summed(torch.from_numpy(confusion).to(device)).cpu().numpy()
    return Score(confusion)
