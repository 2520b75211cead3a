"""Whether images keep up with training: batches of stage 1 a second, against steps a second.

    python benchmarks/loader.py --case own -o runs/loader
    python benchmarks/loader.py --case large --rounds 2 -o runs/loader-large

``own``: the recipe `own` on JPEGs of 400x640 and 360x480, crops of 224x288, two of each domain. ``large``:
PNGs of 1024x2048, crops of 512x896, four of each domain, as the published recipes have them, with the same
network. Images are made up, networks random. In each round everything takes its turn: the step, on a batch
that is there; the loader alone, with one and two worker threads, with images read from files and with images
kept in memory; and a loader as one writes it at first (`plain_loader.py`), which gives the same batches to a
level of colour. Files are in the system's cache; the limit of a loader that reads them is decoding alone.
Then each part of a sample against its plain form, one thread each. Writes ``loader.json`` and ``loader.md``;
the last line on standard output is one JSON document.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import made_pair
import numpy as np
import plain_loader
import torch

from cpsl_deploy.command_line import Command
from cpsl_deploy.data.images import read_image
from cpsl_deploy.files import new_output_folder, write_json, write_text
from cpsl_deploy.machine import describe_machine, package_versions
from cpsl_deploy.train.batches import Batches
from cpsl_deploy.train.engine.loop import Loop, SilentWatcher, Surroundings
from cpsl_deploy.train.engine.prefetch import one_opencv_thread, prefetched
from cpsl_deploy.train.recipe import load_recipe
from cpsl_deploy.train.samples import Batch, TargetViews, WorkingImages
from cpsl_deploy.train.views import (
    change_colours,
    crop_matrix,
    inside,
    jitter_matrix,
    lies_inside,
    warp_image,
    warp_labels,
)

IMAGES = 8
BATCHES = 6
"""Drained of a loader in each turn, after those that its threads make ahead."""
WORKERS = (1, 2)
SIZES = ("source_size", "target_size", "crop")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is loaded, and what is trained with it."""

    sizes: tuple[tuple[int, int], ...]
    """Of the source's and the target's images, and of crops."""
    batch: int
    suffix: str


CASES = {
    "own": Case(sizes=((400, 640), (360, 480), (224, 288)), batch=2, suffix="jpg"),
    "large": Case(sizes=((1024, 2048), (1024, 2048), (512, 896)), batch=4, suffix="png"),
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Stage 1 on a case, and its batches with images read from files and kept in memory."""

    loop: Loop
    cold: Batches
    warm: Batches
    table: np.ndarray

    def plain(self, micro: int) -> Batch:
        made = self.cold
        assert isinstance(made.target, TargetViews)
        positions = range(micro * made.share, (micro + 1) * made.share)
        return plain_loader.batch(made.source, made.target, self.table, made.seed, positions)


def prepare(case: Case, folder: Path) -> Bench:
    """Files, networks and soft labels below ``folder``."""
    overrides = {f"data.{name}": list(size) for name, size in zip(SIZES, case.sizes, strict=True)}
    recipe = load_recipe("own", overrides | {"self_labelling.batch": case.batch})
    domains = made_pair.domains(folder, *case.sizes[:2], images=IMAGES, suffix=case.suffix)
    adaptation = made_pair.AtRandom(domains, recipe, folder / "run", device="cpu")
    stage, made = adaptation.begin("self_labelling")
    assert isinstance(made, Batches)
    loop = Loop(
        stage,
        Surroundings(
            processes=adaptation.processes,
            compute=recipe.compute,
            seed=0,
            checkpoint=folder / "checkpoint.pt",
            log_metrics=lambda entry: None,
            watcher=SilentWatcher(),
        ),
    )
    coding, classes = domains.source.coding, domains.source.classes
    assert coding is not None and classes is not None
    return Bench(loop=loop, cold=uncached(made), warm=made, table=coding.table(classes))


def uncached(made: Batches) -> Batches:
    """The same batches of images that are never kept."""

    def read(views: Any) -> Any:
        return dataclasses.replace(views, images=WorkingImages(views.images.dataset, views.images.size))

    return dataclasses.replace(made, source=read(made.source), target=read(made.target))


def drained(make: Callable[[int], Batch], workers: int) -> float:
    """Seconds of a batch, where nothing else is done than taking them."""
    batches = prefetched(make, 0, BATCHES + workers, workers)
    for _ in range(workers):
        next(batches)
    began = time.perf_counter()
    for _ in batches:
        pass
    return (time.perf_counter() - began) / BATCHES


def turns(bench: Bench) -> dict[str, Callable[[], float]]:
    """What takes its turn in a round: seconds of a step, or of a batch."""
    steps, batch = itertools.count(), bench.warm(0)

    def step() -> float:
        began = time.perf_counter()
        bench.loop.step(next(steps), iter([batch]))
        return time.perf_counter() - began

    found: dict[str, Callable[[], float]] = {"step": step}
    for workers in WORKERS:
        name = f"{workers} worker{'s' * (workers > 1)}"
        found[f"plain, {name}"] = lambda workers=workers: drained(bench.plain, workers)
        found[f"files, {name}"] = lambda workers=workers: drained(bench.cold, workers)
        found[f"memory, {name}"] = lambda workers=workers: drained(bench.warm, workers)
    found["decoding alone, 1 worker"] = lambda: drained(lambda micro: decoded(bench, micro), 1)
    return found


def decoded(bench: Bench, micro: int) -> Any:
    """The files of a batch decoded, and nothing else: the limit of a loader that keeps no images."""
    made = bench.cold
    assert made.target is not None
    for position in range(micro * made.share, (micro + 1) * made.share):
        for views in (made.source, made.target):
            item = views.images.dataset.items[views.sampler.index(position)]
            cv2.imread(str(item.image))
            if views is made.source:
                cv2.imread(str(item.label), cv2.IMREAD_UNCHANGED)


def parts(bench: Bench, rounds: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of each part of one target sample (of the label: source), plain and ours, one thread."""
    views, source = bench.cold.target, bench.cold.source
    assert views is not None
    image, crop = views.images.image(0), views.crop
    dataset, item = source.images.dataset, source.images.dataset.items[0]
    raw, size = cv2.imread(str(item.label), cv2.IMREAD_UNCHANGED), image.shape[:2]
    maps = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        to_image = crop_matrix(rng, size, crop, views.weak)
        maps.append((to_image, to_image @ jitter_matrix(rng, crop, views.strong_geometric)))
    out, number = np.empty((4, *crop, 3), np.uint8), itertools.count()
    strength, view = views.strong_photometric, warp_image(image, maps[0][0], crop)

    def of_maps(work: Callable[[np.ndarray, np.ndarray], object]) -> Callable[[], object]:
        return lambda: work(*maps[next(number) % len(maps)])

    def masks(to_image: np.ndarray, strong: np.ndarray) -> object:
        mask = inside(np.linalg.solve(to_image, strong), crop, crop)
        return mask if lies_inside(to_image, crop, size) else mask & inside(strong, crop, size)

    def both_masks(to_image: np.ndarray, strong: np.ndarray) -> object:
        return plain_loader.valid(to_image, np.linalg.solve(to_image, strong), crop, size)

    def coloured(change: Callable[..., object], **options: Any) -> Callable[[], object]:
        return lambda: change(np.random.default_rng(next(number) % 20), view, strength, **options)

    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "image read": (lambda: plain_loader.read_image(dataset, 0), lambda: read_image(item.image)),
        "label looked up": (lambda: bench.table[raw], lambda: cv2.LUT(raw, bench.table[:256])),
        "weak view": (
            of_maps(lambda to_image, _: warp_image(image, to_image, crop)),
            of_maps(lambda to_image, _: warp_image(image, to_image, crop, out=out[0])),
        ),
        "label's view": (
            of_maps(lambda to_image, _: warp_labels(raw, to_image, crop)),
            of_maps(lambda to_image, _: warp_labels(raw, to_image, crop)),
        ),
        "colours": (coloured(plain_loader.colours), coloured(change_colours, out=out[0])),
        "valid mask": (of_maps(both_masks), of_maps(masks)),
        "four views stacked": (lambda: plain_loader.stacked([view] * 4), lambda: torch.from_numpy(out)),
    }
    times = {name: ([], []) for name in ways}
    for _ in range(20 * rounds):
        for name, pair in ways.items():
            for kept, work in zip(times[name], pair, strict=True):
                began = time.perf_counter()
                work()
                kept.append(1e3 * (time.perf_counter() - began))
    return {name: (float(np.mean(plain)), float(np.mean(ours))) for name, (plain, ours) in times.items()}


def measure(case: Case, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        bench = prepare(case, Path(folder))
        takes = turns(bench)
        for name in ("step", "memory, 1 worker"):
            takes[name]()
        seconds: dict[str, list[float]] = {name: [] for name in takes}
        for _ in range(rounds):
            for name, take in takes.items():
                seconds[name].append(take())
        step = np.array(seconds["step"])
        rows = {}
        for name, values in seconds.items():
            low, ratio, high = np.percentile(step / np.array(values), [25, 50, 75])
            rows[name] = {"per_s": 1 / float(np.median(values)), "of_step": ratio, "low": low, "high": high}
        with one_opencv_thread():
            return {"rates": rows, "parts": parts(bench, rounds)}


def markdown(cases: dict[str, dict[str, Any]], machine: str) -> str:
    lines = ["# Loader", ""]
    for name, found in cases.items():
        rates = found["rates"]
        first, files = rates["plain, 1 worker"]["per_s"], rates["files, 1 worker"]["per_s"]
        lines += [f"## {name}", "", "| what | a second | times the step's rate | quartiles |"]
        lines += ["| --- | --- | --- | --- |"]
        lines += [
            f"| {what} | {row['per_s']:.2f} | {row['of_step']:.2f} | {row['low']:.2f} to {row['high']:.2f} |"
            for what, row in rates.items()
        ]
        limit = files / rates["decoding alone, 1 worker"]["per_s"]
        lines += [
            "",
            f"Files read: {files / first:.2f} times as fast as plain, {limit:.0%} of ",
        ]
        lines[-1] += "the limit, decoding alone."
        lines += ["", "| part, one thread | plain, ms | ours, ms | ratio |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {part} | {plain:.2f} | {ours:.2f} | {plain / ours:.1f} |"
            for part, (plain, ours) in found["parts"].items()
        ]
        lines.append("")
    return "\n".join([*lines, machine, ""])


@click.command(cls=Command)
@click.option(
    "--case", "names", multiple=True, type=click.Choice(list(CASES)), default=("own",), show_default=True
)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Of a step.  [default: torch's]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("runs/loader"), show_default=True
)
def main(names: tuple[str, ...], rounds: int, threads: int | None, output: Path) -> None:
    """Measure the loader against the step that it feeds."""
    folder, machine = new_output_folder(output), describe_machine()
    if threads:
        torch.set_num_threads(threads)
    cases = {name: measure(CASES[name], rounds) for name in names}
    settings = {"rounds": rounds, "batches": BATCHES, "images": IMAGES, "threads": torch.get_num_threads()}
    record = {"machine": dataclasses.asdict(machine), "versions": package_versions(), "settings": settings}
    write_json(folder / "loader.json", record | {"cases": cases})
    text = markdown(cases, f"{machine.cpu}, {machine.usable_cores:g} cores usable; {rounds} rounds.")
    write_text(folder / "loader.md", text)
    print(text)
    rates = {f"{case}, {what}": row for case, found in cases.items() for what, row in found["rates"].items()}
    print(json.dumps({name: round(row["of_step"], 2) for name, row in rates.items()}))


if __name__ == "__main__":
    main()
