"""Whatever a message repeats of an address, it repeats no secret."""

from __future__ import annotations

import pytest

from cpsl_deploy.sources.redaction import redact, redact_address
from cpsl_deploy.sources.reference import classify

SECRET = "s3cr/t?@#x"


@pytest.mark.parametrize(
    "text, shown",
    [
        ("rtsp://me:secret@10.0.0.5/drive", "rtsp://***@10.0.0.5/drive"),
        ("rtsp://me:se@cr/et@10.0.0.5/drive", "rtsp://***@10.0.0.5/drive"),
        ("'http://h/x?token=secret&channel=1'", "'http://h/x?token=***&channel=1'"),
        ("http://h/x?channel=1&Access_Token=secret#part", "http://h/x?channel=1&Access_Token=***"),
        ("http://h/x?password=secret;api_key=secret", "http://h/x?password=***;api_key=***"),
        ("rtsp://h/user=secret_password=secret_channel=1", "rtsp://h/user=***"),
        ('rtspsrc user-id=secret user-pw="sec ret" latency=0', "rtspsrc user-id=*** user-pw=*** latency=0"),
        ("from rtsp://a:secret@h/1 to http://b:secret@g/2", "from rtsp://***@h/1 to http://***@g/2"),
        ("https://h/x?X-Amz-Signature=secret", "https://h/x?X-Amz-Signature=***"),
        ("'rtsp:/me:secret@h/x': no such file", "'rtsp:/***@h/x': no such file"),
        ("cannot open me:secret@h/x", "cannot open ***@h/x"),
        ("http://h/x?u=secret&p=secret&channel=1", "http://h/x?u=***&p=***&channel=1"),
        (
            "srt://h:9?streamid=#!::r=secret,u=secret&passphrase=a;secret",
            "srt://h:9?streamid=***&passphrase=***;***",
        ),
        ("http://h/?secret", "http://h/?***"),
        (
            "rtsp://h/user=secret&psw=secret&channel=1&stream=0.sdp?",
            "rtsp://h/user=***&psw=***&channel=1&stream=***?",
        ),
        ("/data/session=secret/drive.mp4 is empty", "/data/session=***/drive.mp4 is empty"),
        ("/data/p=1/a?.png: 3 files at 10:30", "/data/p=1/a?.png: 3 files at 10:30"),
        ("[Errno 111] Connection refused: 'rtsp://h/x'", "[Errno 111] Connection refused: 'rtsp://h/x'"),
        ("width=640 keyint=30 rtsp://h:554/x?channel=1", "width=640 keyint=30 rtsp://h:554/x?channel=1"),
    ],
)
def test_secrets_are_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text, shown",
    [
        ("rtsp://me:sec ret'@h/x", "rtsp://***@h/x"),
        ('http://h/x?p=sec ret"&channel=2', "http://h/x?p=***&channel=2"),
        ("me:sec ret@h", "***@h"),
        ("\u200brtsp:/me:sec ret@h", "\u200brtsp:/***@h"),
        ("rtsp://h/x", "rtsp://h/x"),
    ],
)
def test_a_whole_address_may_hold_blanks_and_quotes(text: str, shown: str) -> None:
    assert redact_address(text) == shown
    assert redact_address(shown) == shown


def test_a_password_without_its_address_is_hidden_too() -> None:
    reference = classify("rtsp://admin:h%40rd-one@cam/drive?token=tick&p=pwd1&quality=high")
    for message in (
        "bad digest for admin:h%40rd-one",
        "password h@rd-one",
        "tick is no token",
        "pwd1 is wrong",
        reference.text,
    ):
        hidden = reference.hide(message)
        assert not any(secret in hidden for secret in ("h%40rd", "h@rd", "tick", "pwd1")), hidden
    assert reference.hide("too high a rate for cam") == "too high a rate for cam"


def test_other_sources_have_nothing_to_hide() -> None:
    assert classify(0).hide("frame 0 of 10") == "frame 0 of 10"
    assert classify("-").hide("a-b") == "a-b"


def test_a_password_with_everything_in_it() -> None:
    reference = classify(f"rtsp://me:{SECRET}@cam/drive")
    assert reference.shown == "rtsp://***@cam/drive" and reference.name == "rtsp-cam-drive"
    assert "s3cr" not in reference.hide(f"cannot open {reference.text!r}: {reference.text}")
