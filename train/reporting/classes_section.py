"""What the report says of classes that were lost: which, where, and what their pseudo labels were like."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .markdown import escaped, percent
from .run_summary import ClassLines, Result, RunSummary, points_text, share_text

LOST_IOU = 0.05
LOST_PART = 0.5
"""Of the best IoU that any stage had of the class."""
LOST_RECALL = 0.25
"""Of the pseudo labels: a class of which they find less cannot be learnt from them."""
FAR_BELOW = 0.5
"""A share is far below another one under this part of it."""
UNLABELLED_PART = 0.25
"""Without labels: pseudo labels that give a class under this part of its prior are worth a line."""

_RULE = (
    f"A class counts as lost if the last network's IoU of it is under {100 * LOST_IOU:g} %, or under half of "
    f"what some stage had, or if pseudo labels find under {100 * LOST_RECALL:g} % of its pixels when "
    "self-labelling ends. It was lost before self-labelling if they found no more at its start, and in "
    "self-labelling if they did; otherwise in the stage where its IoU fell most."
)


@dataclass(frozen=True)
class PseudoLabels:
    """What pseudo labels are like for one class; None where it is not known."""

    share: float | None
    true_share: float | None
    precision: float | None
    recall: float | None
    mistaken_for: int | None
    mistaken_share: float | None


def pseudo_labels_at(summary: RunSummary, k: int, which: int) -> PseudoLabels | None:
    """Of class ``k``, on labelled target images, when self-labelling starts (``which`` 0) or ends (-1)."""

    def value(name: str) -> float | None:
        _, values = summary.of_pseudo_labels(name)
        return None if np.isnan(values[which, k]) else float(values[which, k])

    if not len(summary.of_pseudo_labels("recall")[0]):
        return None
    other = value("mistaken_for")
    return PseudoLabels(
        value("share"),
        value("true_share"),
        value("precision"),
        value("recall"),
        None if other is None else int(other),
        value("mistaken_share"),
    )


def lost_classes(summary: RunSummary) -> list[int]:
    """Classes that count as lost, in the order of the report's tables; see the rule that it prints."""
    last = summary.adapted
    if last is None or not last.iou:
        return []
    lost = []
    for k in (k for classes in summary.groups.values() for k in classes):
        found = last.iou[k]
        if found is None:
            continue
        too_few = _finds_too_few(pseudo_labels_at(summary, k, -1))
        if found < max(LOST_IOU, LOST_PART * _best(summary, k)[0]) or too_few:
            lost.append(k)
    return lost


def _best(summary: RunSummary, k: int) -> tuple[float, Result]:
    scored = [(value, s) for s in summary.stages if s.iou and (value := s.iou[k]) is not None]
    return max(scored, key=lambda pair: pair[0])


def where_lost(summary: RunSummary, k: int) -> str:
    """In words, by the rule that the report prints."""
    start, end = (pseudo_labels_at(summary, k, which) for which in (0, -1))
    if _finds_too_few(end):
        return f"it was lost {'before' if _finds_too_few(start) else 'in'} self-labelling"
    scored = [(s.iou[k] or 0.0, s) for s in summary.stages if s.iou]
    if max(value for value, _ in scored) < LOST_IOU:
        return "no stage found it"
    falls = [(after - before, s) for (before, _), (after, s) in pairwise(scored)]
    fall, stage = min(falls, key=lambda pair: pair[0])
    return f"it was lost in {stage.title} ({points_text(fall)} points)"


def _finds_too_few(labels: PseudoLabels | None) -> bool:
    return labels is not None and labels.recall is not None and labels.recall < LOST_RECALL


def sentences_on_lost_classes(summary: RunSummary) -> list[str]:
    """A sentence for every class that was lost."""
    return [_sentence(summary, k) for k in lost_classes(summary)]


def _sentence(summary: RunSummary, k: int) -> str:
    last = summary.adapted
    assert last is not None
    best, stage = _best(summary, k)
    parts = [f"IoU {percent(last.iou[k])} %"]
    if stage is not last and best >= LOST_IOU:
        parts[0] += f" ({percent(best)} % after {stage.title})"
    parts.append(where_lost(summary, k))
    if summary.prior is not None:
        parts.append(_share_of_prior(summary, k))
    found = pseudo_labels_at(summary, k, -1)
    if found is not None:
        parts += _of_pseudo_labels(summary, found)
        parts += _remarks(_prior_over_time(summary, k)[-1], found)
    return f"**{escaped(summary.classes.names[k])}**: {'; '.join(parts)}."


def _prior_over_time(summary: RunSummary, k: int) -> list[float]:
    """The estimate, then what was logged."""
    _, values = summary.per_class("self_labelling", "prior")
    return [summary.prior[k] if summary.prior else float("nan"), *values[:, k].tolist()]


def _share_of_prior(summary: RunSummary, k: int) -> str:
    over_time = _prior_over_time(summary, k)
    first, last = share_text(over_time[0]), share_text(over_time[-1])
    return f"class prior {first}" + (f", at the end {last}" if first != last else "")


def _of_pseudo_labels(summary: RunSummary, found: PseudoLabels) -> list[str]:
    if not found.true_share:
        return ["none of its pixels are in the images that pseudo labels are scored on"]
    parts = [
        f"true share {share_text(found.true_share)}, pseudo labels {share_text(found.share or 0)}"
        f" with precision {percent(found.precision)} % and recall {percent(found.recall)} %"
    ]
    if found.mistaken_for is not None and found.mistaken_share:
        other = escaped(summary.classes.names[found.mistaken_for])
        parts.append(f"{percent(found.mistaken_share)} % of its pixels are labelled {other}")
    return parts


def _remarks(prior: float, found: PseudoLabels) -> list[str]:
    """What stands out; several may."""
    if not found.true_share or np.isnan(prior):
        return []
    remarks = []
    if prior < FAR_BELOW * found.true_share:
        remarks.append("**the prior is under half of the true share**")
    if (found.share or 0) < FAR_BELOW * prior:
        remarks.append("**pseudo labels give it under half of its prior**")
    if found.precision is not None and found.precision < FAR_BELOW:
        remarks.append("**most of what is labelled so is something else**")
    return remarks


def sentences_without_labels(summary: RunSummary) -> list[str]:
    """A sentence for every class that pseudo labels end up giving far less than its prior."""
    prior, given = _last_quarter(summary, "prior"), _last_quarter(summary, "pseudo_label_share")
    if prior is None or given is None:
        return []
    return [
        f"**{escaped(summary.classes.names[k])}**: class prior {share_text(prior[k])}, pseudo labels "
        f"{share_text(given[k])} in the last quarter of self-labelling."
        for k in np.argsort(-prior)
        if given[k] < UNLABELLED_PART * prior[k]
    ]


def _last_quarter(summary: RunSummary, name: str) -> np.ndarray | None:
    """Mean per class (C,) over the last quarter of what self-labelling logged."""
    lines: ClassLines = summary.per_class("self_labelling", name)
    iterations, values = lines
    return values[iterations >= 0.75 * iterations[-1]].mean(axis=0) if len(iterations) else None


def why_classes_were_lost(summary: RunSummary, picture: str | None) -> list[str]:
    """The section with its picture, already in Markdown; nothing where nothing is known."""
    parts = []
    if summary.is_scored and summary.adapted is not None:
        bullets = sentences_on_lost_classes(summary)
        parts = [_RULE, _bullets(bullets) if bullets else "By this rule no class was lost."]
    elif picture is not None:
        bullets = sentences_without_labels(summary)
        parts = ["Without labelled images nobody can say which classes were lost."]
        part = f"{100 * UNLABELLED_PART:g} % of its prior"
        if bullets:
            parts += [f"Worth a look: pseudo labels end up giving these under {part}.", _bullets(bullets)]
        else:
            parts[0] += f" Pseudo labels end up giving every class {part} or more."
    if picture is not None:
        parts.append(picture)
    return ["## Why classes were lost", *parts] if parts else []


def _bullets(items: list[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
