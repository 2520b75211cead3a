"""What a network's time goes into, operator by operator, and what a simpler graph of it saves.

    python benchmarks/network_profile.py --network squeezenet_fpn -o runs/network_profile
    python benchmarks/network_profile.py --file model.onnx --way onnxruntime

Each network is exported twice, of the same weights: as traced, and as ``cpsl-export`` writes it
(``export/graph/simplification.py``). Both run in every way on the same rendered frames and take turns, so
that a busy machine slows them alike; the ratio is the median over the rounds. Weights are random unless a run
is named, with batch norms that do something, so that equal labels mean something. A node's limit is its
operations by the measured rate of matrix products or its bytes by that of memory, whichever takes longer.
Writes ``network_profile.json``, ``.md`` and ``.png``; the last line on standard output is one compact JSON
document.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import click
import network_profile_report as report
import numpy as np
import onnx
from network_profile_nodes import profile
from networks import parse_runs
from networks_cell import CALIBRATION_SCENES, FRAMES, Cell, network_of, scene
from torch import nn

import cpsl_deploy
from cpsl_deploy.bench.interleaved import measure_in_turns, speed
from cpsl_deploy.bench.layer_profile import FRAMES as PROFILED
from cpsl_deploy.command_line import Command, parse_size
from cpsl_deploy.errors import InputError
from cpsl_deploy.export.graph.deploy_graph import DeployGraph
from cpsl_deploy.export.graph.onnx_file import onnx_model
from cpsl_deploy.export.graph.tracing import trace
from cpsl_deploy.export.precision.int8 import quantise
from cpsl_deploy.files import new_output_folder
from cpsl_deploy.machine import describe_machine, package_versions
from cpsl_deploy.machine.rates import Rates, measure_rates
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.models import ARCHITECTURES
from cpsl_deploy.train.models.base import Segmenter as Network

NETWORKS = ("squeezenet_fpn", "ddrnet23_slim")
TRACED, EXPORTED = "as traced", "exported"
TURNS = 3
"""In which kinds are profiled; the one counts in which least time went elsewhere."""
WAYS = {
    "onnxruntime": ("onnxruntime", None, "fp32"),
    "onnxruntime int8": ("onnxruntime", None, "int8"),
    "openvino f32": ("openvino", "f32", "fp32"),
    "openvino bf16": ("openvino", "bf16", "fp32"),
}
"""Name -> backend, its precision, the file's."""


def trained_like(network: Network) -> None:
    """Give fresh batch norms statistics and weights as training leaves them; fresh ones do nothing."""
    random = np.random.default_rng(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            for values, ends in (
                (module.weight.data, (0.5, 1.5)),
                (module.bias.data, (-0.3, 0.3)),
                (module.running_mean, (-0.3, 0.3)),
                (module.running_var, (0.5, 2)),
            ):
                values.copy_(values.new_tensor(random.uniform(*ends, len(values))))


def make_files(network: Network, spec: ModelSpec, folder: Path, *, int8: bool) -> dict[str, dict[str, Path]]:
    """The network's files by kind of graph and precision."""
    exported = onnx_model(network, spec, size=spec.size)
    traced = trace(DeployGraph(network, spec, size=spec.size), 1)
    traced.metadata_props.extend(exported.metadata_props)
    files: dict[str, dict[str, Path]] = {}
    for kind, proto in ((TRACED, traced), (EXPORTED, exported)):
        paths = files[kind] = {"fp32": folder / f"{kind}.onnx"}
        onnx.save(proto, paths["fp32"])
        if int8:
            paths["int8"] = folder / f"{kind}.int8.onnx"
            scenes = [scene(100 + seed, spec.size) for seed in range(CALIBRATION_SCENES)]
            quantise(paths["fp32"], paths["int8"], scenes)
    return files


def measure(
    files: dict[str, dict[str, Path]],
    size: tuple[int, int],
    ways: tuple[str, ...],
    *,
    rounds: int,
    profiled: int,
    threads: int | None,
    rates: Rates,
) -> list[dict[str, Any]]:
    """A row for each way: times in turns, labels against the first kind's, nodes of each kind's profile."""
    frames = [scene(seed, size) for seed in range(FRAMES)]
    opened = {}
    for way in ways:
        backend, precision, of_file = WAYS[way]
        for kind, paths in files.items():
            opened[way, kind] = cpsl_deploy.load(
                paths[of_file], backend=backend, precision=precision, threads=threads
            )
    names = {f"{way}, {kind}": (way, kind) for way, kind in opened}
    labels = {key: [one.predict(f).labels.copy() for f in frames] for key, one in opened.items()}
    times = measure_in_turns(
        {name: opened[key].predict for name, key in names.items()}, frames, rounds=rounds
    )
    rows = []
    for way in ways:
        first = next(iter(files))
        profiles: dict[str, list[list[dict[str, Any]]]] = {kind: [] for kind in files}
        for _ in range(TURNS):
            for kind, paths in files.items():
                runtime = opened[way, kind].backend.describe()
                path = paths[WAYS[way][2]]
                profiles[kind].append(profile(path, runtime, size, rates, frames=profiled))
        row: dict[str, Any] = {"way": way, "kinds": {}}
        for kind, paths in files.items():
            graph = onnx.load(paths[WAYS[way][2]]).graph
            compared = zip(labels[way, kind], labels[way, first], strict=True)
            row["kinds"][kind] = {
                **dataclasses.asdict(speed(times[f"{way}, {first}"], times[f"{way}, {kind}"])),
                "equal_labels": float(np.mean([(a == b).mean() for a, b in compared])),
                "file_nodes": dict(Counter(node.op_type for node in graph.node)),
                "nodes": min(profiles[kind], key=lambda nodes: sum(node["ms"] for node in nodes)),
            }
        rows.append(row)
    for one in opened.values():
        one.close()
    return rows


@click.command(cls=Command)
@click.option(
    "--network",
    "networks",
    multiple=True,
    type=click.Choice(list(ARCHITECTURES)),
    default=NETWORKS,
    show_default=True,
)
@click.option("--file", type=click.Path(path_type=Path), help="Profile this ONNX file instead.")
@click.option("--size", default="512x1024", show_default=True, help="HEIGHTxWIDTH of the frames.")
@click.option(
    "--way", "ways", multiple=True, type=click.Choice(list(WAYS)), default=tuple(WAYS), show_default=True
)
@click.option("--run", "runs", multiple=True, metavar="NETWORK=RUN", help="Trained weights of a network.")
@click.option("--rounds", type=click.IntRange(1), default=11, show_default=True)
@click.option("--profiled", type=click.IntRange(1), default=PROFILED, show_default=True, help="Frames.")
@click.option("--threads", type=click.IntRange(1), help="Of one inference.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("runs/network_profile"))
def main(
    networks: tuple[str, ...],
    file: Path | None,
    size: str,
    ways: tuple[str, ...],
    runs: tuple[str, ...],
    output: Path,
    **how: Any,
) -> None:
    """Measure what the nodes of networks cost on this machine."""
    shape, trained = parse_size(size), parse_runs(runs)
    folder = new_output_folder(output)
    machine = describe_machine()
    if file is not None and "onnxruntime int8" in ways:
        ways = tuple(way for way in ways if way != "onnxruntime int8")
        if not ways:
            raise InputError(
                "a file is of one precision, which --way onnxruntime runs as it is. Name that way"
            )
    rates = measure_rates(["f32", "bf16", "int8"], threads=how["threads"])
    records = []
    for name in (str(file),) if file else networks:
        with tempfile.TemporaryDirectory(prefix="cpsl-profile-") as place:
            if file is not None:
                files = {EXPORTED: {"fp32": file}}
            else:
                network, spec = network_of(Cell(network=name, size=shape, batch=1, device="cpu"), trained)
                if name not in trained:
                    trained_like(network)
                int8 = "onnxruntime int8" in ways
                files = make_files(network, spec, Path(place), int8=int8)
            rows = measure(files, shape, ways, rates=rates, **how)
        records.append({"network": name, "size": shape, "trained": name in trained, "rows": rows})
    report.write(
        folder,
        {
            **how,
            "rates": {
                **{name: rate.flops_per_s for name, rate in rates.matrix.items()},
                "copy": rates.copy.bytes_per_s,
                "disturbed": rates.disturbed,
            },
            "machine": dataclasses.asdict(machine),
            "versions": package_versions(),
            "networks": records,
        },
    )
    print(json.dumps(report.headline(records)))


if __name__ == "__main__":
    main()
