"""What two runs are compared by: latency overall, by stage and by class, and IoU, each with its p-value."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..report.formats import plural
from .run import ImageCounts, Run
from .significance import (
    LEAST_FRAMES,
    RESAMPLES,
    adjusted_p_values,
    blocks_are_short,
    blocks_of,
    can_be_significant,
    exchanged_frames,
    least_adjusted_p,
    p_values,
    paired_sides,
    ratios,
    swapped,
    unpaired_sides,
)

PERCENTS = (50, 90, 99)
STATISTICS = ("mean", "p50", "p90", "p99")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One figure of two runs."""

    name: str
    unit: str
    """ms, share (0..1), fps, bytes, J or streams."""
    a: float | None
    b: float | None
    p: float | None = None
    """None where there are no samples to test."""
    p_is_sound: bool = True
    """False where p may be too small: blocks are shorter than the memory of the samples."""
    gates: bool = False
    """Whether a regression in it fails the comparison; ``p`` is then adjusted for all such rows of its
    kind."""
    higher_is_better: bool = False
    class_name: str | None = None


def latency_pairs(
    a: Run, b: Run, *, level: float, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[list[Pair], list[str]]:
    """Rows of the total latency, the stages and the classes, and notes.

    Of runs of the same frames in the same order blocks of frames change sides, else blocks are dealt out
    anew: the same arrangements for every row. The mean and percentiles of the total and every class's median
    gate, and their p are adjusted together; stages and the classes' 99th percentiles explain.
    """
    paired = a.frames == b.frames
    make = paired_sides if paired else unpaired_sides
    sides = make(a.stages_ms["total"], b.stages_ms["total"], resamples=resamples, seed=seed)
    notes = [] if paired else ["The measured frames differ: what they cost by their content does, too."]
    if not can_be_significant(sides, level):
        notes.append(
            "There are too few frames, or neighbours are too much alike, for any difference of latency to be "
            "significant. Measure more frames."
        )
    totals_ms = a.stages_ms["total"], b.stages_ms["total"]
    looked_at = [np.log(totals_ms[1]) - np.log(totals_ms[0])] if paired else list(totals_ms)
    few = min(len(times) for times in totals_ms) < LEAST_FRAMES
    sound = not (few or blocks_are_short(*looked_at))
    if not sound:
        notes.append(
            "Blocks of frames are shorter than the memory of the latencies, or there are too few frames "
            f"(fewer than {LEAST_FRAMES}) to see it: their p may be too small, and no latency is a "
            "regression. Measure more frames."
        )
    rows, extreme = [], []
    for stage in sorted(a.stages_ms.keys() & b.stages_ms.keys(), key=lambda name: name != "total"):
        times = a.stages_ms[stage], b.stages_ms[stage]
        rows += _pairs(stage, times, STATISTICS, gates=stage == "total")
        extreme.append(ratios(np.concatenate(times), np.ones(sides.shape[1], bool), sides, PERCENTS))
    known: dict[bytes, np.ndarray] = {}
    for name in (name for name in a.classes if name in b.classes):
        in_a, in_b = a.shown[:, a.classes.index(name)], b.shown[:, b.classes.index(name)]
        counts = np.concatenate([in_a, in_b])
        key = np.packbits(counts).tobytes()
        if key not in known:
            totals = np.concatenate([a.stages_ms["total"], b.stages_ms["total"]])
            known[key] = ratios(totals, counts, sides, PERCENTS)[:, [1, 3]]
        times = a.stages_ms["total"][in_a], b.stages_ms["total"][in_b]
        rows += _pairs(f"{name}, latency", times, ("p50", "p99"), gates=True, class_name=name)
        extreme.append(known[key])
    found = _with_p(rows, np.concatenate(extreme, axis=1))
    return [replace(row, p_is_sound=sound) for row in found], notes


def _pairs(
    name: str,
    times: tuple[np.ndarray, np.ndarray],
    statistics: tuple[str, ...],
    *,
    gates: bool,
    class_name: str | None = None,
) -> list[Pair]:
    of_a, of_b = ({s: _statistic(values, s) for s in statistics} for values in times)
    return [
        Pair(
            name=f"{name} {s}",
            unit="ms",
            a=of_a[s],
            b=of_b[s],
            gates=gates and (class_name is None or s == "p50"),
            class_name=class_name,
        )
        for s in statistics
    ]


def _statistic(times: np.ndarray, name: str) -> float | None:
    if not times.size:
        return None
    return float(times.mean() if name == "mean" else np.percentile(times, float(name[1:])))


def _with_p(rows: list[Pair], extremeness: np.ndarray) -> list[Pair]:
    """The rows with the p of their column; of those that gate, adjusted for all of them."""
    gating = np.array([row.gates and row.a is not None and row.b is not None for row in rows])
    p = p_values(extremeness)
    if gating.any():
        p[gating] = adjusted_p_values(extremeness[:, gating])
    return [
        replace(row, p=float(value) if row.a is not None and row.b is not None else None)
        for row, value in zip(rows, p, strict=True)
    ]


def accuracy_pairs(
    a: Run, b: Run, *, level: float, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[list[Pair], list[str]]:
    """Rows of mIoU, pixel accuracy and the classes' IoU, over the images that both runs have, and notes.

    IoU is computed from counts summed over those images, so it is that of the records where they have the
    same. mIoU is the mean over the classes that both runs and the data have, without those that are neither
    labelled nor predicted. The counts of each image (of blocks of images, where neighbours are alike) change
    sides. All rows gate, and their p are adjusted together.
    """
    if a.images is None or b.images is None:
        return [], []
    names = [name for name in a.images.names if name in set(b.images.names)]
    classes = [name for name in a.classes if name in b.classes and name not in a.unknown | b.unknown]
    if not names or not classes:
        return [], ["The two have no image or no class in common that is labelled: no IoU is compared."]
    notes = []
    if (left := len({*a.images.names, *b.images.names}) - len(names)) > 0:
        notes.append(f"IoU is over the {len(names)} images of both; {left} are only in one.")
    of_a, of_b = _counts(a, names, classes), _counts(b, names, classes)
    labelled = np.maximum(of_a[1].sum(axis=1), 1)
    gain = (of_b[0].sum(axis=1) - of_a[0].sum(axis=1)) / labelled
    of_image = blocks_of(len(names), exchanged_frames(gain))
    swap = swapped(of_image, resamples=resamples, seed=seed)
    moved = [swap @ (second - first) for first, second in zip(of_a, of_b, strict=True)]
    scores_a = _scores(*(first.sum(axis=0) + m for first, m in zip(of_a, moved, strict=True)))
    scores_b = _scores(*(second.sum(axis=0) - m for second, m in zip(of_b, moved, strict=True)))
    if blocks_are_short(gain):
        notes.append(
            "Blocks of images are shorter than the memory of what changed in them: the p of IoU may be too "
            "small. Measure more images."
        )
    extreme = np.nan_to_num(np.abs(scores_b - scores_a))
    enough = can_be_significant(np.concatenate([~swap, swap], axis=1), level)
    if not enough or least_adjusted_p(extreme[:, 2:]) > level:
        notes.append(
            f"With {plural(len(names), 'image')} in {plural(int(of_image[-1]) + 1, 'block')} no class's IoU "
            "can be found significant; measure more images."
        )
    titles = ["mIoU", "pixel accuracy", *(f"{name}, IoU" for name in classes)]
    rows = [
        Pair(
            name=title,
            unit="share",
            a=_finite(scores_a[0, i]),
            b=_finite(scores_b[0, i]),
            gates=True,
            higher_is_better=True,
            class_name=None if i < 2 else classes[i - 2],
        )
        for i, title in enumerate(titles)
    ]
    return _with_p(rows, extreme), notes


def _counts(run: Run, names: list[str], classes: list[str]) -> list[np.ndarray]:
    """Hits, labelled and predicted pixels, each (images, classes) in the given order."""
    images: ImageCounts = run.images  # type: ignore[assignment]
    place = {name: i for i, name in enumerate(images.names)}
    chosen = np.ix_([place[name] for name in names], [run.classes.index(name) for name in classes])
    return [counts[chosen] for counts in (images.hits, images.labelled, images.predicted)]


def _scores(hits: np.ndarray, labelled: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(R, 2 + K): mIoU, pixel accuracy and IoU of counts (R, K) each; NaN where nothing is to be scored."""
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = hits / (labelled + predicted - hits)
        known = ~np.isnan(iou)
        mean = np.where(known, iou, 0).sum(axis=1) / known.sum(axis=1)
        accuracy = hits.sum(axis=1) / labelled.sum(axis=1)
    return np.column_stack([mean, accuracy, iou])


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def other_pairs(a: Run, b: Run, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[list[Pair], list[str]]:
    """Rows of everything else that both have, and a note on what only one has. None of them gates: single
    figures have no samples to test, and a variant is not what is deployed."""
    rows = [
        Pair(
            name=name,
            unit=figure.unit,
            a=figure.value,
            b=b.figures[name].value,
            higher_is_better=figure.higher_is_better,
        )
        for name, figure in a.figures.items()
        if name in b.figures
    ]
    for name in (name for name in a.variants_ms if name in b.variants_ms):
        times = a.variants_ms[name], b.variants_ms[name]
        sides = unpaired_sides(*times, resamples=resamples, seed=seed)
        extreme = ratios(np.concatenate(times), np.ones(sides.shape[1], bool), sides, (50,))
        (row,) = _pairs(f"variant {name}", times, ("p50",), gates=False)
        rows.append(replace(row, p=float(p_values(extreme)[1])))
    notes = []
    for word, one, other in (("A", a, b), ("B", b, a)):
        alone = [*(one.figures.keys() - other.figures.keys())]
        alone += [f"variant {name}" for name in one.variants_ms.keys() - other.variants_ms.keys()]
        alone += ["accuracy"] if one.images is not None and other.images is None else []
        alone += [f"class {name}" for name in one.classes if name not in other.classes]
        if alone:
            notes.append(f"Only in {word}: {', '.join(sorted(alone))}.")
    return rows, notes
