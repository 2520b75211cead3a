"""The self-labelling of one step, ours against the published procedure: 4 images of 256 pixels, a full bank.

    python benchmarks/self_labelling_step.py -o runs/self-labelling-step

Both assignments (by features and by logits), the loss and its gradient, and the bank moved on, against the
procedure of `published_assignment.py`, in turns. The limit is the larger of two: of memory, the bank read
once, scores and exponentials written once, the exponentials read twice in each iteration, over the rate of
copies; of arithmetic, the products with the bank and in the iterations over the rate of matrix products. Both
rates are measured in the same run. Peak memory is that of a process of its own. Writes
``self_labelling_step.json`` and ``self_labelling_step.md``; the last line on standard output is one JSON
document.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from published_assignment import PublishedBank, published_self_labelling
from torch import Tensor

from cpsl_deploy.command_line import Command
from cpsl_deploy.files import new_output_folder, write_json, write_text
from cpsl_deploy.machine import describe_machine, package_versions
from cpsl_deploy.machine.copy_rate import copy_rate
from cpsl_deploy.machine.matrix_rate import matrix_rate
from cpsl_deploy.train.assignment import EPSILON, ITERATIONS, sinkhorn
from cpsl_deploy.train.memory_bank import MemoryBank
from cpsl_deploy.train.planning.peak_memory import PeakMemory
from cpsl_deploy.train.prototypes import TEMPERATURE, cosine_scores, cosines_of_unit_features
from cpsl_deploy.train.self_labelling_loss import self_labelling_loss

SIDES = ("published", "ours")


@dataclass(frozen=True, kw_only=True)
class Case:
    """How large everything is."""

    images: int = 4
    pixels: int = 256
    bank: int = 65_536
    channels: int = 256
    classes: int = 19


@dataclass(frozen=True, kw_only=True)
class Material:
    """What both sides are given: a batch, prototypes, a prior and the pixels of a full bank."""

    features: Tensor
    """(images, pixels, D)."""
    logits: Tensor
    """(images, pixels, K)."""
    prototypes: Tensor
    prior: Tensor
    bank_features: Tensor
    bank_scores: Tensor


def material(case: Case) -> Material:
    """Random pixels around random class centres, of unequal shares."""
    random = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    centres, prior = random(case.classes, case.channels), (random(case.classes)).softmax(dim=0)
    choice = torch.multinomial(prior, case.bank, replacement=True, generator=torch.Generator().manual_seed(1))
    bank = F.normalize(centres[choice] + 2 * random(case.bank, case.channels), dim=1)
    return Material(
        features=random(case.images, case.pixels, case.channels),
        logits=random(case.images, case.pixels, case.classes),
        prototypes=(centres + random(case.classes, case.channels)).requires_grad_(),
        prior=prior,
        bank_features=bank,
        bank_scores=F.normalize(random(case.bank, case.classes), dim=1),
    )


def published_step(given: Material) -> Callable[[], Tensor]:
    """A step: the loss, whose gradient is in the prototypes."""
    bank = PublishedBank(given.bank_features.clone(), given.bank_scores.clone())

    def step() -> Tensor:
        given.prototypes.grad = None
        loss = published_self_labelling(
            list(given.features), list(given.logits), given.prototypes, bank, given.prior
        )
        loss.backward()
        return loss.detach()

    return step


def our_step(given: Material, spent: dict[str, float] | None = None) -> Callable[[], Tensor]:
    """The same as ``SelfLabelling.pixel_losses`` has it. ``spent``: seconds by part are added there."""
    bank = MemoryBank(len(given.bank_features), *given.prototypes.shape[::-1])
    bank.push(given.bank_features, given.bank_scores, torch.zeros(len(given.bank_scores), dtype=torch.long))
    times = {} if spent is None else spent

    def step() -> Tensor:
        given.prototypes.grad = None
        part = Stopwatch(times)
        features = F.normalize(given.features.flatten(0, 1), dim=1)
        bank.push(features, F.normalize(given.logits.flatten(0, 1), dim=1), features.new_zeros(len(features)))
        rows, (stored, by_logits, _) = bank.newest(len(features)), bank.rows()
        part.ends("push into the ring")
        by_features = cosines_of_unit_features(stored, given.prototypes.detach())
        part.ends("scores of the bank")
        log_probs = (cosine_scores(features, given.prototypes) / TEMPERATURE).log_softmax(dim=1)
        loss = log_probs.new_zeros(())
        part.ends("loss and gradient")
        for scores in (by_features, by_logits):
            assignment = sinkhorn(scores, given.prior, EPSILON, ITERATIONS, largest=1.0, rows=rows)
            part.ends("two assignments")
            loss = loss + self_labelling_loss(log_probs, assignment)
        loss.backward()
        part.ends("loss and gradient")
        return loss.detach()

    return step


class Stopwatch:
    """Adds the seconds since the last part's end to a part."""

    def __init__(self, spent: dict[str, float]) -> None:
        self.spent, self.began = spent, time.perf_counter()

    def ends(self, part: str) -> None:
        now = time.perf_counter()
        self.spent[part] = self.spent.get(part, 0.0) + now - self.began
        self.began = now


STEPS = {"published": published_step, "ours": our_step}


def peak_bytes(side: str, case: Case) -> int:
    """What a process holds at most in a few steps beyond what it held before: the bank, the libraries."""
    memory = PeakMemory(torch.device("cpu"))
    step = STEPS[side](material(case))
    STEPS[side](material(dataclasses.replace(case, bank=4096)))()  # whatever the libraries set up
    memory.reset()
    before = memory.bytes() or 0
    for _ in range(3):
        step()
    return (memory.bytes() or 0) - before


def in_its_own_process(work: Callable[..., Any], *arguments: Any) -> Any:
    # Of glibc: every large block is mapped by itself, so that what was freed before is not used again unseen.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 16)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def limits_ms(case: Case, bytes_per_s: float, flops_per_s: float) -> dict[str, float]:
    """Least time of memory alone and of arithmetic alone: what is in the module's first lines."""
    kernel = case.bank * case.classes
    each = 4 * kernel * (1 + 1 + 2 * ITERATIONS)  # scores read, exponentials written and read
    moved = 4 * case.bank * case.channels + 4 * kernel + 2 * each
    flops = 2 * kernel * case.channels + 2 * (2 * ITERATIONS * 2 * kernel)
    return {"memory": 1e3 * moved / bytes_per_s, "arithmetic": 1e3 * flops / flops_per_s}


def measure(case: Case, rounds: int) -> dict[str, Any]:
    given, spent = material(case), {}
    steps = {side: STEPS[side](given) for side in SIDES}
    for step in steps.values():
        step()
    ms: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, step in steps.items():
            began = time.perf_counter()
            step()
            ms[side].append(1e3 * (time.perf_counter() - began))
    timed = our_step(given, spent)
    timed()
    spent.clear()
    for _ in range(rounds):
        timed()
    ratio = np.array(ms["published"]) / np.array(ms["ours"])
    threads = torch.get_num_threads()
    limits = limits_ms(case, copy_rate(threads).bytes_per_s, matrix_rate("f32", threads).flops_per_s)
    least = max(limits.values())
    median = {side: float(np.median(values)) for side, values in ms.items()}
    return {
        "ms": median,
        "ratio": dict(
            zip(("low", "median", "high"), np.percentile(ratio, [25, 50, 75]).tolist(), strict=True)
        ),
        "limit_ms": least,
        "limits_ms": limits,
        "fraction_of_limit": least / median["ours"],
        "parts_ms": {part: 1e3 * seconds / rounds for part, seconds in spent.items()},
        "peak_bytes": {side: in_its_own_process(peak_bytes, side, case) for side in SIDES},
        "state_bytes": 4 * case.bank * (case.channels + case.classes),
    }


def markdown(found: dict[str, Any], case: Case, machine: str) -> str:
    ratio, ms, peak, limits = found["ratio"], found["ms"], found["peak_bytes"], found["limits_ms"]
    quartiles = f"{ratio['median']:.1f} ({ratio['low']:.1f} to {ratio['high']:.1f})"
    return "\n".join(
        [
            "# Self-labelling of a step",
            "",
            f"{case.images} images of {case.pixels} pixels, a bank of {case.bank} x {case.channels}, "
            f"{case.classes} classes, both assignments.",
            "",
            "| | published | ours | ratio (quartiles) | limit | of the limit |",
            "| --- | --- | --- | --- | --- | --- |",
            f"| ms a step | {ms['published']:.1f} | {ms['ours']:.1f} | {quartiles} "
            f"| {found['limit_ms']:.1f} | {found['fraction_of_limit']:.0%} |",
            f"| peak memory, MB | {peak['published'] / 1e6:.0f} | {peak['ours'] / 1e6:.0f} | "
            f"{peak['published'] / max(peak['ours'], 1):.1f} | | |",
            "",
            f"Limit: memory {limits['memory']:.1f} ms, arithmetic {limits['arithmetic']:.1f} ms. "
            f"The bank itself is {found['state_bytes'] / 1e6:.0f} MB on either side.",
            "",
            "| part of ours | ms |",
            "| --- | --- |",
            *(f"| {part} | {value:.2f} |" for part, value in found["parts_ms"].items()),
            "",
            machine,
            "",
        ]
    )


@click.command(cls=Command)
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True)
@click.option("--bank", type=click.IntRange(1024), default=65_536, show_default=True, help="Pixels.")
@click.option("--classes", type=click.IntRange(2), default=19, show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("runs/self-labelling-step"),
    show_default=True,
)
def main(rounds: int, bank: int, classes: int, output: Path) -> None:
    """Measure the self-labelling of a step against the published procedure."""
    folder, machine, case = new_output_folder(output), describe_machine(), Case(bank=bank, classes=classes)
    found = measure(case, rounds)
    settings = {"rounds": rounds, "threads": torch.get_num_threads(), **dataclasses.asdict(case)}
    record = {"machine": dataclasses.asdict(machine), "versions": package_versions(), "settings": settings}
    write_json(folder / "self_labelling_step.json", record | found)
    text = markdown(found, case, f"{machine.cpu}, {machine.usable_cores:g} cores usable; {rounds} rounds.")
    write_text(folder / "self_labelling_step.md", text)
    print(text)
    print(json.dumps({"ratio": found["ratio"], "fraction_of_limit": found["fraction_of_limit"]}))


if __name__ == "__main__":
    main()
