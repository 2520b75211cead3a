"""The frames on which an exported file is compared with its model."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cpsl_deploy.data import Dataset, dataset_splits, open_dataset
from cpsl_deploy.errors import DataError
from cpsl_deploy.spec import ModelSpec

_log = logging.getLogger(__name__)

COUNT = 4
"""Frames compared; a megapixel frame takes a large network some seconds on a CPU."""


def check_frames(
    reference: str | Path | None,
    spec: ModelSpec,
    size: tuple[int, int],
    *,
    run: Path | None = None,
    count: int = COUNT,
) -> tuple[list[np.ndarray], str]:
    """``count`` frames, uint8 (h, w, 3) BGR of ``size`` = (h, w), spread over a dataset, and words for them.

    ``reference``: a dataset as the training commands take it; None takes the target the model was adapted
    to, if ``run`` (a run folder) or the spec names one that can still be read, and generated frames otherwise
    (the words say so). Raises DataError if a given reference cannot be read.
    """
    if reference is not None:
        return _from_dataset(_open(str(reference)), str(reference), size, count)
    target = _remembered_target(run) or spec.provenance.get("target")
    why = "the model does not say what it was adapted to"
    if isinstance(target, str):
        target = {"reference": target}
    if isinstance(target, dict):
        name = str(target.get("reference"))
        try:
            return _from_dataset(_open(**target), name, size, count)
        except DataError as error:
            _log.info("frames are generated, because %s cannot be read: %s", name, error)
            why = f"the model's target {name} cannot be read"
    described = f"{count} generated frames, because {why} (--frames names others)"
    return list(generated_frames(size, count)), described


def _remembered_target(run: Path | None) -> dict[str, Any] | None:
    """How the target in a run folder's domains.json was opened, as ``_open`` takes it, if that is there."""
    if run is None or not (run / "domains.json").is_file():
        return None
    try:
        target = json.loads((run / "domains.json").read_text())["target"]
        sampling = {key: target[key] for key in ("frames", "hold_out_s") if key in target}
        return {key: target[key] for key in ("reference", "root", "split")} | sampling
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{run / 'domains.json'}, which says what the run was adapted to, is damaged ({error!r}). "
            "Name images to compare on: --frames DATA"
        ) from error


def _open(reference: str, root: str | None = None, split: str | None = None, **sampling: Any) -> Dataset:
    """A target's split; without one, ``val`` if there is one, because the network did not train on it.

    ``sampling``: how the run sampled a drive, so that its frames are found and not sampled again.
    """
    place = Path(root) if root else None
    if split is None:
        splits = dataset_splits(reference, root=place)
        split = "val" if "val" in splits else splits[0]
    return open_dataset(reference, split, root=place, role="target", **sampling)


def _from_dataset(
    dataset: Dataset, name: str, size: tuple[int, int], count: int
) -> tuple[list[np.ndarray], str]:
    """Frames at equal distances, because neighbours in a drive look alike."""
    count = min(count, len(dataset))
    indices = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    frames = [_resized(dataset.image(int(i)), size) for i in indices]
    return frames, f"{count} frame{'s' * (count > 1)} of {name} ({dataset.split})"


def _resized(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """RGB of any size -> BGR of ``size``, as the runtime resizes."""
    height, width = size
    shrinks = height * width < rgb.shape[0] * rgb.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(rgb[..., ::-1], (width, height), interpolation=interpolation)


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
