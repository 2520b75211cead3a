"""Every network x frame size x batch x way to run it, on this machine.

    python benchmarks/networks.py --sizes 512x1024,1024x2048 --batches 1,8 --device cpu -o runs/networks

A cell is a network, a frame size and a batch; within it all variants take turns, in torch, in onnxruntime, in
OpenVINO and in TensorRT, in each precision. Weights are random unless a run is named: they do not change the
time, and agreement between variants says little with them. Each cell is measured by a process of its own and
kept as one JSON file; cells that are there are not measured again, so that the same command goes on where it
was interrupted. Writes ``networks.json``, ``networks.md`` and ``networks.png``; the last line on standard
output is one JSON document.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import networks_report
import numpy as np
import torch

from cpsl_deploy.bench.frames import evenly_spaced
from cpsl_deploy.bench.interleaved import ROUNDS
from cpsl_deploy.bench.variant_files import require_gpu
from cpsl_deploy.bench.variants import BUDGET_S, Variant, measure_variants, unavailable_variant
from cpsl_deploy.classes import CITYSCAPES_19
from cpsl_deploy.command_line import Command, parse_size
from cpsl_deploy.data import Dataset, open_dataset
from cpsl_deploy.data.scenes import render_scene
from cpsl_deploy.errors import CpslError, InputError, UnavailableError
from cpsl_deploy.export.bench_variants import network_variants
from cpsl_deploy.export.exporter import calibration_frames, find_weights
from cpsl_deploy.export.gate.frames import Frames
from cpsl_deploy.export.request import ExportRequest
from cpsl_deploy.files import write_json
from cpsl_deploy.machine import describe_machine, package_versions
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.models import ARCHITECTURES, build, load_model
from cpsl_deploy.train.models.base import Segmenter as Network

NETWORKS = ("squeezenet_fpn", "ddrnet23_slim", "deeplabv2_resnet101")
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
    with tempfile.TemporaryDirectory(prefix="cpsl-networks-") as folder:
        found = measure_variants(
            variants_of(cell, how, network, spec, Path(folder)),
            frames_of(cell, dataset),
            dataset=scored,
            rounds=how.rounds,
            budget_s=how.seconds,
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


def measure_apart(cell: Cell, how: Measuring, path: Path) -> None:
    """The cell by a process of its own, which may be killed for the memory it takes, with this command's
    arguments. What came of it is in ``path``, a reason if need be.

    Raises InputError for what the command itself would end with, which is no fault of the cell.
    """
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--cell", cell.name]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
    if done.returncode == CpslError.exit_code:
        raise InputError(f"{cell.name} cannot be measured: {last.removeprefix('error: ')}")
    if done.returncode != 0:
        reason = f"its process ended with {done.returncode} ({last}). Delete this file to try again"
        facts = {"cell": dataclasses.asdict(cell), "measuring": how.to_json(), "unavailable": reason}
        write_json(path, facts)


def done_already(path: Path, how: Measuring) -> bool:
    """Whether the cell's file is there. Raises InputError if it was measured in another way."""
    if not path.exists():
        return False
    before, now = read(path)["measuring"], json.loads(json.dumps(how.to_json()))
    if changed := [key for key in now if before.get(key) != now[key]]:
        raise InputError(
            f"{path} was measured with another {', '.join(changed)}: {[before.get(k) for k in changed]}, now "
            f"{[now[k] for k in changed]}. Give another folder with -o, or delete the file"
        )
    return True


def read(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def parse_runs(given: tuple[str, ...]) -> dict[str, Path]:
    """``NETWORK=RUN`` each. Raises InputError for anything else."""
    runs = {}
    for text in given:
        name, found, path = text.partition("=")
        if not found or name not in ARCHITECTURES:
            raise InputError(
                f"a run is given as NETWORK=RUN, NETWORK {', '.join(ARCHITECTURES)}; got {text!r}"
            )
        runs[name] = Path(path)
    return runs


def cells_of(networks: str, sizes: str, batches: str, device: str) -> list[Cell]:
    """Small ones first. Raises InputError for what is no network, size or batch."""
    if unknown := set(networks.split(",")) - set(ARCHITECTURES):
        raise InputError(f"networks are {', '.join(ARCHITECTURES)}; got {', '.join(sorted(unknown))}")
    numbers = batches.split(",")
    if not all(number.isdecimal() and int(number) > 0 for number in numbers):
        raise InputError(f"batches are whole numbers from 1, with commas; got {batches!r}")
    return [
        Cell(network=network, size=parse_size(size), batch=int(batch), device=device)
        for batch in numbers
        for size in sizes.split(",")
        for network in networks.split(",")
    ]


@click.command(cls=Command)
@click.option("--sizes", default="512x1024,1024x2048", show_default=True, help="HEIGHTxWIDTH of the frames.")
@click.option("--batches", default="1", show_default=True, help="Frames at once.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--networks", default=",".join(NETWORKS), show_default=True)
@click.option("--run", "runs", multiple=True, metavar="NETWORK=RUN", help="Trained weights of a network.")
@click.option("--data", metavar="DATA", help="Frames to measure on and, with --run, to score on.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where the dataset's files are.")
@click.option("--split", default="val", show_default=True)
@click.option("--images", type=click.IntRange(1), help="Images to score on, evenly spread.  [default: all]")
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(0),
    default=BUDGET_S,
    show_default=True,
    help="For the rounds of a cell: what takes longer has fewer of them.",
)
@click.option("--threads", type=click.IntRange(1), help="Of one inference on the CPU.")
@click.option("--skip", default="", help="Variants that have one of these words, for example compiled,fp16.")
@click.option("--cell", "only", hidden=True, help="Measure this cell alone, in this process.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("runs/networks"))
def main(
    sizes: str,
    batches: str,
    device: str,
    networks: str,
    runs: tuple[str, ...],
    only: str | None,
    output: Path,
    skip: str,
    **how: Any,
) -> None:
    """Measure every network in every way to run it on this machine."""
    cells = cells_of(networks, sizes, batches, device)
    measuring = Measuring(runs=parse_runs(runs), skip=tuple(filter(None, skip.split(","))), **how)
    if device == "cuda":
        require_gpu()
    folder = output / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {cell: folder / f"{cell.name}.json" for cell in cells}
    if only is not None:
        (cell,) = [cell for cell in cells if cell.name == only]
        write_json(paths[cell], measure(cell, measuring))
        return
    for i, (cell, path) in enumerate(paths.items()):
        if not done_already(path, measuring):
            click.echo(f"{cell.name}: {i + 1} of {len(cells)}", err=True)
            measure_apart(cell, measuring, path)
    records = [read(path) for path in paths.values()]
    networks_report.write(output, records)
    print(json.dumps(networks_report.headline(records)))


if __name__ == "__main__":
    main()
