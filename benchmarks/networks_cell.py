"""One cell of `networks.py`: a network, a frame size, a batch and a device, measured in every way."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from cpsl_deploy.bench.frames import evenly_spaced
from cpsl_deploy.bench.interleaved import ROUNDS
from cpsl_deploy.bench.roofline import roofline_fraction
from cpsl_deploy.bench.variants import BUDGET_S, Variant, measure_variants, unavailable_variant
from cpsl_deploy.classes import CITYSCAPES_19
from cpsl_deploy.data import Dataset, open_dataset
from cpsl_deploy.data.scenes import render_scene
from cpsl_deploy.errors import InputError, UnavailableError
from cpsl_deploy.export.bench_variants import network_variants
from cpsl_deploy.export.exporter import calibration_frames, find_weights
from cpsl_deploy.export.gate.frames import Frames
from cpsl_deploy.export.graph.onnx_file import export_onnx
from cpsl_deploy.export.request import ExportRequest
from cpsl_deploy.machine import describe_machine, package_versions
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.models import build, load_model
from cpsl_deploy.train.models.base import Segmenter as Network

FRAMES = 2
"""Different frames on which a cell is measured."""
CALIBRATION_SCENES = 8
"""Rendered frames that INT8 is calibrated on where no run says better."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is measured together."""

    network: str
    size: tuple[int, int]
    """(height, width) of the frames in pixels."""
    batch: int
    device: str

    @property
    def name(self) -> str:
        return f"{self.network}-{self.size[0]}x{self.size[1]}-b{self.batch}-{self.device}"


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How."""

    runs: dict[str, Path]
    """Network name to its run folder or model file."""
    data: str | None = None
    data_root: Path | None = None
    split: str = "val"
    images: int | None = None
    rounds: int = ROUNDS
    seconds: float = BUDGET_S
    threads: int | None = None
    skip: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        return {**values, "runs": {name: str(path) for name, path in self.runs.items()}, "data_root": None}


def network_of(cell: Cell, runs: dict[str, Path]) -> tuple[Network, ModelSpec]:
    """The run's network for frames of the cell's size, or one with random weights and 19 classes.

    Raises InputError for a run of another network.
    """
    if run := runs.get(cell.network):
        network, spec = load_model(find_weights(run))
        if spec.architecture != cell.network:
            raise InputError(f"{run} holds a {spec.architecture}, and --run names it for {cell.network}")
        return network, dataclasses.replace(spec, size=cell.size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build(cell.network, len(CITYSCAPES_19)).eval()
    spec = ModelSpec(
        architecture=cell.network,
        class_names=CITYSCAPES_19.names,
        palette=CITYSCAPES_19.palette,
        mean=network.mean,
        std=network.std,
        size=cell.size,
        stride=network.stride,
        align_corners=network.align_corners,
    )
    return network, spec


def variants_of(cell: Cell, how: Measuring, network: Network, spec: ModelSpec, folder: Path) -> list[Variant]:
    """Those of the cell's device, the ones left out told as such."""

    def calibration() -> Sequence[np.ndarray]:
        if run := how.runs.get(cell.network):
            request = ExportRequest(size=cell.size)
            return calibration_frames(spec, request, find_weights(run).parent, Frames.of([], described=""))
        return [scene(100 + seed, cell.size) for seed in range(CALIBRATION_SCENES)]

    made = network_variants(
        network,
        spec,
        size=cell.size,
        folder=folder,
        calibration=calibration,
        batch=cell.batch,
        threads=how.threads,
        devices=(cell.device,),
    )
    return [
        unavailable_variant(variant.name, UnavailableError(f"left out by --skip {','.join(how.skip)}"))
        if set(how.skip) & set(variant.name.split())
        else variant
        for variant in made
    ]


def scene(seed: int, size: tuple[int, int]) -> np.ndarray:
    """A rendered frame uint8 (H, W, 3) BGR."""
    return np.ascontiguousarray(render_scene(seed, "camera", size=size)[0][..., ::-1])


def frames_of(cell: Cell, dataset: Dataset | None) -> list[np.ndarray]:
    """uint8 (H, W, 3) BGR of the cell's size: the data's, or rendered ones."""
    if dataset is None:
        return [scene(seed, cell.size) for seed in range(FRAMES)]
    images = [dataset.image(i)[..., ::-1] for i in evenly_spaced(len(dataset), FRAMES)]
    return [cv2.resize(image, cell.size[::-1], interpolation=cv2.INTER_AREA) for image in images]


def measure(cell: Cell, how: Measuring) -> dict[str, Any]:
    """The cell's record: what it is of, and the section ``variants`` of a benchmark."""
    machine = describe_machine()  # before the exports, which load it
    network, spec = network_of(cell, how.runs)
    dataset = None
    if how.data is not None:
        whole = open_dataset(how.data, how.split, root=how.data_root, role="target")
        dataset = whole.subset(evenly_spaced(len(whole), how.images or len(whole)))
    scored = dataset if cell.network in how.runs and cell.batch == 1 else None
    with tempfile.TemporaryDirectory(prefix="cpsl-networks-") as name:
        folder = Path(name)
        (folder / "files").mkdir()
        found = measure_variants(
            variants_of(cell, how, network, spec, folder / "files"),
            frames_of(cell, dataset),
            dataset=scored,
            rounds=how.rounds,
            budget_s=how.seconds,
            fraction=partial(roofline_fraction, threads=how.threads),
            graph=export_onnx(network, spec, folder / "counted.onnx", size=cell.size),
        )
    return {
        "cell": dataclasses.asdict(cell),
        "parameters": sum(p.numel() for p in network.parameters()),
        "random_weights": cell.network not in how.runs,
        "images": None if scored is None else len(scored),
        "measuring": how.to_json(),
        "machine": dataclasses.asdict(machine),
        "versions": {**package_versions(), "torch": torch.__version__},
        "variants": found.to_json(),
    }
