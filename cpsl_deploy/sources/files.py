"""Frames from files: images, folders of images, globs and video files."""

from __future__ import annotations

import glob
import os
import stat
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import cv2
import numpy as np

from ..data.image_header import image_header
from ..data.images import IMAGE_SUFFIXES, read_image_bgr
from ..data.video_file import VIDEO_SUFFIXES
from ..errors import DataError
from .base import FILE_LIMITS, Frame, InputLimits
from .names import safe_name, shown
from .reference import refuse_address
from .video import VideoSource

__all__ = ["ImageSource", "VideoSource", "open_source"]

_HEAD = 1 << 16


class ImageSource:
    """Image files. One that cannot be read is a `Frame` without image, so that the others are still done."""

    fps = None

    def __init__(self, paths: Sequence[Path], name: str, *, limits: InputLimits | None = None) -> None:
        self.name = safe_name(name)
        self.paths = list(paths)
        self.count = len(self.paths)
        self.limits = limits or FILE_LIMITS

    def frames(self) -> Generator[Frame, None, None]:
        """The images in order, each decoded when asked for, the receiver's to keep; upright, and as
        `read_image_bgr` says of 16 bits, alpha and other kinds of pixels."""
        names = _unique_names(self.paths)
        for index, (path, name) in enumerate(zip(self.paths, names, strict=True)):
            image, problem = self._read(path)
            yield Frame(
                source=self.name,
                index=index,
                name=name,
                image=image,
                captured_s=time.monotonic(),
                problem=problem,
                suffix=path.suffix.lower(),
            )

    def _read(self, path: Path) -> tuple[np.ndarray | None, str]:
        try:
            return read_image_bgr(path, upright=True, limits=self.limits), ""
        except DataError as error:
            return None, shown(str(error))
        except (MemoryError, OSError, cv2.error) as error:
            return None, shown(f"{path} cannot be read ({error or 'out of memory'}). Copy it again")


def open_source(
    reference: str | os.PathLike[str], *, limits: InputLimits | None = None
) -> ImageSource | VideoSource:
    """Open an image file, a folder of images (sorted, without its subfolders), a glob or a video file.

    ``limits``: by default `FILE_LIMITS`.

    Raises DataError if there is nothing, no image in the folder, or the file is neither image nor video;
    InputError if it is no path but an address.
    """
    text = os.fspath(reference)
    path = Path(text)
    limits = limits or FILE_LIMITS
    mode, reason = _mode(path)
    if stat.S_ISDIR(mode):
        return _open_folder(path, limits)
    if stat.S_ISREG(mode):
        if path.suffix.lower() in IMAGE_SUFFIXES or _holds_image(path):
            return ImageSource([path], path.stem, limits=limits)
        return VideoSource(path, limits=limits)
    if mode:
        raise DataError(f"{shown(text)} is no regular file and no folder. Name a file, a folder or a glob")
    refuse_address(text)
    if any(character in text for character in "*?["):
        found = sorted(Path(match) for match in glob.glob(text))
        files = [match for match in found if not stat.S_ISDIR(_mode(match)[0])]
        images = [match for match in files if match.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            raise DataError(f"no image matches {shown(text)!r} ({len(files)} files do). {_image_rule()}")
        return ImageSource(images, images[0].absolute().parent.name or "images", limits=limits)
    raise DataError(f"there is no file or folder {shown(text)}{reason}. Check the path")


def _mode(path: Path) -> tuple[int, str]:
    """Of what a path leads to: 0, and the reason where it is not the plain one, if that cannot be told."""
    try:
        return path.stat().st_mode, ""
    except FileNotFoundError:
        return 0, ""
    except (OSError, ValueError) as error:
        return 0, f" ({getattr(error, 'strerror', None) or error})"


def _holds_image(path: Path) -> bool:
    """Whether a file whose suffix is neither an image's nor a video's is an image all the same."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return False
    try:
        with open(path, "rb") as file:
            header = image_header(file.read(_HEAD))
    except OSError:
        return False  # opening it as a video tells why
    return header is not None and header.kind != "GIF"  # an animation is a video


def _open_folder(folder: Path, limits: InputLimits) -> ImageSource:
    try:
        # A broken link or a FIFO under an image's name stays in: it is told of with the unreadable ones.
        files = sorted(entry for entry in folder.iterdir() if not stat.S_ISDIR(_mode(entry)[0]))
    except OSError as error:
        raise DataError(
            f"cannot read the folder {shown(str(folder))}: {error.strerror}. Check its permissions"
        ) from error
    images = [entry for entry in files if entry.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        videos = [entry for entry in files if entry.suffix.lower() in VIDEO_SUFFIXES]
        hint = f"It has the video {shown(videos[0].name)}: name that file. " if videos else ""
        raise DataError(
            f"the folder {shown(str(folder))} has no image in it ({len(files)} files; subfolders are not "
            f"looked into). {hint}{_image_rule()}"
        )
    return ImageSource(images, folder.absolute().name or "images", limits=limits)


def _image_rule() -> str:
    return f"Images are files with the suffix {', '.join(IMAGE_SUFFIXES)}"


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """The stem of each path; where stems repeat, with what else it takes to tell the files apart."""
    names = [safe_name(path.stem) for path in paths]
    for tell_apart in (
        lambda path: f"{path.stem}_{path.suffix[1:].lower()}",
        lambda path: f"{path.parent.name}_{path.stem}_{path.suffix[1:].lower()}",
    ):
        if len(set(names)) < len(names):
            names = [safe_name(tell_apart(path)) for path in paths]
    if len(set(names)) < len(names):
        names = [f"{index:06d}_{name}" for index, name in enumerate(names)]
    return names
