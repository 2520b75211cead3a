"""The losses of every step since the last report: their means, and the first that no loss should have.

Nothing waits for the device in between: values stay where they were computed until someone asks.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..samples import Batch

LARGEST = 1e4
"""A finite loss term above this has exploded: the cross entropy of a network that knows nothing of 19 classes
is 3."""
JUMP = 1000.0
"""So has one that is so many times its median, ..."""
LEAST_JUMP = 10.0
"""... if it is above this: terms of small weight vary by orders of magnitude and harm nothing."""
REMEMBERED, NEEDED = 100, 20
"""Values that a median is of: the last so many; it is not judged by before there are so few."""


@dataclass(frozen=True, kw_only=True)
class BadLoss:
    """A loss term that training must not go on from."""

    iteration: int
    """Counted from 1, as in metrics.jsonl."""
    term: str
    value: float
    rule: str
    """What was broken, in words."""
    images: dict[str, tuple[str, ...]]
    """Names of the batch's images by side."""

    def __str__(self) -> str:
        return f"the term {self.term!r} is {self.value:.6g} at iteration {self.iteration} ({self.rule})"


@dataclass(frozen=True)
class _Step:
    iteration: int
    losses: dict[str, torch.Tensor]
    images: dict[str, tuple[str, ...]]


@dataclass
class LossWatch:
    """The steps since the last report, and what each term's values usually are."""

    usual: dict[str, deque[float]] = field(default_factory=dict)
    images: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Of the latest batch."""
    _waiting: list[_Step] = field(default_factory=list)
    _sums: dict[str, float] = field(default_factory=dict)
    _seen: int = 0

    def see(self, iteration: int, losses: Mapping[str, torch.Tensor], batch: Batch) -> None:
        """A step, or a part of one: its number, counted from 1, its loss terms (scalars) and its batch."""
        self.images = batch.names
        values = {term: value.detach().float() for term, value in losses.items()}
        self._waiting.append(_Step(iteration, values, self.images))

    def judge(self) -> BadLoss | None:
        """The first bad value among those not judged yet. Waits for the device, once."""
        steps, self._waiting = self._waiting, []
        tensors = [value for step in steps for value in step.losses.values()]
        values = iter(torch.stack(tensors).tolist() if tensors else [])
        for step in steps:
            self._seen += 1
            for term, value in zip(step.losses, values, strict=False):
                self._sums[term] = self._sums.get(term, 0.0) + value
                if rule := self._broken(term, value):
                    return BadLoss(
                        iteration=step.iteration, term=term, value=value, rule=rule, images=step.images
                    )
        return None

    def means(self) -> dict[str, float]:
        """Every term's mean over the judged steps since the last call."""
        means = {term: total / self._seen for term, total in self._sums.items()}
        self._sums, self._seen = {}, 0
        return means

    def _broken(self, term: str, value: float) -> str:
        """The rule that a value breaks, or nothing; a sound value becomes part of what is usual."""
        if not math.isfinite(value):
            return "a loss stays finite"
        size, usual = abs(value), self.usual.setdefault(term, deque(maxlen=REMEMBERED))
        if size > LARGEST:
            return f"a loss stays below {LARGEST:g}"
        if size > LEAST_JUMP and len(usual) >= NEEDED:
            median = statistics.median(usual)
            if size > JUMP * median:
                return f"a loss stays below {JUMP:g} times its median, which is {median:.3g}"
        usual.append(size)
        return ""


def listed(images: Mapping[str, tuple[str, ...]]) -> str:
    """``source images a, b; target images c, d``."""
    return "; ".join(f"{side} images {', '.join(names)}" for side, names in images.items()) or "no images"
