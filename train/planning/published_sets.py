"""Stand-ins for the published sets: random images of a recipe's sizes, to plan without the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml

from cpsl_deploy.classes import ClassSpace, parse_class_space
from cpsl_deploy.data import open_dataset
from cpsl_deploy.errors import InputError

from ..domains import Domains, join_domains
from ..recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many images each side of an adaptation has."""

    source: int
    target: int
    validation: int


@dataclass(frozen=True, kw_only=True)
class PublishedSets:
    """What a recipe of the package was made for."""

    source: str
    target: str
    classes: str
    counts: Counts


_GTA5, _SYNTHIA, _CITYSCAPES = 24966, 9400, (2975, 500)
PUBLISHED = {
    "gta5-cityscapes": PublishedSets(
        source="GTA5",
        target="Cityscapes",
        classes="cityscapes-19",
        counts=Counts(source=_GTA5, target=_CITYSCAPES[0], validation=_CITYSCAPES[1]),
    ),
    **{
        f"synthia-cityscapes-{classes}": PublishedSets(
            source="SYNTHIA",
            target="Cityscapes",
            classes=f"cityscapes-{classes}",
            counts=Counts(source=_SYNTHIA, target=_CITYSCAPES[0], validation=_CITYSCAPES[1]),
        )
        for classes in (16, 13)
    },
}
"""By the recipes' names. As published: all of GTA5, SYNTHIA-RAND-CITYSCAPES, Cityscapes' train and val."""


def published_sets(recipe: Recipe) -> PublishedSets:
    """Raises InputError for a recipe that was not made for published sets."""
    if recipe.name not in PUBLISHED:
        raise InputError(
            f"a plan without --source and --target is for the recipes {', '.join(PUBLISHED)}, whose sets are "
            f"known; {recipe.name!r} is for any data. Give both."
        )
    return PUBLISHED[recipe.name]


def stand_ins(sets: PublishedSets, recipe: Recipe, images: int, folder: Path) -> Domains:
    """Write so many random images of every side, with labels, into ``folder``, and open them."""
    space = parse_class_space(sets.classes)
    sides = {"source": recipe.data.source_size, "target": recipe.data.target_size}
    opened = {}
    for number, (side, size) in enumerate(sides.items()):
        path = _write(folder / side, size, images, space, number)
        opened[side] = open_dataset(path, "train", need_labels=True)
    return join_domains(opened["source"], opened["target"], opened["target"], space)


def _write(folder: Path, size: tuple[int, int], images: int, space: ClassSpace, seed: int) -> Path:
    """A dataset file of noisy images in the colours of their labels, which are blocks."""
    rng = np.random.default_rng(seed)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for i in range(images):
        coarse = rng.integers(0, len(space), (8, 16), np.uint8)
        label = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST)
        noise = rng.normal(0, 6, (*size, 3))
        image = np.clip(np.array(space.palette, np.float32)[label] + noise, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{i}.png"), image)
        cv2.imwrite(str(folder / "labels" / f"{i}.png"), label)
    described = {
        "name": folder.name,
        "splits": {"train": {"images": "images", "labels": "labels"}},
        "classes": list(space.names),
        "ids": {name: value for value, name in enumerate(space.names)},
    }
    path = folder / "set.yaml"
    path.write_text(yaml.safe_dump(described))
    return path
