"""Images are found in a stream of JPEG bytes wherever it is cut, and garbage costs no image beside it."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from live_servers import jpeg

from cpsl_deploy.sources import jpeg_stream
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


class Counted:
    """Counts the bytes that a parser looks at, and the steps it takes, whichever way it does it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.work = 0
        counted = self

        class Data(bytearray):
            def find(self, sought: bytes, start: int = 0) -> int:
                found = super().find(sought, start)
                counted.work += (found if found >= 0 else len(self)) - start + 1
                return found

            def __getitem__(self, at: Any) -> Any:
                got = super().__getitem__(at)
                counted.work += len(got) if isinstance(at, slice) else 1
                return got

        class Pattern:
            def __init__(self, pattern: re.Pattern[bytes]) -> None:
                self._pattern = pattern

            def _count(self, found: re.Match[bytes] | None, missed: int) -> re.Match[bytes] | None:
                counted.work += missed if found is None else found.end() - found.pos + 1
                return found

            def search(self, data: bytes, at: int = 0) -> re.Match[bytes] | None:
                return self._count(self._pattern.search(data, at), len(data) - at)

            def match(self, data: bytes, at: int = 0) -> re.Match[bytes] | None:
                return self._count(self._pattern.match(data, at), 1)

            def fullmatch(self, data: bytes) -> re.Match[bytes] | None:
                return self._count(self._pattern.fullmatch(data), len(data))

        for name, value in vars(jpeg_stream).copy().items():
            if isinstance(value, re.Pattern):
                monkeypatch.setattr(jpeg_stream, name, Pattern(value))
        self._stream = JpegStream(1 << 20)
        self._stream._data = Data()

    def of(self, data: bytes, step: int) -> float:
        """Per byte."""
        for at in range(0, len(data), step):
            list(self._stream.feed(data[at : at + step]))
        return self.work / len(data)


HEADER = jpeg(1)[: jpeg(1).index(b"\xff\xda") + 14]
CHAIN = b"\xff\xd8\xff\xdb\x00\x0c\xff\xd8\xff\xdb\x00\x06\0\0" * 20_000
"""Each image begins in a segment of the one before, and all of them go on to the same end."""


@pytest.mark.parametrize(
    "hostile",
    [
        b"\xff\xd8\xff\xe0\x00\x04ab" + bytes(500_000),
        b"\xff\xd8" + b"\xff" * 500_000,
        HEADER + b"\xff" * 500_000,
        HEADER + bytes(500_000),
        b"\xff\xd8\xff\xdb\x00\x00" * 50_000,
        b"\xff\xd8\xff\xdb\xff\xff" * 50_000,
        b"\xff\xd8" + b"\xff\xdb\x00\x0a\xff\xd8\xff\xdb\x00\x02" * 30_000 + bytes(10),
        b"\xff\xd8\xff\xdb\xff\xf0"
        + b"\xff\xd8\xff\xdb\x00\x02" * 10_000
        + HEADER[2:]
        + bytes(200_000)
        + b"\xff\xc4\0\2\0\0",
        CHAIN + bytes(10),
        (b" " * 1000 + b"x\xff\xd8\xff") * 300,
        bytes(500_000),
        random.Random(3).randbytes(300_000),
        jpeg(0) * 300,
    ],
    ids=lambda data: f"{data[:8].hex()}-{len(data)}",
)
@pytest.mark.parametrize("step", [97, 4096, 1 << 16])
def test_the_work_is_in_proportion_to_the_bytes(
    hostile: bytes, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Counted(monkeypatch).of(hostile, step) < 12


def test_an_image_behind_garbage_that_looks_like_one_is_found() -> None:
    for garbage in (
        b"\xff\xd8\xff\xe0\x00\x04ab" + bytes(300),
        b"\xff\xd8\xff\x00\xd9",
        b"\xff\xd8\xff\xdb\0\0",
        CHAIN[:140] + bytes(10),
    ):
        found = found_in(garbage + jpeg(1) + jpeg(2), 64)
        assert found[-2:] == [Jpeg(jpeg(1), 48, 64), Jpeg(jpeg(2), 48, 64)], garbage
