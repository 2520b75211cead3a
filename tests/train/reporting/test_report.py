"""The report of a run, from results and logs written by hand and models of random weights."""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_domains import CLASSES, HEIGHT, WIDTH, write_domain, write_recipe
from torch import Tensor

from cpsl_deploy.classes import ClassSpace
from cpsl_deploy.data import open_dataset
from cpsl_deploy.errors import InputError, MissingExtraError, OutputError
from cpsl_deploy.files import write_text
from cpsl_deploy.overlay import blend
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.adaptation import STAGES
from cpsl_deploy.train.domains import Domains, join_domains
from cpsl_deploy.train.engine.run_folder import RunFolder
from cpsl_deploy.train.models import Segmenter, SegmenterOutput, build, save_model
from cpsl_deploy.train.recipe import load_recipe, to_toml
from cpsl_deploy.train.reporting.class_bars import write_per_class
from cpsl_deploy.train.reporting.figures import legible, spread
from cpsl_deploy.train.reporting.pictures import evenly_spaced, picture_row
from cpsl_deploy.train.reporting.plots import run_curve, running_mean, write_curves, write_iou_curves
from cpsl_deploy.train.reporting.report import gap_closure, markdown, write_report
from cpsl_deploy.train.reporting.run_summary import STAGE_TITLES, RunSummary, read_run
from cpsl_deploy.train.samples import WorkingImages

CPU = torch.device("cpu")
ITERATIONS = dict(zip(STAGES, (40, 20, 40, 30, 30), strict=True))
IOU = dict(
    source_only=[0.5, 0.7, 0.0],
    warm_up=[0.55, 0.7, 0.01],
    self_labelling=[0.7, 0.8, 0.05],
    distillation_1=[0.75, 0.85, 0.08],
    distillation_2=[0.8, 0.9, 0.1],
)
"""Of road, sky and car. Means 0.4 before and 0.6 after; head (road, sky) 0.6 and 0.85, tail 0 and 0.1."""
PRIOR = [0.6, 0.395, 0.005]
PICTURES = ("curves.png", "iou_curves.png", "per_class.png", "before_after.png")


DIAGNOSTICS = {
    "confidence": 0.9,
    **{f"marginal_error_{kind}": 0.1 for kind in ("features", "logits")},
    **{f"marginal_error_{kind}_before": 0.3 for kind in ("features", "logits")},
    **{f"assignment_entropy_{kind}": 0.5 for kind in ("features", "logits")},
}
"""What self-labelling logs beside its losses, a number each."""


def score(iou: list[float]) -> dict[str, Any]:
    return {"mean_iou": sum(iou) / len(iou), "pixel_accuracy": 0.8, "iou": iou}


def log_stage(folder: RunFolder, stage: str, *, scored: bool = True) -> None:
    total = ITERATIONS[stage]
    terms = ("source",) if stage == "source_only" else ("source", "target")
    for iteration in range(5, total + 1, 5):
        losses = {term: 2.0 / iteration for term in terms}
        entry = {
            "stage": stage,
            "iteration": iteration,
            "losses": losses,
            "lr_factor": 1.0,
            "step_seconds": 0.1,
        }
        if stage == "self_labelling":
            entry |= DIAGNOSTICS
        folder.log_metrics(entry)
    if scored:
        halfway = [value / 2 for value in IOU[stage]]
        folder.log_metrics({"stage": stage, "iteration": total // 2, **score(halfway)})


def write_run(path: Path, *, scored: bool = True, stages: tuple[str, ...] = STAGES) -> RunFolder:
    """A run folder as ``cpsl-adapt`` leaves it, with networks of random weights."""
    folder = RunFolder(path)
    path.mkdir()
    write_text(folder.recipe_file, to_toml(load_recipe(write_recipe(path.parent), {"seed": 7})))
    classes = ClassSpace(CLASSES)
    torch.manual_seed(0)
    network = build("squeezenet_fpn", len(CLASSES))
    spec = ModelSpec(
        architecture="squeezenet_fpn",
        class_names=classes.names,
        palette=classes.palette,
        size=(HEIGHT, WIDTH),
        stride=network.stride,
    )
    for stage in stages:
        log_stage(folder, stage, scored=scored)
        entry = {"iterations": ITERATIONS[stage], "seconds": 65.0, **(score(IOU[stage]) if scored else {})}
        folder.add_results(**{stage: entry})
        if stage == "warm_up":
            folder.add_results(prior=PRIOR)
        save_model(folder.stage_model(stage), network, spec)
    return folder


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Domains:
    place = tmp_path_factory.mktemp("domains")
    game = write_domain(place / "game", hue=200, extra_class="wall")
    camera = write_domain(place / "camera", hue=120, val=True)
    target, val = open_dataset(camera, "train"), open_dataset(camera, "val")
    return join_domains(open_dataset(game, "train"), target, val)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, domains: Domains) -> RunFolder:
    """A finished run with its report. Not to be changed: see ``run``."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "run")
    assert write_report(folder, domains, CPU) == folder.report
    return folder


@pytest.fixture
def run(tmp_path: Path, reported: RunFolder) -> RunFolder:
    """A copy of the finished run, to change."""
    return RunFolder(shutil.copytree(reported.path, tmp_path / "run"))


def table_rows(text: str, heading: str) -> dict[str, list[str]]:
    """First cell -> the other cells, of the first table below a heading that starts so; emphasis removed."""
    below = text.split(f"\n### {heading}", 1)[1].split("\n#", 1)[0].replace("**", "")
    lines = [line.strip("| ").split(" | ") for line in below.splitlines() if line.startswith("|")]
    return {line[0]: line[1:] for line in lines}


def test_the_stages_are_those_of_the_adaptation() -> None:
    assert tuple(STAGE_TITLES) == STAGES


def test_a_finished_run_gets_a_report_and_all_pictures(reported: RunFolder) -> None:
    text = reported.report.read_text()
    for name in PICTURES:
        picture = cv2.imread(str(reported.path / name))
        assert picture is not None and min(picture.shape[:2]) > 300
        assert picture.std() > 5, f"{name} is empty"
        assert f"]({name})" in text
    assert not list(reported.path.glob(".*")), "temporary files are left"


def test_the_headline_is_the_gain_in_points(reported: RunFolder) -> None:
    text = reported.report.read_text()
    assert "mIoU 40.0 % source-only → 60.0 % adapted: +20.0 points" in text
    assert "head classes **+25.0**, tail classes **+10.0**" in text
    assert "camera (val, 2 images)" in text and "seed 7" in text and "squeezenet_fpn" in text
    assert "classes that only the source has are ignored: wall" in text
    assert "not finished" not in text and "No figures" not in text


def test_head_and_tail_classes_have_their_own_tables(reported: RunFolder) -> None:
    text = reported.report.read_text()
    head, tail = table_rows(text, "Head classes"), table_rows(text, "Tail classes")
    assert list(head) == ["class", "---", "road", "sky"]
    assert head["road"] == ["60.0 %", "50.0", "55.0", "70.0", "75.0", "80.0", "+30.0"]
    assert tail["car"] == ["0.50 %", "0.0", "1.0", "5.0", "8.0", "10.0", "+10.0"]
    assert "road" not in tail and "car" not in head
    means = table_rows(text, "Means")
    assert means["all classes"][1] == "40.0" and means["all classes"][-1] == "+20.0"
    assert means["tail classes (1)"] == tail["car"]


def test_the_cost_names_times_iterations_and_machine(reported: RunFolder) -> None:
    text = reported.report.read_text()
    assert "| **total** |  | **160** |  | **5 min 25 s** |" in text
    assert f"torch {torch.__version__}" in text and "CPU cores" in text


def test_the_machine_stays_the_one_that_ran(run: RunFolder, domains: Domains) -> None:
    run.add_results(machine={"gpu": "the GPU of the run", "torch": "2.6.0"})
    assert "On the GPU of the run, in fp32. Versions: torch 2.6.0." in markdown(read_run(run, domains))
    write_report(run, domains, CPU)
    assert run.results()["machine"] == {"gpu": "the GPU of the run", "torch": "2.6.0"}


def test_exported_and_oracle_scores_become_columns(run: RunFolder, domains: Domains) -> None:
    run.add_results(exported=score([0.8, 0.9, 0.13]), oracle=score([0.9, 0.95, 0.55]))
    text = write_report(run, domains, CPU).read_text()
    assert table_rows(text, "Tail classes")["class"][-3:] == ["exported", "oracle", "gain"]
    assert table_rows(text, "Tail classes")["car"][-3:] == ["13.0", "55.0", "+10.0"]
    assert "50 % of the gap to the oracle is closed" in text  # (0.6 - 0.4) / (0.8 - 0.4)
    assert "The exported file has 61.0 % mIoU" in text


@pytest.mark.parametrize(
    ("figures", "closed"),
    [((0.4, 0.6, 0.8), 0.5), ((0.4, 0.3, 0.6), -0.5), ((0.4, 0.6, 0.4), None), ((None, 0.6, 0.8), None)],
)
def test_gap_closure(figures: tuple, closed: float | None) -> None:
    assert gap_closure(*figures) == (None if closed is None else pytest.approx(closed))


def test_an_oracle_no_better_than_source_only_leaves_no_gap(run: RunFolder, domains: Domains) -> None:
    run.add_results(oracle=score([0.4, 0.6, 0.1]))
    assert "there is no gap to close" in markdown(read_run(run, domains))


def test_without_labels_there_are_pictures_and_no_figures(
    tmp_path: Path, domains: Domains, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run", scored=False)
    unlabelled = dataclasses.replace(domains, validation=None)
    monkeypatch.setattr(
        type(domains.target), "label", lambda *_: pytest.fail("labels of the target were read")
    )
    text = write_report(folder, unlabelled, CPU).read_text()
    assert "No figures can be given" in text and "IoU" not in text
    assert "camera (train, 6 images)" in text and "| car | 0.50 % |" in text
    assert {path.name for path in folder.path.glob("*.png")} == {"before_after.png", "curves.png"}


def test_an_unfinished_run_says_how_far_it_came(tmp_path: Path, domains: Domains) -> None:
    folder = write_run(tmp_path / "run", stages=STAGES[:2])
    log_stage(folder, "self_labelling", scored=False)
    text = write_report(folder, domains, CPU).read_text()
    assert "last finished stage is warm-up" in text
    assert "40.0 % source-only → 42.0 % after warm-up: +2.0 points" in text
    assert "adapted:" not in text
    assert (folder.path / "iou_curves.png").is_file()


def test_source_only_alone_is_reported(tmp_path: Path, domains: Domains) -> None:
    folder = write_run(tmp_path / "run", stages=STAGES[:1])
    text = write_report(folder, domains, CPU).read_text()
    assert "mIoU 40.0 % source-only**; nothing is adapted yet" in text
    assert table_rows(text, "All classes")["car"] == ["n/a", "0.0"]


def test_a_run_without_a_finished_stage_has_no_report(tmp_path: Path, domains: Domains) -> None:
    folder = write_run(tmp_path / "run", stages=())
    with pytest.raises(InputError, match=r"needs a finished stage.*--resume"):
        write_report(folder, domains, CPU)
    assert not folder.results_file.exists()


def test_a_student_that_goes_on_continues_the_curve(reported: RunFolder, domains: Domains) -> None:
    summary = read_run(reported, domains)
    second = dataclasses.replace(summary.recipe.distillation_2, start="previous")
    summary = dataclasses.replace(summary, recipe=dataclasses.replace(summary.recipe, distillation_2=second))
    iterations, percent = run_curve(summary, [0])
    assert iterations[np.isnan(percent)].tolist() == [100]


@pytest.mark.parametrize(
    ("estimate", "words"),
    [("hard", "own predictions"), ("soft", "mean probabilities"), ("prototypes", "to the prototypes")],
)
def test_the_report_says_where_the_shares_come_from(
    run: RunFolder, domains: Domains, estimate: str, words: str
) -> None:
    estimated = {"self_labelling.prior_estimate": estimate}
    write_text(run.recipe_file, to_toml(load_recipe(run.recipe_file, estimated)))
    assert words in markdown(read_run(run, domains))


@pytest.mark.parametrize("entries", [{"source_only": score([0.5, 0.5])}, {"prior": [0.5, 0.5]}])
def test_scores_of_other_classes_are_refused(run: RunFolder, domains: Domains, entries: dict) -> None:
    run.add_results(**entries)
    with pytest.raises(InputError, match="2 classes and the datasets have 3"):
        read_run(run, domains)


def test_a_loss_is_told_as_a_loss(run: RunFolder, domains: Domains) -> None:
    run.add_results(distillation_2={"iterations": 30, "seconds": 1.0, **score([0.4, 0.5, 0.0])})
    text = markdown(read_run(run, domains))
    assert "-10.0 points" in text and "did not help" in text
    assert "best stage is distillation 1 with 56.0 % mIoU; 26.0 points were lost after it" in text
    assert "`distillation_1.safetensors` (squeezenet_fpn)" in text and "oracle's choice" in text


def test_a_class_that_the_warm_up_never_finds_is_named(run: RunFolder, domains: Domains) -> None:
    assert "finds (almost) no pixel" not in markdown(read_run(run, domains))
    run.add_results(prior=[0.6, 0.4, 0.0])
    assert "finds (almost) no pixel of **car** in the target" in markdown(read_run(run, domains))


def test_smoothing_does_not_hide_a_class_that_was_never_found(run: RunFolder, domains: Domains) -> None:
    write_text(
        run.recipe_file, to_toml(load_recipe(run.recipe_file, {"self_labelling.prior_smoothing": 0.3}))
    )
    run.add_results(prior=[0.7 * share + 0.1 for share in (0.6, 0.4, 0.0)])
    summary = read_run(run, domains)
    assert summary.prior == pytest.approx((0.6, 0.4, 0.0))
    assert summary.unseen == [2]


def test_a_class_that_never_occurs_enters_no_mean(run: RunFolder, domains: Domains) -> None:
    for stage in STAGES:
        entry = run.results()[stage]
        run.add_results(**{stage: entry | {"iou": [*entry["iou"][:2], None]}})
    summary = read_run(run, domains)
    assert summary.source_only.mean_over([0, 1, 2]) == pytest.approx(0.6)
    assert summary.source_only.mean_over([2]) is None
    text = markdown(summary)
    assert table_rows(text, "Tail classes")["car"][1:] == ["n/a"] * 6
    assert "enters no mean" in text
    write_iou_curves(summary, run.path / "again.png")
    write_per_class(summary, run.path / "again.png")


def test_names_from_outside_are_shown_as_they_are(run: RunFolder, domains: Domains) -> None:
    names = ("road|lane", "sky_$x$", "car*")
    summary = dataclasses.replace(read_run(run, domains), classes=ClassSpace(names), validation="a $b$_(c)")
    assert r"| road\|lane | 60.0 %" in markdown(summary)
    for write in (write_curves, write_iou_curves, write_per_class):
        write(summary, run.path / "again.png")


def test_curves_run_over_the_whole_run(reported: RunFolder, domains: Domains) -> None:
    summary = read_run(reported, domains)
    assert summary.starts() == dict(zip(STAGES, (0, 40, 60, 100, 130), strict=True))
    iterations, percent = run_curve(summary, [0])
    expected = [(20, 25), (40, 50), (50, 27.5), (60, 55), (80, 35), (100, 70)]
    expected += [(100, np.nan), (115, 37.5), (130, 75), (130, np.nan), (145, 40), (160, 80)]
    np.testing.assert_allclose(np.stack([iterations, percent], axis=1), expected)


def test_a_score_just_before_the_end_of_a_stage_gives_way_to_the_end(
    run: RunFolder, domains: Domains
) -> None:
    run.log_metrics({"stage": "source_only", "iteration": 39, **score([0.1, 0.1, 0.1])})
    assert [at for at, _ in read_run(run, domains).iou_on_the_way("source_only")] == [20, 40]


def test_losses_and_diagnostics_are_read_apart(reported: RunFolder, domains: Domains) -> None:
    summary = read_run(reported, domains)
    iterations, values = summary.losses("self_labelling")["target"]
    np.testing.assert_array_equal(iterations, range(5, 41, 5))
    np.testing.assert_allclose(values, 2.0 / iterations)
    assert set(summary.diagnostics("self_labelling")) == set(DIAGNOSTICS)
    assert not summary.diagnostics("warm_up")


def test_without_matplotlib_nothing_is_written(
    tmp_path: Path, domains: Domains, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a)
    )
    with pytest.raises(MissingExtraError, match=r"pip install 'cpsl_deploy\[train\]'"):
        write_report(folder, domains, CPU)
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before


def test_a_full_disk_leaves_the_earlier_report(
    run: RunFolder, domains: Domains, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    before = {path: path.read_bytes() for path in run.path.iterdir()}

    def full(self: Figure, path: Path, **_: Any) -> None:
        path.write_bytes(b"half a picture")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OutputError, match="disk is full"):
        write_report(run, domains, CPU)
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before


class AlwaysSky(Segmenter):
    """Predicts class 1 everywhere."""

    num_classes, feature_channels = 3, 4

    def forward(self, image: Tensor) -> SegmenterOutput:
        n, _, h, w = image.shape
        logits = torch.zeros(n, 3, h // 8, w // 8)
        logits[:, 1] = 1
        return SegmenterOutput(torch.zeros(n, 4, h // 8, w // 8), logits)


def test_a_row_shows_the_image_the_labels_and_the_truth(domains: Domains) -> None:
    assert domains.validation is not None
    images = WorkingImages(domains.validation, (HEIGHT, WIDTH))
    shown, predicted, truth = picture_row({"net": AlwaysSky()}, images, 1, CPU, with_truth=True)
    label = domains.validation.label(1)
    assert predicted.below == f"{100 * (label == 1).mean():.1f} % of the labelled pixels right"
    bgr = np.ascontiguousarray(shown.picture[..., ::-1])
    sky = np.ones(shown.picture.shape[:2], np.uint8)
    expected = blend(bgr, sky, domains.classes, 0.6)[..., ::-1]
    np.testing.assert_array_equal(predicted.picture, expected)
    fitted = cv2.resize(label, sky.shape[::-1], interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(truth.picture, blend(bgr, fitted, domains.classes, 0.6)[..., ::-1])
    small = cv2.resize(shown.picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - domains.validation.image(1)).mean() < 5, (
        "the colours are not the image's"
    )


def test_images_are_evenly_spaced_and_the_same_every_time() -> None:
    assert evenly_spaced(101) == [10, 30, 50, 70, 90]
    assert evenly_spaced(5) == [0, 1, 2, 3, 4]
    assert evenly_spaced(2) == [0, 1]
    assert evenly_spaced(7, most=3) == [1, 3, 5]


def test_labels_are_spread_as_little_as_needed() -> None:
    assert spread([0.1, 0.5, 0.9], 0.1, 0, 1) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.5, 0.5], 0.1, 0, 1) == pytest.approx([0.45, 0.55])
    assert spread([0.5, 0.48, 0.1], 0.1, 0, 1) == pytest.approx([0.54, 0.44, 0.1])
    assert spread([0.0, 0.0, 0.0], 0.1, 0, 1) == pytest.approx([0.0, 0.1, 0.2])
    assert spread([1.0, 1.0], 0.1, 0, 1) == pytest.approx([0.9, 1.0])


def test_labels_of_any_lines_keep_order_distance_and_bounds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        wanted = rng.random(12).tolist()
        placed = np.array(spread(wanted, 0.06, 0, 1))
        assert np.array_equal(np.argsort(placed), np.argsort(wanted))
        assert np.diff(np.sort(placed)).min() > 0.06 - 1e-9
        assert placed.min() > -1e-9 and placed.max() < 1 + 1e-9


@pytest.mark.parametrize("colour", [(255, 255, 255), (220, 220, 0), (152, 251, 152), (0, 0, 142)])
def test_colours_are_darkened_until_they_show_on_white(colour: tuple[int, int, int]) -> None:
    drawn = np.array(legible(colour))
    linear = np.where(drawn <= 0.04045, drawn / 12.92, ((drawn + 0.055) / 1.055) ** 2.4)
    assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 2.6
    unchanged = colour == (0, 0, 142)
    assert np.allclose(drawn, np.array(colour) / 255) == unchanged


def test_the_running_mean_keeps_constants_and_has_no_edges() -> None:
    np.testing.assert_allclose(running_mean(np.full(50, 3.0)), 3.0)
    np.testing.assert_allclose(running_mean(np.array([4.0])), [4.0])
    line = np.arange(40.0)
    np.testing.assert_allclose(running_mean(line)[2:-2], line[2:-2])


def test_groups_follow_the_prior(reported: RunFolder, domains: Domains) -> None:
    summary: RunSummary = read_run(reported, domains)
    assert summary.groups == {"head": [0, 1], "tail": [2]}
    assert dataclasses.replace(summary, prior=(0.3, 0.5, 0.2)).groups == {"head": [1, 0, 2]}
    assert dataclasses.replace(summary, prior=None).groups == {"all": [0, 1, 2]}
