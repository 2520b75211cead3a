"""What can be wrong with a dataset, told from what was seen of its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .check_report import ClassShare, Problem
from .coding import LabelCoding
from .dataset import Dataset
from .layouts import LABEL_IDS, TRAIN_IDS

_EXAMPLES = 5
_LOSSY = (".jpg", ".jpeg")


@dataclass
class Facts:
    """What was seen of one item."""

    index: int
    name: str
    size: tuple[int, int] | None = None
    label_size: tuple[int, int] | None = None
    counts: dict[int, int] = field(default_factory=dict)
    """Raw value -> pixels."""
    error: str = ""
    turned: bool = False
    """Whether the EXIF tag says that the picture is to be turned."""


class Values:
    """Raw values over all masks read."""

    def __init__(self, facts: list[Facts]) -> None:
        self.pixels: Counter[int] = Counter()
        for fact in facts:
            self.pixels.update(fact.counts)
        self.total = max(self.pixels.total(), 1)

    def share(self, values: Iterable[int]) -> float:
        return sum(self.pixels[value] for value in values) / self.total

    def unknown(self, coding: LabelCoding) -> dict[str, float]:
        return {
            coding.describe(value): count / self.total
            for value, count in self.pixels.most_common()
            if not coding.known(value)
        }


def pairing_problems(dataset: Dataset) -> Iterable[Problem]:
    for paths, what, other in (
        (dataset.unpaired_images, "images have no label", "label"),
        (dataset.unpaired_labels, "labels have no image", "image"),
    ):
        if paths:
            yield Problem(
                "error",
                f"{len(paths)} {what} of the same name. Add the missing {other}s or remove these files.",
                _some(map(str, paths)),
            )


def remarks(dataset: Dataset) -> Iterable[Problem]:
    """What was found on opening the dataset; it can be used all the same."""
    return (Problem("warning", f"{words}.") for words in dataset.remarks)


def file_problems(facts: list[Facts]) -> Iterable[Problem]:
    if unreadable := [fact.error for fact in facts if fact.error]:
        yield Problem("error", f"{len(unreadable)} images or labels cannot be read.", _some(unreadable))
    mismatched = [
        f"{fact.name}: image {fact.size[0]}x{fact.size[1]}, label {fact.label_size[0]}x{fact.label_size[1]}"
        for fact in facts
        if fact.size and fact.label_size and fact.size != fact.label_size
    ]
    if mismatched:
        yield Problem(
            "error",
            f"{len(mismatched)} labels have another size than their image (height x width). Export them at "
            "the image's size, resized with nearest neighbour.",
            _some(mismatched),
        )
    if turned := [fact.name for fact in facts if fact.turned]:
        yield Problem(
            "warning",
            f"{len(turned)} labelled images have an EXIF tag that turns them. They are used as stored, as "
            "their labels are taken to be; look at the contact sheet; save them turned if the labels are.",
            _some(turned),
        )


def value_problems(dataset: Dataset, facts: list[Facts], values: Values, *, fast: bool) -> Iterable[Problem]:
    coding = dataset.coding
    read = [fact for fact in facts if fact.counts]
    if coding is None or not read:
        return
    lossy = [str(item.label) for item in dataset.items if item.label and item.label.suffix.lower() in _LOSSY]
    if lossy:
        yield Problem(
            "error",
            f"{len(lossy)} labels are JPEG files, which changes their values. Export them as PNG.",
            _some(lossy),
        )
    if mixed_up := _mixed_up(coding, values):
        yield Problem("error", mixed_up, _some(fact.name for fact in read))
    elif unknown := values.unknown(coding):
        holders = [fact.name for fact in read if any(not coding.known(value) for value in fact.counts)]
        listed = ", ".join(f"{value} ({100 * share:.3g} %)" for value, share in list(unknown.items())[:10])
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        yield Problem(
            "error",
            f"{len(unknown)} raw values in {len(holders)} masks are not in the map: {listed}{more} of the "
            "pixels. Give them to a class, or list them under ignore.",
            _some(holders),
        )
    classes, _ = class_shares(dataset, facts)
    if not any(c.images for c in classes):
        yield Problem(
            "error", "no pixel of any mask has a class. The masks or the map are not the right ones."
        )
        return
    names = {c.name for c in classes}
    empty = [f.name for f in read if not any(coding.classes.get(value) in names for value in f.counts)]
    if empty:
        yield Problem("warning", f"{len(empty)} masks have no pixel with a class.", _some(empty))
    missing = [c.name for c in classes if not c.images]
    if missing and not fast:
        yield Problem("warning", f"{len(missing)} classes never occur: {', '.join(missing)}.")


def _mixed_up(coding: LabelCoding, values: Values) -> str | None:
    """Whether masks hold Cityscapes' other kind of ids; both are valid bytes, so nothing else would fail."""
    if len(coding.classes) < 10 or coding.colours:
        return None
    highest = max((value for value in values.pixels if value != 255), default=0)
    if coding.classes.items() <= LABEL_IDS.classes.items():
        # labelIds keep 0..6 for rare things; trainIds put road, sidewalk and building there.
        if highest <= 18 and values.share((0, 1, 2)) > 0.2:
            return (
                f"the masks hold trainIds (0 to {highest}, 255) where labelIds (7 to 33) are expected. Use "
                "the masks *_labelIds.png, or map trainIds: road is 0 there."
            )
    elif coding.classes.items() <= TRAIN_IDS.classes.items() and 19 <= highest <= 34:
        return (
            f"the masks hold labelIds (up to {highest}) where trainIds (0 to 18, 255) are expected. Use the "
            "masks *_labelTrainIds.png, or map labelIds: road is 7 there."
        )
    return None


def class_shares(dataset: Dataset, facts: list[Facts]) -> tuple[list[ClassShare], float]:
    """Shares in the dataset's class space, and the share of pixels without a class."""
    if dataset.coding is None or dataset.classes is None:
        return [], 0.0
    pixels: Counter[str] = Counter()
    holders: Counter[str] = Counter()
    for fact in facts:
        here: Counter[str] = Counter()
        for value, count in fact.counts.items():
            here[dataset.coding.classes.get(value, "")] += count
        pixels.update(here)
        holders.update(here.keys())
    labelled = sum(pixels[name] for name in dataset.classes.names)
    shares = [
        ClassShare(name, pixels[name] / max(labelled, 1), holders[name]) for name in dataset.classes.names
    ]
    return shares, 1 - labelled / max(pixels.total(), 1)


def _some(values: Iterable[str]) -> tuple[str, ...]:
    values = list(values)
    more = (f"and {len(values) - _EXAMPLES} more",) if len(values) > _EXAMPLES else ()
    return (*values[:_EXAMPLES], *more)
