"""Files are written whole or not at all; output folders are never overwritten by accident."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import OutputError

_FULL = 1 << 20
"""Free bytes below which a write that failed for no stated reason is taken to have filled the disk."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path``; put it in place when the block ends without an error.

    The temporary name keeps the suffix, so that writers that look at it (OpenCV, ONNX) work. On an error
    nothing is left behind and an earlier file at ``path`` stays as it was. Raises OutputError if the
    folder is not writable or the disk is full.
    """
    path = Path(path)
    temporary = _beside(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise as_output_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):  # the error above is the one to tell
            temporary.unlink()


@contextlib.contextmanager
def atomic_paths(*paths: str | os.PathLike[str]) -> Iterator[tuple[Path, ...]]:
    """``atomic_path`` for files that belong together: all are put in place when the block ends, or none.

    An error or an interruption at any moment leaves all earlier files as they were. Only a process killed
    between the renames at the end leaves some of them new. Raises OutputError as ``atomic_path`` does.
    """
    targets = [Path(path) for path in paths]
    temporaries = [_beside(path, "tmp") for path in targets]
    earlier = [_beside(path, "old.tmp") for path in targets]
    put: list[int] = []
    path = targets[0]
    try:
        for path in targets:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield tuple(temporaries)
        for path, temporary, kept in zip(targets, temporaries, earlier, strict=True):
            _flush(temporary)
            if path.exists():
                _keep(path, kept)
        for number, path in enumerate(targets):
            put.append(number)
            os.replace(temporaries[number], path)
    except BaseException as error:
        for number in put:
            if earlier[number].exists():
                os.replace(earlier[number], targets[number])
            elif not temporaries[number].exists():
                targets[number].unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise as_output_error(error, path) from error
        raise
    finally:
        for temporary in (*temporaries, *earlier):
            with contextlib.suppress(OSError):  # the error above is the one to tell
                temporary.unlink()


def _beside(path: Path, mark: str) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}.{mark}{path.suffix}")


def _keep(path: Path, kept: Path) -> None:
    """A second name for a file, or a copy where the file system gives none."""
    kept.unlink(missing_ok=True)
    try:
        os.link(path, kept)
    except OSError:
        shutil.copy2(path, kept)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new folder beside ``path``; put it in place of ``path`` when the block ends without an error.

    On an error, or an interruption, nothing is left behind and an earlier folder at ``path`` is as it was. A
    process that is killed between the two renames at the end leaves the earlier folder as ``.NAME.old``; the
    next call puts it back first. Raises OutputError if the place is not writable or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    earlier = path.with_name(f".{path.name}.old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _settle(path, earlier)
        temporary.mkdir()
        yield temporary
        for written in temporary.rglob("*"):
            if written.is_file():
                _flush(written)
        if path.exists():
            os.rename(path, earlier)
        os.rename(temporary, path)
    except OSError as error:
        raise as_output_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):  # the error above is the one to tell
            _settle(path, earlier)
        shutil.rmtree(temporary, ignore_errors=True)


def _settle(path: Path, earlier: Path) -> None:
    """Whatever was interrupted: the earlier folder is back if nothing took its place, and gone if it did."""
    if earlier.exists() and not path.exists():
        os.rename(earlier, path)
    elif earlier.exists():
        shutil.rmtree(earlier)


def _flush(path: Path) -> None:
    with open(path, "rb") as written:
        os.fsync(written.fileno())


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Delete the temporary files that a killed process left in a folder. Nothing may be writing there."""
    for path in Path(folder).glob(".*.tmp*"):
        if re.fullmatch(r"\..+\.\d+\.(old\.)?tmp(\..+)?", path.name):
            path.unlink()


def as_output_error(error: OSError, path: str | os.PathLike[str]) -> OutputError:
    """What an operating system's error while writing ``path`` means to a user."""
    path = Path(path)
    free = shutil.disk_usage(path.parent).free if path.parent.exists() else 0
    # Writers in C, such as NumPy's, tell no number.
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or (error.errno is None and free < _FULL):
        return OutputError(
            f"the disk is full ({free / 2**20:.0f} MiB free) while writing {path}. What was there before is "
            "untouched; free some space or choose another output folder, then run the command again."
        )
    return OutputError(f"cannot write {path}: {error.strerror or error}. Choose a writable place.")


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write indented JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def new_output_folder(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    remedy: str = "Choose another one, or give --overwrite to replace files of the same name in it.",
) -> Path:
    """Make an output folder, or accept an empty one.

    Raises OutputError if it is a file, or has something in it and ``overwrite`` is false; ``remedy`` says
    what to do then. Nothing is ever deleted: with ``overwrite`` files of the same name are replaced and the
    others stay.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise OutputError(f"an output folder is wanted and {path} is a file. Choose another name.")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise OutputError(f"the output folder {path} is not empty. {remedy}")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_output_error(error, path) from error
    return path


def sha256(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
