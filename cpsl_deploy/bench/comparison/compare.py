"""Two records held against each other: what changed, whether it is more than chance, and whether it is too
much."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ...errors import InputError
from ..record import DAMAGE, Record, damaged
from .rows import Pair, accuracy_pairs, latency_pairs, other_pairs
from .run import Run, differences, read_run, remarks
from .significance import RESAMPLES

Verdict = Literal["same", "better", "worse", "regression", "undecided", "n/a"]
"""Undecided: worse by more than a limit, and it could not be shown that this is more than chance."""
MAX_REGRESSION = 0.05
MAX_IOU_DROP = 0.01
LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """One figure of both runs. Shares and IoU are from 0 to 1."""

    name: str
    class_name: str | None
    unit: str
    """ms, share, fps, bytes, J or streams."""
    a: float | None
    b: float | None
    """None where the run has no such figure."""
    change: float | None
    """Relative, b / a - 1; of shares the difference b - a. None if one is missing, or ``a`` is 0."""
    p: float | None
    """None for single figures, which have no samples to test."""
    gates: bool
    """Whether it can be a regression."""
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that two records say of each other."""

    a: str
    b: str
    """What the two were called."""
    max_regression: float
    max_iou_drop: float | None
    level: float
    rows: tuple[ComparedRow, ...]
    differences: tuple[str, ...]
    """Conditions that differ although they should not: empty unless that was allowed."""
    notes: tuple[str, ...]

    @property
    def regressions(self) -> tuple[ComparedRow, ...]:
        return tuple(row for row in self.rows if row.verdict == "regression")

    @property
    def undecided(self) -> tuple[ComparedRow, ...]:
        """Beyond a limit, and not shown to be more than chance."""
        return tuple(row for row in self.rows if row.verdict == "undecided")

    def to_json(self) -> dict[str, Any]:
        """Everything, in types that JSON knows."""
        return {
            **asdict(self),
            "rows": [asdict(row) for row in self.rows],
            "differences": list(self.differences),
            "notes": list(self.notes),
            "regressions": [row.name for row in self.regressions],
            "undecided": [row.name for row in self.undecided],
        }

    def headline(self) -> dict[str, Any]:
        """The figures that fit in one line. ``better`` and ``worse`` (regressions among them) count rows that
        can fail: the p of the others are not adjusted."""
        rows = {row.name: row for row in self.rows}
        shown = {"total p50": "p50_change", "total p99": "p99_change", "mIoU": "miou_change"}
        changes = {
            key: None if name not in rows or rows[name].change is None else round(rows[name].change, 5)  # type: ignore[arg-type]
            for name, key in shown.items()
        }
        verdicts = [row.verdict for row in self.rows if row.gates]
        return {
            **changes,
            "better": verdicts.count("better"),
            "worse": verdicts.count("worse") + verdicts.count("regression"),
            "regressions": [row.name for row in self.regressions],
            "undecided": [row.name for row in self.undecided],
        }


def compare(
    record_a: Record,
    record_b: Record,
    *,
    max_regression: float = MAX_REGRESSION,
    max_iou_drop: float | None = MAX_IOU_DROP,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
    allow_different: bool = False,
    names: tuple[str, str] = ("A", "B"),
) -> Comparison:
    """Hold record B, the newer one, against record A.

    ``max_regression``: relative, of latencies (0.05 is 5 % slower) and of IoU (0.05 is 0.40 to 0.38).
    ``max_iou_drop``: of IoU and pixel accuracy too, absolute (0.01 is one point, 0.90 to 0.89): 5 % of a high
    IoU is far more than a user accepts; None for the relative limit alone. Either limit that is broken
    counts. A regression is beyond a limit *and* significant: p, adjusted for all rows of its kind that can
    fail, is ``level`` or less. What is beyond a limit and not significant is undecided; so is every latency
    of fewer than 40 frames, or of frames too much alike, whose p may be too small.

    The test is of two runs, not of two programs. If which frames are A's and which are B's means nothing, no
    more than a share ``level`` of comparisons finds a difference in latency, and no more in accuracy. Another
    hour, temperature or load is a difference, too: measure A, B and A again, and believe only what B shows
    against both runs of A.

    The mean and percentiles of the total latency, every class's median latency, mIoU, pixel accuracy and
    every class's IoU can fail; the other rows explain (`compared_rows`). ``names``: for texts and errors.

    Raises InputError for a damaged record, values that break their rule, and, unless ``allow_different``, for
    records of another machine, device, number of threads, data, frames or classes.
    """
    _check_limits(max_regression, max_iou_drop, level)
    a, b = (read_run(record, name) for record, name in zip((record_a, record_b), names, strict=True))
    try:
        differ = differences(a, b)
    except DAMAGE as error:
        raise damaged(" or ".join(names), error) from error
    if differ and not allow_different:
        raise InputError(
            "records are compared that were measured on one machine in the same way; these differ in "
            f"{'; '.join(differ)}. Measure both alike, or compare them all the same with --allow-different "
            "(allow_different=True)"
        )
    try:
        pairs, notes = _pairs(a, b, level, resamples, seed)
    except DAMAGE as error:
        raise damaged(" or ".join(names), error) from error
    limits = max_regression, max_iou_drop, level
    return Comparison(
        a=names[0],
        b=names[1],
        max_regression=max_regression,
        max_iou_drop=max_iou_drop,
        level=level,
        rows=tuple(_judged(pair, *limits) for pair in pairs),
        differences=tuple(differ),
        notes=tuple(notes),
    )


def _check_limits(max_regression: float, max_iou_drop: float | None, level: float) -> None:
    for name, limit in (("max_regression", max_regression), ("max_iou_drop", max_iou_drop)):
        if limit is not None and not limit >= 0:
            raise InputError(f"{name}, a limit of what is a regression, is 0 or more; got {limit:g}")
    if not 0 < level < 1:
        raise InputError(f"level, that of significance, is between 0 and 1; got {level:g}")


def _pairs(a: Run, b: Run, level: float, resamples: int, seed: int) -> tuple[list[Pair], list[str]]:
    latency, latency_notes = latency_pairs(a, b, level=level, resamples=resamples, seed=seed)
    accuracy, accuracy_notes = accuracy_pairs(a, b, level=level, resamples=resamples, seed=seed)
    other, other_notes = other_pairs(a, b, resamples=resamples, seed=seed)
    notes = [*remarks(a, b), *latency_notes, *accuracy_notes, *other_notes]
    return [*latency, *accuracy, *other], notes


def _judged(pair: Pair, max_regression: float, max_iou_drop: float | None, level: float) -> ComparedRow:
    change: float | None = None
    verdict: Verdict = "n/a"
    if pair.a is not None and pair.b is not None:
        worse_by = pair.a - pair.b if pair.higher_is_better else pair.b - pair.a
        if pair.unit == "share":
            change = pair.b - pair.a
        elif pair.a:
            change = pair.b / pair.a - 1
        beyond = _is_beyond(abs(worse_by), pair, max_regression, max_iou_drop)
        shown = beyond if pair.p is None else pair.p <= level and pair.p_is_sound
        verdict = "same"
        if worse_by > 0 and beyond and pair.gates and pair.p is not None:
            verdict = "regression" if shown else "undecided"
        elif worse_by and shown:
            verdict = "worse" if worse_by > 0 else "better"
    return ComparedRow(
        name=pair.name,
        class_name=pair.class_name,
        unit=pair.unit,
        a=pair.a,
        b=pair.b,
        change=change,
        p=pair.p,
        gates=pair.gates,
        verdict=verdict,
    )


def _is_beyond(by: float, pair: Pair, max_regression: float, max_iou_drop: float | None) -> bool:
    assert pair.a is not None
    if pair.unit == "share" and max_iou_drop is not None and by > max_iou_drop:
        return True
    return by > max_regression * pair.a
