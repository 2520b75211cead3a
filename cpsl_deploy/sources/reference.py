"""What kind of source a text names: a file, a camera, a network stream, a pipeline or standard input."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import DataError, InputError, UnavailableError
from .names import shown as shown_path
from .redaction import HIDDEN, redact, redact_address, secrets_of, told_apart_by

__all__ = [
    "NETWORK_SCHEMES",
    "STANDARD_INPUT",
    "Kind",
    "SourceReference",
    "classify",
    "redact",
    "refuse_address",
]

Kind = Literal["file", "camera", "network", "gstreamer", "stdin"]
NETWORK_SCHEMES = ("rtsp", "rtsps", "http", "https", "udp", "tcp", "srt", "rtmp", "rtmps", "rtp")
STANDARD_INPUT = "-"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LIKE_AN_ADDRESS = re.compile(r"[^\w./~]*[A-Za-z][\w+.-]+:/|[^/]*[^\s/]:[^/\s].*@", re.DOTALL)
"""``rtsp:/...``, also behind characters that cannot be seen, or ``user:password@...``."""
_QUOTED = re.compile(r"\"([^\"]*)\"|'([^']*)'")
_LONGEST_NAME = 80
_LONGEST_LINE = 4096


@dataclass(frozen=True, kw_only=True)
class SourceReference:
    """One source, told from its text alone: nothing has been opened."""

    kind: Kind
    """``file``: an image, a folder of images, a glob or a video file."""
    text: str = field(repr=False)
    """What to open, with credentials: never for a log."""
    name: str
    """Usable as a file name, without credentials, for example ``rtsp-192.168.1.5-8554-drive``."""
    shown: str
    """``text`` for logs and messages, credentials replaced by ``***``."""
    live: bool
    """Whether frames come when they come. A file that is read over http turns out not to be when opened."""

    def hide(self, message: str) -> str:
        """``message`` without the credentials of this source, whatever it repeats of them."""
        if self.kind in ("network", "gstreamer"):
            message = message.replace(self.text, self.shown)
            for secret in secrets_of(self.text):
                message = message.replace(secret, HIDDEN)
        return redact(message)


def classify(reference: str | os.PathLike[str] | int) -> SourceReference:
    """Tell which kind of source a reference names.

    - an integer, digits alone, or ``/dev/video*``: a camera
    - ``rtsp://``, ``http://`` and the other `NETWORK_SCHEMES`: a network stream, or a file behind one
    - a text with `` ! `` in it: a GStreamer pipeline, which must end in ``appsink``
    - ``-``: frames on standard input
    - ``@FILE``: the reference that is the first line of a text file, which only its reader has to be able to
      read: an address with a password does not show in the list of processes
    - anything else: an image, a folder, a glob or a video file, whether it is there or not

    Blanks around what is no file are left out. Raises InputError for an empty text, a negative camera, an
    unknown scheme, or what looks like an address and is none; UnavailableError for a pipeline where the
    installed OpenCV has no GStreamer.
    """
    if isinstance(reference, int):
        return _camera(reference)
    text = os.fspath(reference)
    if not _exists(text):
        text = text.strip()
    if text.startswith("@") and not _exists(text):
        text = _first_line(text[1:])
    if not text or "\0" in text:
        raise InputError("a source is a file, a folder, a camera, a URL, a pipeline or -; got an empty text")
    if text == STANDARD_INPUT:
        return SourceReference(kind="stdin", text=text, name="stdin", shown="standard input", live=False)
    if _exists(text) and not re.fullmatch(r"/dev/video\d+", text):
        return _file(text)
    if re.fullmatch(r"\d{1,4}", text):
        return _camera(int(text))
    if text.startswith("/dev/video"):
        return SourceReference(
            kind="camera",
            text=text,
            name=_safe(f"camera-{text[len('/dev/video') :]}"),
            shown=shown_path(text),
            live=True,
        )
    if " ! " in text:
        return _pipeline(text)
    if scheme := _SCHEME.match(text):
        return _network(text, scheme.group(1).lower())
    refuse_address(text)
    return _file(text)


def refuse_address(path: str) -> None:
    """Raise InputError, without credentials, if what is to be a path is no file and looks like an address."""
    if not _LIKE_AN_ADDRESS.match(path) or _exists(path) or next(glob.iglob(path), None) is not None:
        return
    shown = shown_path(redact_address(path))
    if _SCHEME.match(path):
        raise InputError(
            f"{shown} is the address of a stream, and a file is needed here. Name one by its path"
        )
    raise InputError(
        f"{shown!r} looks like the address of a stream and is none: one is written SCHEME://HOST/PATH, "
        "for example rtsp://192.168.1.5:8554/drive. No file has this name either"
    )


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:  # a null byte
        return False


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:
            line = file.readline(_LONGEST_LINE).strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        shown = shown_path(redact_address(path))
        raise DataError(
            f"@FILE takes a source's address from a text file, and {shown!r} cannot "
            f"be read: {reason}. Check the path and its permissions"
        ) from error
    if not line or line.startswith("@"):
        raise DataError(
            f"the first line of {shown_path(path)} is not the address of a source. Write it there"
        )
    return line


def _camera(index: int) -> SourceReference:
    if isinstance(index, bool) or index < 0:
        raise InputError(f"a camera is numbered from 0; got {index}")
    return SourceReference(
        kind="camera", text=str(index), name=f"camera-{index}", shown=f"camera {index}", live=True
    )


def _file(text: str) -> SourceReference:
    path = Path(text)
    globbed = any(character in text for character in "*?[") and not path.exists()
    named = path.absolute().parent.name if globbed else path.name if path.is_dir() else path.stem
    return SourceReference(
        kind="file", text=text, name=_safe(named) or "images", shown=shown_path(text), live=False
    )


def _network(text: str, scheme: str) -> SourceReference:
    if scheme not in NETWORK_SCHEMES:
        known = ", ".join(f"{known}://" for known in NETWORK_SCHEMES)
        raise InputError(
            f"a stream's address begins with one of {known}; got {scheme}://. A file is named by its path"
        )
    shown = redact_address(text)
    if not _SCHEME.sub("", shown, count=1).removeprefix(f"{HIDDEN}@").strip("/"):
        raise InputError(f"a stream's address names a host, such as {scheme}://192.168.1.5/; got {shown}")
    # So few digits tell the cameras of one place apart, and are of no help in finding out what was hidden.
    hidden = told_apart_by(text)
    digest = hashlib.sha256(hidden.encode(errors="surrogatepass")).hexdigest()[:4]
    name = _safe(shown, f"-{digest}" if hidden else "")
    return SourceReference(kind="network", text=text, name=name, shown=shown_path(shown), live=True)


def _pipeline(text: str) -> SourceReference:
    shown = redact(_QUOTED.sub(_without_secrets, text))
    if not _has_gstreamer():
        raise UnavailableError(
            f"the installed OpenCV has no GStreamer, which the pipeline {shown!r} needs. Install an OpenCV "
            "built with it (Debian and Ubuntu: apt install python3-opencv), or name the stream by its URL"
        )
    digest = hashlib.sha256(shown.encode()).hexdigest()[:8]
    name = _safe(f"gstreamer-{shown.split()[0]}-{digest}")
    return SourceReference(kind="gstreamer", text=text, name=name, shown=shown, live=True)


def _without_secrets(quoted: re.Match[str]) -> str:
    """A quoted address may have blanks in it; other text stays."""
    text = quoted.group()
    if not _LIKE_AN_ADDRESS.match(text[1:-1]):
        return text
    return text[0] + redact_address(text[1:-1]) + text[-1]


def _has_gstreamer() -> bool:
    import cv2

    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))


def _safe(text: str, ending: str = "") -> str:
    """A file name from any text; what is too long is cut and told apart by a digest of the whole."""
    text = text.replace(f"{HIDDEN}@", "")
    text = re.sub(rf"(?:[^?&;/\s]*=\s*)?{re.escape(HIDDEN)}", "", text)
    name = re.sub(r"[^A-Za-z0-9._]+", "-", text)
    name = re.sub(r"\.\.+", ".", name).strip("-.")
    if len(name) + len(ending) > _LONGEST_NAME:
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
        name = f"{name[: _LONGEST_NAME - 9 - len(ending)]}-{digest}"
    return name + ending
