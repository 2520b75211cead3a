"""Unlabelled targets: a folder of photos."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ..errors import DataError
from .dataset import Dataset, Item, list_images
from .layouts import require_split


def photo_splits(folder: Path) -> tuple[str, ...]:
    """Subfolders ``train``, ``val`` and ``test`` that hold photos; ``train`` alone where there are none."""
    found = [name for name in ("train", "val", "test") if (folder / name).is_dir()]
    return tuple(name for name in found if list_images(folder / name)) or ("train",)


def open_photos(folder: Path, split: str) -> Dataset:
    """Open a folder of photos, found at any depth, as a set without labels.

    Raises DataError if there is no photo or no such split (see ``photo_splits``).
    """
    splits = photo_splits(folder)
    require_split(f"the folder {folder}", split, splits)
    base = folder / split if splits != ("train",) or list_images(folder / "train") else folder
    files = list_images(base)
    if not files:
        raise DataError(
            f"{folder} holds no photos. A target is a folder of jpg, png, bmp, tif or webp files at any "
            "depth, a video file, or a dataset file (YAML)."
        )
    stems = Counter(path.relative_to(base).with_suffix("") for path in files)
    items = []
    for path in files:
        relative = path.relative_to(base)
        unique = relative.with_suffix("") if stems[relative.with_suffix("")] == 1 else relative
        items.append(Item(unique.as_posix(), path))
    return Dataset(name=folder.resolve().name, split=split, items=tuple(items), all_splits=splits)
