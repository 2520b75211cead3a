"""What every kind of exported file costs and gains: agreement, IoU per class and speed, for finished runs.

    python benchmarks/export_gate.py RUN [RUN ...] --frames camvid.yaml --calibration photos/ -o gate

All kinds that onnxruntime's CPU can run are made, those for GPUs among them (fp16, INT8 for TensorRT): their
labels are what they are on a GPU but for rounding, their speed here says nothing of it. OpenVINO is tried if
it is installed. Speeds are ratios to the float32 file in onnxruntime, measured in turns. Writes gate.json and
gate.md.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cpsl_deploy.command_line import Command
from cpsl_deploy.contract import Contract
from cpsl_deploy.export import ExportRequest
from cpsl_deploy.export.candidates import Candidate, candidates_here
from cpsl_deploy.export.exporter import calibration_frames, find_weights, reference_of
from cpsl_deploy.export.gate.report import class_table, gate_table
from cpsl_deploy.export.trials import Trial, Tribunal, hold_trials
from cpsl_deploy.export.workshop import Workshop
from cpsl_deploy.files import new_output_folder, write_json, write_text
from cpsl_deploy.machine import describe_machine, package_versions
from cpsl_deploy.train.engine.loop import Watcher
from cpsl_deploy.train.engine.progress import shown_progress
from cpsl_deploy.train.models import load_model

FOR_GPUS = (Candidate(precision="fp16"), Candidate(precision="int8", scheme="tensorrt"))


def gate_of(run: Path, request: ExportRequest, watcher: Watcher) -> list[Trial]:
    """Make and judge every kind of file of one run."""
    weights = find_weights(run)
    network, spec = load_model(weights)
    tribunal = Tribunal(reference_of(network, spec, request, weights.parent, watcher), request)
    candidates = [*candidates_here(), *FOR_GPUS]
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(
            Path(folder),
            network,
            spec,
            request,
            calibration=lambda: calibration_frames(spec, request, weights.parent, tribunal.reference.frames),
            judge=tribunal.judge_file,
        )
        return hold_trials(candidates, workshop, tribunal, network, watcher)


def record_of(trials: list[Trial]) -> list[dict[str, Any]]:
    """For gate.json: what the gate says, and times in milliseconds with the quartiles of their ratios."""
    speeds = [trial.speed for trial in trials]
    return [
        {**trial.gated.as_dict(), "time": None if speed is None else asdict(speed)}
        for trial, speed in zip(trials, speeds, strict=True)
    ]


@click.command(cls=Command)
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--frames", metavar="DATA", help="Compared on.  [default: each run's own target]")
@click.option("--calibration", metavar="DATA", help="For INT8.  [default: what each run trained on]")
@click.option("--outputs", default="labels", show_default=True, metavar="LIST", help="As of cpsl-export.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("gate"), show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace results of an earlier call in the output folder.")
def main(
    runs: tuple[Path, ...],
    frames: str | None,
    calibration: str | None,
    outputs: str,
    output: Path,
    overwrite: bool,
) -> None:
    """Hold every kind of file of finished RUNS against their torch models, and time them in turns."""
    new_output_folder(output, overwrite=overwrite)
    contract = Contract(outputs=tuple(outputs.split(",")))
    request = ExportRequest(contract=contract, auto=True, frames=frames, calibration=calibration)
    parts, results = ["# What every kind of exported file costs and gains\n"], {}
    with shown_progress() as watcher:
        for run in runs:
            trials = gate_of(run, request, watcher)
            results[run.name] = record_of(trials)
            gated = [trial.gated for trial in trials]
            parts += [f"## {run.name}\n", gate_table(gated) + "\n", class_table(gated) + "\n"]
    facts = {"machine": asdict(describe_machine()), "versions": package_versions(), "runs": results}
    write_json(output / "gate.json", facts)
    write_text(output / "gate.md", "\n".join(parts))
    click.echo(json.dumps({name: {t["name"]: t["speed"] for t in kinds} for name, kinds in results.items()}))


if __name__ == "__main__":
    main()
