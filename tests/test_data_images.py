"""Files are read exactly, or refused."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from cpsl_deploy.data.images import image_size, orientation, read_image, read_mask
from cpsl_deploy.errors import DataError

rng = np.random.default_rng(0)


def png(indices: np.ndarray, depth: int, palette: list[tuple[int, int, int]]) -> bytes:
    """A palette PNG, written by hand because OpenCV writes none."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    bits = np.unpackbits(indices[..., None], axis=-1)[..., 8 - depth :].reshape(len(indices), -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    header = struct.pack(">IIBBBBB", indices.shape[1], indices.shape[0], depth, 3, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"PLTE", bytes(sum(palette, ())))
        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )  # fmt: skip


def with_orientation(jpeg: bytes, value: int) -> bytes:
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palette_masks_give_indices_even_where_colours_repeat(tmp_path, depth):
    indices = rng.integers(0, min(2**depth, 34), (5, 8), dtype=np.uint8)
    path = tmp_path / "mask.png"
    path.write_bytes(png(indices, depth, [(i % 3, 0, 0) for i in range(2**depth)]))
    np.testing.assert_array_equal(read_mask(path), indices)


def test_sixteen_bit_ids_come_from_the_red_channel(tmp_path):
    ids = rng.integers(0, 600, (4, 6), dtype=np.uint16)
    instance = np.full_like(ids, 7)
    cv2.imwrite(str(tmp_path / "m.png"), np.dstack([np.zeros_like(ids), instance, ids]))  # OpenCV writes BGR
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", channel=0), ids)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", channel=1), instance)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.3, 0.8, 0.98])
def test_a_truncated_image_is_an_error_not_half_a_picture(tmp_path, suffix, kept):
    path = tmp_path / f"road{suffix}"
    cv2.imwrite(str(path), rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = path.read_bytes()
    path.write_bytes(data + b"\0" * 20)
    assert read_image(path).shape == (64, 64, 3)
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(DataError, match=f"road{suffix} is truncated"):
        read_image(path)


def test_an_end_marker_in_a_thumbnail_does_not_hide_a_truncation(tmp_path):
    jpeg = cv2.imencode(".jpg", rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))[1].tobytes()
    thumbnail = b"Exif\0\0\xff\xd8\xff\xd9"
    whole = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + jpeg[2:]
    (tmp_path / "a.jpg").write_bytes(whole)
    assert read_image(tmp_path / "a.jpg").shape == (64, 64, 3)
    (tmp_path / "a.jpg").write_bytes(whole[:-300])
    with pytest.raises(DataError, match="truncated"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), (b"", "is empty"), (b"hello", "is not a readable image")]
)
def test_what_is_no_image_is_named(tmp_path, content, message):
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"x.png.*{message}"):
        read_image(path)


def test_orientation_is_followed_only_where_asked(tmp_path):
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, :16] = 255
    path = tmp_path / "phone.jpg"
    path.write_bytes(with_orientation(cv2.imencode(".jpg", picture)[1].tobytes(), 6))
    assert orientation(path) == 6
    stored, upright = read_image(path), read_image(path, upright=True)
    assert stored.shape == (16, 32, 3) and image_size(path) == (16, 32)
    assert upright.shape == (32, 16, 3) and image_size(path, upright=True) == (32, 16)
    assert stored[:, :8].min() > 200 and upright[:8].min() > 200


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
def test_sizes_are_those_of_the_picture(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), np.zeros((12, 20, 3), np.uint8))
    assert image_size(path) == (12, 20) == read_image(path).shape[:2]
    assert orientation(path) == 1
