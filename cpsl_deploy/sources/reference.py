"""What kind of source a text names: a file, a camera, a network stream, a pipeline or standard input."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import DataError, InputError, UnavailableError
from .redaction import HIDDEN, redact, secrets_of

__all__ = ["NETWORK_SCHEMES", "STANDARD_INPUT", "Kind", "SourceReference", "classify", "redact"]

Kind = Literal["file", "camera", "network", "gstreamer", "stdin"]
NETWORK_SCHEMES = ("rtsp", "rtsps", "http", "https", "udp", "tcp", "srt", "rtmp", "rtmps", "rtp")
STANDARD_INPUT = "-"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
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

    Raises InputError for an empty text, a negative camera or an unknown scheme; UnavailableError for a
    pipeline where the installed OpenCV has no GStreamer.
    """
    if isinstance(reference, int):
        return _camera(reference)
    text = os.fspath(reference)
    if text.startswith("@") and not os.path.exists(text):
        text = _first_line(text[1:])
    if not text or "\0" in text:
        raise InputError("a source is a file, a folder, a camera, a URL, a pipeline or -; got an empty text")
    if text == STANDARD_INPUT:
        return SourceReference(kind="stdin", text=text, name="stdin", shown="standard input", live=False)
    if os.path.exists(text) and not re.fullmatch(r"/dev/video\d+", text):
        return _file(text)
    if re.fullmatch(r"\d{1,4}", text):
        return _camera(int(text))
    if text.startswith("/dev/video"):
        return SourceReference(
            kind="camera", text=text, name=_safe(f"camera-{text[len('/dev/video') :]}"), shown=text, live=True
        )
    if " ! " in text:
        return _pipeline(text)
    if scheme := _SCHEME.match(text):
        return _network(text, scheme.group(1).lower())
    return _file(text)


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            line = file.readline(_LONGEST_LINE).strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise DataError(
            f"@FILE takes a source's address from a text file, and {path!r} cannot be read: {reason}. Check "
            "the path and its permissions"
        ) from error
    if not line or line.startswith("@"):
        raise DataError(f"the first line of {path} is not the address of a source. Write it there")
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
    return SourceReference(kind="file", text=text, name=_safe(named) or "images", shown=text, live=False)


def _network(text: str, scheme: str) -> SourceReference:
    if scheme not in NETWORK_SCHEMES:
        known = ", ".join(f"{known}://" for known in NETWORK_SCHEMES)
        raise InputError(
            f"a stream's address begins with one of {known}; got {scheme}://. A file is named by its path"
        )
    shown = redact(text)
    if not _SCHEME.sub("", shown, count=1).removeprefix(f"{HIDDEN}@").strip("/"):
        raise InputError(f"a stream's address names a host, such as {scheme}://192.168.1.5/; got {shown}")
    return SourceReference(kind="network", text=text, name=_safe(shown), shown=shown, live=True)


def _pipeline(text: str) -> SourceReference:
    shown = redact(text)
    if not _has_gstreamer():
        raise UnavailableError(
            f"the installed OpenCV has no GStreamer, which the pipeline {shown!r} needs. Install an OpenCV "
            "built with it (Debian and Ubuntu: apt install python3-opencv), or name the stream by its URL"
        )
    digest = hashlib.sha256(shown.encode()).hexdigest()[:8]
    name = _safe(f"gstreamer-{text.split()[0]}-{digest}")
    return SourceReference(kind="gstreamer", text=text, name=name, shown=shown, live=True)


def _has_gstreamer() -> bool:
    import cv2

    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))


def _safe(text: str) -> str:
    """A file name from any text; what is too long is cut and told apart by a digest of the whole."""
    text = re.sub(rf"[^?&;/\s]*=\s*{re.escape(HIDDEN)}", "", text).replace(f"{HIDDEN}@", "")
    name = re.sub(r"[^A-Za-z0-9._]+", "-", text)
    name = re.sub(r"\.\.+", ".", name).strip("-.")
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
