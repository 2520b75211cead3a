"""Parity from pixels to pixels: the image a network is trained on, and the one the deployed file gives it.

Both ways begin with the same JPEG file:

    training   decode, resize to working size, normalise           (data/images, train/samples, train/stage)
    runtime    decode, resize for the file, normalise in the graph (sources, segmenter, the ONNX file)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cpsl_deploy
from cpsl_deploy.data import Dataset
from cpsl_deploy.data.dataset import Item
from cpsl_deploy.errors import AccuracyError, DataError, InputError, ModelFileError
from cpsl_deploy.segmenter import Segmenter, labels_of
from cpsl_deploy.sources.files import open_source
from cpsl_deploy.train.models import Segmenter as Network
from cpsl_deploy.train.reporting.markdown import table
from cpsl_deploy.train.samples import WorkingImages
from cpsl_deploy.train.stage import normalised as train_normalised

from .blame import in_rgb, mistake_in
from .frames import resized
from .probe import NORMALISED, Probe

DECODE, RESIZE, NORMALISE, WHOLE = STEPS = ("decode", "resize", "normalise", "whole way")
MAX_GREY = 0.05
"""Grey levels by which a step that is the same on both ways may differ: float32 rounding is a thousandth."""
MAX_SHIFT = 1.0
"""Grey levels by which resizing in the graph may move the mean colour of an image."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One step's results on both ways, given the same input; the last is from file to network."""

    step: str
    max_grey: float
    """Grey levels, 0..255."""
    mean_grey: float
    max_units: float
    """The same in units of the network's input: grey levels / 255 / standard deviation."""
    mean_units: float


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the two ways are apart."""

    images: int
    sizes: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    """The (height, width) that occur, in training and at run time. Where they differ (the runtime rounds to
    multiples of 8 pixels, a file may have a fixed size) the trained image is resized again to be compared."""
    steps: tuple[Difference, ...]
    in_graph: bool
    """Whether the file resizes by itself: ``normalise`` is then the shift of the mean colour alone."""
    remark: str = ""
    """What kind of mistake a wrong normalisation looks like."""

    @property
    def same_sizes(self) -> bool:
        return all(trained == run for trained, run in self.sizes)

    @property
    def broken(self) -> tuple[str, ...]:
        """Steps that must be the same and are not, as sentences. Resizing may differ where the sizes do."""
        limits = {DECODE: MAX_GREY, NORMALISE: MAX_SHIFT if self.in_graph else MAX_GREY}
        if self.same_sizes and not self.in_graph:
            limits[RESIZE] = MAX_GREY
        return tuple(
            f"{d.step} must give what training sees within {limits[d.step]:g} grey levels, and differs by up "
            f"to {d.max_grey:.3g}, {d.mean_grey:.3g} on average"
            + (f" ({self.remark})" if self.remark and d.step == NORMALISE else "")
            for d in self.steps
            if d.max_grey > limits.get(d.step, np.inf)
        )

    def require(self) -> None:
        """Raises AccuracyError if a step differs that must not."""
        if self.broken:
            raise AccuracyError(
                f"pre-processing differs from training on {self.images} images: {'; '.join(self.broken)}. "
                "Export the file again, with the mean, standard deviation and colour order of its network"
            )

    def table(self) -> str:
        """Markdown: a row per step."""
        rows = [
            (d.step, f"{d.max_grey:.4g}", f"{d.mean_grey:.4g}", f"{d.max_units:.3g}", f"{d.mean_units:.3g}")
            for d in self.steps
        ]
        return table(("step", "grey levels, max", "mean", "normalised units, max", "mean"), rows)

    def as_dict(self) -> dict[str, Any]:
        """For a report."""
        return {
            "images": self.images,
            "sizes": [{"training": list(trained), "runtime": list(run)} for trained, run in self.sizes],
            "steps": {
                d.step: {
                    "max_grey": round(d.max_grey, 6),
                    "mean_grey": round(d.mean_grey, 6),
                    "max_units": round(d.max_units, 8),
                    "mean_units": round(d.mean_units, 8),
                }
                for d in self.steps
            },
            "broken": list(self.broken),
        }


def measure_parity(file: Path, network: Network, images: Sequence[Path]) -> Parity:
    """Follow image files both ways, through an exported ``file`` and as the photos of a target in training.

    ``network``: the torch model the file was made from; its mean and standard deviation are training's.
    Raises InputError without images, ModelFileError for a file without the inner value ``normalised``,
    DataError for an image that cannot be read.
    """
    if not images:
        raise InputError("parity is measured on one image file or more; none was given")
    try:
        probe = Probe(file, inner=(NORMALISED,))
    except InputError as error:
        raise ModelFileError(f"{file} keeps no value {NORMALISED!r} inside: {error}") from error
    dataset = Dataset(
        name="parity", split="all", items=tuple(Item(f"{i}", path) for i, path in enumerate(images))
    )
    working = WorkingImages(dataset, probe.spec.size)
    rows: list[dict[str, np.ndarray]] = []
    sizes, remark = set(), ""
    with cpsl_deploy.load(file, backend="onnxruntime", device="cpu", whole_graph=True) as segmenter:
        for i, path in enumerate(images):
            frame = _runtime_frame(path)
            fed = fed_frame(segmenter, frame)
            entered = in_rgb(probe.values(fed, [NORMALISED])[NORMALISED], probe.contract)
            trained = working.image(i)
            sizes.add((trained.shape[:2], (entered.shape[2], entered.shape[3])))
            rows.append(_differences(network, dataset.image(i), frame, trained, fed, entered))
            if np.abs(rows[-1][NORMALISE]).max() > MAX_GREY:
                remark = mistake_in(entered, fed, probe.spec, probe.contract)
    std = np.array(network.std) * 255
    return Parity(
        images=len(images),
        sizes=tuple(sorted(sizes)),
        steps=tuple(_difference(step, [row[step] for row in rows], std) for step in STEPS),
        in_graph=probe.contract.network_size is not None,
        remark=remark,
    )


def fed_frame(segmenter: Segmenter, frame: np.ndarray) -> np.ndarray:
    """What the runtime gives its model file for a frame uint8 (H, W, 3) BGR: uint8 (h, w, 3) BGR."""
    seen: list[np.ndarray] = []
    backend = segmenter.backend
    infer = backend.infer

    def watched(image: np.ndarray, *more: Any, **named: Any) -> Any:
        seen.append(image[0].copy())
        return infer(image, *more, **named)

    vars(backend)["infer"] = watched
    try:
        labels_of(segmenter, frame)
    finally:
        del vars(backend)["infer"]
    image = seen[0]
    return image if segmenter.contract.colour_order == "BGR" else np.ascontiguousarray(image[..., ::-1])


def _runtime_frame(path: Path) -> np.ndarray:
    frame = next(iter(open_source(path).frames()))
    if frame.image is None:
        raise DataError(frame.problem)
    return frame.image


def _differences(
    network: Network,
    trained_full: np.ndarray,
    frame: np.ndarray,
    trained: np.ndarray,
    fed: np.ndarray,
    entered: np.ndarray,
) -> dict[str, np.ndarray]:
    """Per step the difference in grey levels, (H, W, 3) RGB: training's images are RGB, the runtime's BGR."""
    size = (entered.shape[2], entered.shape[3])
    fed_rgb = np.ascontiguousarray(fed[..., ::-1])
    wanted = resized(trained, size)
    found = {
        DECODE: trained_full.astype(np.float32) - frame[..., ::-1],
        WHOLE: _in_grey(_trained_input(network, wanted) - entered, network),
    }
    if fed.shape[:2] == size:
        found[RESIZE] = wanted.astype(np.float32) - fed_rgb
        found[NORMALISE] = _in_grey(_trained_input(network, fed_rgb) - entered, network)
    else:
        # The graph's own resizing cannot be told from its normalisation pixel by pixel. But it leaves the
        # mean colour, and a wrong normalisation does not.
        found[RESIZE] = found[WHOLE]
        found[NORMALISE] = found[WHOLE].mean((0, 1), keepdims=True)
    return found


def _trained_input(network: Network, rgb: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) RGB as training gives it to the network, float32 (1, 3, H, W)."""
    tensor = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
    return train_normalised(tensor, network).numpy()


def _in_grey(units: np.ndarray, network: Network) -> np.ndarray:
    return units[0].transpose(1, 2, 0) * (255 * np.array(network.std, np.float32))


def _difference(step: str, differences: Sequence[np.ndarray], std: np.ndarray) -> Difference:
    """Over all images; ``std`` (3,) RGB in grey levels."""
    grey = [np.abs(d) for d in differences]
    units = [d / std for d in grey]
    values = sum(d.size for d in grey)
    return Difference(
        step=step,
        max_grey=max(float(d.max()) for d in grey),
        mean_grey=float(sum(d.sum(dtype=np.float64) for d in grey) / values),
        max_units=max(float(d.max()) for d in units),
        mean_units=float(sum(d.sum(dtype=np.float64) for d in units) / values),
    )
