"""Images, folders and globs give frames, each under a name that is fit for a file."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from cpsl_deploy import DataError
from cpsl_deploy.sources.base import InputLimits
from cpsl_deploy.sources.files import ImageSource, VideoSource, open_source
from cpsl_deploy.sources.names import LONGEST_NAME, safe_name, shown


def grey(level: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*size, 3), level, np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    for name, level in (("b.png", 2), ("a.jpg", 1), ("c.PNG", 3), ("inner/d.png", 4)):
        cv2.imwrite(str(folder / name), grey(level))
    (folder / "notes.txt").write_text("no image")
    return folder


def test_folder_is_sorted_and_not_recursive(photos: Path) -> None:
    source = open_source(photos)
    frames = list(source.frames())
    assert isinstance(source, ImageSource) and source.count == 3 and source.name == "photos"
    assert [frame.name for frame in frames] == ["a", "b", "c"]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert [int(frame.image.mean()) for frame in frames] == [1, 2, 3]
    assert {frame.source for frame in frames} == {"photos"}
    assert all(frame.time_s is None for frame in frames)
    assert frames[0].captured_s < frames[1].captured_s < frames[2].captured_s


def test_glob_and_single_image(photos: Path) -> None:
    assert [f.name for f in open_source(f"{photos}/*.png").frames()] == ["b"]
    assert [f.name for f in open_source(f"{photos}/**/[bd].png").frames()] == ["d"]
    source = open_source(photos / "a.jpg")
    assert source.name == "a" and source.count == 1


def test_an_image_under_another_suffix_is_an_image_still(tmp_path: Path) -> None:
    data = cv2.imencode(".jpg", grey(9))[1].tobytes()
    (tmp_path / "frame.dat").write_bytes(data)
    (frame,) = open_source(tmp_path / "frame.dat").frames()
    assert int(frame.image.mean()) == 9 and frame.suffix == ".dat"
    (tmp_path / "drive.mp4").write_bytes(data)
    with pytest.raises(DataError, match=r"drive\.mp4"):
        open_source(tmp_path / "drive.mp4")


def test_names_stay_unique(tmp_path: Path) -> None:
    for name in ("x/a.png", "x/a.jpg", "y/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), grey(9))
    assert [f.name for f in open_source(tmp_path / "x").frames()] == ["a_jpg", "a_png"]
    names = [f.name for f in open_source(f"{tmp_path}/*/a.*").frames()]
    assert names == ["x_a_jpg", "x_a_png", "y_a_png"]


def test_images_are_bgr_and_upright(tmp_path: Path) -> None:
    image = np.zeros((16, 24, 3), np.uint8)
    image[..., 0] = 250  # blue
    cv2.imwrite(str(tmp_path / "blue.png"), image)
    frame = next(open_source(tmp_path / "blue.png").frames())
    np.testing.assert_array_equal(frame.image, image)
    assert frame.suffix == ".png"


def test_one_unreadable_image_does_not_stop_the_others(photos: Path) -> None:
    data = (photos / "a.jpg").read_bytes()
    (photos / "a.jpg").write_bytes(data[: len(data) // 2])
    frames = list(open_source(photos).frames())
    assert frames[0].image is None and "a.jpg" in frames[0].problem
    assert [frame.image is None for frame in frames] == [True, False, False]


@pytest.mark.parametrize(
    "kind", ["missing", "no images", "glob", "text file", "video folder", "long", "null"]
)
def test_nothing_to_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/drive.mp4").write_bytes(b"x")
    (tmp_path / "a.txt").write_text("hello")
    reference, message = {
        "missing": (tmp_path / "nowhere", "no file or folder"),
        "no images": (tmp_path / "empty", r"has no image in it \(0 files"),
        "glob": (f"{tmp_path}/*.txt", r"no image matches .*\(1 files do\)"),
        "text file": (tmp_path / "a.txt", "neither an image nor a video"),
        "video folder": (tmp_path / "videos", r"name that file"),
        "long": (tmp_path / ("x" * 5000), "no file or folder .*too long"),
        "null": ("a\0b", r"no file or folder a\\x00b \("),
    }[kind]
    with pytest.raises(DataError, match=message):
        open_source(reference)


HOSTILE_NAMES = [
    b"-rf.png",
    b"--output=x.png",
    b".hidden.png",
    b"new\nline.png",
    b"\x1b[2Jclear.png",
    b"caf\xe9 \xff.png",
    b"back\\slash.png",
    b"a:b*c?.png",
    "turned\u202egnp.png".encode(),
    b"x" * 240 + b".png",
    b"x" * 239 + b"y.png",
    "日本".encode() * 39 + b".png",
    b" .png",
]


def test_names_of_any_bytes_become_names_that_are_safe_and_unique(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "photos")
    os.mkdir(folder)
    content = cv2.imencode(".png", grey(7))[1].tobytes()
    for name in HOSTILE_NAMES:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
    with open(os.path.join(folder, b"broken\n\x1b\xff.png"), "wb") as file:
        file.write(content[:30])
    frames = list(open_source(tmp_path / "photos").frames())
    names = [frame.name for frame in frames]
    assert len(set(names)) == len(HOSTILE_NAMES) + 1
    (tmp_path / "out").mkdir()
    for name in names:
        assert name.isprintable() and not set(name) & set('/\\:*?"<>|') and name[0] not in "-. "
        assert len(name.encode()) <= LONGEST_NAME + 7
        (tmp_path / f"out/{name}.overlay.png").touch()
    assert len(os.listdir(tmp_path / "out")) == len(names)
    (problem,) = [frame.problem for frame in frames if frame.image is None]
    assert problem.isprintable() and r"broken\n\x1b\udcff.png" in problem
    assert sum(frame.image is not None for frame in frames) == len(HOSTILE_NAMES)


def test_a_safe_name_is_one_part_of_a_path() -> None:
    for text in ("../../etc/passwd", "..", "", "/", "a/../b", "\x00", "-"):
        name = safe_name(text)
        assert name and "/" not in name and name not in ("..", ".") and not name.startswith(("-", "."))
    assert safe_name("drive 1") == "drive 1" and safe_name("Straße_früh.v2") == "Straße_früh.v2"
    assert safe_name("x" * 500) != safe_name("x" * 501)
    assert shown("plain é 日本") == "plain é 日本" and shown("a\nb\udcff") == r"a\nb\udcff"


def test_what_is_no_file_is_an_error_and_never_waited_for(photos: Path, tmp_path: Path) -> None:
    (photos / "a.jpg").unlink()
    os.mkfifo(photos / "a.jpg")
    (photos / "d.jpg").mkdir()
    (photos / "e.jpg").symlink_to("e.jpg")
    (photos / "f.jpg").symlink_to("nowhere.jpg")
    (photos / "g.jpg").symlink_to("/dev/zero")
    frames = list(open_source(photos).frames())
    assert [frame.name for frame in frames] == ["a", "b", "c", "e", "f", "g"]
    problems = {frame.name: frame.problem for frame in frames if frame.image is None}
    assert "no regular file" in problems["a"] and "no regular file" in problems["g"]
    assert "symbolic links" in problems["e"] and "No such file" in problems["f"]
    with pytest.raises(DataError, match="no regular file"):
        open_source(photos / "a.jpg")
    with pytest.raises(DataError, match="no regular file"):
        open_source("/dev/zero")
    with pytest.raises(DataError, match="symbolic links"):
        open_source(photos / "e.jpg")
    with pytest.raises(DataError, match="no regular file"):
        VideoSource(photos / "a.jpg")


def test_limits_are_the_callers(photos: Path) -> None:
    frames = list(open_source(photos, limits=InputLimits(max_pixels=48 * 64 - 1)).frames())
    assert all(f.image is None and "64x48 pixels" in f.problem and "max_pixels" in f.problem for f in frames)
    assert all(f.image is not None for f in open_source(photos, limits=InputLimits(max_side=64)).frames())
    assert all(f.image is None for f in open_source(photos, limits=InputLimits(min_side=49)).frames())
