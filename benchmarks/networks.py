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
from pathlib import Path
from typing import Any

import click
import networks_report
from networks_cell import Cell, Measuring, measure

from cpsl_deploy.bench.interleaved import ROUNDS
from cpsl_deploy.bench.variant_files import require_gpu
from cpsl_deploy.bench.variants import BUDGET_S
from cpsl_deploy.command_line import Command, parse_size
from cpsl_deploy.errors import CpslError, InputError
from cpsl_deploy.files import write_json
from cpsl_deploy.train.models import ARCHITECTURES

NETWORKS = ("squeezenet_fpn", "ddrnet23_slim", "deeplabv2_resnet101")


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
