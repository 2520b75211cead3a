"""The figures of an ablation: computed from the units' results alone, also while some are missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from ablation_arms import Arm, Claim, Closure, Group, Plan

from cpsl_deploy.train.reporting.run_summary import TAIL_SHARE

METRICS = ("all", "large", "head", "tail")
"""Means of IoU over all classes, the pair's large ones, and those above and below ``TAIL_SHARE``."""

Results = Mapping[int, Mapping[str, Mapping[str, Any]]]
"""results.json by seed and arm's name; units that are not finished are left out."""
OfSeed = Mapping[str, Mapping[str, Any]]
Scores = Mapping[str, Mapping[int, Any]]
"""Of a unit, by arm's name and seed."""
PerSeed = dict[int, float]
"""A figure of every seed that has it."""


def summarise(
    plan: Plan,
    arms: Sequence[Arm],
    results: Results,
    seeds: Sequence[int],
    classes: Sequence[str],
    large: Sequence[str] = (),
    absent: Mapping[int, Collection[str]] | None = None,
) -> dict[str, Any]:
    """Every figure of the report, in percent and points; what is not measured yet is None.

    ``absent``: by seed, the classes that the validation images do not show. They count nowhere, also where a
    network sees them, which is an IoU of 0.
    """
    absent = absent or {}
    tails = {seed: _tail(plan, results.get(seed, {}), classes) for seed in seeds}
    scores = {
        arm.name: {
            seed: _scores(arm, results[seed], classes, large, tails[seed], absent.get(seed, ()))
            for seed in seeds
            if arm.name in results.get(seed, {})
        }
        for arm in arms
    }
    missing = [f"seed {seed} {arm.name}" for seed in seeds for arm in arms if seed not in scores[arm.name]]
    return {
        "seeds": list(seeds),
        "classes": list(classes),
        "large": list(large),
        "missing": missing,
        "tail_share": TAIL_SHARE,
        "tail": {str(seed): tail for seed, tail in tails.items()},
        "groups": [_group(group, arms) for group in plan.groups],
        "arms": {arm.name: _arm(arm, plan, scores, seeds) for arm in arms},
        "claims": [_claim(claim, scores, seeds) for claim in plan.claims],
        "closures": [_closure(closure, scores, seeds) for closure in plan.closures],
    }


def _group(group: Group, arms: Sequence[Arm]) -> dict[str, Any]:
    members = [arm.name for arm in arms if arm.group == group.name]
    return {"name": group.name, "title": group.title, "kind": group.kind, "arms": members}


def spread(values: PerSeed) -> dict[str, Any]:
    """Each seed's value, their mean, and their standard deviation (of a sample: n - 1)."""
    known = list(values.values())
    return {
        "seeds": {str(seed): value for seed, value in values.items()},
        "mean": float(np.mean(known)) if known else None,
        "std": float(np.std(known, ddof=1)) if len(known) > 1 else None,
    }


def _tail(plan: Plan, of_seed: OfSeed, classes: Sequence[str]) -> dict[str, Any] | None:
    """Estimated prior of a seed in percent, and the classes below ``TAIL_SHARE``."""
    prior = of_seed.get(plan.prior_of, {}).get("prior")
    if prior is None:
        return None
    return {
        "prior": {name: 100 * share for name, share in zip(classes, prior, strict=True)},
        "classes": [name for name, share in zip(classes, prior, strict=True) if share < TAIL_SHARE],
    }


def _scores(
    arm: Arm,
    of_seed: OfSeed,
    classes: Sequence[str],
    large: Sequence[str],
    tail: dict[str, Any] | None,
    absent: Collection[str],
) -> dict[str, Any]:
    """IoU and its means of one unit, in percent, without the absent classes."""
    results = of_seed[arm.name]
    iou = {
        name: 100 * value
        for name, value in zip(classes, results[arm.stages[-1]]["iou"], strict=True)
        if name not in absent
    }

    def mean(names: Sequence[str]) -> float | None:
        values = [iou[name] for name in names if name in iou]
        return float(np.mean(values)) if values else None

    return {
        "all": mean(classes),
        "large": mean(large),
        "head": mean([name for name in classes if name not in tail["classes"]]) if tail else None,
        "tail": mean(tail["classes"]) if tail else None,
        "iou": iou,
        "cost": {stage: _cost(results[stage]) for stage in arm.stages},
    }


def _cost(stage: Mapping[str, Any]) -> dict[str, Any]:
    """``step_seconds`` is the median of the logged ones: it does not suffer from an interruption."""
    step = stage.get("step_seconds")
    return {
        "iterations": stage["iterations"],
        "seconds": stage["seconds"],
        "steps_per_second": 1 / step if step else None,
    }


def _arm(arm: Arm, plan: Plan, scores: Scores, seeds: Sequence[int]) -> dict[str, Any]:
    own = scores[arm.name]
    entry: dict[str, Any] = {
        "title": arm.title,
        "group": arm.group,
        "stages": list(arm.stages),
        "like": arm.like or None,
        "set": dict(arm.set),
        "settings": plan.overrides(arm),
        "scores": {
            m: spread({seed: one[m] for seed, one in own.items() if one[m] is not None}) for m in METRICS
        },
        "iou": _mean_iou(own),
        "cost": {str(seed): own[seed]["cost"] for seed in own},
    }
    if arm.like in scores:
        entry["difference"] = {
            "to": arm.like,
            **{m: spread(differences(scores, arm.name, arm.like, m, seeds)) for m in METRICS},
        }
    return entry


def _mean_iou(own: Mapping[int, Any]) -> dict[str, float]:
    names = dict.fromkeys(name for unit in own.values() for name in unit["iou"])
    return {
        name: float(np.mean([unit["iou"][name] for unit in own.values() if name in unit["iou"]]))
        for name in names
    }


def differences(scores: Scores, arm: str, over: str, metric: str, seeds: Sequence[int]) -> PerSeed:
    """Points that an arm is above another one, of the seeds in which both are measured."""
    found: PerSeed = {}
    for seed in seeds:
        pair = [scores.get(name, {}).get(seed, {}).get(metric) for name in (arm, over)]
        if None not in pair:
            found[seed] = pair[0] - pair[1]
    return found


# ---- claims


def _claim(claim: Claim, scores: Scores, seeds: Sequence[int]) -> dict[str, Any]:
    """The claim, its figures, whether it holds (None: not measured), and a sentence that says all that."""
    if claim.kind == "gain":
        value = differences(scores, claim.arm, claim.over, "all", seeds)
        detail = f"mIoU of {claim.arm} minus {claim.over}: {points(value)}"
        margin = value
    else:
        tail = differences(scores, claim.arm, claim.over, "tail", seeds)
        head = differences(scores, claim.arm, claim.over, "head", seeds)
        margin = {s: tail[s] - head[s] for s in tail if s in head}
        # A tail that only loses less than the head gains nothing.
        margin = {s: value if tail[s] > 0 else min(value, tail[s]) for s, value in margin.items()}
        detail = (
            f"from {claim.over} to {claim.arm} the tail changes by {points(tail)}, the head by {points(head)}"
        )
    verdict, holds = _verdict(margin, len(seeds))
    sentence = f"“{claim.text}” {verdict}" + (f": {detail}." if margin else ".")
    return {"text": claim.text, "holds": holds, "sentence": sentence, "margin": spread(margin)}


def _verdict(margin: PerSeed, seeds: int) -> tuple[str, bool | None]:
    """A claim holds if its margin is above zero on the mean; how often it is, is said."""
    values = list(margin.values())
    if not values:
        return "is not measured yet", None
    above, holds = sum(value > 0 for value in values), bool(np.mean(values) > 0)
    where = f"{above} of {len(values)} {'seed' if len(values) == 1 else 'seeds'}"
    if len(values) < seeds:
        where += f" (so far, of {seeds})"
    if above == len(values):
        return f"holds in {where}", holds
    if holds:
        return f"holds on the mean, but only in {where}", holds
    return f"does not hold on the mean; it does in {where}", holds


def points(values: PerSeed) -> str:
    """``+1.2, -0.3, +0.9 (mean +0.6 ± 0.8)``."""
    known = list(values.values())
    if not known:
        return "not measured"
    listed = ", ".join(f"{value:+.1f}" for value in known)
    if len(known) == 1:
        return listed
    return f"{listed} (mean {np.mean(known):+.1f} ± {np.std(known, ddof=1):.1f})"


def _closure(closure: Closure, scores: Scores, seeds: Sequence[int]) -> dict[str, Any]:
    """(arm - base) / (oracle - base) of mIoU over all classes, in percent, where the oracle is above."""
    shares: PerSeed = {}
    gains = differences(scores, closure.arm, closure.base, "all", seeds)
    gaps = differences(scores, closure.oracle, closure.base, "all", seeds)
    for seed in gains:
        gap = gaps.get(seed)
        if gap is not None and gap > 0:
            shares[seed] = 100 * gains[seed] / gap
    found = spread(shares)
    return {
        "arm": closure.arm,
        "base": closure.base,
        "oracle": closure.oracle,
        "goal": 100 * closure.goal,
        "reached": None if found["mean"] is None else found["mean"] >= 100 * closure.goal,
        "gain": spread(gains),
        **found,
    }
