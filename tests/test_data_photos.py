"""Targets without labels: folders of photos and videos."""

import cv2
import numpy as np
import pytest

from cpsl_deploy.classes import CITYSCAPES_19
from cpsl_deploy.data import open_dataset
from cpsl_deploy.errors import DataError

FRAMES = 40


def write(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((8, 12, 3), value, np.uint8))


@pytest.fixture
def video(tmp_path):
    """40 frames whose grey level is 6 x the frame number; every fifth is sharp, the others blank."""
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for i in range(FRAMES):
        frame = np.full((48, 64, 3), 6 * i, np.uint8)
        if i % 5 == 3:
            frame[::4, ::4] = 255 - frame[::4, ::4]
        writer.write(frame)
    writer.release()
    return path


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


def test_frames_of_a_video_are_spread_sharp_and_split_by_time(video, tmp_path):
    train = open_dataset(video, "train", frames=8, cache=tmp_path / "cache")
    val = open_dataset(video, "val", frames=8, cache=tmp_path / "cache")
    assert [int(name) for name in train.names + val.names] == [3, 8, 13, 18, 23, 28, 33, 38]
    assert [int(name) for name in val.names] == [33, 38]
    for dataset in (train, val):
        for i, name in enumerate(dataset.names):
            assert np.median(dataset.image(i)) == pytest.approx(6 * int(name), abs=4)


def test_a_video_is_decoded_once(video, tmp_path, monkeypatch):
    open_dataset(video, "train", frames=8, cache=tmp_path / "cache")
    monkeypatch.setattr(cv2, "VideoCapture", None)
    assert len(open_dataset(video, "train", frames=8, cache=tmp_path / "cache")) == 6


def test_more_frames_than_there_are_gives_every_frame(video, tmp_path):
    assert len(open_dataset(video, "train", frames=1000, cache=tmp_path / "c")) == FRAMES * 4 // 5


def test_a_video_that_ends_early_is_used_as_far_as_it_goes(video, tmp_path, monkeypatch, caplog):
    class Promising:
        """A capture that announces twice the frames there are."""

        def __init__(self, path):
            self.capture = cv2_capture(path)

        def __getattr__(self, name):
            return getattr(self.capture, name)

        def get(self, key):
            return 2 * FRAMES if key == cv2.CAP_PROP_FRAME_COUNT else self.capture.get(key)

    cv2_capture = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Promising)
    dataset = open_dataset(video, "val", frames=16, cache=tmp_path / "cache")
    assert [int(name) for name in dataset.names] == [33, 38]
    assert "announces 80 frames and 40 could be read" in caplog.text


def test_no_video(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(DataError, match=r"broken\.mp4 is not a video that OpenCV can open"):
        open_dataset(tmp_path / "broken.mp4", "train", cache=tmp_path / "cache")
    with pytest.raises(DataError, match="has no split 'test'"):
        open_dataset(tmp_path / "broken.mp4", "test", cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.jpg"))


def test_a_truncated_video_leaves_no_half_made_frames(video, tmp_path):
    video.write_bytes(video.read_bytes()[:600])
    with pytest.raises(DataError, match=r"drive\.avi"):
        open_dataset(video, "train", cache=tmp_path / "cache")
    assert not any((tmp_path / "cache" / "video_frames").iterdir())


def test_frames_are_kept_where_the_environment_says(video, tmp_path, monkeypatch):
    monkeypatch.setenv("CPSL_CACHE", str(tmp_path / "kept"))
    assert (
        open_dataset(video, "val", frames=8).items[0].image.is_relative_to(tmp_path / "kept" / "video_frames")
    )
