"""What the report says of lost classes, of the choice of the network, and of teacher and student."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

from tiny_domains import write_recipe

from cpsl_deploy.classes import ClassSpace
from cpsl_deploy.train.recipe import load_recipe
from cpsl_deploy.train.reporting import class_plots, plots
from cpsl_deploy.train.reporting.choice_section import checkpoint_choice, teacher_and_student
from cpsl_deploy.train.reporting.class_plots import has_pseudo_labels, write_pseudo_labels
from cpsl_deploy.train.reporting.classes_section import lost_classes, where_lost, why_classes_were_lost
from cpsl_deploy.train.reporting.network_cost import network_cost
from cpsl_deploy.train.reporting.plots import write_curves
from cpsl_deploy.train.reporting.report import markdown
from cpsl_deploy.train.reporting.run_summary import STAGE_TITLES, Result, RunSummary

CLASSES = ClassSpace(("road", "sky", "tree", "pole"))
PRIOR = [0.5, 0.35, 0.1, 0.05]
IOU = {
    "source_only": [0.5, 0.7, 0.2, 0.0],
    "warm_up": [0.6, 0.7, 0.2, 0.1],
    "self_labelling": [0.7, 0.8, 0.1, 0.3],
    "distillation_1": [0.7, 0.8, 0.1, 0.12],
    "distillation_2": [0.8, 0.86, 0.1, 0.1],
}
"""Tree stays poor; pole is won by self-labelling and lost in distillation 1."""


def pseudo_labels(recall: list[float | None], **changes: Any) -> dict[str, Any]:
    found = {
        "share": [0.5, 0.4, 0.06, 0.04],
        "true_share": [0.4, 0.3, 0.25, 0.05],
        "precision": [0.8, 0.9, 0.4, 0.6],
        "recall": recall,
        "iou": [0.7, 0.8, 0.1, 0.3],
        "mistaken_for": [1, 0, 1, 2],
        "mistaken_share": [0.1, 0.1, 0.7, 0.2],
    }
    return found | changes


def steps(stage: str, total: int, **figures: Any) -> list[dict[str, Any]]:
    return [
        {"stage": stage, "iteration": i, "losses": {"source": 1.0}, "lr_factor": 1.0, "step_seconds": 0.1}
        | figures
        for i in range(10, total + 1, 10)
    ]


def scored(stage: str, iteration: int, mean_iou: float, **more: Any) -> dict[str, Any]:
    iou = [mean_iou] * 4
    return {"stage": stage, "iteration": iteration, "mean_iou": mean_iou, "iou": iou, **more}


LOG = [
    {"stage": "self_labelling", "iteration": 0, "pseudo_labels": pseudo_labels([0.8, 0.9, 0.1, 0.5])},
    *steps(
        "self_labelling",
        40,
        prior=[0.5, 0.35, 0.09, 0.06],
        pseudo_label_share=[0.5, 0.4, 0.06, 0.04],
        pseudo_label_confidence=[0.9, 0.9, 0.8, None],
        confidence=0.9,
        marginal_error_features=0.1,
        marginal_error_features_before=0.3,
        assignment_entropy_features=0.5,
        marginal_error_logits=0.02,
        marginal_error_logits_before=0.4,
        assignment_entropy_logits=0.9,
    ),
    scored("self_labelling", 20, 0.61),
    scored("self_labelling", 40, 0.5, pseudo_labels=pseudo_labels([0.9, 0.95, 0.2, 0.45])),
    *steps("distillation_1", 20, pseudo_label_share=[0.6, 0.4, 0.0, 0.0]),
    scored("distillation_1", 20, 0.45),
    *steps("distillation_2", 20, pseudo_label_share=[0.6, 0.4, 0.0, 0.0]),
    scored("distillation_2", 20, 0.48),
]


@pytest.fixture
def summary(tmp_path: Path) -> RunSummary:
    return summary_of(tmp_path)


def summary_of(folder: Path, **changes: Any) -> RunSummary:
    recipe = load_recipe(write_recipe(folder), changes.pop("settings", {}))
    iterations = dict(zip(STAGE_TITLES, (40, 20, 40, 20, 20), strict=True))
    stages = tuple(
        Result(
            key=key,
            title=title,
            iterations=iterations[key],
            seconds=1.0,
            mean_iou=float(np.mean(IOU[key])),
            pixel_accuracy=0.8,
            iou=tuple(IOU[key]),
        )
        for key, title in STAGE_TITLES.items()
    )
    values: dict[str, Any] = {
        "name": "run",
        "recipe": recipe,
        "classes": CLASSES,
        "source": "game",
        "target": "camera",
        "validation": "camera (val, 9 images)",
        "dropped": (),
        "stages": stages,
        "exported": None,
        "oracle": None,
        "prior": tuple(PRIOR),
        "machine": {},
        "log": tuple(LOG),
    }
    return RunSummary(**values | changes)


def unscored(summary: RunSummary) -> RunSummary:
    """The same run without labelled target images."""
    stages = tuple(dataclasses.replace(s, mean_iou=None, pixel_accuracy=None, iou=()) for s in summary.stages)
    log = tuple(entry for entry in summary.log if "losses" in entry)
    return dataclasses.replace(summary, stages=stages, log=log, validation=None)


def as_of_old(summary: RunSummary) -> RunSummary:
    """The same run as an early version logged it."""
    new = ("prior", "pseudo_label", "marginal", "assignment")
    log = [
        {key: value for key, value in entry.items() if not key.startswith(new)}
        for entry in summary.log
        if "losses" in entry or (entry["iteration"] and entry["iteration"] < 40)
    ]
    log = [e for e in log if "losses" in e or (e["stage"], e["iteration"]) == ("self_labelling", 20)]
    return dataclasses.replace(summary, log=tuple(log))


def rows_of(text: str) -> list[list[str]]:
    lines = [line.strip("| ").replace("**", "").split(" | ") for line in text.splitlines() if "|" in line]
    return [line for line in lines if not line[0].startswith("---")]


# ---- lost classes


def test_lost_classes_and_where(summary: RunSummary) -> None:
    """Tree: pseudo labels never find a quarter of it. Pole: found, then under half of its best."""
    assert lost_classes(summary) == [2, 3]
    assert where_lost(summary, 2) == "it was lost before self-labelling"
    assert where_lost(summary, 3) == "it was lost in distillation 1 (-18.0 points)"


def test_a_class_that_pseudo_labels_forget_was_lost_in_self_labelling(summary: RunSummary) -> None:
    start = LOG[0] | {"pseudo_labels": pseudo_labels([0.8, 0.9, 0.3, 0.5])}
    summary = dataclasses.replace(summary, log=(start, *LOG[1:]))
    assert where_lost(summary, 2) == "it was lost in self-labelling"


def test_the_sentence_tells_the_figures_and_what_stands_out(summary: RunSummary) -> None:
    text = "\n".join(why_classes_were_lost(summary, None))
    tree = next(line for line in text.splitlines() if line.startswith("- **tree**"))
    for part in (
        "IoU 10.0 % (20.0 % after source-only)",
        "class prior 10.0 %, at the end 9.0 %",
        "true share 25.0 %, pseudo labels 6.0 % with precision 40.0 % and recall 20.0 %",
        "70.0 % of its pixels are labelled sky",
        "the prior is under half of the true share",
        "most of what is labelled so is something else",
    ):
        assert part in tree
    assert "give it under half of its prior" not in tree
    pole = next(line for line in text.splitlines() if line.startswith("- **pole**"))
    assert "lost in distillation 1 (-18.0 points)" in pole and "under half" not in pole


def test_a_class_whose_pixels_are_not_in_the_sample_says_so(summary: RunSummary) -> None:
    absent = {"true_share": [0.4, 0.35, 0.25, 0.0], "mistaken_for": [1, 0, 1, None]}
    end = scored("self_labelling", 40, 0.5, pseudo_labels=pseudo_labels([0.9, 0.9, 0.5, None], **absent))
    log = [entry for entry in LOG if "pseudo_labels" not in entry]
    text = "\n".join(why_classes_were_lost(dataclasses.replace(summary, log=(*log, end)), None))
    assert "none of its pixels are in the images that pseudo labels are scored on" in text


def test_nothing_lost_is_said_too(summary: RunSummary) -> None:
    good = tuple(dataclasses.replace(stage, iou=(0.5, 0.6, 0.5, 0.4)) for stage in summary.stages)
    fine = LOG[3] | {"pseudo_labels": pseudo_labels([0.9, 0.9, 0.5, 0.5])}
    summary = dataclasses.replace(summary, stages=good, log=(fine,))
    assert "By this rule no class was lost." in why_classes_were_lost(summary, None)


def test_old_runs_tell_lost_classes_by_their_scores(summary: RunSummary) -> None:
    old = as_of_old(summary)
    assert not has_pseudo_labels(old)
    assert lost_classes(old) == [3] and "distillation 1" in where_lost(old, 3)
    text = markdown(old)
    assert "**pole**: IoU 10.0 % (30.0 % after self-labelling); it was lost in distillation 1" in text
    assert "pseudo_labels.png" not in text and "any moment" not in text


def test_without_labels_a_class_far_below_its_prior_is_worth_a_look(summary: RunSummary) -> None:
    plain = unscored(summary)
    assert "every class 25 % of its prior or more" in "\n".join(why_classes_were_lost(plain, "picture"))
    log = [e | {"pseudo_label_share": [0.6, 0.38, 0.02, 0.0]} for e in plain.log]
    text = "\n".join(why_classes_were_lost(dataclasses.replace(plain, log=tuple(log)), "picture"))
    assert "- **tree**: class prior 9.0 %, pseudo labels 2.0 %" in text and "- **pole**" in text
    assert "**road**" not in text and "IoU" not in text
    assert why_classes_were_lost(unscored(as_of_old(summary)), None) == []


# ---- pictures


def figures_of(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[Any]:
    """The figures that are saved from now on."""
    saved: list[Any] = []
    write = module.save
    monkeypatch.setattr(module, "save", lambda figure, path: (saved.append(figure), write(figure, path)))
    return saved


def test_the_picture_shows_what_was_logged(
    summary: RunSummary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Panels by descending share, shares above and quality below: those of tree, the third class."""
    saved = figures_of(monkeypatch, class_plots)
    write_pseudo_labels(summary, tmp_path / "labels.png")
    shares, quality = saved[0].axes[4:6]
    assert shares.get_title("left") == "tree"
    given, prior = (line.get_xydata() for line in shares.get_lines()[:2])
    begun, learnt = given[:4], given[5:7]
    np.testing.assert_allclose(begun, [(i, 6) for i in (10, 20, 30, 40)])
    np.testing.assert_allclose(learnt, [(50, 0), (60, 0)])
    np.testing.assert_allclose(prior[:4, 1], 9)
    np.testing.assert_allclose(shares.get_lines()[2].get_ydata(), 25)
    precision, recall = (line.get_xydata() for line in quality.get_lines()[1:3])
    np.testing.assert_allclose(precision, [(0, 40), (40, 40)])
    np.testing.assert_allclose(recall, [(0, 10), (40, 20)])
    assert cv2.imread(str(tmp_path / "labels.png")).std() > 5


@pytest.mark.parametrize("count", [1, 19])
def test_the_picture_of_few_or_many_classes_without_labels(
    summary: RunSummary, tmp_path: Path, count: int
) -> None:
    names = tuple(f"class ${k}" for k in range(count))
    figures = {"prior": [1 / count] * count, "pseudo_label_share": [0.0] * count}
    log = steps("self_labelling", 10, pseudo_label_confidence=[None] * count, **figures)
    many = dataclasses.replace(
        unscored(summary), classes=ClassSpace(names), prior=(1 / count,) * count, log=tuple(log)
    )
    write_pseudo_labels(many, tmp_path / "labels.png")
    assert cv2.imread(str(tmp_path / "labels.png")).std() > 2


def test_curves_show_both_assignments_before_and_after_the_iterations(
    summary: RunSummary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = figures_of(monkeypatch, plots)
    write_curves(summary, tmp_path / "curves.png")
    (axes_of,) = (figure.axes for figure in saved)
    panels = {axes.get_title(): {text.get_text() for text in axes.texts} for axes in axes_of}
    (errors,) = (names for title, names in panels.items() if title.startswith("assignment off the class"))
    assert errors == {"features", "logits", "features, before", "logits, before"}
    assert panels["entropy of the assignment, nats"] == {"features", "logits"}
    assert "confidence of the pseudo labels, %" in panels
    assert not any("marginal" in title for title in panels), "none of its own"


# ---- the choice of the network


def test_the_oracle_s_choice_is_named_beside_the_deployed_network(summary: RunSummary) -> None:
    """Ends by all images, moments by the sample alone: there the end of self-labelling has 50.0."""
    parts = checkpoint_choice(summary)
    assert "no label had a part" in parts[1] and "oracle" in parts[1]
    ends, moments = rows_of(parts[2])[1:]
    assert ends[1:] == ["self-labelling", "47.5", "46.5", "+1.0"]
    assert moments[1:] == ["self-labelling, iteration 20 of 40", "61.0", "48.0", "+13.0"]


def test_moments_are_not_compared_with_scores_of_other_images(summary: RunSummary) -> None:
    """Early versions did not score ends on the curves' images."""
    (ends,) = rows_of(checkpoint_choice(as_of_old(summary))[2])[1:]
    assert ends[0].startswith("end of a stage")


def test_nothing_is_said_of_a_choice_without_scores(summary: RunSummary) -> None:
    assert checkpoint_choice(unscored(summary)) == []
    assert checkpoint_choice(dataclasses.replace(summary, stages=summary.stages[:1])) == []


# ---- teacher and student


def test_teacher_and_student_are_compared(tmp_path: Path) -> None:
    crossed = summary_of(tmp_path, settings={"model.student": "ddrnet23_slim"})
    text = markdown(crossed)
    assert "## Teacher and student" in text and "student starts from random weights" in text
    rows = {row[0]: row[1:] for row in rows_of("\n".join(teacher_and_student(crossed)))}
    assert rows["cost"][:2] == ["teacher: squeezenet_fpn", "student: ddrnet23_slim"]
    assert rows["parameters, millions"][:2] == ["0.88", "5.70"]
    assert rows["all classes"] == ["43.0", "46.5", "+3.5"]
    assert rows["pole, 5.0 %"] == ["12.0", "10.0", "-2.0"]


def test_one_architecture_is_not_compared_with_itself(summary: RunSummary) -> None:
    assert teacher_and_student(summary) == [] and "Teacher and student" not in markdown(summary)


def test_without_scores_there_are_costs_alone(tmp_path: Path) -> None:
    crossed = unscored(summary_of(tmp_path, settings={"model.student": "ddrnet23_slim"}))
    text = "\n".join(teacher_and_student(crossed))
    assert "parameters" in text and "IoU" not in text


def test_costs_agree_with_the_published_ones() -> None:
    """DDRNet-23-slim, 19 classes, 2048x1024: 5.7 M parameters, 36.3 G multiply-accumulates (2101.06085)."""
    cost = network_cost("ddrnet23_slim", 19, (1024, 2048))
    assert cost.parameters == pytest.approx(5.7e6, rel=0.01)
    assert cost.macs == pytest.approx(36.3e9, rel=0.01)
