"""What the report says of the network that is deployed: how it was chosen, and what its teacher had."""

from __future__ import annotations

from .markdown import escaped, percent, table
from .network_cost import network_cost
from .run_summary import STAGE_TITLES, Moment, Result, RunSummary, points_text

TEACHER, STUDENT = "distillation_1", "distillation_2"
"""The last stage of the teacher's architecture, and the student's."""


def checkpoint_choice(summary: RunSummary) -> list[str]:
    """The deployed network beside what an oracle would have chosen; nothing without scores."""
    deployed = summary.adapted
    if deployed is None or deployed.mean_iou is None:
        return []
    best = max((s for s in summary.stages if s.mean_iou is not None), key=lambda s: s.mean_iou or 0)
    rows = [_row("end of a stage, all labelled images", best.title, best.mean_iou, deployed.mean_iou)]
    moments = summary.moments()
    on_sample = [m for m in moments if (m.stage, m.iteration) == (deployed.key, deployed.iterations)]
    if on_sample:
        chosen = max(moments, key=lambda moment: moment.mean_iou)
        what = "any moment, images of the curves"
        rows.append(_row(what, _moment_title(summary, chosen), chosen.mean_iou, on_sample[0].mean_iou))
    return [
        "## Which network is deployed",
        f"The last one of {deployed.title}: no label had a part in that choice. Beside it what an oracle "
        "would have chosen by the target's labels, which an adaptation does not have. mIoU in percent:",
        table(["an oracle chooses among", "its choice", "mIoU", "deployed", "difference"], rows),
        "A row's two scores are of the same images, those of different rows are not. Networks between the "
        "ends of stages are scored on a sample and not kept.",
    ]


def _row(among: str, name: str, chosen: float | None, deployed: float | None) -> list[str]:
    difference = points_text((chosen or 0) - (deployed or 0))
    return [among, name, percent(chosen), percent(deployed), f"**{difference}**"]


def _moment_title(summary: RunSummary, moment: Moment) -> str:
    total = next((s.iterations for s in summary.stages if s.key == moment.stage), None)
    return f"{STAGE_TITLES[moment.stage]}, iteration {moment.iteration} of {total or 'n/a'}"


def teacher_and_student(summary: RunSummary) -> list[str]:
    """Both networks where a heavy one taught a light one: what they cost and how good they are."""
    model = summary.recipe.model
    results = {result.key: result for result in summary.stages}
    if model.teacher == model.student or STUDENT not in results:
        return []
    teacher, student = results[TEACHER], results[STUDENT]
    parts = ["## Teacher and student", *_costs(summary)]
    if summary.is_scored:
        parts.append(_scores(summary, teacher, student))
    return parts


def _costs(summary: RunSummary) -> list[str]:
    model, size = summary.recipe.model, summary.recipe.data.target_size
    teacher, student = (
        network_cost(name, len(summary.classes), size) for name in (model.teacher, model.student)
    )
    rows = [
        [
            "parameters, millions",
            f"{teacher.parameters / 1e6:.2f}",
            f"{student.parameters / 1e6:.2f}",
            f"{student.parameters / teacher.parameters:.2f}",
        ],
        [
            "multiply-accumulates per image, billions",
            f"{teacher.macs / 1e9:.2f}",
            f"{student.macs / 1e9:.2f}",
            f"{student.macs / teacher.macs:.2f}",
        ],
    ]
    header = ["cost", f"teacher: {model.teacher}", f"student: {model.student}", "student / teacher"]
    return [
        "The teacher is the network of the first distillation, the student that of the second: the one to "
        f"deploy. An image is {size[1]}x{size[0]}; `cpsl-bench` measures the latency.",
        table(header, rows),
    ]


def _scores(summary: RunSummary, teacher: Result, student: Result) -> str:
    members = {"**all classes**": list(range(len(summary.classes)))}
    if summary.prior is not None:
        members |= {f"**{name} classes**": classes for name, classes in summary.groups.items()}
    members |= {escaped(summary.title(k)): [k] for classes in summary.groups.values() for k in classes}
    rows = []
    for name, classes in members.items():
        before, after = teacher.mean_over(classes), student.mean_over(classes)
        difference = "n/a" if before is None or after is None else f"**{points_text(after - before)}**"
        rows.append([name, percent(before), percent(after), difference])
    return table(["IoU, %", "teacher", "student", "student - teacher"], rows)
