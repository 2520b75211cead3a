"""Colours, legends, contact sheets and palette PNG files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from cpsl_deploy import IGNORE, ClassSpace, InputError, OutputError
from cpsl_deploy.classes import CITYSCAPES_19
from cpsl_deploy.data.images import read_mask
from cpsl_deploy.overlay import (
    blend,
    colourise,
    contact_sheet,
    draw_legend,
    encode_label_png,
    shares,
    write_image,
    write_label_png,
)

CLASSES = ClassSpace(("road", "sky", "car"), ((128, 64, 128), (70, 130, 180), (0, 0, 142)))


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, (37, 53), dtype=np.uint8)


def test_colourise_is_bgr(labels: np.ndarray) -> None:
    labels[0, 0] = IGNORE
    colours = colourise(labels, CLASSES)
    assert colours.dtype == np.uint8
    np.testing.assert_array_equal(colours, CLASSES.colour_table[labels][..., ::-1])
    assert colours[0, 0].tolist() == [0, 0, 0]


def test_blend_mixes_in_proportion_and_keeps_ignored_pixels(labels: np.ndarray) -> None:
    image = np.full((37, 53, 3), 200, np.uint8)
    labels[5, 5] = IGNORE
    blended = blend(image, labels, CLASSES, 0.25)
    expected = 0.75 * 200 + 0.25 * CLASSES.colour_table[labels][..., ::-1].astype(float)
    expected[5, 5] = 200
    assert np.abs(blended - expected).max() <= 0.5 + 1e-6
    assert image.min() == 200  # the image given stays as it was
    np.testing.assert_array_equal(blend(image, labels, CLASSES, 0), image)


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_opacity_out_of_range(labels: np.ndarray, opacity: float) -> None:
    with pytest.raises(InputError, match="opacity is from 0 to 1"):
        blend(np.zeros((37, 53, 3), np.uint8), labels, CLASSES, opacity)


def test_labels_of_another_size(labels: np.ndarray) -> None:
    with pytest.raises(InputError, match="image's size"):
        blend(np.zeros((37, 54, 3), np.uint8), labels, CLASSES)


def test_shares_count_every_pixel(labels: np.ndarray) -> None:
    labels[:4] = IGNORE
    expected = [(labels == k).mean() for k in range(3)]
    np.testing.assert_allclose(shares(labels, CLASSES), expected, rtol=1e-6)


def swatches(image: np.ndarray, classes: ClassSpace) -> set[str]:
    """Names whose exact colour appears in the image. Grey classes are left out: text has every grey."""
    present = {tuple(colour) for colour in image.reshape(-1, 3)[:, ::-1].tolist()}
    return {
        name
        for name, colour in zip(classes.names, classes.palette, strict=True)
        if colour in present and len(set(colour)) > 1
    }


@pytest.mark.parametrize("size", [(96, 160), (360, 480), (1080, 1920)])
def test_legend_has_the_classes_present_and_no_others(size: tuple[int, int]) -> None:
    labels = np.full(size, 10, np.uint8)  # sky
    labels[size[0] // 2 :] = 0  # road
    labels[0, 0] = 18  # one pixel of bicycle: too little to be listed
    image = np.full((*size, 3), 77, np.uint8)
    draw_legend(image, labels, CITYSCAPES_19)
    assert swatches(image, CITYSCAPES_19) == {"sky", "road"}
    assert (image[size[0] // 2 :, size[1] // 2 :] == 77).all()  # it stays in its corner


def test_legend_grows_with_the_image() -> None:
    def drawn(height: int, width: int) -> int:
        image = np.full((height, width, 3), 77, np.uint8)
        draw_legend(image, np.zeros((height, width), np.uint8), CLASSES)
        return int((image != 77).any(axis=2).sum())

    assert drawn(1080, 1920) > 2.5 * drawn(540, 960) > 2.5 * drawn(400, 400)


def test_legend_with_too_many_classes_keeps_the_largest() -> None:
    labels = np.repeat(np.arange(19, dtype=np.uint8), 20)[None].repeat(90, 0)
    labels[:, 190:] = 0
    image = np.full((*labels.shape, 3), 77, np.uint8)
    draw_legend(image, labels, CITYSCAPES_19)
    kept = swatches(image, CITYSCAPES_19)
    assert "road" in kept and 1 <= len(kept) < 10


@pytest.mark.parametrize("size", [(1, 1), (5, 400), (400, 5), (400, 3), (30, 30)])
def test_legend_on_a_tiny_image_is_no_error(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    draw_legend(image, np.zeros(size, np.uint8), CLASSES)
    assert image.shape == (*size, 3)


def test_label_png_is_a_palette_png_with_the_labels_in_it(labels: np.ndarray, tmp_path: Path) -> None:
    labels[2, 3] = IGNORE
    path = tmp_path / "labels.png"
    write_label_png(path, labels, CLASSES)
    decoded = cv2.imread(str(path), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded, CLASSES.colour_table[labels][..., ::-1])
    np.testing.assert_array_equal(read_mask(path), labels)
    pillow = pytest.importorskip("PIL.Image")
    with pillow.open(path) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels)


def test_label_png_chunks_are_sound(labels: np.ndarray) -> None:
    data, at, kinds = encode_label_png(labels, CLASSES), 8, []
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        assert crc == zlib.crc32(data[at + 4 : at + 8 + length])
        kinds.append(kind)
        at += 12 + length
    assert kinds == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.int64), np.zeros((4, 4, 1), np.uint8)])
def test_label_png_of_something_else(wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match="label map is uint8"):
        encode_label_png(wrong, CLASSES)


def test_contact_sheet_places_every_image() -> None:
    images = [np.full((40 + 10 * i, 80, 3), 50 * i + 40, np.uint8) for i in range(4)]
    sheet = contact_sheet(images, titles=["a", "b", "c", "d"], columns=3, cell_width=80)
    assert sheet.shape[1] == 3 * 86 + 6
    for image in images:
        assert (sheet == image[0, 0]).all(axis=2).sum() >= image.shape[0] * image.shape[1]
    with pytest.raises(InputError, match="as many titles"):
        contact_sheet(images, titles=["a"])


def test_write_image(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    write_image(tmp_path / "a.png", image)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png")), image)
    with pytest.raises(InputError, match=r"'\.xyz'"):
        write_image(tmp_path / "a.xyz", image)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_image(tmp_path / "file/a.png", image)
