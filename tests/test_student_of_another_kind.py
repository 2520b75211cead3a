"""``--student``: one architecture is adapted and teaches another one, which is deployed."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="needs the extra 'train'")

from tiny_domains import CLASSES, write_domain, write_recipe

from cpsl_deploy.train import RunFolder, load_model
from cpsl_deploy.train.adaptation import STAGES, Adaptation
from cpsl_deploy.train.command import main
from cpsl_deploy.train.places import Place, open_domains
from cpsl_deploy.train.recipe import load_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

TEACHER, STUDENT = "squeezenet_fpn", "ddrnet23_slim"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Source and target."""
    folder = tmp_path_factory.mktemp("domains")
    return write_domain(folder / "game", hue=200), write_domain(folder / "camera", hue=240, val=True)


@pytest.fixture(scope="module")
def run(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A whole run from the command line. Soft labels are the fixed ones."""
    folder = tmp_path_factory.mktemp("crossed")
    options = {"source": data[0], "target": data[1], "recipe": write_recipe(folder), "output": folder / "run"}
    options |= {"teacher": TEACHER, "student": STUDENT, "device": "cpu"}
    given = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    result = CliRunner().invoke(main, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return RunFolder(folder / "run")


def test_the_last_stage_and_the_deployed_network_are_the_student(run: RunFolder) -> None:
    found = {stage: load_model(run.stage_model(stage))[1].architecture for stage in STAGES}
    assert found == dict.fromkeys(STAGES, TEACHER) | {STAGES[-1]: STUDENT}
    network, spec = load_model(run.model)
    assert spec.architecture == STUDENT and type(network).__name__ == "DdrNet23Slim"


def test_the_report_gives_both(run: RunFolder) -> None:
    text = run.report.read_text()
    section = text.split("## Teacher and student\n")[1].split("\n## ")[0]
    assert f"teacher: {TEACHER} | student: {STUDENT}" in section
    results = run.results()
    scores = [f"{100 * results[stage]['mean_iou']:.1f}" for stage in STAGES[-2:]]
    assert f"| **all classes** | {scores[0]} | {scores[1]} |" in section
    assert all(f"| {name}, " in section for name in CLASSES)


def test_the_pseudo_labels_are_drawn(run: RunFolder) -> None:
    assert "](pseudo_labels.png)" in run.report.read_text()
    assert min(cv2.imread(str(run.path / "pseudo_labels.png")).shape[:2]) > 300


def test_the_oracle_is_the_student(data: tuple[Path, Path], run: RunFolder) -> None:
    source, target = data
    domains = open_domains(
        Place(role="source", reference=str(source)), Place(role="target", reference=str(target)), None, None
    )
    adaptation = Adaptation(domains, load_recipe(run.recipe_file), run.path, device="cpu", resume=True)
    adaptation.run_oracle()
    assert load_model(run.stage_model("oracle"))[1].architecture == STUDENT
    assert run.results()["oracle"]["iterations"] == 2, "as many as the student"


def test_what_shows_why_a_class_was_lost_is_logged(run: RunFolder) -> None:
    lines = [line for line in run.metrics() if line["stage"] == "self_labelling"]
    for line in (line for line in lines if "losses" in line):
        for name in ("prior", "pseudo_label_share"):
            assert len(line[name]) == len(CLASSES) and sum(line[name]) == pytest.approx(1, abs=1e-5)
        for kind in ("features", "logits"):
            errors = line[f"marginal_error_{kind}"], line[f"marginal_error_{kind}_before"]
            assert all(0 <= error <= 1 for error in errors) and errors[0] != errors[1]
            assert 0 <= line[f"assignment_entropy_{kind}"] <= np.log(len(CLASSES))
    scored = {line["iteration"]: line["pseudo_labels"] for line in lines if "pseudo_labels" in line}
    assert sorted(scored) == [0, 1, 2, 3, 4], "at the start, at the quarters and at the end"
    for found in scored.values():
        assert all(len(values) == len(CLASSES) for values in found.values())
        hits = np.array(found["recall"]) * found["true_share"]
        assert sum(hits) <= 1 and sum(found["true_share"]) == pytest.approx(1)
    json.dumps(scored, allow_nan=False)


def test_ends_of_stages_are_scored_on_the_curves_images_too(run: RunFolder) -> None:
    """The two labelled images are all in the sample: both scores are the same."""
    ends = {
        (line["stage"], line["iteration"]): line["mean_iou"] for line in run.metrics() if "mean_iou" in line
    }
    for stage in STAGES:
        result = run.results()[stage]
        assert ends[stage, result["iterations"]] == pytest.approx(result["mean_iou"])
    assert "any moment, images of the curves" in run.report.read_text()
