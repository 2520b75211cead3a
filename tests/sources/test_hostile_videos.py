"""Video files that someone may name, by mistake or on purpose."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import subprocess
import sys
from pathlib import Path

import av
import pytest
from video_files import write_video

from cpsl_deploy import DataError
from cpsl_deploy.sources.base import InputLimits
from cpsl_deploy.sources.files import open_source

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")


def whole(tmp_path: Path, name: str = "whole.mp4", frames: int = 30, **options: object) -> bytes:
    return write_video(tmp_path / name, frames, **options).read_bytes()


def test_what_is_no_video_is_an_error_that_names_it(tmp_path: Path) -> None:
    data = whole(tmp_path)
    contents = {
        "empty": b"",
        "text": b"hello, I am a video\n" * 100,
        "random": random.Random(0).randbytes(100_000),
        "zeros": bytes(100_000),
        "first half": data[: len(data) // 2],  # its index lies at the end
        "second half": data[len(data) // 2 :],
        "header alone": data[: data.index(b"mdat") + 4],
    }
    for kind, content in contents.items():
        path = tmp_path / f"{kind}.mp4"
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{kind}\.mp4 .*(neither an image nor a video|no frame in it)"):
            open_source(path)


def playlists(folder: Path, port: int) -> dict[str, str]:
    """Files that tell FFmpeg to read others: a secret, a video beside it, an address, a network stream."""
    address = f"http://127.0.0.1:{port}/stolen"
    hls = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" '
        'bandwidth="1"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    )
    return {
        "passwd": hls.format("/etc/passwd"),
        "absolute": hls.format(folder / "beside.ts"),
        "relative": hls.format("beside.ts"),
        "address": hls.format(address),
        "concat": f"ffconcat version 1.0\nfile '{folder}/beside.ts'\n",
        "concat-relative": "ffconcat version 1.0\nfile beside.ts\n",
        "concat-address": f"ffconcat version 1.0\nfile '{address}'\n",
        "dash": dash.format("beside.ts"),
        "dash-address": dash.format(address),
        "sdp": (
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
            f"m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
        ),
        "smil": f'<smil><body><video src="{address}"/></body></smil>',
        "asx": f'<asx version="3.0"><entry><ref href="{address}"/></entry></asx>',
        "reference": f"[Reference]\nRef1={address}\n",
    }


def test_a_playlist_never_opens_what_it_names(tmp_path: Path) -> None:
    whole(tmp_path, "beside.ts")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        for kind, text in playlists(tmp_path, server.getsockname()[1]).items():
            for suffix in (".mp4", ".m3u8", ".txt", ".sdp", ".mpd", ".ts"):
                path = tmp_path / f"{kind}{suffix}"
                path.write_text(text)
                with pytest.raises(DataError, match="neither an image nor a video"):
                    open_source(path)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert len(list(open_source(tmp_path / "beside.ts").frames())) == 30


def pointing_to(data: bytes, name: bytes) -> bytes:
    """A MOV, its index at the end, whose samples are said to lie in another file of the same folder."""
    path = b":volume:" + name
    alias = (
        bytes(10)
        + b"\6"
        + b"volume".ljust(27, b"\0")
        + bytes(12)
        + bytes([len(name)])
        + name.ljust(63, b"\0")
    )
    alias += bytes(16) + struct.pack(">hh", 1, 1) + bytes(16)
    alias += struct.pack(">hH", 2, len(path)) + path + b"\0" * (len(path) % 2) + struct.pack(">hH", -1, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    at = data.index(b"dref") + 12
    changed = bytearray(data[:at] + entry + data[at + 12 :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        size = changed.rindex(box, 0, at) - 4
        changed[size : size + 4] = struct.pack(
            ">I", struct.unpack_from(">I", changed, size)[0] + len(entry) - 12
        )
    return bytes(changed)


def test_a_film_never_shows_another_file(tmp_path: Path) -> None:
    """MOV can keep its samples elsewhere, which FFmpeg follows on request."""
    secret = whole(tmp_path, "secret.mov")
    path = tmp_path / "pointing.mov"
    content = pointing_to(secret, b"secret.mov")
    at = content.index(b"mdat") + 4
    path.write_bytes(
        content[:at] + bytes(content.index(b"moov") - 4 - at) + content[content.index(b"moov") - 4 :]
    )
    with av.open(str(path), options={"enable_drefs": "1"}) as followed:
        assert sum(1 for _ in followed.decode(video=0)) == 30
    with pytest.raises(DataError, match=r"pointing\.mov"):
        open_source(path)


@pytest.mark.parametrize(
    "name", ["http:", "pipe:0", "concat:a|b", "-y", "%03d", "a\nb", "file:", "subfile,,start,0,end,0,,:x"]
)
def test_names_that_look_like_a_protocol_are_names(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{name}.mp4").write_bytes(whole(tmp_path))
    monkeypatch.chdir(tmp_path)
    for reference in (f"{name}.mp4", tmp_path / f"{name}.mp4"):
        frames = list(open_source(reference).frames())
        assert len(frames) == 30 and "/" not in frames[0].name and frames[0].name.isprintable()
    (tmp_path / f"{name}.mp4").write_bytes(b"x")
    with pytest.raises(DataError) as error:
        open_source(f"{name}.mp4")
    assert str(error.value).isprintable()


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"dr\xffive.mp4")
    with open(path, "wb") as file:
        file.write(whole(tmp_path))
    source = open_source(os.fsdecode(path))
    assert source.name == "dr_ive" and len(list(source.frames())) == 30


_BOUNDED = """
import json, re, resource, sys, time
from pathlib import Path
from cpsl_deploy.errors import DataError
from cpsl_deploy.sources.files import open_source
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
seen = []
for path in sorted(Path(sys.argv[1]).iterdir()):
    begin, good, bad, error = time.monotonic(), 0, 0, ""
    try:
        for frame in open_source(path).frames():
            good, bad = good + (frame.image is not None), bad + (frame.image is None)
    except DataError as refused:
        error = str(refused)
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    seen.append(dict(name=path.name, good=good, bad=bad, error=error, s=time.monotonic() - begin, kib=peak))
print(json.dumps(seen))
"""


def read_apart(folder: Path) -> list[dict]:
    """Every file of a folder, read in a process of its own with 3 GB of addresses."""
    done = subprocess.run(
        [sys.executable, "-c", _BOUNDED, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return json.loads(done.stdout)


@linux
def test_bits_that_flipped_end_neither_the_process_nor_the_rest(tmp_path: Path) -> None:
    """50 files: 10 seeds for each of 5 kinds, with 1 to 40 flipped bits in the middle of each."""
    kinds = {
        "h264.mp4": {"options": {"g": "10"}},
        "mpeg4.avi": {"codec": "mpeg4"},
        "h264.ts": {"options": {"g": "10"}},
        "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "10"}},
        "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    }
    (tmp_path / "flipped").mkdir()
    for name, options in kinds.items():
        data = whole(tmp_path, name, **options)
        for seed in range(10):
            flipped, chance = bytearray(data), random.Random(f"{name} {seed}")
            for _ in range(chance.randint(1, 40)):
                flipped[chance.randrange(len(data) // 4, 3 * len(data) // 4)] ^= 1 << chance.randrange(8)
            (tmp_path / f"flipped/{seed}-{name}").write_bytes(flipped)
    seen = read_apart(tmp_path / "flipped")
    assert len(seen) == 50
    for file in seen:
        assert file["s"] < 5 and file["good"] + file["bad"] <= 60, file
    # The index at the end of an MP4 is whole, and so is the header of the others.
    assert sum(file["good"] > 0 for file in seen) >= 45
    assert sum(file["bad"] > 0 for file in seen) >= 15


@linux
def test_sizes_that_are_announced_cost_no_memory(tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    gif = bytearray(whole(tmp_path, "a.gif", 3, codec="gif", pixels="rgb8"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    (folder / "a.gif").write_bytes(gif)
    mjpeg = bytearray(whole(tmp_path, "a.avi", 5, codec="mjpeg", pixels="yuvj420p"))
    at = -1
    while (at := mjpeg.find(b"\xff\xc0", at + 1)) >= 0:
        mjpeg[at + 5 : at + 9] = struct.pack(">HH", 60000, 60000)
    (folder / "a.avi").write_bytes(mjpeg)
    raw = bytearray(whole(tmp_path, "raw.avi", 2, codec="rawvideo", pixels="bgr24"))
    at = raw.index(b"strf") + 12
    raw[at : at + 8] = struct.pack("<ii", 50000, 50000)
    (folder / "raw.avi").write_bytes(raw)
    vp8 = bytearray(whole(tmp_path, "vp8.webm", 3, codec="libvpx"))
    at = vp8.index(b"\x9d\x01\x2a")
    vp8[at + 3 : at + 7] = struct.pack("<HH", 16383, 16383)
    (folder / "vp8.webm").write_bytes(vp8)
    write_video(folder / "small.mp4", 2)
    seen = {file["name"]: file for file in read_apart(folder)}
    assert seen["small.mp4"]["good"] == 2
    for name, file in seen.items():
        assert file["kib"] < 300_000, file
        if name != "small.mp4":
            assert file["good"] == 0 or name == "vp8.webm", file


def test_limits_are_ffmpegs_too(tmp_path: Path) -> None:
    """A frame at the limit is read whatever FFmpeg rounds its rows up to."""
    path = write_video(tmp_path / "a.mp4", 2, size=(34, 66))
    limits = InputLimits(max_pixels=34 * 66, max_side=66)
    assert [frame.problem for frame in open_source(path, limits=limits).frames()] == ["", ""]
