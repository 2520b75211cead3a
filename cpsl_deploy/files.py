"""Files are written whole or not at all; output folders are never overwritten by accident."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import OutputError

_FULL = 1 << 20
"""Free bytes below which a write that failed for no stated reason is taken to have filled the disk."""
_NUMBERS = itertools.count(1)
"""Of temporary names: two threads may be making a file of the same name."""


@contextlib.contextmanager
def atomic_path(
    path: str | os.PathLike[str], *, put: Callable[[Path, Path], object] | None = None
) -> Iterator[Path]:
    """Give a temporary path beside ``path``; put it in place when the block ends without an error.

    ``put``, called with the temporary path and ``path``, puts it there: by default replacing what is there;
    `put_unused` replaces nothing.

    The temporary name keeps the suffix, so that writers that look at it (OpenCV, ONNX) work. On an error
    nothing is left behind and an earlier file at ``path`` stays as it was. Raises OutputError if the
    folder is not writable or the disk is full.
    """
    path = Path(path)
    temporary = _beside(path, f"{next(_NUMBERS)}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        (put or os.replace)(temporary, path)
    except OSError as error:
        raise as_output_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):  # the error above is the one to tell
            temporary.unlink()


def put_unused(new: Path, path: Path, *, mark: str = "-") -> Path:
    """Rename the file ``new`` to ``path``, or if that is there NAME-2, NAME-3, ...; say to which.

    Several processes and threads may do so at once: no file is ever replaced. Raises OSError.
    """
    candidate, number = path, 1
    while not _put_new(new, candidate):
        number += 1
        candidate = path.with_name(f"{path.stem}{mark}{number}{path.suffix}")
    return candidate


def _put_new(new: Path, path: Path) -> bool:
    try:
        os.link(new, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: nobody else makes what is there, if only as a place
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        try:
            os.replace(new, path)
        except BaseException:
            path.unlink()
            raise
    else:
        new.unlink()
    return True


@contextlib.contextmanager
def atomic_paths(
    *paths: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None
) -> Iterator[tuple[Path, ...]]:
    """``atomic_path`` for what belongs together: all is put in place when the block ends, or nothing.

    ``paths``: files. ``folder``: one more, given last, made empty and put in place of an earlier one. An
    error or an interruption at any moment leaves all of it as it was; only a process killed between the
    renames at the end leaves a part new, and the next call puts a folder back that had to step aside. Raises
    OutputError as ``atomic_path`` does.
    """
    swaps: list[_Swap] = [_FileSwap(Path(path)) for path in paths]
    swaps += [_FolderSwap(Path(folder))] if folder is not None else []
    swap = swaps[0]
    try:
        for swap in swaps:
            swap.begin()
        yield tuple(swap.new for swap in swaps)
        for swap in swaps:
            swap.prepare()
        for swap in swaps:
            swap.put()
    except BaseException as error:
        for other in swaps:
            with contextlib.suppress(OSError):  # the error above is the one to tell
                other.take_back()
        if isinstance(error, OSError):
            raise as_output_error(error, swap.target) from error
        raise
    finally:
        for other in swaps:
            other.finish()


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new folder beside ``path``; put it in place of ``path`` when the block ends without an error.

    As ``atomic_paths`` with this folder alone.
    """
    with atomic_paths(folder=path) as (new,):
        yield new


class _Swap:
    """Something new that is to take the place of something earlier, which can be undone until it is done."""

    def __init__(self, target: Path, mark: str) -> None:
        self.target = target
        self.new = _beside(target)
        self.earlier = target.with_name(mark)
        self._was_there: bool | None = None

    def begin(self) -> None:
        self.target.parent.mkdir(parents=True, exist_ok=True)

    def prepare(self) -> None:
        """All that may fail for want of space."""

    def put(self) -> None:
        self._was_there = self.target.exists()

    def take_back(self) -> None:
        """Whatever of ``put`` was done."""

    def finish(self) -> None:
        """Remove what is no longer needed; never raises."""


class _FileSwap(_Swap):
    def __init__(self, target: Path) -> None:
        super().__init__(target, _beside(target, mark="old.tmp").name)

    def prepare(self) -> None:
        _flush(self.new)
        self.earlier.unlink(missing_ok=True)
        if self.target.exists():
            try:
                os.link(self.target, self.earlier)
            except OSError:  # a file system without links
                shutil.copy2(self.target, self.earlier)

    def put(self) -> None:
        super().put()
        os.replace(self.new, self.target)

    def take_back(self) -> None:
        if self._was_there:
            os.replace(self.earlier, self.target)
        elif self._was_there is False and not self.new.exists():
            self.target.unlink(missing_ok=True)

    def finish(self) -> None:
        for path in (self.new, self.earlier):
            with contextlib.suppress(OSError):
                path.unlink()


class _FolderSwap(_Swap):
    def __init__(self, target: Path) -> None:
        super().__init__(target, f".{target.name}.old")

    def begin(self) -> None:
        super().begin()
        if self.earlier.exists() and not self.target.exists():
            os.rename(self.earlier, self.target)  # of a process that was killed
        for leftover in (self.earlier, self.new):
            shutil.rmtree(leftover, ignore_errors=True)
        self.new.mkdir()

    def prepare(self) -> None:
        for written in self.new.rglob("*"):
            if written.is_file():
                _flush(written)

    def put(self) -> None:
        super().put()
        if self._was_there:
            os.rename(self.target, self.earlier)
        os.rename(self.new, self.target)

    def take_back(self) -> None:
        if self.earlier.exists():
            if self.target.exists():
                os.rename(self.target, self.new)
            os.rename(self.earlier, self.target)
        elif self._was_there is False and not self.new.exists():
            os.rename(self.target, self.new)

    def finish(self) -> None:
        if self.target.exists():
            shutil.rmtree(self.earlier, ignore_errors=True)
        shutil.rmtree(self.new, ignore_errors=True)


def _beside(path: Path, number: str = "", mark: str = "tmp") -> Path:
    return path.with_name(f".{path.stem}.{number}{os.getpid()}.{mark}{path.suffix}")


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
        reason = f"the disk is full ({free / 2**20:.0f} MiB free) while writing {path}"
        remedy = (
            "What was there before is untouched; free some space or choose another output folder, then run "
            "the command again."
        )
    else:
        reason = f"cannot write {path}: {error.strerror or error}"
        remedy = "Choose a writable place."
    return OutputError(f"{reason}. {remedy}", reason=reason)


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
    import hashlib  # here: it loads OpenSSL, and opening a model needs neither

    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
