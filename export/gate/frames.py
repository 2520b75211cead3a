"""The frames on which an exported file is compared with its model, with ground truth where there is some."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cpsl_deploy.data import Dataset, dataset_splits, open_dataset
from cpsl_deploy.errors import DataError
from cpsl_deploy.segmenter import runtime_size
from cpsl_deploy.spec import ModelSpec

_log = logging.getLogger(__name__)

COUNT = 4
"""Frames compared without labels; a megapixel frame takes a large network some seconds on a CPU."""
LABELLED_COUNT = 200
"""Labelled frames compared at most, for the IoU of rare classes: a whole validation split of that many."""
MOST_PIXELS = 2**27
"""Of all frames together: half a GiB of labels, margins and ground truth at 4 bytes a pixel."""

Pair = tuple[np.ndarray, "np.ndarray | None"]
"""A frame uint8 (H, W, 3) BGR and its ground truth uint8 (H, W), IGNORE where unknown; None without any."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """Frames of a camera, read when asked for."""

    described: str
    """Which they are, in words."""
    names: tuple[str, ...]
    read: Callable[[int], Pair] = dataclasses.field(repr=False)
    """Frame and truth by index. Raises DataError for a file that cannot be read."""
    original: Callable[[int], np.ndarray] | None = dataclasses.field(default=None, repr=False)
    """The camera's own frame uint8 (H, W, 3) BGR by index; None where there is none but ``read`` gives it."""
    has_truth: bool = False
    generated: bool = False
    """Nobody's camera: no image of the target could be found."""
    files: tuple[Path, ...] = ()
    """Of the images, if they are files of their own, in the same order."""

    def __len__(self) -> int:
        return len(self.names)

    def images(self) -> Iterator[np.ndarray]:
        """The frames alone, uint8 (H, W, 3) BGR, one after another."""
        return (self.read(i)[0] for i in range(len(self)))

    @classmethod
    def of(
        cls, images: Sequence[np.ndarray], truth: Sequence[np.ndarray] | None = None, *, described: str
    ) -> Frames:
        """Frames in memory: uint8 (H, W, 3) BGR, and ground truth uint8 (H, W) if there is some."""
        names = tuple(f"frame {i}" for i in range(len(images)))
        return cls(
            described=described,
            names=names,
            read=lambda i: (images[i], None if truth is None else truth[i]),
            has_truth=truth is not None,
        )


def open_frames(
    reference: str | Path | None,
    spec: ModelSpec,
    size: tuple[int, int] | None,
    *,
    run: Path | None = None,
    count: int = COUNT,
    labelled_count: int = LABELLED_COUNT,
    trained: bool = False,
    native: bool = False,
    in_memory: bool = True,
    option: str = "--frames",
    apart_from: Frames | None = None,
) -> Frames:
    """Real frames of the target: up to ``labelled_count`` with labels if there are any, else ``count``.

    They are spread over a dataset, and of ``size`` = (height, width), the file's own; None brings each to
    `segmenter.runtime_size`, as the runtime does for a file with free sizes. Ground truth is resized with
    nearest neighbour and joined to the model's classes by name.

    ``reference``: a dataset as the training commands take it. None takes the labelled validation images of
    ``run`` (a run folder), else the target the model was adapted to, if run or spec name one that can still
    be read, and generated frames otherwise (the words say so). ``trained``: the images that a run trained on
    instead of the validation images, the split ``train`` of a reference. ``native``: where ``size`` is None,
    frames stay as large as the camera gives them, for a file that resizes them itself. ``in_memory``: all are
    to be held at once, so that large ones are fewer. ``option``: of the command, for messages.
    ``apart_from``: frames whose image files are not taken again. Raises DataError if a given reference cannot
    be read, or has no other images than those.
    """
    of_dataset = partial(
        _of_dataset,
        spec=spec,
        size=size,
        count=count,
        labelled_count=labelled_count,
        native=native,
        in_memory=in_memory,
    )

    def rest(dataset: Dataset, name: str) -> Dataset:
        return _apart(dataset, name, apart_from, option)

    if reference is not None:
        return of_dataset(rest(_open(str(reference), trained=trained), str(reference)), str(reference))
    target = _remembered_target(run, trained=trained) or spec.provenance.get("target")
    why = "the model does not say what it was adapted to"
    if isinstance(target, str):
        target = {"reference": target}
    if isinstance(target, dict):
        name = str(target.get("reference"))
        try:
            dataset = _open(**target, trained=trained)
        except DataError as error:
            _log.info("frames are generated, because %s cannot be read: %s", name, error)
            why = f"the model's target {name} cannot be read"
        else:
            return of_dataset(rest(dataset, name), name)
    described = f"{count} generated frames, because {why} ({option} names others)"
    # A native frame is larger than the network's image, so that there is something to resize.
    height, width = spec.size
    size = size or ((3 * height // 2, 3 * width // 2) if native else spec.size)
    frames = Frames.of(list(generated_frames(size, count)), described=described)
    return dataclasses.replace(frames, generated=True)


def _remembered_target(run: Path | None, *, trained: bool) -> dict[str, Any] | None:
    """How a run folder's domains.json says its target was opened, as ``_open`` takes it, if that is there:
    the labelled validation images before those it trained on, unless those are asked for."""
    if run is None or not (run / "domains.json").is_file():
        return None
    try:
        memory = json.loads((run / "domains.json").read_text())
        target = (None if trained else memory.get("validation")) or memory["target"]
        sampling = {key: target[key] for key in ("frames", "hold_out_s") if key in target}
        return {key: target[key] for key in ("reference", "root", "split")} | sampling
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{run / 'domains.json'}, which says what the run was adapted to, is damaged ({error!r}). "
            "Name images to compare on: --frames DATA"
        ) from error


def _open(
    reference: str,
    root: str | None = None,
    split: str | None = None,
    *,
    trained: bool = False,
    **sampling: Any,
) -> Dataset:
    """A target's split; without one, ``val`` if there is one, because the network did not train on it, or
    with ``trained`` the split ``train``.

    ``sampling``: how the run sampled a drive, so that its frames are found and not sampled again.
    """
    place = Path(root) if root else None
    if split is None:
        splits = dataset_splits(reference, root=place)
        wanted = "train" if trained else "val"
        split = wanted if wanted in splits else splits[0]
    return open_dataset(reference, split, root=place, role="target", **sampling)


def _apart(dataset: Dataset, name: str, taken: Frames | None, option: str) -> Dataset:
    """The images of a dataset that others did not take."""
    if taken is None:
        return dataset
    files = {path.resolve() for path in taken.files}
    left = [i for i, item in enumerate(dataset.items) if item.image.resolve() not in files]
    if not left:
        raise DataError(
            f"the frames that {option} takes are others than those that a file is judged on, and {name} "
            f"({dataset.split}) has none but these {len(dataset)}. Name other images of the camera: "
            f"{option} DATA"
        )
    return dataset if len(left) == len(dataset) else dataset.subset(left)


def _of_dataset(
    dataset: Dataset,
    name: str,
    spec: ModelSpec,
    size: tuple[int, int] | None,
    count: int,
    labelled_count: int,
    native: bool,
    in_memory: bool,
) -> Frames:
    """Frames at equal distances, because neighbours in a drive look alike."""
    common = dataset.classes is not None and set(dataset.classes.names) & set(spec.class_names)
    labelled = bool(dataset.has_labels and common)
    height, width = size or (dataset.image_size(0) if native else spec.size)
    most = max(1, MOST_PIXELS // (height * width)) if in_memory else len(dataset)
    count = min(labelled_count if labelled else count, len(dataset), most)
    indices = np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist()
    joined = dataset.with_classes(spec.classes) if labelled else dataset

    def original(i: int) -> np.ndarray:
        return np.ascontiguousarray(joined.image(indices[i])[..., ::-1])

    def read(i: int) -> Pair:
        image = original(i)
        own = image.shape[:2]
        wanted = size or (own if native else runtime_size(spec, *own))
        truth = joined.label(indices[i]) if labelled else None
        return resized(image, wanted), truth if truth is None else resized_labels(truth, wanted)

    with_labels = " with labels" if labelled else ""
    return Frames(
        described=f"{count} frame{'s' * (count > 1)} of {name} ({dataset.split}){with_labels}",
        names=tuple(dataset.names[i] for i in indices),
        read=read,
        original=original,
        files=tuple(dataset.items[i].image for i in indices),
        has_truth=labelled,
    )


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) at (height, width), as the runtime and training resize."""
    if image.shape[:2] == size:
        return image
    height, width = size
    shrinks = height * width < image.shape[0] * image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=interpolation)


def resized_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W) at (height, width), by nearest neighbour."""
    if labels.shape == size:
        return labels
    return cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def half_size(frame: np.ndarray) -> np.ndarray:
    """A frame at about half its size, both sides odd: what a file with free sizes must take, too."""
    height, width = (max(17, side // 2 | 1) for side in frame.shape[:2])
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def generated_frames(size: tuple[int, int], count: int) -> Iterator[np.ndarray]:
    """Deterministic frames, uint8 (h, w, 3) BGR, with the spectrum of photos.

    The amplitude of natural images falls with one over the spatial frequency (Field, JOSA A 4, 1987), and
    their colour channels go together; a white-noise frame would instead put every pixel near a tie.
    """
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    for seed in range(count):
        random = np.random.default_rng(seed)
        spectrum = np.fft.rfft2(random.standard_normal((4, height, width))) / frequency
        common, *own = np.fft.irfft2(spectrum, s=size)
        planes = np.stack([common + 0.3 * plane for plane in own], axis=-1)
        yield np.clip(128 + 50 * (planes - planes.mean()) / planes.std(), 0, 255).astype(np.uint8)
