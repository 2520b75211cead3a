"""cpsl-check finds what would spoil a long run, and says all of it."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from cpsl_deploy.classes import CITYSCAPES_19, ClassSpace
from cpsl_deploy.data import open_dataset
from cpsl_deploy.data.check import check_dataset, evenly_spaced
from cpsl_deploy.data.check_command import main
from cpsl_deploy.data.layouts import LABEL_IDS, TRAIN_IDS
from cpsl_deploy.errors import DataError

SHARED = Path(__file__).parents[2] / "shared" / "data"
DATASETS = Path(__file__).parents[1] / "benchmarks" / "datasets"
IMAGES = 20


def write_mask(folder, name, mask):
    cv2.imwrite(str(folder / "labels" / f"{name}.png"), np.asarray(mask, np.uint8))


@pytest.fixture
def folder(tmp_path):
    """20 images of 20x40 whose masks are road (7) with 2 pixels of car (10) and a border ignored (0)."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    mask = np.full((20, 40), 7, np.uint8)
    mask[0], mask[5, 5:7] = 0, 10
    for i in range(IMAGES):
        cv2.imwrite(str(tmp_path / "images" / f"{i:02d}.jpg"), rng.integers(0, 255, (20, 40, 3), np.uint8))
        write_mask(tmp_path, f"{i:02d}", mask)
    values = {
        "name": "own",
        "splits": {"train": {"images": "images", "labels": "labels"}},
        "classes": ["road", "car"],
        "ids": {"road": 7, "car": 10},
        "ignore": [0],
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return tmp_path


def check(folder, **options):
    return check_dataset(open_dataset(folder / "own.yaml", "train"), workers=2, **options)


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def only_problem(report):
    assert len(report.problems) == 1, report.problems
    return report.problems[0]


def test_a_sound_set_has_no_problems(folder):
    seen = []
    report = check(folder, progress=lambda done, total: seen.append((done, total)))
    assert report.problems == [] and report.raise_for_errors() is None
    assert (report.images, report.checked, report.sizes) == (IMAGES, IMAGES, {"20x40": IMAGES})
    road, car = report.classes
    assert (road.images, car.images, road.is_tail, car.is_tail) == (IMAGES, IMAGES, False, True)
    assert car.share == pytest.approx(2 / 760) and road.share + car.share == pytest.approx(1)
    assert report.ignored_share == pytest.approx(40 / 800)
    assert seen == [(i, IMAGES) for i in range(1, IMAGES + 1)]


def test_damaged_files_are_all_listed(folder):
    for name in ("03", "11"):
        path = folder / "images" / f"{name}.jpg"
        path.write_bytes(path.read_bytes()[:-40])
    (folder / "labels" / "15.png").write_bytes(b"")
    problem = only_problem(check(folder))
    assert problem.severity == "error" and problem.message == "3 images or labels cannot be read."
    assert ["03.jpg is truncated" in e for e in problem.examples] == [True, False, False]
    assert "15.png is empty" in problem.examples[2]


def test_images_and_labels_without_counterpart(folder):
    (folder / "labels" / "04.png").unlink()
    (folder / "images" / "09.jpg").unlink()
    report = check(folder)
    assert [p.severity for p in report.problems] == ["error", "error"]
    assert report.problems[0].message.startswith("1 images have no label")
    assert report.problems[0].examples[0].endswith("04.jpg")
    assert report.problems[1].examples[0].endswith("09.png")
    with pytest.raises(
        DataError, match=r"own \(train\) cannot be used as it is: \(1\) .* \(2\) .*cpsl-check"
    ):
        report.raise_for_errors()


def test_a_mask_of_another_size(folder):
    write_mask(folder, "02", np.full((40, 20), 7))
    problem = only_problem(check(folder))
    assert problem.severity == "error" and problem.examples == ("02: image 20x40, label 40x20",)


def test_ids_outside_the_map_have_a_histogram(folder):
    mask = np.full((20, 40), 7)
    mask[:2], mask[19, :4] = 13, 99
    write_mask(folder, "06", mask)
    report = check(folder)
    problem = only_problem(report)
    assert "2 raw values in 1 masks are not in the map: 13 (0.5 %), 99 (0.025 %)" in problem.message
    assert problem.examples == ("06",)
    assert report.unknown_ids == {"13": pytest.approx(80 / 16000), "99": pytest.approx(4 / 16000)}


def test_classes_that_never_occur_and_masks_without_a_class(folder):
    for i in range(IMAGES):
        write_mask(folder, f"{i:02d}", np.full((20, 40), 7 if i else 0))
    report = check(folder)
    assert [p.severity for p in report.problems] == ["warning", "warning"]
    assert report.problems[0].message == "1 masks have no pixel with a class."
    assert report.problems[1].message == "1 classes never occur: car."


def test_masks_that_are_no_labels_at_all(folder):
    for i in range(IMAGES):
        write_mask(folder, f"{i:02d}", np.zeros((20, 40)))
    assert "no pixel of any mask has a class" in only_problem(check(folder)).message


def test_labels_that_were_compressed_with_loss(folder):
    png = folder / "labels" / "08.png"
    cv2.imwrite(str(png.with_suffix(".jpg")), np.full((20, 40), 7, np.uint8))
    png.unlink()
    problem = only_problem(check(folder, fast=True))
    assert problem.message.startswith("1 labels are JPEG files") and problem.examples[0].endswith("08.jpg")


def describe_cityscapes(folder, coding):
    ids = {name: value for value, name in coding.classes.items()}
    values = {
        "splits": {"train": {"images": "images", "labels": "labels"}},
        "classes": list(CITYSCAPES_19.names),
        "ids": ids,
        "ignore": sorted(coding.ignored),
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def write_scene(folder, coding):
    """Every class in every mask, most of it road, in the given ids."""
    ids = {name: value for value, name in coding.classes.items()}
    mask = np.full((20, 40), ids["road"])
    mask[0, :19] = list(coding.classes)
    mask[1] = 255
    for i in range(IMAGES):
        write_mask(folder, f"{i:02d}", mask)


@pytest.mark.parametrize(
    ("expected", "written", "message"),
    [
        (LABEL_IDS, TRAIN_IDS, "the masks hold trainIds (0 to 18, 255) where labelIds"),
        (TRAIN_IDS, LABEL_IDS, "the masks hold labelIds (up to 33) where trainIds"),
    ],
)
def test_the_two_kinds_of_cityscapes_ids_are_told_apart(folder, expected, written, message):
    describe_cityscapes(folder, expected)
    write_scene(folder, written)
    problem = only_problem(check(folder, fast=True))
    assert problem.severity == "error" and problem.message.startswith(message)
    write_scene(folder, expected)
    assert check(folder, fast=True).problems == []


def test_a_picture_turned_by_its_tag_is_a_warning_where_it_has_a_label(folder):
    path = folder / "images" / "00.jpg"
    jpeg = path.read_bytes()
    tag = bytes.fromhex("4578696600004d4d002a00000008000101120003000000010006000000000000")
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + jpeg[2:])
    problem = only_problem(check(folder))
    assert problem.severity == "warning" and "EXIF" in problem.message and problem.examples == ("00",)


def test_fast_reads_a_spread_sample_and_pairs_everything(folder):
    (folder / "labels" / "19.png").unlink()
    report = check(folder, fast=True)
    assert (report.images, report.checked) == (19, 16)
    assert only_problem(report).message.startswith("1 images have no label")
    assert evenly_spaced(100, 4) == [12, 37, 62, 87] and evenly_spaced(2, 16) == [0, 1]


def test_ctrl_c_says_how_far_it_came(folder):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="of 20 images were read; nothing was written"):
        check(folder, progress=interrupt)


def test_shares_follow_the_class_space(folder):
    dataset = open_dataset(folder / "own.yaml", "train", class_space=ClassSpace(("car", "bus")))
    report = check_dataset(dataset, workers=1)
    assert [(c.name, c.share, c.images) for c in report.classes] == [("car", 1.0, IMAGES), ("bus", 0.0, 0)]
    assert report.ignored_share == pytest.approx(1 - 2 / 800)


def test_the_command_writes_a_sheet_and_json(folder):
    out = folder / "out"
    done = run(folder / "own.yaml", "-o", out)
    assert done.exit_code == 0, done.output
    assert "0 errors, 0 warnings" in done.output and "tail (under 0.5 %)" in done.output
    (report,) = json.loads((out / "check.json").read_text())
    assert report["images"] == IMAGES and report["classes"][1]["tail"] is True
    assert cv2.imread(str(out / "train.png")).shape[1] == 4 * 406 + 6
    again = run(folder / "own.yaml", "-o", out)
    assert again.exit_code == 2 and "is not empty" in again.output
    assert run(folder / "own.yaml", "-o", out, "--overwrite", "--fast").exit_code == 0


def test_the_sheet_shows_labels_in_their_colours_and_ignored_pixels_dark(folder):
    white = np.full((20, 40, 3), 255, np.uint8)
    mask = np.full((20, 40), 7)
    mask[10:] = 0
    for i in range(IMAGES):
        cv2.imwrite(str(folder / "images" / f"{i:02d}.jpg"), white)
        write_mask(folder, f"{i:02d}", mask)
    run(folder / "own.yaml", "-o", folder / "out")
    sheet = cv2.imread(str(folder / "out" / "train.png"))
    top, bottom = sheet[6 + 26 + 40, 200], sheet[6 + 26 + 160, 200]
    np.testing.assert_allclose(top[::-1], 0.45 * 255 + 0.55 * np.array([128, 64, 128]), atol=2)
    np.testing.assert_allclose(bottom, 85, atol=2)


def test_the_command_prints_every_error_of_every_split_and_exits_with_2(folder):
    values = yaml.safe_load((folder / "own.yaml").read_text())
    (folder / "empty").mkdir()
    values["splits"]["val"] = {"images": "empty"}
    (folder / "own.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    (folder / "images" / "05.jpg").write_bytes(b"hello")
    write_mask(folder, "07", np.repeat([[7], [50]], 10, axis=0).repeat(40, axis=1))
    done = run(folder / "own.yaml", "-o", folder / "out")
    assert done.exit_code == 2
    for message in (
        "05.jpg is not a readable image",
        "50 (2.63 %)",
        "'val'",
        "has no images",
    ):
        assert message in done.output
    assert "3 errors" in done.output
    reports = json.loads((folder / "out" / "check.json").read_text())
    assert [len(report["problems"]) for report in reports] == [2, 1]


def test_a_reference_that_leads_nowhere_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(tmp_path / "nothing")
    assert done.exit_code == 2 and "neither there nor a known name" in done.output
    assert list(tmp_path.iterdir()) == []


def test_photos_are_checked_without_labels(folder):
    done = run(folder / "images", "-o", folder / "out")
    assert done.exit_code == 0 and "20 images without labels, all read" in done.output
    assert (folder / "out" / "train.png").is_file()


@pytest.mark.parametrize(("name", "split"), [("carla", "train"), ("camvid", "val")])
def test_the_real_sets_are_sound(name, split):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is not there")
    dataset = open_dataset(DATASETS / f"{name}.yaml", split, root=SHARED / name)
    report = check_dataset(dataset, fast=True, workers=2)
    assert report.problems == [] and report.checked == 16 and len(report.sizes) == 1
    assert max(report.classes, key=lambda c: c.share).name in ("sky", "road")
