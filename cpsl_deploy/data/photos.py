"""Unlabelled targets: a folder of photos, or a video from which frames are sampled."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import DataError, OutputError
from ..files import write_bytes, write_json
from .dataset import Dataset, Item, list_images
from .layouts import require_split

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".ts", ".wmv")
DEFAULT_FRAMES = 300

VIDEO_SPLITS = ("train", "val")

_WINDOW = 5  # frames around each sampled position of which the sharpest is taken
_VAL_SHARE = 0.2
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]

logger = logging.getLogger(__name__)


def photo_splits(folder: Path) -> tuple[str, ...]:
    """Subfolders ``train``, ``val`` and ``test`` that hold photos; ``train`` alone where there are none."""
    found = [name for name in ("train", "val", "test") if (folder / name).is_dir()]
    return tuple(name for name in found if list_images(folder / name)) or ("train",)


def open_photos(folder: Path, split: str) -> Dataset:
    """Open a folder of photos, found at any depth, as a set without labels.

    Raises DataError if there is no photo or no such split (see ``photo_splits``).
    """
    splits = photo_splits(folder)
    require_split(f"the folder {folder}", split, splits)
    base = folder / split if splits != ("train",) or list_images(folder / "train") else folder
    files = list_images(base)
    if not files:
        raise DataError(
            f"{folder} holds no photos. A target is a folder of jpg, png, bmp, tif or webp files at any "
            "depth, a video file, or a dataset file (YAML)."
        )
    stems = Counter(path.relative_to(base).with_suffix("") for path in files)
    items = []
    for path in files:
        relative = path.relative_to(base)
        unique = relative.with_suffix("") if stems[relative.with_suffix("")] == 1 else relative
        items.append(Item(unique.as_posix(), path))
    return Dataset(name=folder.resolve().name, split=split, items=tuple(items), all_splits=splits)


def open_video(path: Path, split: str, *, frames: int = DEFAULT_FRAMES, cache: Path | None = None) -> Dataset:
    """Open frames of a video as a set without labels.

    About ``frames`` frames evenly over the whole video, each the sharpest of its neighbours; those of the
    last fifth of the time are the split ``val``, the others ``train``. They are decoded once and kept as JPEG
    below ``cache`` (unless given $CPSL_CACHE, or ``cpsl_deploy`` in the user's cache folder). A video that
    ends before the frame count it announces is used as far as it goes, with a logged warning.

    Raises DataError if the file cannot be opened, no frame can be read, or the split has no frame.
    """
    require_split(f"the video {path}", split, VIDEO_SPLITS)
    if frames < 1:
        raise DataError(f"one frame or more is sampled from a video; got {frames}.")
    folder = _frames_folder(path, frames, cache)
    if not (folder / "frames.json").is_file():
        _sample(path, frames, folder)
    index = _read_index(folder / "frames.json")
    short = _shortness(path, index)
    for words in short:
        logger.warning("%s", words)
    first_val = (1 - _VAL_SHARE) * index["read"]
    chosen = [i for i in index["sampled"] if (i >= first_val) == (split == "val")]
    if not chosen:
        raise DataError(
            f"the split {split!r} of {path} has no frames: only {len(index['sampled'])} of the video's "
            f"{index['read']} frames were sampled. Use a longer video or sample more frames."
        )
    items = tuple(Item(f"{i:06d}", folder / f"{i:06d}.jpg") for i in chosen)
    return Dataset(name=path.stem, split=split, items=items, all_splits=VIDEO_SPLITS, remarks=short)


def _read_index(file: Path) -> dict[str, Any]:
    try:
        index = json.loads(file.read_text())
        if not (index["read"] > 0 and index["announced"] >= 0 and all(i >= 0 for i in index["sampled"])):
            raise ValueError("a count is not above 0")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file}, which lists the frames kept of a video, is damaged ({error!r}). Delete its folder, and "
            "the video is read again."
        ) from error
    return index


def _frames_folder(path: Path, frames: int, cache: Path | None) -> Path:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"cannot read the video {path}: {error.strerror}. Check the path.") from error
    if cache is None:
        from .demo import cache_folder

        cache = cache_folder()
    identity = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {frames} {_WINDOW}"
    return cache / "video_frames" / f"{path.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _sample(path: Path, frames: int, folder: Path) -> None:
    """Decode the video once into ``folder``, which appears when it is complete."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise OutputError(
            f"cannot keep frames in {folder.parent}: {error.strerror}. Give another cache folder."
        ) from error
    try:
        announced = _announced_frames(path)
        sampled, read = _decode_sharpest(path, frames, announced, temporary)
        if not sampled:
            raise DataError(
                f"no frame of {path} could be read. Play the file, or convert it to MP4 (H.264) first."
            )
        write_json(temporary / "frames.json", {"announced": announced, "read": read, "sampled": sampled})
        try:
            os.rename(temporary, folder)
        except OSError as error:
            # Another process may have sampled the same video meanwhile; its frames are the same.
            if not (folder / "frames.json").is_file():
                raise OutputError(
                    f"cannot write {folder}: {error.strerror}. Give another cache folder."
                ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open_capture(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise DataError(
            f"{path} is not a video that OpenCV can open. Play the file, or convert it to MP4 (H.264)."
        )
    return capture


def _announced_frames(path: Path) -> int:
    """The frame count the container states; counted where it states none."""
    capture = _open_capture(path)
    try:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if count <= 0:
            count = 0
            while capture.grab():
                count += 1
        return count
    finally:
        capture.release()


def _decode_sharpest(path: Path, frames: int, announced: int, folder: Path) -> tuple[list[int], int]:
    """Write the sharpest frame of every window. Returns (their indices, frames read)."""
    step = max(announced / frames, 1.0)
    reach = min(_WINDOW, int(step))
    sampled: list[int] = []
    best: tuple[float, int, np.ndarray] | None = None
    window, at = 0, 0
    capture = _open_capture(path)
    try:
        while capture.grab():
            if at >= int((window + 1) * step):
                _keep(best, folder, sampled)
                best, window = None, window + 1
            if at - int(window * step) < reach:
                ok, frame = capture.retrieve()
                if ok and (best is None or reach > 1):
                    sharpness = _sharpness(frame) if reach > 1 else 0.0
                    if best is None or sharpness > best[0]:
                        best = (sharpness, at, frame.copy())
            at += 1
        _keep(best, folder, sampled)
    finally:
        capture.release()
    return sampled, at


def _keep(best: tuple[float, int, np.ndarray] | None, folder: Path, sampled: list[int]) -> None:
    if best is not None:
        _, index, frame = best
        write_bytes(folder / f"{index:06d}.jpg", cv2.imencode(".jpg", frame, _JPEG)[1].tobytes())
        sampled.append(index)


def _sharpness(frame: np.ndarray) -> float:
    """Variance of the Laplacian of the grey frame at about 480 pixels of width, where noise counts less."""
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    if grey.shape[1] > 480:
        scale = 480 / grey.shape[1]
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def _shortness(path: Path, index: dict[str, Any]) -> tuple[str, ...]:
    """That a video ends early, in words; nothing where it does not."""
    if not ends_early(announced=index["announced"], read=index["read"]):
        return ()
    words = f"{path} ends early: it announces {index['announced']} frames and {index['read']} could be read"
    return (f"{words}; those are used",)


def ends_early(*, announced: int, read: int) -> bool:
    """Whether a video held fewer frames than its header announced, by more than headers usually err."""
    return read < announced - max(2, announced // 100)
