"""The public road sets, recognised from their folders: GTA5, SYNTHIA-RAND-CITYSCAPES and Cityscapes.

    gta5        images/00001.png, labels/00001.png (palette, id or colour PNG), split.mat where it is there
    synthia     RGB/0000000.png, GT/LABELS/0000000.png (16 bit, the class id in the red channel)
    cityscapes  leftImg8bit/SPLIT/CITY/*_leftImg8bit.png, gtFine/SPLIT/CITY/*_gtFine_labelIds.png
                (or *_gtFine_labelTrainIds.png; without gtFine the images alone)

Ids: cityscapesScripts ``helpers/labels.py`` for GTA5 and Cityscapes; the set's own README for SYNTHIA.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..classes import CITYSCAPES_16, CITYSCAPES_19, IGNORE, ClassSpace
from ..errors import DataError, MissingExtraError
from . import images
from .coding import LabelCoding, pack_colour
from .dataset import Dataset, Item, find_images, list_images, pair, strip_ending

_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
LABEL_IDS = LabelCoding(
    classes=dict(zip(_LABEL_IDS, CITYSCAPES_19.names, strict=True)),
    ignored=frozenset(range(35)) - set(_LABEL_IDS) | {IGNORE},
)
"""Cityscapes ``labelIds``: 0..33 of which 19 are evaluated; 34 is GTA5's licence plate."""

TRAIN_IDS = LabelCoding(classes=dict(enumerate(CITYSCAPES_19.names)), ignored=frozenset({IGNORE}))
"""Cityscapes ``labelTrainIds``: 0..18, and 255."""

_COLOURS = {
    pack_colour(colour): name for name, colour in zip(CITYSCAPES_19.names, CITYSCAPES_19.palette, strict=True)
}
_UNUSED_COLOURS = [
    (0, 0, 0), (20, 20, 20),  # unlabelled, the car itself, static
    (111, 74, 0), (81, 0, 81), (250, 170, 160),  # dynamic, ground, parking
    (230, 150, 140), (180, 165, 180), (150, 100, 100), (150, 120, 90),  # rail track, rail, bridge, tunnel
    (0, 0, 90), (0, 0, 110),  # caravan, trailer
]  # fmt: skip
LABEL_COLOURS = LabelCoding(
    classes=_COLOURS, ignored=frozenset(pack_colour(colour) for colour in _UNUSED_COLOURS), colours=True
)
"""Cityscapes colours. A licence plate has the colour of a car and cannot be told from it."""

SYNTHIA_IDS = LabelCoding(
    classes={
        1: "sky", 2: "building", 3: "road", 4: "sidewalk", 5: "fence", 6: "vegetation", 7: "pole", 8: "car",
        9: "traffic sign", 10: "person", 11: "bicycle", 12: "motorcycle", 15: "traffic light", 17: "rider",
        19: "bus", 21: "wall",
    },
    ignored=frozenset({0, 13, 14, 16, 18, 20, 22}),
    channel=0,
)  # fmt: skip
"""SYNTHIA-RAND-CITYSCAPES; terrain, truck and train have ids (16, 18, 20) and never occur."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A set that is recognised from its folders."""

    name: str
    folders: tuple[str, ...]
    """Names under which people keep it."""
    expected: str
    owners: str
    """Where its owners offer it."""
    matches: Callable[[Path], bool]
    splits: Callable[[Path], tuple[str, ...]]
    open: Callable[[Path, str], Dataset]


def recognise(folder: Path) -> Layout | None:
    """The layout a folder has, or None."""
    return next((layout for layout in LAYOUTS.values() if layout.matches(folder)), None)


def locate(name: str, root: Path | None) -> tuple[Layout, Path]:
    """The folder of a named set.

    With ``root`` only there; otherwise in $CPSL_DATA, ./data and the working folder. Raises DataError with
    the places searched, the layout expected and where the set's owners offer it.
    """
    layout = LAYOUTS[name]
    if root is not None:
        places = [root, *(root / folder for folder in layout.folders)]
    else:
        parents = [Path(os.environ["CPSL_DATA"])] if os.environ.get("CPSL_DATA") else []
        parents += [Path("data"), Path(".")]
        places = [parent / folder for parent in parents for folder in layout.folders]
    for place in places:
        if layout.matches(place):
            return layout, place
    raise DataError(
        f"the dataset {name} was not found. Looked in: {', '.join(map(str, places))}. Expected there: "
        f"{layout.expected}. Its owners offer it at {layout.owners}. Name its folder, or set CPSL_DATA to "
        "the folder that holds it."
    )


def _matches_gta5(folder: Path) -> bool:
    pictures = folder / "images"
    if not (pictures.is_dir() and (folder / "labels").is_dir()):
        return False
    if (folder / "split.mat").is_file():
        return True
    with os.scandir(pictures) as entries:
        return any(re.fullmatch(r"\d{5}\.png", entry.name) for entry in entries)


def _gta5_splits(folder: Path) -> tuple[str, ...]:
    # Without its split file everything is for training, as the literature on adaptation has it.
    return ("train", "val", "test", "all") if (folder / "split.mat").is_file() else ("train", "all")


def _open_gta5(folder: Path, split: str) -> Dataset:
    splits = _gta5_splits(folder)
    require_split("gta5", split, splits)
    pictures = find_images(folder / "images")
    masks = {n: p for n, p in find_images(folder / "labels").items() if not n.endswith("TrainIds")}
    if split != "all" and "val" in splits:
        wanted = _gta5_split(folder / "split.mat", split)
        pictures = {name: path for name, path in pictures.items() if name in wanted}
        masks = {name: path for name, path in masks.items() if name in wanted}
    first = next(iter(masks.values()), None)
    coding = LABEL_COLOURS if first is not None and images.is_colour_png(first) else LABEL_IDS
    return _paired("gta5", folder, split, splits, pictures, masks, CITYSCAPES_19, coding)


def _gta5_split(path: Path, split: str) -> set[str]:
    """Names of a split's images; the file numbers them from 1, as the files are named."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise MissingExtraError(
            "scipy", "data", f"reading {path.name} of GTA5 (the split 'all' does not)"
        ) from error
    try:
        numbers = loadmat(path)[f"{split}Ids"]
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, MatReadError) as error:
        raise DataError(
            f"{path} is not GTA5's split.mat ({error!r}). Download it again, or remove it."
        ) from error
    return {f"{number:05d}" for number in np.ravel(numbers).astype(int)}


def _matches_synthia(folder: Path) -> bool:
    return (folder / "RGB").is_dir() and (folder / "GT" / "LABELS").is_dir()


def _open_synthia(folder: Path, split: str) -> Dataset:
    splits = ("train",)
    require_split("synthia", split, splits)
    pictures, masks = find_images(folder / "RGB"), find_images(folder / "GT" / "LABELS")
    return _paired("synthia", folder, split, splits, pictures, masks, CITYSCAPES_16, SYNTHIA_IDS)


def _matches_cityscapes(folder: Path) -> bool:
    return (folder / "leftImg8bit").is_dir()


def _cityscapes_splits(folder: Path) -> tuple[str, ...]:
    found = sorted(path.name for path in (folder / "leftImg8bit").iterdir() if path.is_dir())
    usual = [name for name in ("train", "val", "test") if name in found]
    return (*usual, *(name for name in found if name not in usual))


def _open_cityscapes(folder: Path, split: str) -> Dataset:
    pictures_root = folder / "leftImg8bit"
    splits = _cityscapes_splits(folder)
    require_split("cityscapes", split, splits)
    pictures = strip_ending(find_images(pictures_root / split), "_leftImg8bit")
    masks_root = folder / "gtFine" / split
    masks = find_images(masks_root) if masks_root.is_dir() else {}
    for ending, coding in (("_gtFine_labelIds", LABEL_IDS), ("_gtFine_labelTrainIds", TRAIN_IDS)):
        if chosen := strip_ending(masks, ending):
            return _paired("cityscapes", folder, split, splits, pictures, chosen, CITYSCAPES_19, coding)
    items = tuple(Item(name, path) for name, path in pictures.items())
    return Dataset(name="cityscapes", split=split, items=items, all_splits=splits)


def require_split(name: str, split: str, splits: Iterable[str]) -> None:
    """Raises DataError if a dataset has no such split."""
    splits = tuple(splits)
    if split not in splits:
        raise DataError(f"{name} has no split {split!r}; its splits are: {', '.join(splits) or 'none'}.")


def _paired(
    name: str,
    folder: Path,
    split: str,
    splits: tuple[str, ...],
    pictures: dict[str, Path],
    masks: dict[str, Path],
    classes: ClassSpace,
    coding: LabelCoding,
) -> Dataset:
    items, lonely_images, lonely_labels = pair(pictures, masks)
    if not items:
        raise DataError(
            f"the split {split!r} of {name} in {folder} is empty: {len(pictures)} images and {len(masks)} "
            f"labels, none with the same name. Expected: {LAYOUTS[name].expected}."
        )
    return Dataset(
        name=name,
        split=split,
        items=items,
        classes=classes,
        coding=coding,
        all_splits=splits,
        unpaired_images=lonely_images,
        unpaired_labels=lonely_labels,
    )


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            name="gta5",
            folders=("gta5", "GTA5"),
            expected="images/00001.png and labels/00001.png, and split.mat for train, val and test splits",
            owners="https://download.visinf.tu-darmstadt.de/data/from_games/",
            matches=_matches_gta5,
            splits=_gta5_splits,
            open=_open_gta5,
        ),
        Layout(
            name="synthia",
            folders=("synthia", "SYNTHIA", "RAND_CITYSCAPES"),
            expected="RGB/0000000.png and GT/LABELS/0000000.png (the subset SYNTHIA-RAND-CITYSCAPES)",
            owners="https://synthia-dataset.net/downloads/",
            matches=_matches_synthia,
            splits=lambda folder: ("train",),
            open=_open_synthia,
        ),
        Layout(
            name="cityscapes",
            folders=("cityscapes", "Cityscapes"),
            expected="leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and, for labels, "
            "gtFine/SPLIT/CITY/*_gtFine_labelIds.png",
            owners="https://www.cityscapes-dataset.com/downloads/",
            matches=_matches_cityscapes,
            splits=_cityscapes_splits,
            open=_open_cityscapes,
        ),
    )
}

_LABEL_FOLDERS = ("labels", "label", "masks", "mask", "annotations", "gt", "gtFine", "GT")


def looks_labelled(folder: Path) -> Path | None:
    """A folder of masks beside the images, by its usual names; None if there is none."""
    for name in _LABEL_FOLDERS:
        if (folder / name).is_dir() and list_images(folder / name):
            return folder / name
    return None
