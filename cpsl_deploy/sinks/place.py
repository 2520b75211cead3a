"""Where sinks put their files, and under which names."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from ..errors import InputError, OutputError
from ..files import as_output_error
from ..sources.base import Frame

V = TypeVar("V")

LEAST_FREE = 16 << 20
"""Free bytes below which a piece of a live recording is finished while it still can be."""
_IMPORTED_S = time.time()


def prepare_folder(folder: Path) -> None:
    """Make the folder, and delete what killed processes of this machine left unfinished in it.

    Raises OutputError if nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(".*.tmp*"):
            found = re.fullmatch(r"\..+\.(\d+)\.(old\.)?tmp(\..+)?", path.name)
            if found and _is_leftover(path, int(found[1])):
                path.unlink(missing_ok=True)
        probe = folder / f".probe.{threading.get_ident()}.{os.getpid()}.tmp"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise as_output_error(error, folder / "results") from error


def _is_leftover(path: Path, pid: int) -> bool:
    if pid == os.getpid():
        # Containers give the same number again: older than this process, it is another one's.
        with contextlib.suppress(OSError):
            return path.stat().st_mtime < _IMPORTED_S
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def safe_name(name: str) -> str:
    """``name`` if it is one plain file name; else OutputError: names come from outside."""
    if not name or name in (".", "..") or any(character in name for character in "/\\\0"):
        raise OutputError(f"results are named after their source, and {name!r} is no file name. Rename it")
    return name


def require_room(folder: Path) -> None:
    """Make the folder; raise the OSError of a full disk before it is really full."""
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < LEAST_FREE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_piece_s(piece_s: float | Mapping[str, float | None] | None) -> None:
    """Raise InputError for a length of pieces, or one of several, that is not positive."""
    for length in piece_s.values() if isinstance(piece_s, Mapping) else [piece_s]:
        if length is not None and not length > 0:
            raise InputError(f"a piece of a recording is longer than 0 seconds; got {length}")


def captured_at(frame: Frame) -> datetime:
    """When the frame was there, UTC."""
    captured = time.time() - (time.monotonic() - frame.captured_s)
    return datetime.fromtimestamp(captured, timezone.utc)


def piece_stamp(frame: Frame) -> str:
    """When the frame was there, as UTC for file names: 20261122T193000Z."""
    return captured_at(frame).strftime("%Y%m%dT%H%M%SZ")


def make_unused_folder(path: Path) -> Path:
    """Make the folder ``path``, or if it is there already NAME-2, NAME-3, ...; say which. Raises OSError."""
    candidate, number = path, 1
    while True:
        try:
            candidate.mkdir()
            return candidate
        except FileExistsError:
            number += 1
            candidate = path.with_name(f"{path.name}-{number}")


def of_source(value: V | Mapping[str, V | None] | None, source: str) -> V | None:
    """A setting that is one for all sources, or one for each by name."""
    return value.get(source) if isinstance(value, Mapping) else value
