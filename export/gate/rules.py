"""What a file loses, class by class, and which rules of its budget that breaks. No torch: an engine is held
against its ONNX file on boards, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cpsl_deploy.metrics import iou

from .agreement import Agreement
from .budget import Budget

MIN_CLASS_PIXELS = 1000
"""Ground truth that a class needs to decide: two points of IoU are then 20 pixels or more, and fewer change
with the rounding of a single object's outline. Classes with less are reported."""
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class ClassVerdict:
    """One class before and after the export."""

    name: str
    pixels: int
    """With this class in the ground truth."""
    before: float | None
    """IoU of what the file was made from, 0..1; None for a class that the ground truth does not have."""
    after: float | None
    """IoU of the file."""

    @property
    def decides(self) -> bool:
        """Whether it has pixels enough to decide."""
        return self.pixels >= MIN_CLASS_PIXELS

    @property
    def drop(self) -> float:
        """Points of IoU lost; negative if gained, 0 for a class that the ground truth does not have."""
        return 0.0 if self.before is None or self.after is None else 100 * (self.before - self.after)


def class_verdicts(names: Sequence[str], before: np.ndarray, after: np.ndarray) -> tuple[ClassVerdict, ...]:
    """From counts (C, C) int64, rows as the ground truth says, columns as the model and as the file say."""
    ious, pixels = zip(iou(before).tolist(), iou(after).tolist(), strict=True), before.sum(1).tolist()
    return tuple(
        ClassVerdict(
            name=name,
            pixels=number,
            before=said if number else None,
            after=got if number else None,
        )
        for name, number, (said, got) in zip(names, pixels, ious, strict=True)
    )


def broken_rules(
    budget: Budget,
    agreement: Agreement,
    classes: Sequence[ClassVerdict],
    *,
    original: str = "the torch model",
) -> list[str]:
    """The rules of the budget that are broken, as sentences without a full stop, the classes that lose most
    first. ``original``: what the labels are held against, in words."""
    found = []
    if agreement.share < budget.min_agreement:
        name, share = agreement.worst_class
        found.append(
            f"at least {budget.min_agreement:.3%} of the pixels must have {original}'s label and "
            f"{agreement.share:.3%} of {agreement.pixels:,} have it, of {name} {share:.3%}"
        )
    deciding = sorted((c for c in classes if c.decides), key=lambda c: -c.drop)
    before, after = mean_of([c.before for c in deciding]), mean_of([c.after for c in deciding])
    if 100 * (before - after) > budget.max_iou_drop + _ROUNDING:
        found.append(
            f"the mean IoU may fall by {budget.max_iou_drop:g} points and falls by "
            f"{100 * (before - after):.2f} ({change(before, after)})"
        )
    found += [
        f"the IoU of {c.name} may fall by {budget.max_class_iou_drop:g} points and falls by {c.drop:.2f} "
        f"({change(c.before, c.after)})"
        for c in deciding
        if c.drop > budget.max_class_iou_drop + _ROUNDING
    ]
    return found


def mean_of(values: Sequence[float | None]) -> float:
    """NaN if none is known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def points(change: float) -> str:
    """Points of IoU with their sign, to hundredths; "0.00" has none."""
    text = f"{change:+.2f}"
    return text if float(text) else "0.00"


def change(before: float | None, after: float | None) -> str:
    """Two IoU, 0..1, in words."""
    return f"{100 * (before or 0):.1f} % to {100 * (after or 0):.1f} %"
