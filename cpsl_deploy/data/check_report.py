"""What a check of a dataset found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import DataError

TAIL_SHARE = 0.005
"""Classes on a smaller share of the labelled pixels are marked as the tail."""


@dataclass(frozen=True)
class Problem:
    """One kind of thing that is wrong. An error makes results wrong or a run fail; a warning may."""

    severity: Literal["error", "warning"]
    message: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassShare:
    """How often a class occurs."""

    name: str
    share: float
    """Of the labelled (not ignored) pixels, 0..1."""
    images: int
    """Images it occurs in."""

    @property
    def is_tail(self) -> bool:
        return self.share < TAIL_SHARE


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What was found in one split."""

    dataset: str
    split: str
    images: int
    """Images in the split."""
    checked: int
    """Images that were read; fewer than ``images`` in a fast check."""
    has_labels: bool
    problems: list[Problem] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    """``HEIGHTxWIDTH`` -> images of that size, most frequent first."""
    classes: list[ClassShare] = field(default_factory=list)
    ignored_share: float = 0.0
    """Share of the pixels that have no class."""
    unknown_ids: dict[str, float] = field(default_factory=dict)
    """Raw value outside the map -> its share of the pixels, most frequent first."""

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == "error"]

    def raise_for_errors(self) -> None:
        """Raises DataError with all errors, if there are any."""
        if self.errors:
            messages = " ".join(f"({i}) {_with_example(problem)}" for i, problem in enumerate(self.errors, 1))
            raise DataError(
                f"{self.dataset} ({self.split}) cannot be used as it is: {messages} "
                "Run cpsl-check on it to see everything."
            )

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "images": self.images,
            "checked": self.checked,
            "has_labels": self.has_labels,
            "problems": [
                {"severity": p.severity, "message": p.message, "examples": list(p.examples)}
                for p in self.problems
            ],
            "sizes": self.sizes,
            "classes": [
                {"name": c.name, "share": c.share, "images": c.images, "tail": c.is_tail}
                for c in self.classes
            ],
            "ignored_share": self.ignored_share,
            "unknown_ids": self.unknown_ids,
        }


def _with_example(problem: Problem) -> str:
    return (
        f"{problem.message} For example: {problem.examples[0].rstrip('.')}."
        if problem.examples
        else problem.message
    )


def failed_report(name: str, split: str, error: Exception) -> CheckReport:
    """The report of a split that cannot even be opened."""
    return CheckReport(
        dataset=name,
        split=split,
        images=0,
        checked=0,
        has_labels=False,
        problems=[Problem("error", str(error))],
    )
