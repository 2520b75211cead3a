"""Two labelled road scenes of a few pixels, and a recipe that goes through all stages in seconds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

CLASSES = ("road", "sky", "car")
HEIGHT, WIDTH = 96, 128

RECIPE = """
[data]
source_size = [96, 128]
target_size = [96, 128]
crop = [64, 64]
[compute]
workers = 1
log_every = 1
[source_only]
iterations = 4
batch = 2
[source_only.optimiser]
name = "adamw"
lr = 1e-3
[warm_up]
iterations = 3
batch = 2
[self_labelling]
iterations = 4
batch = 2
bank = 128
pixels_per_image = 16
prior_momentum = 0.9
[distillation_1]
iterations = 2
batch = 2
[distillation_2]
iterations = 2
batch = 2
"""


def write_recipe(folder: Path) -> Path:
    path = folder / "tiny.toml"
    path.write_text(RECIPE)
    return path


def write_domain(folder: Path, *, hue: int, extra_class: str | None = None, val: bool = False) -> Path:
    """A dataset file of 6 labelled images, and 2 of a split ``val`` if asked for; returns its path."""
    splits = ["train", "val"] if val else ["train"]
    rng = np.random.default_rng(hue)
    for split in splits:
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(6 if split == "train" else 2):
            image, label = _scene(rng, hue)
            cv2.imwrite(str(folder / "images" / split / f"{i}.png"), image)
            cv2.imwrite(str(folder / "labels" / split / f"{i}.png"), label)
    classes = [*CLASSES, *([extra_class] if extra_class else [])]
    lines = [f"name: {folder.name}", "splits:"]
    lines += [f"  {split}: {{images: images/{split}, labels: labels/{split}}}" for split in splits]
    lines += [f"classes: [{', '.join(classes)}]", "ids:"]
    lines += [f"  {name}: {value}" for value, name in enumerate(classes)]
    path = folder / "domain.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def _scene(rng: np.random.Generator, hue: int) -> tuple[np.ndarray, np.ndarray]:
    """A sky above a road with a car; images (HEIGHT, WIDTH, 3) BGR and labels, uint8."""
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[: int(rng.integers(30, 60))] = 1
    top, left = rng.integers(50, 70), rng.integers(5, 90)
    label[top : top + 20, left : left + 30] = 2
    colours = np.array([[90, 90, 90], [hue, 160, 120], [20, 30, 200]])
    image = colours[label] + rng.integers(-12, 13, (HEIGHT, WIDTH, 1))
    return image.clip(0, 255).astype(np.uint8), label
