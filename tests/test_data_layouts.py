"""Public sets are recognised from their files, and their ids mean what their owners say."""

import sys

import cv2
import numpy as np
import pytest

from cpsl_deploy.classes import CITYSCAPES_13, CITYSCAPES_16, CITYSCAPES_19, IGNORE
from cpsl_deploy.data import open_dataset
from cpsl_deploy.errors import DataError, MissingExtraError

PICTURE = np.zeros((2, 3, 3), np.uint8)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), array)


@pytest.fixture
def gta5(tmp_path):
    folder = tmp_path / "gta5"
    for name in ("00001", "00002", "00003"):
        write(folder / "images" / f"{name}.png", PICTURE)
        write(folder / "labels" / f"{name}.png", np.array([[7, 8, 26], [34, 0, 33]], np.uint8))
    return folder


@pytest.fixture
def cityscapes(tmp_path):
    folder = tmp_path / "cityscapes"
    for split, city in (("train", "aachen"), ("val", "lindau")):
        stem = f"{city}/{city}_000000_000019"
        write(folder / "leftImg8bit" / split / f"{stem}_leftImg8bit.png", PICTURE)
        write(
            folder / "gtFine" / split / f"{stem}_gtFine_labelIds.png",
            np.array([[7, 8, 26], [1, 0, 33]], np.uint8),
        )
        write(folder / "gtFine" / split / f"{stem}_gtFine_color.png", PICTURE)
    return folder


@pytest.mark.parametrize("by_name", [True, False])
def test_gta5(gta5, monkeypatch, by_name):
    monkeypatch.setenv("CPSL_DATA", str(gta5.parent))
    dataset = open_dataset("gta5" if by_name else gta5, "train")
    assert dataset.names == ["00001", "00002", "00003"] and dataset.classes == CITYSCAPES_19
    np.testing.assert_array_equal(dataset.label(0), [[0, 1, 13], [IGNORE, IGNORE, 18]])


def test_gta5_in_colours(gta5):
    colours = np.array(
        [[(128, 64, 128), (0, 0, 142), (70, 130, 180)], [(0, 0, 0), (20, 20, 20), (119, 11, 32)]]
    )
    for path in (gta5 / "labels").iterdir():
        write(path, colours[:, :, ::-1].astype(np.uint8))
    np.testing.assert_array_equal(open_dataset(gta5, "all").label(0), [[0, 13, 10], [IGNORE, IGNORE, 18]])


def test_gta5_split_file(gta5, monkeypatch):
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(gta5 / "split.mat", {"trainIds": [[1], [3]], "valIds": [[2]], "testIds": [[9]]})
    assert open_dataset(gta5, "train").names == ["00001", "00003"]
    assert open_dataset(gta5, "val").names == ["00002"]
    assert len(open_dataset(gta5, "all")) == 3
    with pytest.raises(DataError, match=r"the split 'test' of gta5 .* is empty"):
        open_dataset(gta5, "test")
    with pytest.raises(DataError, match="gta5 has no split 'mini'; its splits are: train, val, test, all"):
        open_dataset(gta5, "mini")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cpsl_deploy\[data\]'"):
        open_dataset(gta5, "train")
    assert len(open_dataset(gta5, "all")) == 3


def test_a_damaged_split_file(gta5):
    pytest.importorskip("scipy.io")
    (gta5 / "split.mat").write_bytes(b"not a mat file")
    with pytest.raises(DataError, match=r"is not GTA5's split\.mat"):
        open_dataset(gta5, "train")


def test_synthia(tmp_path):
    write(tmp_path / "RGB" / "0000000.png", PICTURE)
    ids = np.array([[3, 4, 8], [21, 1, 22]], np.uint16)
    instances = np.full_like(ids, 500)
    write(tmp_path / "GT" / "LABELS" / "0000000.png", np.dstack([np.zeros_like(ids), instances, ids]))
    dataset = open_dataset(tmp_path, "train")
    assert dataset.name == "synthia" and dataset.classes == CITYSCAPES_16
    names = ["road", "sidewalk", "car", "wall", "sky", None]
    expected = [CITYSCAPES_16.index(name) if name else IGNORE for name in names]
    assert dataset.label(0).ravel().tolist() == expected
    assert open_dataset(tmp_path, "train", class_space=CITYSCAPES_13).label(0)[1, 0] == IGNORE  # wall


def test_cityscapes_label_ids(cityscapes):
    dataset = open_dataset(cityscapes, "val")
    assert dataset.splits() == ("train", "val") and dataset.names == ["lindau/lindau_000000_000019"]
    np.testing.assert_array_equal(dataset.label(0), [[0, 1, 13], [IGNORE, IGNORE, 18]])


def test_cityscapes_train_ids(cityscapes):
    for path in (cityscapes / "gtFine" / "val").rglob("*_labelIds.png"):
        write(
            path.with_name(path.name.replace("labelIds", "labelTrainIds")),
            np.array([[0, 1, 13], [255, 255, 18]]),
        )
        path.unlink()
    np.testing.assert_array_equal(
        open_dataset(cityscapes, "val").label(0), [[0, 1, 13], [IGNORE, IGNORE, 18]]
    )


def test_cityscapes_without_labels(cityscapes):
    for path in (cityscapes / "gtFine" / "train").rglob("*.png"):
        path.unlink()
    dataset = open_dataset(cityscapes, "train")
    assert not dataset.has_labels and dataset.classes is None and len(dataset) == 1


@pytest.mark.parametrize("name", ["gta5", "synthia", "cityscapes"])
def test_a_named_set_that_is_not_there(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CPSL_DATA", "elsewhere")
    with pytest.raises(
        DataError, match=rf"Looked in: elsewhere/{name}.*data/{name}.*Expected there: .*https://"
    ):
        open_dataset(name, "train")
    with pytest.raises(DataError, match=r"Looked in: mine, mine/"):
        open_dataset(name, "train", root="mine")


def test_a_root_is_the_only_place_searched(gta5, tmp_path, monkeypatch):
    monkeypatch.setenv("CPSL_DATA", str(gta5.parent))
    with pytest.raises(DataError, match="gta5 was not found"):
        open_dataset("gta5", "train", root=tmp_path / "other")
    assert len(open_dataset("gta5", "train", root=gta5.parent)) == 3


def test_what_is_no_dataset(tmp_path):
    with pytest.raises(DataError, match="is neither there nor a known name"):
        open_dataset(tmp_path / "nothing", "train")
    with pytest.raises(DataError, match="'demo' alone does not say which"):
        open_dataset("demo", "train")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="is not a dataset"):
        open_dataset(tmp_path / "notes.txt", "train")
    write(tmp_path / "images" / "train" / "a.png", PICTURE)
    write(tmp_path / "labels" / "train" / "a.png", PICTURE)
    with pytest.raises(DataError, match=r"has labels in labels/.*Describe it in a YAML file"):
        open_dataset(tmp_path, "train")
