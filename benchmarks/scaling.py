"""What a step of training and the pass over the target cost as things grow, and as processes are added.

    python benchmarks/scaling.py -o runs/scaling

Self-labelling of a step against the bank's size and the number of classes; the whole step of stage 1
against the crop's pixels; the pass over the target against its images. The values of a series take turns;
the exponent is the slope of a line through the logarithms: 1 is proportional, less where something is paid
once. Then the same step under torchrun in one and in two processes, a thread and a batch of its own each.
Images are rendered, networks random. Writes ``scaling.json``, ``scaling.md`` and ``scaling.png``; the last
line on standard output is one JSON document.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import self_labelling_step
import target_pass
import torch
from stage1_setting import Material, Setting, material, our_stage

from cpsl_deploy.command_line import Command
from cpsl_deploy.files import atomic_path, new_output_folder, write_json, write_text
from cpsl_deploy.machine import describe_machine, package_versions
from cpsl_deploy.train import recipe
from cpsl_deploy.train.engine.loop import Loop, SilentWatcher, Surroundings
from cpsl_deploy.train.engine.processes import Processes, joined
from cpsl_deploy.train.planning.rehearsal import fill

BANKS = (8_192, 16_384, 32_768, 65_536, 131_072)
CLASSES = (5, 10, 19, 40, 80)
CROPS = ((96, 128), (144, 192), (192, 256), (288, 384))
TARGETS = (4, 8, 16, 32)
PROCESSES = (1, 2)
SETTING = Setting(
    network="squeezenet_fpn", batch=2, crop=(192, 256), size=(360, 480), bank=16_384, pixels=256
)
SERIES = {
    "bank": "pixels in the bank: self-labelling of a step",
    "classes": "classes: self-labelling of a step",
    "crop": "pixels of a crop: the whole step of stage 1",
    "target": "target images: the pass over them",
}
Work = Callable[[], object]


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """b of the line through the logarithms: seconds = a * size ** b."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def in_turns(works: Mapping[float, Work], rounds: int) -> dict[float, float]:
    """Median seconds of each after one that does not count."""
    for work in works.values():
        work()
    seconds: dict[float, list[float]] = {size: [] for size in works}
    for _ in range(rounds):
        for size, work in works.items():
            began = time.perf_counter()
            work()
            seconds[size].append(time.perf_counter() - began)
    return {size: float(np.median(values)) for size, values in seconds.items()}


def self_labelling(**changed: Sequence[int]) -> dict[float, Work]:
    """By the values of the one field of `self_labelling_step.Case` that is changed."""
    ((field, values),) = changed.items()
    cases = {value: self_labelling_step.Case(**{field: value}) for value in values}
    return {
        value: self_labelling_step.our_step(self_labelling_step.material(case))
        for value, case in cases.items()
    }


def loop_of(setting: Setting, given: Material, processes: Processes) -> Work:
    """The training loop's next step with a full bank."""
    stage = our_stage(setting, given.soft_labels)
    fill(stage.bank)
    around = Surroundings(
        processes=processes,
        compute=recipe.Compute(precision="fp32"),
        seed=0,
        checkpoint=Path("checkpoint.pt"),
        log_metrics=lambda metrics: None,
        watcher=SilentWatcher(),
    )
    loop, steps = Loop(stage, around), iter(range(setting.settings.iterations))
    return lambda: loop.step(next(steps), iter([given.batch]))


def whole_steps(folder: Path) -> dict[float, Work]:
    """By the pixels of a crop."""
    works: dict[float, Work] = {}
    for height, width in CROPS:
        setting = dataclasses.replace(SETTING, crop=(height, width))
        own = folder / f"{height}x{width}"
        own.mkdir()
        alone = Processes(0, 1, torch.device("cpu"))
        works[height * width] = loop_of(setting, material(setting, own), alone)
    return works


def passes(folder: Path) -> dict[float, Work]:
    """By the number of images."""
    works: dict[float, Work] = {}
    for images in TARGETS:
        own = folder / f"{images} images"
        own.mkdir()
        case = target_pass.Case(size=(180, 240), images=images, suffix="jpg")
        bench = target_pass.prepare(case, SETTING.network, "fp32", own)
        works[images] = lambda bench=bench: bench.ours(bench.kept)  # type: ignore[misc]
    return works


def step_in_processes(count: int) -> float:
    """Median seconds of a step in each of so many processes, as torchrun starts them."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = [*launcher, str(Path(__file__).resolve()), "--worker"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise click.ClickException(f"torchrun with {count} processes failed: {done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


def work_as_process() -> None:
    """What torchrun starts: steps on a batch of its own; the first process prints a step's median seconds."""
    torch.set_num_threads(1)
    with joined("cpu") as processes, tempfile.TemporaryDirectory() as folder:
        step = loop_of(SETTING, material(SETTING, Path(folder)), processes)
        seconds = in_turns({1.0: step}, rounds=7)[1.0]
        if processes.is_first:
            print(seconds)


def measure(rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        made: dict[str, Callable[[], dict[float, Work]]] = {
            "bank": lambda: self_labelling(bank=BANKS),
            "classes": lambda: self_labelling(classes=CLASSES),
            "crop": lambda: whole_steps(Path(folder)),
            "target": lambda: passes(Path(folder)),
        }
        series = {}
        for name, works in made.items():
            seconds = in_turns(works(), rounds)
            sizes, values = list(seconds), list(seconds.values())
            series[name] = {
                "sizes": sizes,
                "ms": [1e3 * s for s in values],
                "exponent": exponent(sizes, values),
            }
    steps = {count: step_in_processes(count) for count in PROCESSES}
    per_process = {count: SETTING.batch / seconds for count, seconds in steps.items()}
    return {"series": series, "crops_per_second_and_process": per_process}


def markdown(found: dict[str, Any], machine: str) -> str:
    lines = ["# Scaling", "", "| what grows | from | to | ms | exponent |", "| --- | --- | --- | --- | --- |"]
    for name, one in found["series"].items():
        times = ", ".join(f"{ms:.1f}" for ms in one["ms"])
        sizes = one["sizes"]
        lines.append(f"| {SERIES[name]} | {sizes[0]} | {sizes[-1]} | {times} | {one['exponent']:.2f} |")
    lines += ["", "| processes | crops a second and process | of one process |", "| --- | --- | --- |"]
    rates = found["crops_per_second_and_process"]
    lines += [f"| {count} | {rate:.2f} | {rate / rates[1]:.0%} |" for count, rate in rates.items()]
    return "\n".join([*lines, "", machine, ""])


def draw(path: Path, found: dict[str, Any]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    for axes, (name, one) in zip(figure.subplots(2, 2).flat, found["series"].items(), strict=True):
        sizes, ms = np.array(one["sizes"], float), np.array(one["ms"])
        axes.loglog(sizes, ms, "o-", color="#4c72b0", label=f"measured, exponent {one['exponent']:.2f}")
        axes.loglog(sizes, ms[-1] * sizes / sizes[-1], "--", color="#999999", label="proportional")
        axes.set_title(SERIES[name])
        axes.set_ylabel("ms")
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


@click.command(cls=Command)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--worker", is_flag=True, hidden=True, help="As one of torchrun's processes.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("runs/scaling"), show_default=True
)
def main(rounds: int, worker: bool, output: Path) -> None:
    """Measure what grows with what."""
    if worker:
        work_as_process()
        return
    folder, machine = new_output_folder(output), describe_machine()
    found = measure(rounds)
    settings = {"rounds": rounds, "threads": torch.get_num_threads(), **dataclasses.asdict(SETTING)}
    record = {"machine": dataclasses.asdict(machine), "versions": package_versions(), "settings": settings}
    write_json(folder / "scaling.json", record | found)
    text = markdown(found, f"{machine.cpu}, {machine.usable_cores:g} cores usable; {rounds} rounds.")
    write_text(folder / "scaling.md", text)
    draw(folder / "scaling.png", found)
    print(text)
    print(json.dumps({name: round(one["exponent"], 2) for name, one in found["series"].items()}))


if __name__ == "__main__":
    main()
