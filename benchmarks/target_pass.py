"""What the pass over the target costs beside the network: images a second, against the network alone.

    python benchmarks/target_pass.py --case own -o runs/target-pass
    python benchmarks/target_pass.py --case large --rounds 5 -o runs/target-pass-large

Soft labels, prototypes and prior of the whole target set are made in one pass. Its limit is pure inference:
the network's forward pass alone, in the same precision, on the same images, which are in memory as tensors.
``own``: JPEGs of 360x480; ``large``: PNGs of 1024x2048. Images are made up, networks random. In each round
everything takes its turn: pure inference; the pass, with images kept in memory and with images read from
files; the same pass as one writes it at first, an image after the other; and reading and inference alone, one
after the other. Then the time of each part, and of ways to store soft labels, on one image. Writes
``target_pass.json`` and ``target_pass.md``; the last line on standard output is one JSON document.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import made_pair
import numpy as np
import torch
from torch import Tensor

from cpsl_deploy.command_line import Command
from cpsl_deploy.data import open_dataset
from cpsl_deploy.files import new_output_folder, write_json, write_text
from cpsl_deploy.machine import describe_machine, package_versions
from cpsl_deploy.train.engine.memory import keep_freed_memory
from cpsl_deploy.train.engine.precision import autocast
from cpsl_deploy.train.models import ARCHITECTURES, Segmenter, build
from cpsl_deploy.train.prototypes import PrototypeEstimator
from cpsl_deploy.train.samples import WorkingImages
from cpsl_deploy.train.soft_labels import SoftLabels
from cpsl_deploy.train.stage import predict
from cpsl_deploy.train.target_statistics import summarise_target

CPU = torch.device("cpu")
PURE = "pure inference"
PARTS_ROUNDS = 15


@dataclass(frozen=True, kw_only=True)
class Case:
    """The target's images."""

    size: tuple[int, int]
    images: int
    suffix: str


CASES = {
    "own": Case(size=(360, 480), images=12, suffix="jpg"),
    "large": Case(size=(1024, 2048), images=3, suffix="png"),
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A target, a network, and where soft labels go."""

    network: Segmenter
    kept: WorkingImages
    read: WorkingImages
    tensors: list[Tensor]
    folder: Path
    precision: str

    def inference(self) -> None:
        with torch.inference_mode():
            for tensor in self.tensors:
                predict(self.network, tensor)

    def reading_and_inference(self) -> None:
        with torch.inference_mode():
            for index in range(len(self.read)):
                predict(self.network, as_tensor(self.read.image(index)))

    def ours(self, images: WorkingImages) -> None:
        summarise_target(self.network, images, SoftLabels(self.folder), CPU)

    def plain(self, images: WorkingImages) -> None:
        """The same files and figures, an image and a step after the other."""
        classes, channels = self.network.num_classes, self.network.feature_channels
        means, seen = np.zeros((classes, channels)), np.zeros(classes)
        pixels, predicted = np.zeros(classes), np.zeros(classes)
        with torch.no_grad():
            for index in range(len(images)):
                output = predict(self.network, as_tensor(images.image(index)))
                soft = output.logits.softmax(dim=1)[0]
                np.save(self.folder / f"{index:06d}.npy", soft.numpy().astype(np.float16))
                features, labels = output.features[0], soft.argmax(dim=0)
                for k in labels.unique().tolist():
                    members = labels == k
                    pixels[k] += int(members.sum())
                    if members.sum() >= 10:
                        seen[k] += 1
                        means[k] += (features[:, members].mean(dim=1).numpy() - means[k]) / seen[k]
                predicted += soft.double().sum(dim=(1, 2)).numpy()


def as_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def prepare(case: Case, architecture: str, precision: str, folder: Path) -> Bench:
    file = made_pair.write_domain(
        folder / "target", case.size, images=case.images, suffix=case.suffix, seed=0
    )
    dataset = open_dataset(file, "train")
    torch.manual_seed(0)
    network = build(architecture, made_pair.CLASSES).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    kept = WorkingImages(dataset, case.size, cache_mib=1024)
    tensors = [as_tensor(kept.image(index)) for index in range(len(kept))]
    (folder / "soft").mkdir()
    read = WorkingImages(dataset, case.size)
    return Bench(
        network=network, kept=kept, read=read, tensors=tensors, folder=folder / "soft", precision=precision
    )


def rates(bench: Bench, rounds: int) -> dict[str, dict[str, float]]:
    """Of each way: images a second, and that as a share of pure inference, with quartiles."""
    ways: dict[str, Callable[[], None]] = {
        PURE: bench.inference,
        "pass, images in memory": lambda: bench.ours(bench.kept),
        "pass, files read": lambda: bench.ours(bench.read),
        "plain pass, images in memory": lambda: bench.plain(bench.kept),
        "plain pass, files read": lambda: bench.plain(bench.read),
        "files read, then inference alone": bench.reading_and_inference,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    bench.inference()
    order = np.random.default_rng(0)
    for _ in range(rounds):
        for name in order.permutation(list(ways)).tolist():
            began = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - began)
    pure, images = np.array(seconds[PURE]), len(bench.tensors)
    rows = {}
    for name, values in seconds.items():
        low, share, high = np.percentile(pure / np.array(values), [25, 50, 75])
        rows[name] = {"per_s": images / float(np.median(values)), "of_pure": share, "low": low, "high": high}
    return rows


def milliseconds(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(PARTS_ROUNDS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1e3 * float(np.median(times))


def parts(bench: Bench) -> dict[str, float]:
    """Milliseconds an image of what the pass does: the first two and the last are threads' own."""
    soft_labels = SoftLabels(bench.folder)
    with torch.inference_mode():
        output = predict(bench.network, bench.tensors[0])
        logits, features = output.logits, output.features
        estimator = PrototypeEstimator(bench.network.num_classes, bench.network.feature_channels)
        labels, soft = logits.argmax(dim=1), logits.softmax(dim=1)
        half = soft[0].half()
        return {
            "image read (thread)": milliseconds(lambda: bench.read.image(0)),
            "soft labels written (thread)": milliseconds(lambda: soft_labels.write(0, half)),
            "inference": milliseconds(lambda: predict(bench.network, bench.tensors[0])),
            "softmax": milliseconds(lambda: logits.softmax(dim=1)),
            "its sum": milliseconds(lambda: soft.sum(dim=(0, 2, 3))),
            "argmax": milliseconds(lambda: logits.argmax(dim=1)),
            "prototypes": milliseconds(lambda: estimator.see(features, labels)),
            "half precision": milliseconds(lambda: soft[0].half()),
        }


def storage(bench: Bench) -> dict[str, dict[str, float]]:
    """Ways to store one image's soft labels: their size as a share of float16's, milliseconds to write and to
    read all of it, and the largest error of a probability."""
    with torch.inference_mode():
        exact = predict(bench.network, bench.tensors[0]).logits.softmax(dim=1)[0].contiguous().numpy()
    half = exact.astype(np.float16)
    eight = np.rint(exact * 255).astype(np.uint8)

    def planes(values: np.ndarray) -> bytes:
        """The values' first bytes, then their second ones: more alike, and so better compressed."""
        return np.ascontiguousarray(np.frombuffer(values.tobytes(), np.uint8).reshape(-1, 2).T).tobytes()

    ways: dict[str, tuple[Callable[[], bytes], Callable[[bytes], object], np.ndarray]] = {
        "float16": (half.tobytes, lambda data: np.frombuffer(data, np.float16).copy(), half),
        "float16, deflated": (lambda: zlib.compress(planes(half), 1), zlib.decompress, half),
        "8 bits": (eight.tobytes, lambda data: np.frombuffer(data, np.uint8).copy(), eight / 255),
        "8 bits, deflated": (lambda: zlib.compress(eight.tobytes(), 1), zlib.decompress, eight / 255),
    }
    rows = {}
    for name, (write, read, stored) in ways.items():
        data = write()
        rows[name] = {
            "of_float16": len(data) / half.nbytes,
            "write_ms": milliseconds(write),
            "read_ms": milliseconds(lambda read=read, data=data: read(data)),
            "error": float(np.abs(stored - exact).max()),
        }
    return rows


def measure(case: Case, architecture: str, precision: str, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        bench = prepare(case, architecture, precision, Path(folder))
        with autocast(CPU, precision):
            return {"rates": rates(bench, rounds), "parts": parts(bench), "storage": storage(bench)}


def markdown(cases: dict[str, dict[str, Any]], machine: str) -> str:
    lines = ["# The pass over the target", ""]
    for name, found in cases.items():
        lines += [f"## {name}", "", "| what | images a second | of pure inference | quartiles |"]
        lines += ["| --- | --- | --- | --- |"]
        lines += [
            f"| {what} | {row['per_s']:.2f} | {row['of_pure']:.1%} | {row['low']:.1%} to {row['high']:.1%} |"
            for what, row in found["rates"].items()
        ]
        lines += ["", "| part of the pass | ms an image |", "| --- | --- |"]
        lines += [f"| {part} | {value:.2f} |" for part, value in found["parts"].items()]
        lines += ["", "| soft labels as | size | written, ms | read, ms | largest error |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        lines += [
            f"| {way} | {row['of_float16']:.0%} | {row['write_ms']:.2f} | {row['read_ms']:.2f} | "
            f"{row['error']:.1g} |"
            for way, row in found["storage"].items()
        ]
        lines.append("")
    return "\n".join([*lines, machine, ""])


@click.command(cls=Command)
@click.option(
    "--case", "names", multiple=True, type=click.Choice(list(CASES)), default=("own",), show_default=True
)
@click.option(
    "--network", type=click.Choice(list(ARCHITECTURES)), default="squeezenet_fpn", show_default=True
)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="bf16", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Of the network.  [default: torch's]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("runs/target-pass"), show_default=True
)
def main(
    names: tuple[str, ...], network: str, precision: str, rounds: int, threads: int | None, output: Path
) -> None:
    """Measure the pass over the target against its network."""
    folder, machine = new_output_folder(output), describe_machine()
    keep_freed_memory()  # as every run does: pure inference gains by it, too
    if threads:
        torch.set_num_threads(threads)
    cases = {name: measure(CASES[name], network, precision, rounds) for name in names}
    settings = {"network": network, "precision": precision, "rounds": rounds}
    settings["threads"] = torch.get_num_threads()
    record = {"machine": dataclasses.asdict(machine), "versions": package_versions(), "settings": settings}
    write_json(folder / "target_pass.json", record | {"cases": cases})
    what = f"{network}, {precision}, {torch.get_num_threads()} threads, {rounds} rounds"
    text = markdown(cases, f"{what}. {machine.cpu}, {machine.usable_cores:g} cores usable.")
    write_text(folder / "target_pass.md", text)
    print(text)
    shares = {f"{case}, {way}": row for case, found in cases.items() for way, row in found["rates"].items()}
    print(json.dumps({name: round(row["of_pure"], 3) for name, row in shares.items()}))


if __name__ == "__main__":
    main()
