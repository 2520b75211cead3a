"""Frames from JPEG to JPEG: common practice against ours, step by step, in one run.

    python benchmarks/frames.py --network squeezenet_fpn --size 512x1024 -o runs/frames

One network and one frame size at a time. Every way reads the same JPEG files and writes JPEG overlays; ways
take turns, so that a busy machine is busy for all. Weights are random unless ``--run`` names a run. The files
are exported once, into ``-o``; ``--only-files`` stops there. Writes ``frames.json`` and ``frames.md``, of all
cells measured into that folder so far; the last line on standard output is one JSON document.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import frames_report
import frames_ways
import numpy as np
from frames_ways import STEPS, Way, in_turns, open_ways, read_json, same_result

from cpsl_deploy.bench.graph_cost import graph_cost
from cpsl_deploy.command_line import Command, parse_size
from cpsl_deploy.errors import UnavailableError
from cpsl_deploy.files import write_json
from cpsl_deploy.machine import describe_machine, package_versions
from cpsl_deploy.machine.rates import measure_rates

ROUNDS, BUDGET_S = 15, 30.0
NETWORKS = ("squeezenet_fpn", "ddrnet23_slim")


def limit_ms(files: Path, images: list[Path], precision: str = "f32") -> dict[str, Any]:
    """Least time of a frame: the network's operations by the rate of matrix products, and by that of memory
    the bytes of all else that nothing can spare: both JPEGs, the frame written once and read twice (by the
    network and the overlay), logits, labels and the overlay written and read. Raises UnavailableError without
    a rate of that precision."""
    network = graph_cost(files / "logits.onnx", (0, 0))
    height, width = network.frame_size
    pixels = height * width
    logits = network.frame_bytes - 3 * pixels
    rates = measure_rates([precision])
    rate = rates.matrix_rate(precision)
    rest = 2 * images[0].stat().st_size + pixels * (3 + 2 * 3 + 2 * 1 + 2 * 3) + 2 * logits
    return {
        "network_ms": 1e3 * network.flops / rate.flops_per_s,
        "rest_ms": 1e3 * rest / rates.copy.bytes_per_s,
        "gflop": network.flops / 1e9,
        "rest_mb": rest / 1e6,
        "how": [rate.how, rates.copy.how],
        "disturbed": rates.disturbed,
    }


def limits_of(files: Path, images: list[Path]) -> dict[str, Any]:
    found = {}
    for precision in ("f32", "bf16", "int8"):
        try:
            found[precision] = limit_ms(files, images, precision)
        except UnavailableError as error:
            found[precision] = {"unavailable": str(error)}
    return found


def row(way: Way, baseline: Way, answer: dict[str, Any] | None) -> dict[str, Any]:
    """Medians over the rounds; the ratio is of the whole frame in the same round, with its quartiles."""
    wall, cpu = np.array(way.wall_ms), np.array(way.cpu_ms)
    ratio = np.array(baseline.wall_ms).sum(1) / wall.sum(1)
    low, middle, high = np.percentile(ratio, [25, 50, 75])
    return {
        "name": way.name,
        "wall_ms": np.median(wall, 0).tolist(),
        "cpu_ms": np.median(cpu, 0).tolist(),
        "frame_wall_ms": float(np.median(wall.sum(1))),
        "frame_cpu_ms": float(np.median(cpu.sum(1))),
        "ratio": float(middle),
        "ratio_quartiles": [float(low), float(high)],
        "agreement": answer,
    }


def measure(files: Path, ways: str, rounds: int, seconds: float) -> dict[str, Any]:
    images = sorted(files.glob("frame*.jpg"))
    machine = describe_machine()
    opened, missing = open_ways(files, images, ways)
    done = in_turns(opened, rounds=rounds, budget_s=seconds)
    expected = [opened[0].run(index) for index in range(len(images))]
    rows = []
    for way in opened:
        answers = None
        if len(way.wall_ms[0]) == len(STEPS):  # not the network alone
            each = [same_result(way.run(index), one) for index, one in enumerate(expected)]
            answers = {
                "labels": float(np.mean([one["labels"] for one in each])),
                "same_jpegs": sum(one["same_jpeg"] for one in each),
                "frames": len(each),
            }
        rows.append(row(way, opened[0], answers))
    names = [one["name"] for one in rows if one["agreement"]]
    return {
        "rounds": done,
        "rows": rows,
        "unavailable": missing,
        "limits": limits_of(files, images),
        "peak_mb": {name: memory_alone(name, files) for name in names},
        "machine": dataclasses.asdict(machine),
        "versions": package_versions(),
    }


def memory_alone(name: str, files: Path) -> float | None:
    """Peak MB of a process that runs nothing else; None if it cannot be told here."""
    command = [sys.executable, frames_ways.__file__, name, str(files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None


@click.command(cls=Command)
@click.option("--network", type=click.Choice(NETWORKS), default=NETWORKS[0], show_default=True)
@click.option("--size", default="512x1024", show_default=True, help="HEIGHTxWIDTH of the frames.")
@click.option("--run", type=click.Path(exists=True, path_type=Path), help="Trained weights: a run folder.")
@click.option("--photos", type=click.Path(exists=True, path_type=Path), help="Folder of frames.")
@click.option("--ways", default="", help="Words, with commas between: ways with one of them in their name.")
@click.option("--rounds", type=click.IntRange(3), default=ROUNDS, show_default=True)
@click.option("--seconds", type=click.FloatRange(0), default=BUDGET_S, show_default=True)
@click.option("--only-files", is_flag=True, help="Export what is measured, and measure nothing.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("runs/frames"))
def main(
    network: str,
    size: str,
    run: Path | None,
    photos: Path | None,
    ways: str,
    rounds: int,
    seconds: float,
    only_files: bool,
    output: Path,
) -> None:
    """Measure a network at one frame size: common practice against ours."""
    name = f"{network}-{size}"
    files = output / "files" / name
    if not (files / "spec.json").exists():
        from frames_files import make_files  # it brings torch, whose memory and threads are no part of this

        files.mkdir(parents=True, exist_ok=True)
        make_files(network, parse_size(size), files, run, photos)
    if only_files:
        return
    (output / "cells").mkdir(parents=True, exist_ok=True)
    record = {"network": network, "size": parse_size(size), "random_weights": run is None}
    write_json(output / "cells" / f"{name}.json", {**record, **measure(files, ways, rounds, seconds)})
    records = [read_json(path) for path in sorted((output / "cells").glob("*.json"))]
    frames_report.write(output, records)
    print(json.dumps(frames_report.headline(records)))


if __name__ == "__main__":
    main()
