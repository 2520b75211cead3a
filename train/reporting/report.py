"""The report of a run: what the adaptation gained, per class, what it cost, and pictures of it."""

from __future__ import annotations

import dataclasses
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import cpsl_deploy
from cpsl_deploy.files import write_text
from cpsl_deploy.machine import describe_machine

from ..engine.loop import Watcher
from ..engine.run_folder import RunFolder
from ..models import Segmenter, load_model
from ..recipe import Recipe
from .choice_section import checkpoint_choice, teacher_and_student
from .class_bars import write_per_class
from .class_plots import has_pseudo_labels, write_pseudo_labels
from .classes_section import why_classes_were_lost
from .figures import require_matplotlib
from .held_out import CLIP, compare_held_out
from .held_out_section import on_held_out_seconds
from .markdown import duration, escaped, percent, picture, table
from .pictures import write_before_after
from .plots import write_curves, write_iou_curves
from .run_summary import STAGE_TITLES, Result, RunSummary, group_title, points_text, read_run, share_text

if TYPE_CHECKING:
    from ..domains import Domains

CURVES, IOU_CURVES = "curves.png", "iou_curves.png"
PER_CLASS, BEFORE_AFTER = "per_class.png", "before_after.png"
PSEUDO_LABELS = "pseudo_labels.png"

_LOSS_WORTH_A_LINE = 0.01
"""mIoU by which an earlier stage must beat the last one to be named."""


def write_report(
    folder: RunFolder, domains: Domains, device: torch.device, watcher: Watcher | None = None
) -> Path:
    """Write ``report.md`` and its pictures into a run folder, each file whole or not at all.

    Reads results.json, metrics.jsonl and the models of the first and the last finished stage, which label
    a few target images on ``device``. Can be called again after entries (``exported``, ``oracle``) were
    added to results.json. The first call adds an entry ``machine`` there, as it comes from where the run ran.
    A drive's held-out seconds make a clip and an entry ``held_out``; ``watcher`` sees that.

    Returns the path of the report. Raises MissingExtraError without matplotlib, InputError if no stage is
    finished or the datasets are of other classes, ModelFileError or DataError for what cannot be read,
    OutputError for what cannot be written.
    """
    require_matplotlib()
    if not read_run(folder, domains).machine:
        folder.add_results(machine=describe_training_machine(device))
    summary = read_run(folder, domains)
    if _has_losses(summary):
        write_curves(summary, folder.path / CURVES)
    if has_pseudo_labels(summary):
        write_pseudo_labels(summary, folder.path / PSEUDO_LABELS)
    if summary.is_scored:
        write_iou_curves(summary, folder.path / IOU_CURVES)
        write_per_class(summary, folder.path / PER_CLASS)
    networks = _networks(folder, summary)
    write_before_after(
        networks,
        domains.validation or domains.held_out or domains.target,
        summary.recipe.data.target_size,
        device,
        folder.path / BEFORE_AFTER,
        with_truth=domains.validation is not None,
    )
    footage = domains.held_out.footage if domains.held_out is not None else None
    if footage is not None and len(networks) == 2:
        size, path = summary.recipe.data.target_size, folder.path / CLIP
        found = compare_held_out(networks, footage, domains.classes, size, device, path, watcher)
        folder.add_results(held_out=dataclasses.asdict(found))
        summary = read_run(folder, domains)
    write_text(folder.report, markdown(summary))
    return folder.report


def describe_training_machine(device: torch.device) -> dict[str, Any]:
    """What the seconds of a run depend on, as results.json keeps it."""
    machine = describe_machine()
    return {
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cpu": machine.cpu,
        "usable_cores": machine.usable_cores,
        "os": machine.os,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpsl_deploy": cpsl_deploy.__version__,
    }


def _networks(folder: RunFolder, summary: RunSummary) -> dict[str, Segmenter]:
    """Before and, if there is one, after, by title."""
    networks = {}
    for result in (summary.source_only, summary.adapted):
        if result is not None:
            title = f"{_outcome(summary, result)} ({summary.architecture(result.key)})"
            networks[title], _ = load_model(folder.stage_model(result.key))
    return networks


def markdown(summary: RunSummary) -> str:
    """The report as Markdown; its pictures are named beside it."""
    parts = [f"# Adaptation from {escaped(summary.source)} to {escaped(summary.target)}", *_headline(summary)]
    if summary.is_scored:
        parts += ["## Before and after, per class", *_tables(summary), picture("IoU per class", PER_CLASS)]
    else:
        parts += _shares(summary)
    parts += _unseen_classes(summary)
    labels = picture("Pseudo labels per class", PSEUDO_LABELS) if has_pseudo_labels(summary) else None
    parts += why_classes_were_lost(summary, labels)
    parts += [*checkpoint_choice(summary), *teacher_and_student(summary)]
    if summary.held_out is not None:
        parts += on_held_out_seconds(summary.held_out, summary.classes)
    where = summary.validation or summary.unlabelled or summary.target
    parts += [
        "## Pictures",
        f"Evenly spaced images of {escaped(where)}: not picked by how well they came out.",
        picture("Target images, before and after", BEFORE_AFTER),
        "## What was run",
        _setting(summary),
    ]
    if summary.is_scored:
        parts += ["## How it went", picture("IoU per class over the iterations", IOU_CURVES)]
    if _has_losses(summary):
        parts += [] if summary.is_scored else ["## How it went"]
        parts.append(picture("Losses of each stage", CURVES))
    parts += ["## What it cost", *_cost(summary), "## How to go on", _next_steps(summary)]
    return "\n\n".join(parts) + "\n"


def gap_closure(before: float | None, adapted: float | None, oracle: float | None) -> float | None:
    """Share of the way from source-only to the oracle that the adaptation went; None without such a way."""
    if before is None or adapted is None or oracle is None or oracle <= before:
        return None
    return (adapted - before) / (oracle - before)


def _outcome(summary: RunSummary, result: Result) -> str:
    """A stage's network as a reader knows it: the last one is the adapted one once all stages are done."""
    if result is not summary.adapted:
        return result.title
    return "adapted" if summary.is_finished else f"after {result.title}"


def _has_losses(summary: RunSummary) -> bool:
    return any(summary.losses(stage) for stage in STAGE_TITLES)


# ---- the headline


def _headline(summary: RunSummary) -> list[str]:
    lines = []
    if not summary.is_finished:
        lines.append(
            f"**The run is not finished**: its last finished stage is {summary.stages[-1].title}. "
            "`cpsl-adapt --resume` continues it; this is how far it came."
        )
    if not summary.is_scored:
        lines.append(
            "**No figures can be given: there are no labelled target images to score on.** The pictures "
            "below show the same images before and after; judge by them. Labels of a few target images, for "
            "evaluation alone, would give figures."
        )
    elif summary.adapted is None:
        score = percent(summary.source_only.mean_iou)
        lines.append(f"**mIoU {score} % source-only**; nothing is adapted yet.")
    else:
        lines += [*_gain(summary), *_best_stage(summary), *_exported(summary), *_gap_to_oracle(summary)]
    return lines


def _gain(summary: RunSummary) -> list[str]:
    last = summary.adapted
    before, after = summary.source_only.mean_iou, last.mean_iou if last else None
    if last is None or before is None or after is None:
        return []
    gain = after - before
    line = (
        f"**mIoU {percent(before)} % source-only → {percent(after)} % {_outcome(summary, last)}: "
        f"{points_text(gain)} points** over {len(summary.classes)} classes"
    )
    if len(summary.groups) > 1:
        parts = [f"{name} classes {_row(summary, classes)[-1]}" for name, classes in summary.groups.items()]
        line += f" ({', '.join(parts)})"
    lines = [f"{line}, on {escaped(summary.scored_on)}, whose labels served this evaluation alone."]
    if gain <= 0 and summary.is_finished:
        lines.append(
            "**The adaptation did not help.** The usual reasons are a class that the warm-up network hardly "
            "finds (its share in the table) and a target unlike anything in the source; a training that did "
            "not converge shows in the loss curves."
        )
    return lines


def _best_stage(summary: RunSummary) -> list[str]:
    """Say so if an earlier stage is clearly better than the last one."""
    scored = [(stage.mean_iou, stage) for stage in summary.stages if stage.mean_iou is not None]
    best_score, best = max(scored, key=lambda pair: pair[0])
    last_score = scored[-1][0]
    if best_score <= last_score + _LOSS_WORTH_A_LINE:
        return []
    return [
        f"The best stage is {best.title} with {percent(best_score)} % mIoU; "
        f"{100 * (best_score - last_score):.1f} points were lost after it. Its network is "
        f"`{best.key}.safetensors` ({summary.architecture(best.key)}), which `cpsl-export` takes, too. To "
        "pick it is an oracle's choice, by the target's labels: its score is not that of an adaptation "
        "without them."
    ]


def _exported(summary: RunSummary) -> list[str]:
    if summary.exported is None or summary.exported.mean_iou is None:
        return []
    return [f"The exported file has {percent(summary.exported.mean_iou)} % mIoU on the same images."]


def _gap_to_oracle(summary: RunSummary) -> list[str]:
    if summary.oracle is None or summary.oracle.mean_iou is None or summary.adapted is None:
        return []
    score = percent(summary.oracle.mean_iou)
    closed = gap_closure(summary.source_only.mean_iou, summary.adapted.mean_iou, summary.oracle.mean_iou)
    if closed is None:
        return [
            f"The oracle, trained on the target's labels, has {score} % mIoU, no more than source-only: "
            "there is no gap to close."
        ]
    return [
        f"**{100 * closed:.0f} % of the gap to the oracle is closed**: the deployed network, trained on the "
        f"target's labels, has {score} % mIoU. Gap closure = (adapted - source-only) / (oracle - "
        "source-only)."
    ]


# ---- the tables


def _columns(summary: RunSummary) -> list[Result]:
    extra = [result for result in (summary.exported, summary.oracle) if result is not None]
    return [*summary.stages, *extra]


def _tables(summary: RunSummary) -> list[str]:
    """Means, head classes and tail classes, with the same columns."""
    titles = [_column_title(summary, result) for result in _columns(summary)]
    header = ["share", *titles, *(["gain"] if summary.adapted else [])]
    means = {"all classes": list(range(len(summary.classes)))}
    if summary.prior is not None:
        means |= {f"{name} classes ({len(classes)})": classes for name, classes in summary.groups.items()}
    parts = [
        "IoU in percent; gain: adapted less source-only, in points. Share: that of the target's pixels by "
        f"the class prior, {_origin_of_prior(summary)}: an estimate without labels.",
        "### Means",
        table(["mean over", *header], ([f"**{name}**", *_row(summary, m)] for name, m in means.items())),
    ]
    for group, classes in summary.groups.items():
        rows = ([escaped(summary.classes.names[k]), *_row(summary, [k])] for k in classes)
        parts += [f"### {group_title(group).capitalize()}", table(["class", *header], rows)]
    if any(value is None for result in _columns(summary) for value in result.iou):
        parts.append("n/a: the class occurs neither in the labels nor in the predictions; it enters no mean.")
    return parts


def _column_title(summary: RunSummary, result: Result) -> str:
    is_final = summary.is_finished and result is summary.adapted
    return f"{result.title} = adapted" if is_final else result.title


def _row(summary: RunSummary, members: Sequence[int]) -> list[str]:
    share = "n/a" if summary.prior is None else share_text(sum(summary.prior[k] for k in members))
    row = [share, *(percent(result.mean_over(members)) for result in _columns(summary))]
    if summary.adapted is not None:
        before, after = summary.source_only.mean_over(members), summary.adapted.mean_over(members)
        row.append("n/a" if before is None or after is None else f"**{points_text(after - before)}**")
    return row


def _shares(summary: RunSummary) -> list[str]:
    """What can be said per class without labels: how much of the target it is believed to have."""
    if summary.prior is None:
        return []
    by_share = [k for classes in summary.groups.values() for k in classes]
    rows = [[escaped(summary.classes.names[k]), share_text(summary.prior[k])] for k in by_share]
    return [
        "## The classes in the target",
        f"Share of the target's pixels by the class prior, {_origin_of_prior(summary)}. "
        "A share far from what the photos show tells that the warm-up took one class for another.",
        table(["class", "share"], rows),
    ]


def _origin_of_prior(summary: RunSummary) -> str:
    origins = {
        "hard": "the shares of the warm-up network's own predictions",
        "soft": "the warm-up network's mean probabilities",
        "prototypes": "the mean assignment of the warm-up network's features to the prototypes",
    }
    return origins[summary.recipe.self_labelling.prior_estimate]


def _unseen_classes(summary: RunSummary) -> list[str]:
    if not summary.unseen:
        return []
    names = ", ".join(f"**{escaped(summary.classes.names[k])}**" for k in summary.unseen)
    return [
        f"The warm-up network finds (almost) no pixel of {names} in the target: the class prior, "
        f"{_origin_of_prior(summary)}, is about 0 there. Pseudo labels cannot bring back a class they never "
        "contain, so expect nothing of it from the later stages. What helps comes before them: more source "
        "images of the class, or drawing those that have it more often (`data.rare_class_temperature` in the "
        "recipe)."
    ]


# ---- setting, cost, what next


def _setting(summary: RunSummary) -> str:
    recipe, validation = summary.recipe, summary.validation
    items = [
        f"recipe `{recipe.name}`, seed {recipe.seed}; `recipe.toml` has every value",
        f"source: {escaped(summary.source)}, with its labels",
        f"target: {escaped(summary.target)}, images alone",
        *map(escaped, summary.footage),
        f"evaluation: {escaped(validation) if validation else 'none, no labelled target images were given'}",
        f"networks: {recipe.model.teacher} (teacher), {recipe.model.student} (student, the one to deploy)",
        f"teacher starts from {_start(recipe.model.init)}",
        *_student_start(recipe),
        f"{len(summary.classes)} classes: {', '.join(map(escaped, summary.classes.names))}",
        *map(escaped, summary.dropped),
    ]
    return "\n".join(f"- {item}" for item in items)


def _start(init: str) -> str:
    return f"the weights `{Path(init).name}`" if init else "random weights"


def _student_start(recipe: Recipe) -> list[str]:
    """Where a student of another architecture starts; one of the teacher's starts as the recipe says."""
    if recipe.model.student == recipe.model.teacher:
        return []
    return [f"student starts from {_start(recipe.model.student_init)}"]


def _cost(summary: RunSummary) -> list[str]:
    rows = []
    for stage in summary.stages:
        count = "n/a" if stage.iterations is None else str(stage.iterations)
        batch = str(getattr(summary.recipe, stage.key).batch)
        rows.append([stage.title, summary.architecture(stage.key), count, batch, duration(stage.seconds)])
    iterations = sum(stage.iterations or 0 for stage in summary.stages)
    seconds = sum(stage.seconds or 0 for stage in summary.stages)
    rows.append(["**total**", "", f"**{iterations}**", "", f"**{duration(seconds)}**"])
    machine = summary.machine
    where = machine.get("gpu") or f"{machine.get('cpu', 'a machine not recorded')}, without a GPU"
    cores = f", {machine['usable_cores']:g} CPU cores" if "usable_cores" in machine else ""
    versions = [f"{name} {machine[name]}" for name in ("torch", "cpsl_deploy", "python") if name in machine]
    return [
        table(["stage", "network", "iterations", "batch", "time"], rows),
        f"On {where}{cores}, in {summary.recipe.compute.precision}. Versions: {', '.join(versions)}.",
        "The time is that of the training steps and of the scores between them; of a stage that was resumed, "
        "since it was.",
    ]


def _next_steps(summary: RunSummary) -> str:
    run = shlex.quote(summary.name)
    commands = {
        f"cpsl-export {run}": f"makes {run}/model.onnx; --trt a TensorRT engine, too",
        f"cpsl-run {run}/model.onnx INPUT": "an image, a folder or a video",
        f"cpsl-bench {run}/model.onnx": "latency; with --data accuracy, too",
    }
    width = max(map(len, commands))
    lines = [f"{command:<{width}}  # {comment}" for command, comment in commands.items()]
    return "In the folder that holds the run:\n\n```\n" + "\n".join(lines) + "\n```"
