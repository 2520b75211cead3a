"""Images are found in a stream of JPEG bytes wherever it is cut, and garbage costs no image beside it."""

from __future__ import annotations

import random

import pytest
from live_servers import jpeg

from cpsl_deploy.sources.jpeg_stream import Broken, Jpeg, JpegStream


def found_in(data: bytes, step: int, most: int = 1 << 20) -> list[Jpeg | Broken]:
    stream = JpegStream(most)
    found: list[Jpeg | Broken] = []
    for at in range(0, len(data), step):
        found += stream.feed(data[at : at + step])
    return [*found, *stream.end()]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100, 1 << 20])
def test_images_come_out_as_they_went_in(step: int) -> None:
    images = [jpeg(number, (20 + number, 30)) for number in range(4)]
    found = found_in(b"".join(images), step)
    assert [(image.data, image.height, image.width) for image in found if isinstance(image, Jpeg)] == [
        (image, 20 + number, 30) for number, image in enumerate(images)
    ]
    assert len(found) == 4


@pytest.mark.parametrize("step", [1, 5, 1 << 20])
def test_a_stretch_of_garbage_counts_once(step: int) -> None:
    noise = random.Random(1).randbytes(5000).replace(b"\xff", b"\xfe")
    found = found_in(noise + jpeg(1) + b"\x01" + jpeg(2) + noise, step)
    kinds = ["image" if isinstance(item, Jpeg) else "broken" for item in found]
    assert kinds == ["broken", "image", "broken", "image", "broken"]


@pytest.mark.parametrize("step", [1, 5, 64, 1 << 20])
def test_the_lines_of_a_multipart_stream_are_no_garbage(step: int) -> None:
    part = b"\r\n--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 99\r\n\r\n"
    found = found_in(b"".join(part + jpeg(number) for number in range(5)) + b"\r\n--frame--\r\n\0\0", step)
    assert [type(item) for item in found] == [Jpeg] * 5


@pytest.mark.parametrize("step", [1, 1 << 20])
def test_an_image_cut_in_the_middle_costs_itself_only(step: int) -> None:
    whole = jpeg(1, (200, 300))
    for cut in (3, 10, len(whole) // 2, len(whole) - 2):
        found = found_in(jpeg(0) + whole[:cut] + jpeg(2) + jpeg(3), step)
        assert sum(isinstance(item, Jpeg) for item in found) >= 2, cut
        assert found[0] == Jpeg(jpeg(0), 48, 64) and found[-1] == Jpeg(jpeg(3), 48, 64), cut
        assert 1 <= sum(isinstance(item, Broken) for item in found) <= 2, cut


def test_the_end_within_an_image_is_told() -> None:
    found = found_in(jpeg(0) + jpeg(1)[:-2], 50)
    assert [type(item) for item in found] == [Jpeg, Broken] and "ends within" in found[1].reason


def test_a_thumbnail_within_an_image_is_no_frame() -> None:
    whole, small = jpeg(1, (100, 100)), jpeg(2, (16, 16))
    segment = b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small
    nested = whole[:2] + segment + whole[2:]
    assert found_in(nested + jpeg(3), 11) == [Jpeg(nested, 100, 100), Jpeg(jpeg(3), 48, 64)]


def test_memory_is_bounded_whatever_comes() -> None:
    most = 10_000
    stream = JpegStream(most)
    image = jpeg(1)
    start = image[: image.index(b"\xff\xda") + 14]
    hostile = (
        bytes(1000) * 100,  # zeros
        b"\xff\xd8\xff" + bytes(1000) * 100,  # a header that makes no sense
        start + b"\x55" * 100_000,  # coded data without end
        b"\xff\xd8" + b"\xff\xe1\xff\xff" * 50_000,  # segments
        b"\xff" * 100_000,
        b"a" * 100_000,
    )
    for data in hostile:
        for at in range(0, len(data), 500):
            list(stream.feed(data[at : at + 500]))
            assert len(stream._data) <= most + 66_000
    assert [item for item in stream.feed(image + image) if isinstance(item, Jpeg)]


def test_a_header_cut_off_costs_nothing_of_the_image_that_follows() -> None:
    whole = jpeg(1, (400, 400))
    for cut in range(30, 600, 15):
        found = found_in(whole[:cut] + jpeg(2) + jpeg(3), 1 << 20)
        assert found[1:] == [Jpeg(jpeg(2), 48, 64), Jpeg(jpeg(3), 48, 64)], cut
        assert isinstance(found[0], Broken)
