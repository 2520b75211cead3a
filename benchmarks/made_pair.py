"""What the benchmarks of data need: two made-up domains on disk, and stage 1 on them with random networks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from cpsl_deploy.data import open_dataset
from cpsl_deploy.train.adaptation import Adaptation
from cpsl_deploy.train.domains import Domains, join_domains
from cpsl_deploy.train.models import Segmenter, build

CLASSES = 19
Size = tuple[int, int]


def picture(rng: np.random.Generator, size: Size) -> np.ndarray:
    """(H, W, 3) uint8 of things of all sizes, with a camera's noise: files of it are about as large as those
    of streets, and take as long to decode."""
    height, width = size
    made = np.zeros((height, width, 3), np.float32)
    for step in (128, 32, 8):
        coarse = rng.normal(0, step**0.75, (height // step + 2, width // step + 2, 3)).astype(np.float32)
        made += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    made += 120 + rng.normal(0, 1.2, made.shape)
    return np.clip(made, 0, 255).astype(np.uint8)


def label_map(rng: np.random.Generator, size: Size) -> np.ndarray:
    """(H, W) uint8: blobs of all classes."""
    height, width = size
    scores = [rng.normal(size=(height // 48 + 2, width // 48 + 2)).astype(np.float32) for _ in range(CLASSES)]
    small = (width // 4, height // 4)
    grown = np.stack([cv2.resize(score, small, interpolation=cv2.INTER_CUBIC) for score in scores])
    labels = grown.argmax(axis=0).astype(np.uint8)
    return cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)


def write_domain(folder: Path, size: Size, *, images: int, suffix: str, seed: int) -> Path:
    """A labelled dataset of so many images as ``suffix`` files; returns its YAML file."""
    rng = np.random.default_rng(seed)
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    for i in range(images):
        cv2.imwrite(str(folder / "images" / "train" / f"{i:03d}.{suffix}"), picture(rng, size))
        cv2.imwrite(str(folder / "labels" / "train" / f"{i:03d}.png"), label_map(rng, size))
    names = [f"class{k}" for k in range(CLASSES)]
    lines = [f"name: {folder.name}", "splits:", "  train: {images: images/train, labels: labels/train}"]
    lines += [f"classes: [{', '.join(names)}]", "ids:", *(f"  {name}: {k}" for k, name in enumerate(names))]
    path = folder / "domain.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def domains(folder: Path, source: Size, target: Size, *, images: int, suffix: str) -> Domains:
    """A source and a target written below ``folder``."""
    made = [
        write_domain(folder / name, size, images=images, suffix=suffix, seed=seed)
        for seed, (name, size) in enumerate({"source": source, "target": target}.items())
    ]
    return join_domains(open_dataset(made[0], "train"), open_dataset(made[1], "train"), None)


class AtRandom(Adaptation):
    """An adaptation whose stages go on from random networks: that changes results, not costs."""

    def after(self, stage: str) -> Segmenter:
        torch.manual_seed(0)
        network = build(self.recipe.model.teacher, len(self.domains.classes)).eval()
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
