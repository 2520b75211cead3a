"""Read a dataset before a long run does, and say everything that is wrong with it at once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np

from ..errors import DataError
from . import images
from .check_report import CheckReport, ClassShare, Problem
from .check_rules import (
    Facts,
    Values,
    class_shares,
    file_problems,
    pairing_problems,
    remarks,
    value_problems,
)
from .dataset import Dataset

__all__ = ["CheckReport", "ClassShare", "Problem", "check_dataset"]

FAST_IMAGES = 16
"""Images that a fast check reads."""

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


def check_dataset(
    dataset: Dataset, *, fast: bool = False, workers: int | None = None, progress: Progress | None = None
) -> CheckReport:
    """Read every image and label of a split and report what is wrong.

    ``fast``: read about 16 evenly spaced ones instead; names are still paired over the whole split.
    ``workers``: threads that read; one per core unless given.

    Never raises for bad data: that is in the report. Ctrl-C stops the reading within a file or so.
    """
    indices = evenly_spaced(len(dataset), FAST_IMAGES) if fast else range(len(dataset))
    facts = _read_all(dataset, indices, workers or os.cpu_count() or 1, progress)
    values = Values(facts)
    problems = [
        *remarks(dataset),
        *pairing_problems(dataset),
        *file_problems(facts),
        *value_problems(dataset, facts, values, fast=fast),
    ]
    sizes = Counter("x".join(map(str, fact.size)) for fact in facts if fact.size)
    classes, ignored = class_shares(dataset, facts)
    return CheckReport(
        dataset=dataset.name,
        split=dataset.split,
        images=len(dataset),
        checked=len(facts),
        has_labels=dataset.has_labels,
        problems=sorted(problems, key=lambda problem: problem.severity),
        sizes=dict(sizes.most_common()),
        classes=classes,
        ignored_share=ignored,
        unknown_ids=values.unknown(dataset.coding) if dataset.coding is not None else {},
    )


def evenly_spaced(length: int, count: int) -> list[int]:
    """Up to ``count`` different indices below ``length``, the middles of equal parts."""
    count = min(count, length)
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def _read_all(
    dataset: Dataset, indices: Iterable[int], workers: int, progress: Progress | None
) -> list[Facts]:
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(_look_at, dataset, i) for i in indices]
        try:
            for done, _ in enumerate(as_completed(futures), 1):
                if progress:
                    progress(done, len(futures))
        except KeyboardInterrupt:
            pool.shutdown(wait=True, cancel_futures=True)
            seen = sum(future.done() and not future.cancelled() for future in futures)
            raise KeyboardInterrupt(
                f"{seen} of {len(futures)} images were read; nothing was written."
            ) from None
    return [future.result() for future in futures]


def _look_at(dataset: Dataset, index: int) -> Facts:
    item = dataset.items[index]
    facts = Facts(index, item.name)
    try:
        facts.size = dataset.image(index).shape[:2]
        if dataset.has_labels:
            facts.turned = images.orientation(item.image) != 1
            raw = dataset.raw_label(index)
            facts.label_size = raw.shape
            facts.counts = _count(raw)
    except DataError as error:
        facts.error = str(error)
    return facts


def _count(raw: np.ndarray) -> dict[int, int]:
    if raw.dtype == np.uint32:  # colours: too many values for a table
        values, counts = np.unique(raw, return_counts=True)
    else:
        table = np.bincount(raw.ravel())
        values = np.flatnonzero(table)
        counts = table[values]
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
