"""Latency of every registered network as it is deployed: exported, whole frames in, labels out.

    python benchmarks/networks.py --size 512x1024 --frames 20 -o runs/networks

Weights are random: they do not change the time. The networks take turns frame by frame, so that a busy
machine slows them alike; figures are ratios to the first network, besides milliseconds. Writes
``networks.json`` and ``networks.md``; the last line on standard output is one compact JSON document.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

import cpsl_deploy
from cpsl_deploy.classes import CITYSCAPES_19
from cpsl_deploy.command_line import Command, parse_size
from cpsl_deploy.data.scenes import render_scene
from cpsl_deploy.export import ExportRequest, export
from cpsl_deploy.files import new_output_folder, write_json, write_text
from cpsl_deploy.machine import describe_machine, package_versions
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.models import build, save_model

NETWORKS = ("squeezenet_fpn", "ddrnet23_slim", "deeplabv2_resnet101")


def exported(name: str, size: tuple[int, int], folder: Path) -> Path:
    """The ONNX file of a network with random weights, 19 classes, at a fixed size."""
    network = build(name, len(CITYSCAPES_19)).eval()
    spec = ModelSpec(
        architecture=name,
        class_names=CITYSCAPES_19.names,
        palette=CITYSCAPES_19.palette,
        mean=network.mean,
        std=network.std,
        size=size,
        stride=network.stride,
        align_corners=network.align_corners,
    )
    weights = folder / f"{name}.safetensors"
    save_model(weights, network, spec)
    return export(weights, request=ExportRequest(size=size, min_agreement=0.99), score=False).path


def measure(
    files: dict[str, Path], size: tuple[int, int], frames: int, warm_up: int
) -> dict[str, np.ndarray]:
    """Latency of each frame in ms, per network, the networks taking turns."""
    frame, _ = render_scene(0, "camera", size=size)
    samples: dict[str, list[float]] = {name: [] for name in files}
    opened = {name: cpsl_deploy.load(path) for name, path in files.items()}
    try:
        for turn in range(warm_up + frames):
            for name, segmenter in opened.items():
                began = time.perf_counter()
                segmenter.predict(frame, colour_order="RGB")
                if turn >= warm_up:
                    samples[name].append(1000 * (time.perf_counter() - began))
    finally:
        for segmenter in opened.values():
            segmenter.close()
    return {name: np.array(values) for name, values in samples.items()}


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| network | parameters, M | file, MB | p50, ms | p90, ms | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        lines.append(
            f"| {r['network']} | {r['parameters'] / 1e6:.2f} | {r['bytes'] / 1e6:.1f} | {r['p50_ms']:.0f} "
            f"| {r['p90_ms']:.0f} | {r['ratio']:.2f} |"
        )
    return "\n".join(lines) + "\n"


@click.command(cls=Command)
@click.option("--size", default="512x1024", show_default=True, help="HEIGHTxWIDTH of the frames.")
@click.option("--frames", default=20, show_default=True, help="Frames measured with each network.")
@click.option("--warm-up", default=3, show_default=True, help="Frames before those, not counted.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("runs/networks"), show_default=True
)
def main(size: str, frames: int, warm_up: int, output: Path) -> None:
    """Measure the latency of every network on this machine."""
    wanted = parse_size(size)
    folder = new_output_folder(output)
    machine = describe_machine()  # before the exports, which load it
    files = {name: exported(name, wanted, folder) for name in NETWORKS}
    samples = measure(files, wanted, frames, warm_up)
    first = np.median(samples[NETWORKS[0]])
    rows = [
        {
            "network": name,
            "parameters": sum(p.numel() for p in build(name, len(CITYSCAPES_19)).parameters()),
            "bytes": files[name].stat().st_size,
            "p50_ms": float(np.percentile(values, 50)),
            "p90_ms": float(np.percentile(values, 90)),
            "ratio": float(np.median(values) / first),
        }
        for name, values in samples.items()
    ]
    result = {
        "size": wanted,
        "frames": frames,
        "machine": dataclasses.asdict(machine),
        "versions": package_versions(),
        "rows": rows,
    }
    write_json(folder / "networks.json", result)
    write_text(folder / "networks.md", markdown(rows))
    print(markdown(rows))
    print(json.dumps({row["network"]: round(row["p50_ms"], 1) for row in rows}))


if __name__ == "__main__":
    main()
