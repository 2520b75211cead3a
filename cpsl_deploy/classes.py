"""Class spaces: what the label values of a model or a dataset mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .errors import DataError, InputError

IGNORE = 255
"""The label value of a pixel that enters no loss, mean or count."""

# Colours of the Cityscapes label definition (cityscapesScripts, helpers/labels.py), and, for names
# that are common in other road sets, colours kept far from those.
_COLOURS: dict[str, tuple[int, int, int]] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
    "sign": (220, 220, 0),
    "tree": (107, 142, 35),
    "pedestrian": (220, 20, 60),
}


@dataclass(frozen=True)
class ClassSpace:
    """Ordered class names and their colours; the index of a name is its label value.

    ``names``: up to 255 different names. ``palette``: one (R, G, B) per name, 0..255; without one the
    usual Cityscapes colours are taken by name and distinct ones are made for the rest.

    Raises InputError for an empty, repeated or too long list, or a palette of another length.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if not 1 <= len(self.names) <= IGNORE:
            raise InputError(f"a class space has 1 to {IGNORE} classes; this one has {len(self.names)}")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise InputError(f"class names must differ; given more than once: {', '.join(repeated)}")
        if not self.palette:
            object.__setattr__(self, "palette", _palette_for(self.names))
        palette = tuple(tuple(int(v) for v in colour) for colour in self.palette)
        if len(palette) != len(self.names):
            raise InputError(
                f"a palette has one colour per class: {len(self.names)} classes, {len(palette)} colours"
            )
        if any(len(colour) != 3 or not all(0 <= v <= 255 for v in colour) for colour in palette):
            raise InputError("a palette colour is three numbers from 0 to 255 (red, green, blue)")
        object.__setattr__(self, "palette", palette)

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """The label value of a class. Raises InputError for an unknown name."""
        if name not in self.names:
            raise InputError(f"unknown class {name!r}; the classes are: {', '.join(self.names)}")
        return self.names.index(name)

    @cached_property
    def colour_table(self) -> np.ndarray:
        """(256, 3) uint8 RGB: colour of every label value; values without a class are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.palette
        return table

    def subset(self, names: Sequence[str]) -> ClassSpace:
        """The class space of the given names, in the given order, with this one's colours."""
        return ClassSpace(tuple(names), tuple(self.palette[self.index(name)] for name in names))


def _palette_for(names: Sequence[str]) -> tuple[tuple[int, int, int], ...]:
    """Known colours by name; for the rest hues a golden-ratio step apart."""
    import colorsys

    colours = []
    for i, name in enumerate(names):
        r, g, b = colorsys.hsv_to_rgb((0.13 + 0.618034 * i) % 1.0, 0.65, 0.95)
        colours.append(_COLOURS.get(name, (round(255 * r), round(255 * g), round(255 * b))))
    return tuple(colours)


CITYSCAPES_19 = ClassSpace(
    (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
        "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle",
        "bicycle",
    )
)  # fmt: skip
CITYSCAPES_16 = CITYSCAPES_19.subset(
    [name for name in CITYSCAPES_19.names if name not in ("terrain", "truck", "train")]
)
CITYSCAPES_13 = CITYSCAPES_16.subset(
    [name for name in CITYSCAPES_16.names if name not in ("wall", "fence", "pole")]
)

NAMED_CLASS_SPACES = {
    "cityscapes-19": CITYSCAPES_19,
    "cityscapes-16": CITYSCAPES_16,
    "cityscapes-13": CITYSCAPES_13,
}


def parse_class_space(text: str) -> ClassSpace:
    """A named class space (``cityscapes-19``), or class names with commas between (``road, car``).

    Raises InputError for an empty or repeated name.
    """
    if text in NAMED_CLASS_SPACES:
        return NAMED_CLASS_SPACES[text]
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise InputError(
            f"classes are a named class space ({', '.join(NAMED_CLASS_SPACES)}) or names with commas "
            f"between, for example road,car; got {text!r}"
        )
    return ClassSpace(names)


def common_classes(source: ClassSpace, target: ClassSpace) -> tuple[ClassSpace, list[str], list[str]]:
    """Join two class spaces on their names.

    Returns the common class space (in the source's order), the names only the source has and the
    names only the target has. Raises DataError if nothing is common.
    """
    names = [name for name in source.names if name in target.names]
    if not names:
        raise DataError(
            "source and target have no class name in common: "
            f"source has {', '.join(source.names)}; target has {', '.join(target.names)}. "
            "Rename the classes in one of the dataset files so that the shared ones are spelled alike."
        )
    only_source = [name for name in source.names if name not in target.names]
    only_target = [name for name in target.names if name not in source.names]
    return source.subset(names), only_source, only_target
