"""Own data by a YAML file: what it reads, and what it says about mistakes."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from cpsl_deploy.classes import CITYSCAPES_19, IGNORE, ClassSpace
from cpsl_deploy.data import open_dataset
from cpsl_deploy.errors import DataError

SHARED = Path(__file__).parents[2] / "shared" / "data"
DATASETS = Path(__file__).parents[1] / "benchmarks" / "datasets"
MASK = np.array([[6, 7, 10, 3], [0, 10, 6, 99]], np.uint8)


@pytest.fixture
def described(tmp_path):
    """A set of one image and its description, as a function of the keys to change; gives the YAML file."""
    for folder in ("images", "labels", "empty"):
        (tmp_path / folder).mkdir()
    image = np.zeros((2, 4, 3), np.uint8)
    image[0, 0] = (0, 0, 255)  # BGR: red
    cv2.imwrite(str(tmp_path / "images" / "a.png"), image)
    cv2.imwrite(str(tmp_path / "labels" / "a.png"), MASK)

    def write(**changes):
        values = {
            "splits": {"train": {"images": "images", "labels": "labels"}, "bare": {"images": "images"}},
            "classes": ["road", "car"],
            "ids": {"road": [6, 7], "car": 10},
            "ignore": [0, 3],
            **changes,
        }
        path = tmp_path / "own.yaml"
        path.write_text(
            yaml.safe_dump(
                {key: value for key, value in values.items() if value is not None}, sort_keys=False
            )
        )
        return path

    return write


def test_images_are_rgb_and_ids_become_classes(described):
    dataset = open_dataset(described(), "train", need_labels=True)
    assert (dataset.name, dataset.names, len(dataset)) == ("own", ["a"], 1)
    assert dataset.splits() == ("train", "bare") and dataset.classes.names == ("road", "car")
    assert dataset.image(0)[0, 0].tolist() == [255, 0, 0] and dataset.image_size(0) == (2, 4)
    i = IGNORE
    np.testing.assert_array_equal(dataset.label(0), [[0, 0, 1, i], [i, 1, 0, i]])
    assert dataset.label(0).dtype == np.uint8


def test_other_classes_are_joined_by_name(described):
    i = IGNORE
    wider = open_dataset(described(), "train", class_space=CITYSCAPES_19)
    np.testing.assert_array_equal(wider.label(0), [[0, 0, 13, i], [i, 13, 0, i]])
    cars = open_dataset(described(), "train").with_classes(ClassSpace(("bus", "car")))
    np.testing.assert_array_equal(cars.label(0), [[i, i, 1, i], [i, 1, i, i]])


def test_a_split_without_labels_has_images_only(described):
    dataset = open_dataset(described(), "bare")
    assert not dataset.has_labels and dataset.classes is None and dataset.image(0).shape == (2, 4, 3)
    assert dataset.with_classes(CITYSCAPES_19).classes is CITYSCAPES_19
    with pytest.raises(DataError, match="has no labels"):
        dataset.label(0)
    with pytest.raises(DataError, match="labels are needed here"):
        open_dataset(described(), "bare", need_labels=True)


def test_a_named_class_space_keeps_the_classes_that_have_ids(described):
    dataset = open_dataset(described(classes="cityscapes-19"), "train")
    assert dataset.classes == CITYSCAPES_19.subset(["road", "car"])


def test_colour_masks(described, tmp_path):
    colours = np.array([[(128, 64, 128), (0, 0, 142)], [(1, 2, 3), (9, 9, 9)]], np.uint8)
    cv2.imwrite(str(tmp_path / "labels" / "a.png"), colours[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros_like(colours))
    path = described(
        ids=None, colours={"road": [[128, 64, 128], [1, 2, 3]], "car": [0, 0, 142]}, ignore="rest"
    )
    dataset = open_dataset(path, "train")
    np.testing.assert_array_equal(dataset.label(0), [[0, 1], [0, IGNORE]])
    assert dataset.classes.palette == ((128, 64, 128), (0, 0, 142))
    with pytest.raises(DataError, match=r"has colours\. Describe it with 'colours:'"):
        open_dataset(described(), "train").label(0)


def test_names_that_end_differently_are_paired(described, tmp_path):
    (tmp_path / "images" / "a.png").rename(tmp_path / "images" / "a_rgb.png")
    (tmp_path / "labels" / "a.png").rename(tmp_path / "labels" / "a_gt.png")
    with pytest.raises(DataError, match=r"the first image is 'a_rgb', the first label 'a_gt'.*suffixes"):
        open_dataset(described(), "train")
    assert open_dataset(described(suffixes={"image": "_rgb", "label": "_gt"}), "train").names == ["a"]


def test_what_has_no_counterpart_is_left_out_and_said(described, tmp_path, caplog):
    cv2.imwrite(str(tmp_path / "images" / "b.png"), np.zeros((2, 4, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "labels" / "c.png"), MASK)
    dataset = open_dataset(described(), "train")
    assert dataset.names == ["a"]
    assert [p.name for p in dataset.unpaired_images + dataset.unpaired_labels] == ["b.png", "c.png"]
    assert "1 images without a label and 1 labels without an image" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ids": {"road": [6], "car": [10], "bus": [3]}},
            "ids: bus: is not one of the classes; they are: road, car",
        ),
        ({"ids": {"road": [6, 10], "car": 10}}, "ids: car: 10 is listed twice, for 'road' and for 'car'"),
        ({"ignore": [6]}, "ignore: 6 is listed twice, for 'road' and for 'ignore'"),
        ({"ids": {"road": [6]}}, "ids: lists nothing for the class 'car'"),
        ({"ids": {"road": ["six"], "car": 10}}, "a raw id is a whole number from 0 to 65535, not 'six'"),
        ({"ids": None}, "ids: or colours, one of the two"),
        ({"ids": None, "colours": {"road": [1, 2]}}, r"a colour is \[red, green, blue\].*not \[1, 2\]"),
        ({"classes": "cityscapes-20"}, "'cityscapes-20' is not a named class space; use cityscapes-19"),
        ({"classes": ["road", "road"]}, "class names must differ"),
        ({"clases": ["road"]}, "clases: is not a known key"),
        ({"splits": {"val": {"images": "images"}}}, "has no split 'train'; the splits are: val"),
        ({"splits": {"train": "images"}}, "splits: train: names a folder of images"),
        ({"splits": {"train": {"images": "missing"}}}, "missing is not a folder"),
        ({"splits": {"train": {"images": "empty"}}}, "the split 'train' of .* has no images"),
        ({"root": "nowhere"}, "nowhere is not a folder; correct it, or give --source-root, "),
    ],
)
def test_mistakes_are_named_with_their_remedy(described, changes, message):
    with pytest.raises(DataError, match=message):
        open_dataset(described(**changes), "train")


def test_a_missing_or_broken_file(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the dataset file .*: No such file"):
        open_dataset(tmp_path / "none.yaml", "train")
    (tmp_path / "bad.yaml").write_text("splits: [")
    with pytest.raises(DataError, match="is not a YAML file"):
        open_dataset(tmp_path / "bad.yaml", "train")


@pytest.mark.parametrize(("name", "split", "count"), [("carla", "train", 479), ("camvid", "val", 101)])
def test_the_real_sets_open(name, split, count):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is not there")
    dataset = open_dataset(DATASETS / f"{name}.yaml", split, root=SHARED / name)
    assert len(dataset) == count and len(dataset.classes) == 10
    for i in (0, count - 1):
        label = dataset.label(i)
        assert label.shape == dataset.image(i).shape[:2] == dataset.image_size(i)
        # The camera looks along the road: its lower middle is road on both.
        assert np.bincount(label[-40:, label.shape[1] // 3 : -label.shape[1] // 3].ravel()).argmax() == 0


def test_a_colour_listed_twice_is_shown_as_a_colour(described):
    with pytest.raises(DataError, match=r"\[0, 0, 142\] is listed twice, for 'car' and for 'ignore'"):
        path = described(ids=None, colours={"road": [1, 2, 3], "car": [0, 0, 142]}, ignore=[[0, 0, 142]])
        open_dataset(path, "train")
