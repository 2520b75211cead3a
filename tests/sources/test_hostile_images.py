"""Images of every kind that someone may name, by mistake or on purpose."""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from cpsl_deploy import DataError, InputError
from cpsl_deploy.data.image_header import image_header
from cpsl_deploy.data.images import read_image, read_image_bgr, read_mask
from cpsl_deploy.sources.base import InputLimits
from cpsl_deploy.sources.files import open_source

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")

SIZE = 64, 96
BLUE = 200, 60, 30  # BGR
CMYK_JPEG = base64.b85decode(
    "|JeWT01iQ9Z(?NtWB>pF0095n07C!+0s;d90s{jB0|WyD1O*5M1q1{I3I_)U2n-4g3=0Yi3k?nu5Dg9y4hstq77!5=6crT}3=bC=78Do~"
    "6crTzzyK5o01yBW1Va%3O%VWD5dcdO0RO}Q761VO0RR910000000000000083ID_Z6c7Ob00000000000000000030+5ip&LjX+xSpZ7_06"
    "ze*5>q~!rT_o{|Je"
)  # fmt: skip
"""16x16 of `BLUE`, red and blue exchanged: nothing here writes CMYK."""


def picture(size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((*size, 3), BLUE, np.uint8)


def noise(size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)


def encoded(suffix: str, image: np.ndarray | None = None, *options: int) -> bytes:
    return cv2.imencode(suffix, picture() if image is None else image, options)[1].tobytes()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    height: int, width: int, depth: int, colours: int, rows: bytes | None = None, *chunks: bytes
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    rows = bytes(height * (1 + width * depth // 8)) if rows is None else rows
    body = chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + body


def tiff(tags: dict[int, int], *, big: bool = False, order: str = "<", twice: tuple[int, int] = ()) -> bytes:
    """``twice``: a tag that comes again, with another value."""
    mark = b"II" if order == "<" else b"MM"
    pairs = sorted([*tags.items(), twice] if twice else tags.items(), key=lambda pair: pair[0])
    form = order + ("HHQQ" if big else "HHII")
    entries = b"".join(struct.pack(form, tag, 16 if big else 4, 1, value) for tag, value in pairs)
    if big:
        head = struct.pack(order + "HHHQQ", 43, 8, 0, 16, len(pairs))
    else:
        head = struct.pack(order + "HIH", 42, 8, len(pairs))
    return mark + head + entries + bytes(16)


def patched(data: bytes, at: int, kind: str, *values: int) -> bytes:
    return data[:at] + struct.pack(kind, *values) + data[at + struct.calcsize(kind) :]


def with_size(suffix: str, height: int, width: int) -> bytes:
    """A whole small image whose header announces another size."""
    data = encoded(suffix)
    if suffix == ".png":
        header = struct.pack(">II", width, height) + data[24:29]
        return data[:8] + chunk(b"IHDR", header) + data[33:]
    if suffix == ".jpg":
        return patched(data, data.index(b"\xff\xc0") + 5, ">HH", height, width)
    if suffix == ".bmp":
        return patched(data, 18, "<ii", width, -height)
    if suffix == ".gif":
        return patched(data, 6, "<HH", width, height)
    raise ValueError(suffix)


def webp(height: int, width: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    inner = encoded(".webp", None, cv2.IMWRITE_WEBP_QUALITY, 80)[12:]
    extended = b"WEBPVP8X" + struct.pack("<II", 10, 0) + canvas + inner
    return b"RIFF" + struct.pack("<I", len(extended)) + extended


LARGE = {256: 100_000, 257: 100_000, 258: 8, 259: 8, 262: 1, 273: 200, 277: 1, 278: 100_000, 279: 16}
BOMBS = {
    "announced.png": with_size(".png", 100_000, 100_000),
    "deflated.png": png(20_000, 20_000, 1, 0),
    "announced.jpg": with_size(".jpg", 65_500, 65_500),
    "announced.bmp": with_size(".bmp", 100_000, 100_000),
    "announced.gif.png": with_size(".gif", 65_535, 65_535),
    "announced.webp": webp(1 << 24, 1 << 24),
    "lossless.webp": b"RIFF\x20\0\0\0WEBPVP8L\x10\0\0\0\x2f" + struct.pack("<I", 0x0FFFFFFF) + bytes(16),
    "announced.tif": tiff(LARGE),
    "big.tif": tiff(LARGE, big=True),
    "motorola.tif": tiff(LARGE, order=">"),
    "twice.tif": tiff(LARGE, twice=(256, 16)),
    "tiles.tif": tiff({**LARGE, 256: 64, 257: 64, 322: 30_000, 323: 30_000, 324: 200, 325: 16}),
    "scans.jpg": encoded(".jpg").replace(b"\xff\xd9", b"\xff\xda" * 5000 + b"\xff\xd9"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_a_header_announces_is_looked_at_first(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(BOMBS[name]) < 80_000
    (tmp_path / name).write_bytes(BOMBS[name])
    (frame,) = open_source(tmp_path / name).frames()
    assert frame.image is None and name in frame.problem and "announces" in frame.problem
    assert "limit max_" in frame.problem or "scans" in frame.problem
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    for read in (read_image, read_mask):
        if name == "lossless.webp":
            continue  # the largest of its kind, 16384x16384, is still a photo that one may train on
        with pytest.raises(DataError, match="announces"):
            read(tmp_path / name)


_BOUNDED = """
import json, re, resource, sys
from pathlib import Path
from cpsl_deploy.sources.files import open_source
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))

def peak_kib():  # of this program alone: what getrusage tells includes the one that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = peak_kib()
frames = list(open_source(sys.argv[1]).frames())
after = peak_kib()
images = sum(frame.image is not None for frame in frames)
print(json.dumps({"kib": after - before, "images": images, "n": len(frames)}))
"""


@linux
def test_bombs_cost_no_memory(tmp_path: Path) -> None:
    for name, data in BOMBS.items():
        (tmp_path / name).write_bytes(data)
    # A file of many gigabytes on disk, of which none takes any space there.
    for name, head in (("sparse.bmp", encoded(".bmp")), ("sparse.png", b"")):
        with open(tmp_path / name, "wb") as file:
            file.write(head)
            file.truncate(40 << 30)
    command = [sys.executable, "-c", _BOUNDED, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["images"] == 0 and seen["n"] == len(BOMBS) + 2 and seen["kib"] < 30_000, seen


def test_limits_can_be_raised_and_a_large_image_is_then_read(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png(6000, 6000, 1, 0))
    with pytest.raises(
        DataError,
        match=r"announces 6000x6000 pixels, which is more than 33177600 \(limit max_pixels\)\..*--max-pixels",
    ):
        read_image_bgr(path, limits=InputLimits())
    assert read_image_bgr(path, limits=InputLimits(max_pixels=36_000_000)).shape == (6000, 6000, 3)
    assert InputLimits(max_pixels=400_000_000).broken_by(20_000, 20_000) == ""
    with pytest.raises(InputError, match="max_side = 0"):
        InputLimits(max_side=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (15, 16)])
def test_images_too_small_to_show_anything(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "a.png").write_bytes(encoded(".png", picture(size)))
    (frame,) = open_source(tmp_path / "a.png").frames()
    assert frame.image is None and "limit min_side" in frame.problem
    assert next(open_source(tmp_path / "a.png", limits=InputLimits(min_side=1)).frames()).image is not None
    assert read_image(tmp_path / "a.png").shape == (*size, 3)  # of a dataset, where nothing is asked


def animation(suffix: str) -> bytes:
    frames = cv2.Animation()
    frames.frames = [
        np.full((*SIZE, 4), (*colour, 255), np.uint8) for colour in (BLUE, (0, 0, 0), (9, 99, 199))
    ]
    frames.durations = np.array([100, 100, 100])
    return cv2.imencodeanimation(suffix, frames)[1].tobytes()


PALETTE = chunk(b"PLTE", bytes([0, 0, 0, *BLUE[::-1]]))
READ_AS_BLUE = {
    "png": lambda: encoded(".png"),
    "jpg": lambda: encoded(".jpg"),
    "bmp": lambda: encoded(".bmp"),
    "tif": lambda: encoded(".tif"),
    "webp": lambda: encoded(".webp"),
    "16 bit png": lambda: encoded(".png", picture().astype(np.uint16) * 257),
    "16 bit tif": lambda: encoded(".tif", picture().astype(np.uint16) * 257),
    "alpha png": lambda: encoded(".png", np.dstack([picture(), np.zeros(SIZE, np.uint8)])),
    "cmyk jpg": lambda: CMYK_JPEG,
    "palette png": lambda: png(16, 16, 8, 3, (b"\0" + b"\1" * 16) * 16, PALETTE),
    "palette png with transparency": lambda: png(
        16, 16, 8, 3, (b"\0" + b"\1" * 16) * 16, PALETTE, chunk(b"tRNS", b"\0\0")
    ),
    "gif": lambda: encoded(".gif"),
    "animated gif": lambda: animation(".gif"),
    "animated webp": lambda: animation(".webp"),
    "animated png": lambda: animation(".png"),
    "bytes after the end": lambda: encoded(".jpg") + b"\0" * 100,
}


@pytest.mark.parametrize("name", ["a.jpg", "a.PNG", "a.tiff"])
@pytest.mark.parametrize("kind", READ_AS_BLUE)
def test_every_kind_is_read_under_any_name(tmp_path: Path, kind: str, name: str) -> None:
    if "animated" in kind and not hasattr(cv2, "imencodeanimation"):
        pytest.skip("this OpenCV writes no animations")
    (tmp_path / name).write_bytes(READ_AS_BLUE[kind]())
    (frame,) = open_source(tmp_path / name).frames()
    assert frame.image is not None, frame.problem
    assert frame.image.dtype == np.uint8 and frame.image.ndim == 3 and frame.image.flags.c_contiguous
    colour = frame.image.mean((0, 1))
    # OpenCV writes a GIF with few colours, in a pattern.
    np.testing.assert_allclose(
        colour, BLUE[::-1] if "cmyk" in kind else BLUE, atol=25 if "gif" in kind else 3
    )
    assert "gif" in kind or np.ptp(frame.image, (0, 1)).max() <= 2


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    ramp = np.linspace(0, 65535, 64 * 96).astype(np.uint16).reshape(SIZE)
    (tmp_path / "a.png").write_bytes(encoded(suffix, ramp))
    (frame,) = open_source(tmp_path / "a.png").frames()
    assert np.abs(frame.image - (ramp / 257)[..., None]).max() <= 1
    assert (frame.image[0, 0] == 0).all() and (frame.image[-1, -1] == 255).all()


def test_grey_is_repeated(tmp_path: Path) -> None:
    ramp = np.arange(64 * 96, dtype=np.uint16).reshape(SIZE).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(encoded(".png", ramp))
    np.testing.assert_array_equal(next(open_source(tmp_path / "a.png").frames()).image, np.dstack([ramp] * 3))


def test_exif_orientation_turns_a_photo(tmp_path: Path) -> None:
    half = picture()
    half[:, 48:] = 255
    jpeg = encoded(".jpg", half)
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    (tmp_path / "a.jpg").write_bytes(
        jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    )
    image = next(open_source(tmp_path / "a.jpg").frames()).image
    assert image.shape == (96, 64, 3) and image[60:].min() > 240 and image[:40, :, 2].max() < 60


BAD = {
    "empty": b"",
    "one byte": b"\xff",
    "text": b"hello, I am a JPEG\n" * 50,
    "html": b"<html>404</html>",
    "zeros": bytes(5000),
    "jpeg signature alone": b"\xff\xd8\xff\xe0",
    "png signature alone": b"\x89PNG\r\n\x1a\n",
    "png without header": b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b"") * 3,
    "tif signature alone": b"II*\0\x08\0\0\0",
    "tif whose directory is outside": b"II*\0" + struct.pack("<I", 1 << 31) + bytes(100),
    "tif of no size": tiff({258: 8}),
    "webp signature alone": b"RIFF\x10\0\0\0WEBPVP8X",
    "webp of another kind": b"RIFF\x10\0\0\0WEBPXXXX" + bytes(40),
    "bmp signature alone": b"BM" + bytes(10),
    "gif signature alone": b"GIF89a",
    "png of nothing": with_size(".png", 0, 0),
    "png larger than its data": with_size(".png", 640, 960),
    "32 bit float tif": encoded(".tif", picture().astype(np.float32)),
    "portable pixmap": b"P6 64 64 255\n" + bytes(64 * 64 * 3),
    "jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
    "zip": b"PK\x03\x04" + bytes(200),
    **{f"half a {s[1:]}": encoded(s, noise())[: len(encoded(s, noise())) // 2] for s in
       (".jpg", ".png", ".bmp", ".tif", ".webp", ".gif")},
}  # fmt: skip


def test_bad_images_among_good_ones_are_told_of_one_by_one(tmp_path: Path) -> None:
    for number, data in enumerate(BAD.values()):
        (tmp_path / f"{number:02d}-bad.jpg").write_bytes(data)
        (tmp_path / f"{number:02d}-good.jpg").write_bytes(encoded(".jpg"))
    frames = list(open_source(tmp_path).frames())
    assert len(frames) == 2 * len(BAD)
    for frame, kind in zip(frames[::2], BAD, strict=True):
        assert frame.image is None and frame.name in frame.problem and frame.problem.isprintable(), kind
    assert all(frame.image is not None for frame in frames[1::2])


def test_random_bytes_behind_every_signature_are_harmless() -> None:
    rng = np.random.default_rng(5)
    starts = [b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", b"\xff\xd8", b"II*\0", b"MM\0*", b"II+\0", b"BM", b"GIF89a"]
    starts += [b"RIFF\0\0\0\0WEBP" + kind for kind in (b"VP8 ", b"VP8L", b"VP8X")]
    for start in starts:
        for _ in range(200):
            header = image_header(start + rng.bytes(int(rng.integers(0, 300))))
            assert header is None or min(header.height, header.width) >= 0
    valid = encoded(".tif")
    for at in range(len(valid) - 200, len(valid)):
        image_header(valid[:at])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp", ".gif"])
def test_the_header_says_what_decoding_gives(suffix: str) -> None:
    header = image_header(encoded(suffix, noise((37, 53))))
    assert header is not None and (header.height, header.width) == (37, 53)
