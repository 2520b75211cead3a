"""A split of a dataset: images, and labels where there are some, by index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..classes import ClassSpace
from ..errors import DataError
from . import images
from .coding import LabelCoding

if TYPE_CHECKING:
    from .footage import Footage


@dataclass(frozen=True)
class Item:
    """One image, and its mask where there is one."""

    name: str
    """Unique in the split and the same on every machine: the path below the split's folder, no suffix."""
    image: Path
    label: Path | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """One split of a dataset. Nothing is read before it is asked for; safe to share between threads.

    Made by ``open_dataset``. Either all items have a label (``coding`` says what the masks' values mean) or
    none does. Raises DataError for a split without images.
    """

    name: str
    split: str
    items: tuple[Item, ...] = field(repr=False)
    classes: ClassSpace | None = None
    """What the values of ``label`` mean; None while an unlabelled set was not given any."""
    coding: LabelCoding | None = field(default=None, repr=False)
    all_splits: tuple[str, ...] = ()
    unpaired_images: tuple[Path, ...] = field(default=(), repr=False)
    """Images of the split left out because they have no label while others do."""
    unpaired_labels: tuple[Path, ...] = field(default=(), repr=False)
    """Labels of the split left out because they have no image."""
    remarks: tuple[str, ...] = field(default=(), repr=False)
    """What a user should know of it, in sentences without a full stop: a video that ends early."""
    footage: Footage | None = field(default=None, repr=False)
    """The recording that the images were sampled from, if they were."""

    def __post_init__(self) -> None:
        if not self.items:
            raise DataError(f"the split {self.split!r} of {self.name} has no images.")
        if (self.coding is not None) != all(item.label is not None for item in self.items):
            raise DataError(
                f"{self.name}: either every image of a split has a label, with a coding, or none has."
            )
        if self.coding is not None and self.classes is None:
            raise DataError(f"{self.name}: labels need a class space.")

    def __len__(self) -> int:
        return len(self.items)

    @property
    def has_labels(self) -> bool:
        return self.coding is not None

    @cached_property
    def names(self) -> list[str]:
        """One unique name per image, the same on every machine."""
        return [item.name for item in self.items]

    def splits(self) -> tuple[str, ...]:
        """The splits this dataset has."""
        return self.all_splits or (self.split,)

    def image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB. Raises DataError, with the path, if the file is missing or damaged.

        Images with labels are read as stored; photos without labels are turned upright by their EXIF tag.
        """
        return images.read_image(self.items[index].image, upright=not self.has_labels)

    def label(self, index: int) -> np.ndarray:
        """uint8 (H, W), values of ``classes`` or IGNORE.

        Raises DataError as ``image`` does, and for a mask of another size than its image.
        """
        raw = self.raw_label(index)
        height, width = self.image_size(index)
        if raw.shape != (height, width):
            item = self.items[index]
            raise DataError(
                f"a mask has the size of its image (height x width): {item.label} has {raw.shape[0]}x"
                f"{raw.shape[1]} and {item.image} {height}x{width}. Export the mask at the image's size, "
                "resized with nearest neighbour."
            )
        if raw.dtype == np.uint8:
            return cv2.LUT(raw, self._table[:256])  # a quarter of the time that NumPy's indexing takes
        return self._table[raw]

    def raw_label(self, index: int) -> np.ndarray:
        """The mask as stored, (H, W) uint8, uint16 or, for colours, uint32 (see LabelCoding)."""
        path = self.items[index].label
        if self.coding is None or path is None:
            raise DataError(f"{self.name} ({self.split}) has no labels; only its images can be used.")
        return self.coding.read(path)

    def image_size(self, index: int) -> tuple[int, int]:
        """(height, width) of an image in pixels, from its header where the format allows."""
        return images.image_size(self.items[index].image, upright=not self.has_labels)

    def with_classes(self, space: ClassSpace) -> Dataset:
        """The same images with labels in another class space, joined by class name; the rest becomes IGNORE.

        For a set without labels this only states the classes meant.
        """
        return replace(self, classes=space)

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The dataset of some of the images, in the given order."""
        return replace(self, items=tuple(self.items[i] for i in indices))

    @cached_property
    def _table(self) -> np.ndarray:
        assert self.coding is not None and self.classes is not None
        return self.coding.table(self.classes)

    def __getstate__(self) -> dict:
        # The lookup table is rebuilt in a worker process rather than sent there.
        return {key: value for key, value in self.__dict__.items() if key not in ("_table", "names")}


def list_images(folder: Path) -> list[Path]:
    """Every image file below a folder, sorted; hidden files and folders are left out."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in images.IMAGE_SUFFIXES)
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def find_images(folder: Path) -> dict[str, Path]:
    """Every image below a folder by its path there without suffix, in order.

    Raises DataError if the folder is missing, or two images differ in their suffix alone.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder. Check the path in the dataset's description, or the root."
        )
    found: dict[str, Path] = {}
    for path in list_images(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise DataError(
                f"image names must differ in more than the suffix: {found[name]} and {path}. "
                "Rename or remove one."
            )
        found[name] = path
    return found


def strip_ending(files: dict[str, Path], ending: str) -> dict[str, Path]:
    """The files whose name ends so, by their name without that ending."""
    return {name[: len(name) - len(ending)]: path for name, path in files.items() if name.endswith(ending)}


def pair(
    pictures: dict[str, Path], masks: dict[str, Path]
) -> tuple[tuple[Item, ...], tuple[Path, ...], tuple[Path, ...]]:
    """Items of the names that have both, images without a mask, masks without an image."""
    items = tuple(Item(name, path, masks[name]) for name, path in pictures.items() if name in masks)
    lonely_images = tuple(path for name, path in pictures.items() if name not in masks)
    lonely_labels = tuple(path for name, path in masks.items() if name not in pictures)
    return items, lonely_images, lonely_labels
