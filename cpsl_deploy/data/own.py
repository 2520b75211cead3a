"""A dataset described by a small YAML file. No code is needed for one's own data.

    name: my-road
    root: ../recordings            # relative to this file; the commands can replace it
    splits:
      train: {images: images/train, labels: labels/train}
      val: {images: images/val}    # without labels
    classes: [road, car]           # or the name of a class space: cityscapes-19
    ids:                           # class -> raw ids in the masks; or `colours:` with [R, G, B] values
      road: [6, 7]
      car: 10
    ignore: [0, 3]                 # raw values known to be no class; `rest` ignores all others
    suffixes: {image: _rgb, label: _gt}   # ends of the file names that differ between a pair

Images and masks are looked for at any depth and paired by their path below the two folders, without file
suffix. Masks are single-channel or palette PNGs of ids, or colour images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..classes import NAMED_CLASS_SPACES, ClassSpace
from ..errors import DataError, InputError
from .coding import LabelCoding, pack_colour, unpack_colour
from .dataset import Dataset, Item, find_images, pair, strip_ending

_KEYS = ("name", "root", "splits", "classes", "ids", "colours", "ignore", "suffixes")


def open_own(path: Path, split: str, *, root: Path | None = None) -> Dataset:
    """Open a split of the dataset that a YAML file describes.

    ``root`` replaces the file's. Raises DataError, naming the key, its value and the remedy, for anything in
    the file that breaks a rule, for an unknown split and for folders that are missing or empty.
    """
    text = _Description(path)
    splits = text.splits()
    if split not in splits:
        raise text.error("splits", f"has no split {split!r}", f"the splits are: {', '.join(splits)}")
    folders = splits[split]
    root = Path(root) if root is not None else path.parent / text.optional("root", str, ".")
    if not root.is_dir():
        remedy = "correct it, or give --source-root, --target-root, --data-root or --root"
        raise text.error("root", f"{root} is not a folder", remedy)
    image_end, label_end = text.suffixes()
    pictures = strip_ending(find_images(root / folders["images"]), image_end)
    if not pictures:
        raise DataError(
            f"the split {split!r} of {path} has no images: {root / folders['images']} holds none"
            + (f" whose name ends in {image_end!r}" if image_end else "")
            + ". Correct splits, suffixes or the root."
        )
    if "labels" not in folders:
        items = tuple(Item(name, file) for name, file in pictures.items())
        return Dataset(name=text.name(), split=split, items=items, all_splits=tuple(splits))
    masks = strip_ending(find_images(root / folders["labels"]), label_end)
    items, lonely_images, lonely_labels = pair(pictures, masks)
    if not items:
        raise DataError(
            f"no image of the split {split!r} of {path} has a label of the same name: the first image is "
            f"{next(iter(pictures))!r}, the first label {next(iter(masks), 'missing')!r}. Where the ends of "
            "their names differ, say so: suffixes: {image: _rgb, label: _gt}"
        )
    classes, coding = text.coding()
    return Dataset(
        name=text.name(),
        split=split,
        items=items,
        classes=classes,
        coding=coding,
        unpaired_images=lonely_images,
        unpaired_labels=lonely_labels,
        all_splits=tuple(splits),
    )


def own_splits(path: Path) -> tuple[str, ...]:
    """The splits that a YAML file describes. Raises DataError as ``open_own`` does."""
    return tuple(_Description(path).splits())


class _Description:
    """The YAML file, and the checks on each of its keys."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(
                f"cannot read the dataset file {path}: {error.strerror}. Check the path."
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{path} is not a YAML file: {reason}. Correct that line.") from error
        if not isinstance(self.values, dict):
            raise DataError(
                f"{path} is not a dataset description: it has no keys. Start with name:, splits:, classes:"
            )
        unknown = sorted(str(key) for key in self.values if key not in _KEYS)
        if unknown:
            raise self.error(unknown[0], "is not a known key", f"the keys are: {', '.join(_KEYS)}")

    def error(self, key: str, rule: str, remedy: str) -> DataError:
        return DataError(f"{self.path}: {key}: {rule}; {remedy}.")

    def optional(self, key: str, kind: type[str] | type[dict], default: Any) -> Any:
        value = self.values.get(key, default)
        if not isinstance(value, kind):
            raise self.error(key, f"must be a {_KINDS[kind]}, not {value!r}", "correct the value")
        return value

    def name(self) -> str:
        return self.optional("name", str, self.path.stem)

    def splits(self) -> dict[str, dict[str, str]]:
        splits = self.optional("splits", dict, {})
        if not splits:
            raise self.error(
                "splits", "is missing", "add for example: splits: {train: {images: images, labels: labels}}"
            )
        for split, folders in splits.items():
            if (
                not isinstance(folders, dict)
                or "images" not in folders
                or set(folders) - {"images", "labels"}
                or not all(isinstance(folder, str) for folder in folders.values())
            ):
                raise self.error(
                    f"splits: {split}",
                    f"names a folder of images and may name one of labels, not {folders!r}",
                    "write {images: FOLDER, labels: FOLDER}",
                )
        return {str(split): folders for split, folders in splits.items()}

    def suffixes(self) -> tuple[str, str]:
        suffixes = self.optional("suffixes", dict, {})
        if set(suffixes) - {"image", "label"}:
            raise self.error(
                "suffixes", f"has the keys image and label, not {suffixes!r}", "remove the others"
            )
        return str(suffixes.get("image", "")), str(suffixes.get("label", ""))

    def coding(self) -> tuple[ClassSpace, LabelCoding]:
        """The classes that have ids or colours, and what the raw values mean."""
        if ("ids" in self.values) == ("colours" in self.values):
            raise self.error(
                "ids",
                "or colours, one of the two, says what the masks hold",
                "add for example ids: {road: [7]}",
            )
        key = "colours" if "colours" in self.values else "ids"
        space, named = self._space()
        owners: dict[int, str] = {}
        for name, listed in self.optional(key, dict, {}).items():
            if name not in space.names:
                raise self.error(
                    f"{key}: {name}", "is not one of the classes", f"they are: {', '.join(space.names)}"
                )
            self._claim(owners, str(name), f"{key}: {name}", listed)
        missing = [name for name in space.names if name not in owners.values()]
        if missing and not named:
            raise self.error(
                key, f"lists nothing for the class {missing[0]!r}", "add its values, or remove the class"
            )
        space = space.subset([name for name in space.names if name not in missing])
        if key == "colours" and not named:
            first = {name: unpack_colour(value) for value, name in reversed(owners.items())}
            space = ClassSpace(space.names, tuple(first[name] for name in space.names))
        return space, self._with_ignored(owners)

    def _with_ignored(self, owners: dict[int, str]) -> LabelCoding:
        listed = self.values.get("ignore", [])
        everything = dict(owners)
        if listed not in ("rest", []):
            self._claim(everything, "ignore", "ignore", listed)
        return LabelCoding(
            classes=owners,
            ignored=frozenset(everything) - frozenset(owners),
            ignore_rest=listed == "rest",
            colours="colours" in self.values,
        )

    def _claim(self, owners: dict[int, str], name: str, key: str, listed: Any) -> None:
        """Enter raw values under a name; none may have one already."""
        colours = "colours" in self.values
        for value in self._colours(key, listed) if colours else self._ids(key, listed):
            if value in owners:
                shown = LabelCoding(classes={}, colours=colours).describe(value)
                owner = (
                    f"for {owners[value]!r} and for {name!r}" if owners[value] != name else f"for {name!r}"
                )
                raise self.error(key, f"{shown} is listed twice, {owner}", "keep one of them")
            owners[value] = name

    def _space(self) -> tuple[ClassSpace, bool]:
        value = self.values.get("classes")
        if isinstance(value, str):
            if value not in NAMED_CLASS_SPACES:
                known = ", ".join(NAMED_CLASS_SPACES)
                raise self.error(
                    "classes", f"{value!r} is not a named class space", f"use {known}, or a list of names"
                )
            return NAMED_CLASS_SPACES[value], True
        if not isinstance(value, list) or not value:
            raise self.error(
                "classes",
                f"must be a list of names or a named space, not {value!r}",
                "add classes: [road, car]",
            )
        try:
            return ClassSpace(tuple(str(name) for name in value)), False
        except InputError as error:
            raise self.error("classes", str(error), "correct the list") from error

    def _ids(self, key: str, listed: Any) -> list[int]:
        values = listed if isinstance(listed, list) else [listed]
        for value in values:
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 65535:
                raise self.error(
                    key, f"a raw id is a whole number from 0 to 65535, not {value!r}", "correct the value"
                )
        return values

    def _colours(self, key: str, listed: Any) -> list[int]:
        values = listed if isinstance(listed, list) and listed and isinstance(listed[0], list) else [listed]
        for value in values:
            if not (
                isinstance(value, list) and len(value) == 3
                and all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255 for v in value)
            ):  # fmt: skip
                raise self.error(
                    key, f"a colour is [red, green, blue], each 0 to 255, not {value!r}", "correct the value"
                )
        return [pack_colour(tuple(value)) for value in values]


_KINDS: dict[type, str] = {str: "text", dict: "mapping"}
