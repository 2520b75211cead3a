"""Targets without labels: folders of photos."""

import cv2
import numpy as np
import pytest

from cpsl_deploy.classes import CITYSCAPES_19
from cpsl_deploy.data import open_dataset
from cpsl_deploy.errors import DataError


def write(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((8, 12, 3), value, np.uint8))


def test_a_folder_of_photos(tmp_path):
    for name in ("b.JPG", "a.png", "deep/er/c.webp", ".hidden.png", ".trash/d.png"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("hello")
    dataset = open_dataset(tmp_path, "train")
    assert dataset.names == ["a", "b", "deep/er/c"] and dataset.splits() == ("train",)
    assert not dataset.has_labels and dataset.classes is None
    assert dataset.with_classes(CITYSCAPES_19).classes == CITYSCAPES_19
    with pytest.raises(DataError, match="has no split 'val'; its splits are: train"):
        open_dataset(tmp_path, "val")


def test_photos_of_one_stem_keep_different_names(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "a.jpg")
    assert open_dataset(tmp_path, "train").names == ["a.jpg", "a.png"]


def test_folders_named_after_splits_are_splits(tmp_path):
    write(tmp_path / "train" / "a.png")
    write(tmp_path / "val" / "b.png")
    assert open_dataset(tmp_path, "val").names == ["b"]
    assert open_dataset(tmp_path, "train").splits() == ("train", "val")
    with pytest.raises(DataError, match="has no split 'test'"):
        open_dataset(tmp_path, "test")


def test_a_folder_without_photos(tmp_path):
    with pytest.raises(DataError, match="holds no photos"):
        open_dataset(tmp_path, "train")
