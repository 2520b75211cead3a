"""The report of an ablation as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ablation_summary import points

NOTHING = "changes nothing"
SIGNS = {"ladder": "over the arm it is like", "add": "with the option", "remove": "without the option"}


def markdown(summary: dict[str, Any], pictures: Sequence[str] = ()) -> str:
    """The whole report. ``pictures``: names of files beside it."""
    parts = [f"# Ablation: {summary['pair']}", *_status(summary), *_reading(summary)]
    parts += ["## What it shows", "\n".join(f"- {line}" for line in findings(summary))]
    parts += [f"![{name}]({name})" for name in pictures]
    for group in summary["groups"]:
        if group["arms"]:
            parts += [f"## {group['title']}", _table(_group_rows(summary, group))]
            parts += [_no_op(of) for of in summary["no_ops"] if of["group"] == group["name"]]
    parts += ["## Gap closure", _table(_closure_rows(summary))] if summary["closures"] else []
    parts += ["## Per class", "IoU in percent, mean over the seeds.", _table(_class_rows(summary))]
    parts += ["## Head and tail", _tails(summary)]
    parts += ["## Cost", _COST, _table(_cost_rows(summary))]
    parts += ["## What was run", *_provenance(summary)]
    return "\n\n".join(parts) + "\n"


def findings(summary: dict[str, Any]) -> list[str]:
    """The claims, the gap closures and which options pay, each a sentence."""
    lines = [claim["sentence"] for claim in summary["claims"]]
    for closure in summary["closures"]:
        if closure["mean"] is not None:
            seeds = ", ".join(f"{value:.0f} %" for value in closure["seeds"].values())
            reached = "reached" if closure["reached"] else "not reached"
            lines.append(
                f"gap closed by {closure['arm']}: {closure['mean']:.0f} % ({seeds}); "
                f"the goal of {closure['goal']:.0f} % is {reached}."
            )
    for group in summary["groups"]:
        if group["kind"] != "ladder":
            lines += list(_option_lines(summary, group))
    return lines


def verdict(kind: str, difference: dict[str, Any], seeds: int) -> str:
    """Whether an option pays: by its mean over all seeds, and in each of them."""
    sign = -1 if kind == "remove" else 1
    values = [sign * value for value in difference["all"]["seeds"].values()]
    if len(values) < seeds:
        return f"measured with {len(values)} of {seeds} seeds"
    if all(value == 0 for value in values):
        return NOTHING
    if all(value > 0 for value in values):
        return "pays"
    if all(value < 0 for value in values):
        return "costs"
    mean = np.mean(values)
    return "pays on the mean" if mean > 0 else "costs on the mean" if mean < 0 else "changes no mean"


def _option_lines(summary: dict[str, Any], group: dict[str, Any]) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for name in group["arms"]:
        difference = summary["arms"][name].get("difference")
        if difference and difference["all"]["mean"] is not None:
            outcome = verdict(group["kind"], difference, len(summary["seeds"]))
            found.setdefault(outcome, []).append(summary["arms"][name]["title"])
    for no_op in summary["no_ops"]:
        if no_op["group"] == group["name"]:
            found.setdefault(NOTHING, []).append(no_op["title"])
    if found:
        outcomes = "; ".join(f"{outcome}: {', '.join(titles)}" for outcome, titles in found.items())
        yield f"{group['title']}: {outcomes}."


def _status(summary: dict[str, Any]) -> list[str]:
    missing = summary["missing"]
    if not missing:
        return []
    units = len(summary["arms"]) * len(summary["seeds"])
    listed = ", ".join(missing[:12]) + (f" and {len(missing) - 12} more" if len(missing) > 12 else "")
    return [
        f"**Partial: {units - len(missing)} of {units} units are measured.** Missing: {listed}. "
        "The same command continues."
    ]


def _reading(summary: dict[str, Any]) -> list[str]:
    return [
        f"Scores are IoU in percent on {summary['validation']}, labels used for nothing else; "
        f"mean ± standard deviation (n - 1) over seeds {', '.join(map(str, summary['seeds']))}, then each "
        "seed. A difference is taken within a seed, whose arms share their start. Head and tail: classes of "
        f"{100 * summary['tail_share']:.0f} % or more of the target's pixels and of less, by the prior that "
        f"`{summary['prior_of']}` estimated with that seed."
    ]


def _group_rows(summary: dict[str, Any], group: dict[str, Any]) -> list[list[str]]:
    large = bool(summary["large"])
    heads = ["arm", f"mIoU-{len(summary['classes'])}", "each seed"]
    heads += [f"mIoU-{len(summary['large'])}"] if large else []
    heads += ["head", "tail", f"difference {SIGNS[group['kind']]}", "head", "tail"]
    options = group["kind"] != "ladder"
    rows = [[*heads, *(["option"] if options else [])]]
    for name in group["arms"]:
        arm = summary["arms"][name]
        scores, difference = arm["scores"], arm.get("difference")
        cells = [f"{arm['title']} (`{name}`)", plus_minus(scores["all"]), _each(scores["all"])]
        cells += [plus_minus(scores["large"])] if large else []
        cells += [plus_minus(scores["head"]), plus_minus(scores["tail"])]
        if difference is None:
            cells += ["", "", ""]
        else:
            cells.append(f"to `{difference['to']}`: {points(difference['all']['seeds'])}")
            cells += [_signed(difference[m]["mean"]) for m in ("head", "tail")]
        if options:
            cells.append(verdict(group["kind"], difference, len(summary["seeds"])) if difference else "")
        rows.append(cells)
    return rows


def _no_op(arm: dict[str, Any]) -> str:
    return (
        f"{arm['title']} (`{arm['arm']}`): not measured, because it changes nothing here. On this pair "
        f"`{arm['like']}` has the same settings."
    )


def _closure_rows(summary: dict[str, Any]) -> list[list[str]]:
    seeds = [str(seed) for seed in summary["seeds"]]
    rows = [["from base to oracle", *(f"seed {seed}" for seed in seeds), "mean", "goal", "gain in points"]]
    for closure in summary["closures"]:
        cells = [f"`{closure['arm']}` between `{closure['base']}` and `{closure['oracle']}`"]
        cells += [_percent(closure["seeds"].get(seed)) for seed in seeds]
        cells += [plus_minus(closure, "%"), f"{closure['goal']:.0f} %", points(closure["gain"]["seeds"])]
        rows.append(cells)
    return rows


def _class_rows(summary: dict[str, Any]) -> list[list[str]]:
    classes = summary["classes"]
    rows = [["arm", *classes]]
    for name, arm in summary["arms"].items():
        if arm["iou"]:
            values = [arm["iou"].get(one) for one in classes]
            rows.append([f"`{name}`", *("–" if v is None else f"{v:.1f}" for v in values)])
    return rows


def _tails(summary: dict[str, Any]) -> str:
    lines = []
    for seed, tail in summary["tail"].items():
        if tail is None:
            lines.append(f"- seed {seed}: the prior is not estimated yet")
            continue
        shares = ", ".join(f"{name} {share:.1f}" for name, share in tail["prior"].items())
        lines.append(
            f"- seed {seed}: tail {', '.join(tail['classes']) or 'none'}. Estimated prior in %: {shares}"
        )
    return "\n".join(lines)


_COST = (
    "Per arm what it trains itself; seconds with the scores on the way, without what interruptions threw "
    "away; steps per second from the median step. Means over the seeds."
)


def _cost_rows(summary: dict[str, Any]) -> list[list[str]]:
    rows = [["arm", "stage", "iterations", "seconds", "steps/s"]]
    for name, arm in summary["arms"].items():
        for stage in arm["stages"] if arm["cost"] else []:
            costs = [cost[stage] for cost in arm["cost"].values()]
            speeds = [cost["steps_per_second"] for cost in costs if cost["steps_per_second"]]
            rows.append(
                [
                    f"`{name}`",
                    stage,
                    str(costs[0]["iterations"]),
                    f"{np.mean([cost['seconds'] for cost in costs]):.0f}",
                    f"{np.mean(speeds):.2f}" if speeds else "–",
                ]
            )
    return rows


def _provenance(summary: dict[str, Any]) -> list[str]:
    settings = [["arm", "has the settings of", "and its own"]]
    for name, arm in summary["arms"].items():
        given = ", ".join(f"{key} = {json.dumps(value)}" for key, value in arm["set"].items())
        like = f"`{arm['like']}`" if arm["like"] else f"the recipe {summary['recipe_name']}"
        settings.append([f"`{name}`", like, given])
    machines = "\n".join(f"- {text}" for text in summary["circumstances"])
    return [f"```console\n$ {summary['command']}\n```", machines, _table(settings)]


def plus_minus(found: dict[str, Any], unit: str = "") -> str:
    """Mean and standard deviation, with how many seeds there are where it is one."""
    if found["mean"] is None:
        return "–"
    unit = f" {unit}" if unit else ""
    return f"{found['mean']:.1f}{unit}" + (f" ± {found['std']:.1f}" if found["std"] is not None else "")


def _each(found: dict[str, Any]) -> str:
    return ", ".join(f"{value:.1f}" for value in found["seeds"].values()) or "–"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} %"


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| --- " * len(rows[0]) + "|", *lines[1:]])
