"""A backend whose labels are painted into the frames, and data to go with it: a harness under test is given
exactly the predictions that a test wants it to score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from cpsl_deploy.backends import Backend
from cpsl_deploy.classes import ClassSpace
from cpsl_deploy.contract import Contract
from cpsl_deploy.data import Dataset, open_dataset
from cpsl_deploy.segmenter import Segmenter
from cpsl_deploy.spec import ModelSpec


class PaintedBackend(Backend):
    """The label of a pixel is its red channel, or what ``remap`` (256,) makes of it."""

    name = "painted"
    device = "cpu"
    static_size = None
    batch = None

    def __init__(
        self, names: tuple[str, ...], size: tuple[int, int], remap: np.ndarray | None = None
    ) -> None:
        classes = ClassSpace(names)
        self.spec = ModelSpec(
            architecture="painted", class_names=names, palette=classes.palette, size=size, stride=1
        )
        self.contract = Contract(colour_order="RGB")
        self.origin = "painted"
        self.remap = np.arange(256, dtype=np.uint8) if remap is None else remap

    def infer_impl(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        return {"labels": self.remap[frames[..., 0]]}

    def describe(self) -> dict[str, Any]:
        return {"backend": self.name, "device": self.device}


def painted_segmenter(
    names: tuple[str, ...], size: tuple[int, int], remap: np.ndarray | None = None
) -> Segmenter:
    """A segmenter for frames of ``size`` (height, width) that are not to be resized."""
    return Segmenter(PaintedBackend(names, size, remap), "painted")


def swapped(first: int, second: int) -> np.ndarray:
    """A ``remap`` that gives two classes each other's labels."""
    remap = np.arange(256, dtype=np.uint8)
    remap[[first, second]] = second, first
    return remap


def write_painted(path: Path, predictions: np.ndarray) -> None:
    """A frame, PNG, that the backend above gives these labels, uint8 (H, W), for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    image = random.integers(256, size=(*predictions.shape, 3), dtype=np.uint8)
    image[..., 2] = predictions  # OpenCV writes BGR
    cv2.imwrite(str(path), image)


def painted_set(
    folder: Path, names: tuple[str, ...], predictions: np.ndarray, labels: np.ndarray, ignore: int = 255
) -> Dataset:
    """A split whose labels, uint8 (N, H, W), are indices into ``names`` or ``ignore``, and whose frames the
    backend above gives ``predictions``, of the same shape and kind, for."""
    for index, (predicted, label) in enumerate(zip(predictions, labels, strict=True)):
        write_painted(folder / f"images/{index}.png", predicted)
        (folder / "labels").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"labels/{index}.png"), label)
    description = {
        "name": "painted",
        "splits": {"val": {"images": "images", "labels": "labels"}},
        "classes": list(names),
        "ids": {name: index for index, name in enumerate(names)},
        "ignore": [ignore],
    }
    (folder / "painted.yaml").write_text(yaml.safe_dump(description))
    return open_dataset(folder / "painted.yaml", "val")


def blotches(seed: int, shape: tuple[int, int], values: list[int], cell: int = 8) -> np.ndarray:
    """uint8 ``shape``: a map of patches of some ``values``, with ragged outlines."""
    random = np.random.default_rng(seed)
    rows, columns = (-(-side // cell) + 1 for side in shape)
    few = random.choice(values, size=(rows, columns))
    y, x = (grid + random.integers(cell, size=shape) for grid in np.indices(shape))
    return few[y // cell, x // cell].astype(np.uint8)
