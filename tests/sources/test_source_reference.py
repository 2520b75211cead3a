"""One argument tells every kind of source, and its credentials stay with it."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from cpsl_deploy.errors import DataError, InputError, UnavailableError
from cpsl_deploy.sources.file_feed import FileFeed
from cpsl_deploy.sources.files import open_source
from cpsl_deploy.sources.live import LiveFeed
from cpsl_deploy.sources.reference import NETWORK_SCHEMES, classify


@pytest.mark.parametrize(
    "reference, kind, name, live",
    [
        (0, "camera", "camera-0", True),
        ("3", "camera", "camera-3", True),
        ("/dev/video2", "camera", "camera-2", True),
        ("-", "stdin", "stdin", False),
        ("rtsp://192.168.1.5:8554/drive", "network", "rtsp-192.168.1.5-8554-drive", True),
        ("rtsp://me:secret@192.168.1.5:8554/drive", "network", "rtsp-192.168.1.5-8554-drive", True),
        ("RTSP://10.0.0.5/drive", "network", "RTSP-10.0.0.5-drive", True),
        ("http://cam.example/x?token=abcdef&channel=2", "network", "http-cam.example-x-channel-2", True),
        (" rtsp://me:secret@192.168.1.5:8554/drive\n", "network", "rtsp-192.168.1.5-8554-drive", True),
        ("rtsp://me:it's a secret@cam/drive", "network", "rtsp-cam-drive", True),
        ("http://cam/x?u=me&p=secret", "network", "http-cam-x", True),
        ("udp://127.0.0.1:9999", "network", "udp-127.0.0.1-9999", True),
        ("drive.mp4", "file", "drive", False),
        ("photos/*.png", "file", "photos", False),
        (Path("some/where/photo.jpg"), "file", "photo", False),
    ],
)
def test_the_kind_and_the_name(reference: str, kind: str, name: str, live: bool) -> None:
    told = classify(reference)
    assert (told.kind, told.name, told.live) == (kind, name, live)
    assert "secret" not in repr(told) + told.shown + told.name


def test_digits_are_a_camera_unless_they_are_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert classify("7").kind == "camera"
    Path("7").mkdir()
    assert classify("7").kind == "file"


def test_names_are_file_names_and_tell_streams_apart() -> None:
    wild = [
        "rtsp://host/../../etc/passwd",
        "rtsp://host/" + "a" * 300,
        "rtsp://host/" + "a" * 299 + "b",
        "http://[::1]:8080/ü/ä b",
        "http://host/?channel=1",
        "http://host/?channel=2",
        "srt://host:9000?streamid=gate",
        "srt://host:9000?streamid=yard",
        "srt://host:9000?streamid=" + "a" * 300,
    ]
    names = [classify(text).name for text in wild]
    for name in names:
        assert 0 < len(name) <= 80 and name.strip(".-") == name
        assert name == Path(name).name and ".." not in name and name.isascii()
    assert len(set(names)) == len(names)


def test_names_do_not_depend_on_secrets() -> None:
    """Nor on a digest of them: it would confirm a guess."""
    for address in (
        "rtsp://me:{}@host/x",
        "http://host/x?p={}",
        "http://host/x?auth={}&apikey={}",
        "http://host/?{}",
    ):
        assert len({classify(address.replace("{}", secret)).name for secret in ("hunter2", "swordfish")}) == 1
    told = classify("srt://host:9000?streamid=gate&passphrase=hunter2")
    assert told.name == classify("srt://host:9000?streamid=gate&passphrase=swordfish").name
    assert told.shown == "srt://host:9000?streamid=***&passphrase=***" and "gate" not in told.name


@pytest.mark.parametrize(
    "text",
    [
        "rtsp:/admin:hunter2@host/x",
        "\u200brtsp://admin:hunter2@host/x",
        "admin:hunter2@host/x",
        " rtsp:/admin:hun ter2@host",
        "http:/host/x?p=hunter2",
        "@rtsp://admin:hunter2@host/x",
    ],
)
def test_what_looks_like_an_address_and_is_none_is_refused_without_its_password(text: str) -> None:
    for made in (classify, open_source, FileFeed):
        with pytest.raises((InputError, DataError)) as refused:
            made(text)
        assert "ter2" not in str(refused.value), refused.value


def test_an_address_is_no_file_and_its_password_is_not_shown() -> None:
    for text in ("rtsp://admin:hunter2@host/x", "http://host/x.mp4?p=hunter2"):
        with pytest.raises(InputError, match=r"is the address of a stream.*Name one by its path") as refused:
            open_source(text)
        assert "hunter2" not in str(refused.value)
    for text in ("nothing?token=hunter2", "here/x.mp4?token=hunter2&y=1"):
        with pytest.raises(DataError) as missing:
            open_source(text)
        assert "hunter2" not in str(missing.value) + classify(text).shown


def test_a_file_is_no_live_source_and_is_named_without_a_password() -> None:
    with pytest.raises(InputError, match="a live source is") as refused:
        LiveFeed("nothing?token=hunter2")
    assert "hunter2" not in str(refused.value)


def test_files_with_the_name_of_an_address_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("me:there@home").mkdir()
    cv2.imwrite("me:there@home/photo.png", np.zeros((4, 4, 3), np.uint8))
    Path(" blank.mp4").touch()
    Path("x.mp4?token=hunter2").touch()
    for text in ("me:there@home", "me:there@home/*.png", "me:*@home/photo.png", " blank.mp4"):
        assert (classify(text).kind, classify(text).text) == ("file", text)
    assert open_source("me:*@home/photo.png").count == 1
    with pytest.raises(DataError, match="neither an image nor a video") as refused:
        open_source("x.mp4?token=hunter2")
    assert "hunter2" not in str(refused.value)


def test_what_is_no_source_is_refused() -> None:
    with pytest.raises(InputError, match=r"rtsp://, rtsps://, http://.*got gopher://"):
        classify("gopher://user:secret@host/x")
    for nothing in ("", "rtsp://", "rtsp://user:secret@", "http:///"):
        with pytest.raises(InputError) as refused:
            classify(nothing)
        assert "secret" not in str(refused.value)
    for wrong in (-1, True):
        with pytest.raises(InputError, match="numbered from 0"):
            classify(wrong)


PIPELINE = "rtspsrc location=rtsp://me:hush@host/x user-pw=hush2 ! decodebin ! videoconvert ! appsink"


def test_a_pipeline_needs_gstreamer(monkeypatch: pytest.MonkeyPatch) -> None:
    has = itertools.cycle([True])
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend: next(has))
    told = classify(PIPELINE)
    assert (told.kind, told.live) == ("gstreamer", True) and told.name.startswith("gstreamer-rtspsrc-")
    assert "hush" not in told.shown + told.name and "decodebin" in told.shown
    for hidden in (
        'rtspsrc location="rtsp://me:hu sh@host/x?p=hush" ! appsink',
        "rtsp://me:hush@host ! appsink",
        "souphttpsrc location=http://host/x?p=hush ! appsink",
    ):
        told = classify(hidden)
        assert not any(word in told.shown + told.name for word in ("hush", "hu sh", "sh@")), told
    has = itertools.cycle([False])
    with pytest.raises(UnavailableError, match=r"no GStreamer.*apt install") as refused:
        classify(PIPELINE)
    assert "hush" not in str(refused.value)


def test_the_installed_opencv_is_asked() -> None:
    if "GStreamer:                   NO" not in cv2.getBuildInformation():
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(UnavailableError, match="no GStreamer"):
        classify("videotestsrc ! appsink")


def test_every_scheme_is_a_network_stream() -> None:
    assert {classify(f"{scheme}://host:1/x").kind for scheme in NETWORK_SCHEMES} == {"network"}


def test_an_address_can_stand_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "address"
    secret.write_text("rtsp://me:geheim@10.0.0.7/road\nanother line\n")
    found = classify(f"@{secret}")
    assert found.text == "rtsp://me:geheim@10.0.0.7/road" and found.live
    assert "geheim" not in found.name + found.shown
    secret.write_bytes(b"\xef\xbb\xbf rtsp://me:geheim@10.0.0.7/road \r\n")
    assert classify(f"@{secret}") == found
    for content, words in (("", "not the address"), ("@other", "not the address")):
        secret.write_text(content)
        with pytest.raises(DataError, match=words):
            classify(f"@{secret}")
    with pytest.raises(DataError, match="cannot be read"):
        classify("@nowhere")
