"""The whole step of stage 1 against the published procedure, on the same network, batch and crop.

    python benchmarks/stage1_step.py -o runs/stage1_step
    python benchmarks/stage1_step.py --network ddrnet23_slim --crop 128x160 --size 216x288 -o runs/ddrnet

The published step is `published_stage1.py`, in float32; ours is the training loop's, in fp32 and bf16. They
take turns; images are rendered, networks random, files in the system's cache. Limit: the operations of the
networks' forward and backward passes by the measured rate of matrix products. Each side's peak memory is that
of a process of its own over what it held before its first step. Writes ``stage1_step.json`` and
``stage1_step.md``; the last line on standard output is one JSON document.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import torch
from published_stage1 import PublishedStage1
from stage1_setting import Material, Setting, material, our_stage
from torch.utils.flop_counter import FlopCounterMode

from cpsl_deploy.command_line import Command, parse_size
from cpsl_deploy.files import new_output_folder, write_json, write_text
from cpsl_deploy.machine import describe_machine, package_versions
from cpsl_deploy.machine.rates import measure_rates
from cpsl_deploy.train import recipe
from cpsl_deploy.train.engine.loop import Loop, SilentWatcher, Surroundings
from cpsl_deploy.train.engine.processes import Processes
from cpsl_deploy.train.planning.rehearsal import fill

BASELINE = "published fp32"
SIDES = (BASELINE, "ours fp32", "ours bf16")
PARTS = {
    "teach": "teacher, soft labels",
    "strong_labels": "pseudo labels",
    "on_labels": "source loss",
    "pixel_losses": "self-labelling",
    "after_step": "moving average",
}
"""Methods of our stage that are timed."""


class Published:
    """The published step, again and again."""

    def __init__(self, setting: Setting, given: Material) -> None:
        self.given, self.side = given, PublishedStage1(setting)
        self.parts: dict[str, float] = defaultdict(float)

    def step(self, number: int) -> None:
        last = time.perf_counter()

        def mark(name: str) -> None:
            nonlocal last
            now = time.perf_counter()
            self.parts[name] += now - last
            last = now

        torch.manual_seed(number)
        self.side.step(self.given, torch.Generator().manual_seed(number), mark)

    def state_bytes(self) -> int:
        return self.side.state_bytes()


class Ours:
    """The training loop's step, again and again."""

    def __init__(self, setting: Setting, given: Material, precision: str) -> None:
        stage = our_stage(setting, given.soft_labels)
        fill(stage.bank)
        around = Surroundings(
            processes=Processes(0, 1, torch.device("cpu")),
            compute=recipe.Compute(precision=precision),
            seed=0,
            checkpoint=Path("checkpoint.pt"),
            log_metrics=lambda metrics: None,
            watcher=SilentWatcher(),
        )
        self.loop, self.given = Loop(stage, around), given
        self.parts: dict[str, float] = defaultdict(float)

    def step(self, number: int) -> None:
        stage = self.loop.stage
        with contextlib.ExitStack() as stack:
            for name, label in PARTS.items():
                self._timed(stack, stage, name, label)
            self._timed(stack, stage.network, "forward", "student, forward")
            self._timed(stack, self.loop.optimisers[0], "step", "optimiser")
            self._timed(stack, torch.Tensor, "backward", "backward")
            began, inside = time.perf_counter(), sum(self.parts.values()) - self.parts["other"]
            self.loop.step(number, iter([self.given.batch]))
            inside = sum(self.parts.values()) - self.parts["other"] - inside
            self.parts["other"] += time.perf_counter() - began - inside

    def _timed(self, stack: contextlib.ExitStack, owner: Any, name: str, label: str) -> None:
        work = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return work(*arguments, **options)
            finally:
                self.parts[label] += time.perf_counter() - began

        stack.enter_context(mock.patch.object(owner, name, timed))

    def state_bytes(self) -> int:
        moments = self.loop.optimisers[0].state.values()
        tensors = [*self.loop.stage.state_dict().values(), *(v for each in moments for v in each.values())]
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))


def made(name: str, setting: Setting, given: Material) -> Published | Ours:
    return Published(setting, given) if name == BASELINE else Ours(setting, given, name.split()[1])


def peak_bytes(name: str, setting: Setting, folder: Path) -> int:
    """Of three steps in this process, over what it held before. Linux."""
    side = made(name, setting, material(setting, folder))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is forgotten
    before = _resident("VmRSS")
    for number in range(3):
        side.step(number)
    return _resident("VmHWM") - before


def _resident(what: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(what):
            return int(line.split()[1]) << 10
    raise LookupError(what)


def peak_apart(name: str) -> int:
    """`peak_bytes` by a process of its own, with this command's arguments."""
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--peak", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def operations(setting: Setting) -> dict[str, float]:
    """Of the networks in one of our steps: the teacher's forward pass, two of the student and back."""
    network = setting.segmenter().train()
    images = torch.zeros(setting.batch, 3, *setting.crop)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        network(images)
    with FlopCounterMode(display=False) as both:
        output = network(images)
        (output.logits.sum() + output.features.sum()).backward()
    return {
        "forward": forward.get_total_flops(),
        "step": forward.get_total_flops() + 2 * both.get_total_flops(),
    }


def turns(sides: dict[str, Published | Ours], rounds: int, warm_up: int) -> dict[str, np.ndarray]:
    """(rounds,) seconds of a step of each side, all of them in each round."""
    for number in range(warm_up):
        for side in sides.values():
            side.step(number)
    for side in sides.values():
        side.parts.clear()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warm_up, warm_up + rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            side.step(number)
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values) for name, values in seconds.items()}


def measure(setting: Setting, rounds: int) -> dict[str, Any]:
    flops = operations(setting)
    with tempfile.TemporaryDirectory() as folder:
        given = material(setting, Path(folder))
        sides = {name: made(name, setting, given) for name in SIDES}
        seconds = turns(sides, rounds, warm_up=2)
    rates = measure_rates(("f32", "bf16"))
    rows = []
    for name, side in sides.items():
        low, ratio, high = np.percentile(seconds[BASELINE] / seconds[name], [25, 50, 75])
        precision = "bf16" if name.endswith("bf16") else "f32"
        limit = flops["step"] / rates.matrix[precision].flops_per_s if precision in rates.matrix else None
        median = float(np.median(seconds[name]))
        rows.append(
            {
                "name": name,
                "ms": 1e3 * median,
                "ratio": ratio,
                "low": low,
                "high": high,
                "limit_ms": None if limit is None else 1e3 * limit,
                "of_limit": None if limit is None else limit / median,
                "state_mib": side.state_bytes() / 2**20,
                "peak_mib": peak_apart(name) / 2**20,
                "parts_ms": {part: 1e3 * s / rounds for part, s in sorted(side.parts.items())},
            }
        )
    return {"rows": rows, "gflop": {name: value / 1e9 for name, value in flops.items()}}


def lines(found: dict[str, Any]) -> Iterator[str]:
    yield "| step | ms | ratio | quartiles | limit, ms | of the limit | state, MiB | peak, MiB |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in found["rows"]:
        limit = "" if row["limit_ms"] is None else f"{row['limit_ms']:.0f} | {row['of_limit']:.0%}"
        yield (
            f"| {row['name']} | {row['ms']:.0f} | {row['ratio']:.2f} | {row['low']:.2f} to {row['high']:.2f} "
            f"| {limit or ' | '} | {row['state_mib']:.0f} | {row['peak_mib']:.0f} |"
        )
    for row in found["rows"]:
        yield ""
        yield f"{row['name']}, ms: " + ", ".join(f"{part} {ms:.0f}" for part, ms in row["parts_ms"].items())


@click.command(cls=Command)
@click.option("--network", default="squeezenet_fpn", show_default=True)
@click.option("--batch", type=click.IntRange(1), default=4, show_default=True)
@click.option("--crop", default="224x288", show_default=True, help="HEIGHTxWIDTH.")
@click.option("--size", default="360x480", show_default=True, help="Of the images, HEIGHTxWIDTH.")
@click.option("--bank", type=click.IntRange(1), default=65536, show_default=True)
@click.option("--pixels", type=click.IntRange(1), default=256, show_default=True, help="Of an image.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--peak", type=click.Choice(SIDES), hidden=True, help="Measure this side's memory alone.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("runs/stage1_step"), show_default=True
)
def main(rounds: int, peak: str | None, output: Path, crop: str, size: str, **options: Any) -> None:
    """Measure the whole step of stage 1."""
    setting = Setting(crop=parse_size(crop), size=parse_size(size), **options)
    if peak is not None:
        with tempfile.TemporaryDirectory() as temporary:
            print(peak_bytes(peak, setting, Path(temporary)))
        return
    folder, machine = new_output_folder(output), describe_machine()
    found = measure(setting, rounds)
    threads = torch.get_num_threads()
    record = {
        "machine": dataclasses.asdict(machine),
        "versions": package_versions(),
        "settings": dataclasses.asdict(setting) | {"rounds": rounds, "threads": threads},
    }
    write_json(folder / "stage1_step.json", record | found)
    title = (
        f"# Stage 1: {setting.network}, batch {setting.batch}, crops {crop} of {size}, bank {setting.bank}"
    )
    where = f"{machine.cpu}, {machine.usable_cores:g} cores usable, {threads} threads; {rounds} rounds."
    text = "\n".join([title, "", *lines(found), "", where, ""])
    write_text(folder / "stage1_step.md", text)
    print(text)
    print(json.dumps({row["name"]: [round(row["ms"], 1), round(row["ratio"], 2)] for row in found["rows"]}))


if __name__ == "__main__":
    main()
