"""The built-in demo dataset: generated once into a folder, then opened like anybody's own data.

    FOLDER/demo.json                       settings, and whether the folder is complete
    FOLDER/rendered.yaml, camera.yaml      dataset files
    FOLDER/rendered/{images,labels}/{train,val}
    FOLDER/camera/images/{train,val}, camera/labels/val
    FOLDER/drive.mp4                       a short drive in the camera domain

The camera's training images have no labels on disk unless asked for (``oracle_labels``), so that nothing can
read them by accident.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import yaml

from ..cache_folder import cache_folder
from ..errors import InputError, OutputError
from ..files import new_output_folder, write_bytes, write_json, write_text
from .dataset import Dataset
from .own import open_own
from .scenes import DEMO_CLASSES, DEMO_SIZE, demo_video, render_scene

__all__ = ["DEMO_CLASSES", "DEMO_SIZE", "DemoSettings", "generate_demo", "open_demo"]

Progress = Callable[[int, int], None]

_GENERATOR_VERSION = 4
"""Raised whenever the same settings give other pictures, so that an old cache is not used for them."""
_MARKER = "demo.json"
_FILES = {"source": "rendered", "target": "camera"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What a generated demo folder holds. Raises InputError if a value breaks its rule."""

    seed: int = 0
    train: int = 320
    """Images in each domain's training split."""
    val: int = 80
    """Images in each domain's validation split."""
    size: tuple[int, int] = DEMO_SIZE
    """(height, width) in pixels."""
    video_seconds: float = 8.0
    """Length of ``drive.mp4``; 0 for none."""
    oracle_labels: bool = False
    """Also write labels for the camera's training split, for a supervised upper bound only."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(int(side) for side in self.size))
        if not 0 <= self.seed < 1000:
            raise InputError(f"the demo's seed is 0 to 999; got {self.seed}")
        for name in ("train", "val"):
            if not 1 <= getattr(self, name) <= 100_000:
                raise InputError(f"the demo's {name} split has 1 to 100000 images; got {getattr(self, name)}")
        if not 0 <= self.video_seconds <= 600:
            raise InputError(f"the demo's video lasts 0 to 600 seconds; got {self.video_seconds}")

    def to_json(self) -> dict:
        return {"generator": _GENERATOR_VERSION, **asdict(self), "size": list(self.size)}


def generate_demo(
    folder: str | os.PathLike[str],
    *,
    settings: DemoSettings | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the demo dataset into a folder, or complete one that was interrupted; nothing is done twice.

    ``progress`` is called with the number of pictures done and of all. Returns the folder. Raises OutputError
    if the folder holds something else, or a demo of other settings.
    """
    settings = settings or DemoSettings()
    folder = Path(folder)
    marker = folder / _MARKER
    if _read_marker(marker, settings) == "complete" and not _missing(folder, settings):
        return folder
    if not marker.exists():
        new_output_folder(folder, remedy="It holds no generated demo; choose another one.")
    write_json(marker, {"complete": False, "settings": settings.to_json()})
    missing = _missing(folder, settings)
    for done, picture in enumerate(missing):
        if progress:
            progress(done, len(missing))
        picture.write(folder, settings.size)
    if settings.video_seconds and not (folder / "drive.mp4").exists():
        demo_video(folder / "drive.mp4", seconds=settings.video_seconds, seed=_seed(settings, "drive", 0))
    for domain in _FILES.values():
        write_text(folder / f"{domain}.yaml", _description(domain, settings))
    write_json(marker, {"complete": True, "settings": settings.to_json()})
    if progress:
        progress(len(missing), len(missing))
    return folder


def open_demo(
    role: str, split: str, cache: Path | None = None, *, settings: DemoSettings | None = None
) -> Dataset:
    """Open one side of the demo, generating it first if it is not in the cache.

    ``role``: "source" (rendered, labelled) or "target" (camera). ``split``: "train" or "val". ``cache``: a
    folder for generated data; without it $CPSL_CACHE, else ``cpsl_deploy`` in the user's cache folder.
    Raises InputError for another role, DataError for another split.
    """
    if role not in _FILES:
        raise InputError(f"the demo's role is source or target; got {role!r}")
    settings = settings or DemoSettings()
    digest = hashlib.sha256(json.dumps(settings.to_json(), sort_keys=True).encode()).hexdigest()[:12]
    folder = (Path(cache) if cache is not None else cache_folder()) / f"demo-{digest}"
    logger.info("the demo's pictures are in %s", folder)
    generate_demo(folder, settings=settings)
    return open_own(folder / f"{_FILES[role]}.yaml", split)


@dataclass(frozen=True)
class _Picture:
    """One scene and the files it becomes."""

    domain: str
    split: str
    number: int
    seed: int
    labelled: bool

    @property
    def image(self) -> str:
        return f"{self.domain}/images/{self.split}/{self.number:06d}.png"

    @property
    def label(self) -> str:
        return f"{self.domain}/labels/{self.split}/{self.number:06d}.png"

    def is_written(self, folder: Path) -> bool:
        return (folder / self.image).exists() and (not self.labelled or (folder / self.label).exists())

    def write(self, folder: Path, size: tuple[int, int]) -> None:
        image, label = render_scene(self.seed, self.domain, size=size)
        # OpenCV codes BGR.
        write_bytes(folder / self.image, cv2.imencode(".png", image[..., ::-1])[1].tobytes())
        if self.labelled:
            write_bytes(folder / self.label, cv2.imencode(".png", label)[1].tobytes())


_SPLIT_SEEDS = {"train": 0, "val": 500_000, "drive": 900_000}


def _seed(settings: DemoSettings, split: str, number: int) -> int:
    return settings.seed * 1_000_000 + _SPLIT_SEEDS[split] + number


def _pictures(settings: DemoSettings) -> Iterator[_Picture]:
    for domain in _FILES.values():
        for split, count in (("train", settings.train), ("val", settings.val)):
            labelled = domain == "rendered" or split == "val" or settings.oracle_labels
            for number in range(count):
                yield _Picture(domain, split, number, _seed(settings, split, number), labelled)


def _missing(folder: Path, settings: DemoSettings) -> list[_Picture]:
    return [picture for picture in _pictures(settings) if not picture.is_written(folder)]


def _read_marker(marker: Path, settings: DemoSettings) -> str:
    """ "complete" or "unfinished". Raises OutputError if the folder is that of other settings."""
    if not marker.exists():
        return "unfinished"
    try:
        found = json.loads(marker.read_text())
        written, complete = found["settings"], bool(found["complete"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{marker} says what a demo folder holds, and it is damaged ({type(error).__name__}: {error}). "
            "Remove the folder or choose another one."
        ) from error
    if written != settings.to_json():
        raise OutputError(
            f"{marker.parent} holds a demo of other settings: {written}, wanted {settings.to_json()}. "
            "Choose another folder."
        )
    return "complete" if complete else "unfinished"


def _description(domain: str, settings: DemoSettings) -> str:
    """The dataset file of one domain."""
    labelled_train = domain == "rendered" or settings.oracle_labels
    train = {"images": "images/train", **({"labels": "labels/train"} if labelled_train else {})}
    values = {
        "name": f"demo-{domain}",
        "root": domain,
        "splits": {"train": train, "val": {"images": "images/val", "labels": "labels/val"}},
        "classes": list(DEMO_CLASSES.names),
        "ids": {name: [k] for k, name in enumerate(DEMO_CLASSES.names)},
    }
    return yaml.safe_dump(values, sort_keys=False)
