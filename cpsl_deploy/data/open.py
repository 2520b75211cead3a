"""Find a dataset by name or by path."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ..classes import ClassSpace
from ..errors import DataError
from .dataset import Dataset, list_images
from .footage import DEFAULT_FRAMES, Sampling, open_footage
from .images import IMAGE_SUFFIXES
from .layouts import LAYOUTS, locate, looks_labelled, recognise
from .own import open_own, own_splits
from .photos import open_photos, photo_splits
from .sampling_pass import Progress
from .video_file import VIDEO_SUFFIXES, list_videos

Role = Literal["source", "target"]
DEMO_NAMES = ("demo", "demo-source", "demo-target")

logger = logging.getLogger(__name__)


def open_dataset(
    reference: str | Path,
    split: str,
    *,
    root: Path | None = None,
    class_space: ClassSpace | None = None,
    need_labels: bool = False,
    role: Role | None = None,
    cache: Path | None = None,
    frames: int = DEFAULT_FRAMES,
    hold_out_s: float | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Open one split of a dataset.

    ``reference``, the first that fits: a name (``gta5``, ``synthia``, ``cityscapes``, ``demo``,
    ``demo-source``, ``demo-target``; write ``./gta5`` for a folder of that name); a YAML file (see ``own``);
    a video file; a folder in the layout of one of the named sets; a folder of photos without labels; a folder
    of videos.
    ``root``: where the files are, for names and YAML files.
    ``class_space``: labels are remapped to it by class name; without it the dataset's own classes.
    ``need_labels``: refuse a split without labels.
    ``role``: what plain ``demo`` stands for. ``cache``: where generated images and video frames are kept.
    ``frames``: how many are sampled from a video at most. ``hold_out_s``: seconds of it that make the split
    ``val`` and are not in ``train``; None for the default (see ``frame_choice``), 0 for none. ``progress``:
    told (frames decoded, frames announced) while a video is sampled for the first time.

    Raises DataError if the reference, the split or the files are not there or break a rule.
    """
    root, cache = (Path(p) if p is not None else None for p in (root, cache))
    sampling = Sampling(frames=frames, hold_out_s=hold_out_s)
    found = _find(reference, root=root, role=role, cache=cache, sampling=sampling, progress=progress)
    dataset = found.open(split)
    if need_labels and not dataset.has_labels:
        raise DataError(
            f"labels are needed here, and the split {split!r} of {dataset.name} has none. "
            "Name a labelled split or another dataset."
        )
    if dataset.unpaired_images or dataset.unpaired_labels:
        logger.warning(
            "%s %s: %d images without a label and %d labels without an image are left out",
            dataset.name, split, len(dataset.unpaired_images), len(dataset.unpaired_labels),
        )  # fmt: skip
    return dataset.with_classes(class_space) if class_space is not None else dataset


def dataset_splits(
    reference: str | Path, *, root: Path | None = None, hold_out_s: float | None = None
) -> tuple[str, ...]:
    """The splits of a dataset, without opening one. Arguments and errors as for ``open_dataset``."""
    sampling = Sampling(hold_out_s=hold_out_s)
    return _find(reference, root=Path(root) if root is not None else None, sampling=sampling).splits()


@dataclass(frozen=True)
class _Place:
    """Where a reference leads: which splits are there, and how to open one."""

    splits: Callable[[], tuple[str, ...]]
    open: Callable[[str], Dataset]


def _find(
    reference: str | Path,
    *,
    root: Path | None = None,
    role: Role | None = None,
    cache: Path | None = None,
    sampling: Sampling,
    progress: Progress | None = None,
) -> _Place:
    if reference in DEMO_NAMES:
        return _Place(lambda: ("train", "val"), lambda split: _open_demo(str(reference), split, role, cache))
    if reference in LAYOUTS:
        layout, folder = locate(str(reference), root)
        return _Place(lambda: layout.splits(folder), lambda split: layout.open(folder, split))
    path = Path(reference)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _Place(lambda: own_splits(path), lambda split: open_own(path, split, root=root))
    if root is not None:
        raise DataError(
            f"a root goes with a dataset's name or a YAML file; {reference} already is the place."
        )
    sample = partial(open_footage, sampling=sampling, cache=cache, progress=progress)
    if path.is_dir():
        return _find_in_folder(path, sample, sampling)
    if not path.exists():
        raise DataError(
            f"{reference} is neither there nor a known name. Give a folder, a video, a YAML file or one of: "
            f"{', '.join((*LAYOUTS, *DEMO_NAMES))}."
        )
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _Place(lambda: sampling.splits, lambda split: sample([path], split))
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise DataError(f"a dataset is more than one image; name the folder: {path.parent}.")
    raise DataError(
        f"{path} is not a dataset. Files that are: YAML descriptions (.yaml) and videos "
        f"({', '.join(s[1:] for s in VIDEO_SUFFIXES)})."
    )


def _find_in_folder(path: Path, sample: Callable[..., Dataset], sampling: Sampling) -> _Place:
    if layout := recognise(path):
        return _Place(lambda: layout.splits(path), lambda split: layout.open(path, split))
    if masks := looks_labelled(path):
        raise DataError(
            f"{path} has labels in {masks.name}/ and is not laid out as {', '.join(LAYOUTS)}. Describe it in "
            "a YAML file (name, splits, classes, ids), or name its folder of images to use it without labels."
        )
    videos = list_videos(path)
    if videos and not list_images(path):
        opened = partial(sample, videos, base=path)
        return _Place(lambda: sampling.splits, lambda split: opened(split=split))
    if videos:
        logger.warning(
            "%s holds photos and %d videos: the photos are used. Name a folder of videos alone to use those",
            path, len(videos),
        )  # fmt: skip
    return _Place(lambda: photo_splits(path), lambda split: open_photos(path, split))


def _open_demo(reference: str, split: str, role: Role | None, cache: Path | None) -> Dataset:
    side = role if reference == "demo" else reference.removeprefix("demo-")
    if side is None:
        raise DataError(
            "'demo' alone does not say which of its two sides is meant. Use demo-source or demo-target."
        )
    from .demo import open_demo

    return open_demo(side, split, cache)
