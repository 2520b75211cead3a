"""Ways from logits at the network's stride to labels of the frame: time and memory of each.

    python benchmarks/upsampling.py --rounds 9 -o runs/upsampling

Small ONNX graphs, each a way of writing "upsample bilinearly, then argmax", run on the CPU with two threads.
They take turns, so that a busy machine slows them alike, and figures are ratios to the first, which makes
the logits of the whole frame. Every graph's labels are compared with torch's. CPU time is that of all threads
of the process. Memory is what a process of its own needs to load and run a graph (Linux alone). The limit is
reading the logits and writing the labels at the measured rate of memory. Writes ``upsampling.json`` and
``upsampling.md``; the last line on standard output is one compact JSON document. The last two ways are those
of exported files (``export/graph/upsampling.py``).

The logits are noise, of which these graphs take no notice; ``dense_argmax.py`` sets the best of them against
the way outside of a graph, which does.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from cpsl_deploy.command_line import Command, parse_size
from cpsl_deploy.export.graph.upsampling import ROWS_PER_STRIP, row_weights
from cpsl_deploy.files import new_output_folder, write_json, write_text
from cpsl_deploy.machine import describe_machine, package_versions
from cpsl_deploy.machine.copy_rate import copy_rate

THREADS = 2
PAUSE_S = 0.01
"""Before a frame is timed: threads of the one before have gone to sleep."""

Run = Callable[[np.ndarray], np.ndarray]
"""From logits float32 (1, classes, h, w) to labels uint8."""


@dataclass(frozen=True)
class Case:
    """Logits (1, ``classes``, ``height`` / ``stride``, ``width`` / ``stride``) and a frame."""

    classes: int
    stride: int
    height: int
    width: int

    @property
    def small(self) -> tuple[int, int]:
        return self.height // self.stride, self.width // self.stride

    @property
    def title(self) -> str:
        return f"{self.classes} classes, stride {self.stride}, {self.height}x{self.width}"

    def logits(self) -> np.ndarray:
        shape = (1, self.classes, *self.small)
        return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


class Graph:
    """An ONNX graph written call by call: each returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def resize(self, value: str, sizes: list[int]) -> str:
        return self("Resize", value, "", "", self.constant(sizes), mode="linear")

    def rows(self, value: str, first: int, end: int, axis: int) -> str:
        return self("Slice", value, self.constant([first]), self.constant([end]), self.constant([axis]))

    def winners(self, value: str, axis: int) -> str:
        return self("Cast", self("ArgMax", value, axis=axis, keepdims=0), to=TensorProto.FLOAT)

    def model(self, case: Case, result: str, maps: int = 1) -> bytes:
        """``result``: labels, or several maps below each other."""
        labels = self("Cast", result, to=TensorProto.UINT8)
        graph = helper.make_graph(
            self.nodes,
            "labels_from_logits",
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, case.classes, *case.small])],
            [helper.make_tensor_value_info(labels, TensorProto.UINT8, [1, maps * case.height, case.width])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        return model.SerializeToString()


def whole(g: Graph, case: Case) -> str:
    return g.winners(g.resize("logits", [1, case.classes, case.height, case.width]), 1)


def whole_classes_last(g: Graph, case: Case) -> str:
    x = g("Transpose", "logits", perm=[0, 2, 3, 1])
    return g.winners(g.resize(x, [1, case.height, case.width, case.classes]), 3)


def strips_with_halo(g: Graph, case: Case) -> str:
    """Only where the stride divides the size, and not with aligned corners."""
    rows, step, strips = case.small[0], ROWS_PER_STRIP // case.stride, []
    for row in range(0, rows, step):
        first, end = max(row - 1, 0), min(row + step + 1, rows)
        strip = g.rows("logits", first, end, 2)
        strip = g.resize(strip, [1, case.classes, (end - first) * case.stride, case.width])
        top = (row - first) * case.stride
        strip = g.rows(strip, top, top + min(step, rows - row) * case.stride, 2)
        strips.append(g.winners(strip, 1))
    return g("Concat", *strips, axis=1)


def height_then_strips(g: Graph, case: Case) -> str:
    tall, strips = g.resize("logits", [1, case.classes, case.height, case.small[1]]), []
    for row in range(0, case.height, ROWS_PER_STRIP):
        end = min(row + ROWS_PER_STRIP, case.height)
        strip = g.resize(g.rows(tall, row, end, 2), [1, case.classes, end - row, case.width])
        strips.append(g.winners(strip, 1))
    return g("Concat", *strips, axis=1)


def running_maximum(g: Graph, case: Case) -> str:
    """One class at a time: three maps of the frame's size are alive."""
    best, label = "", g.constant(np.zeros((1, 1, 1, 1)), np.float32)
    for index in range(case.classes):
        new = g.resize(g.rows("logits", index, index + 1, 1), [1, 1, case.height, case.width])
        if best:
            number = g.constant(np.full((1, 1, 1, 1), index), np.float32)
            label = g("Where", g("Greater", new, best), number, label)
        best = g("Max", new, best) if best else new
    return g("Squeeze", label, g.constant([1]))


def two_resizes(g: Graph, case: Case) -> str:
    tall = g.resize("logits", [1, case.classes, case.height, case.small[1]])
    x = g("Transpose", tall, perm=[0, 2, 3, 1])
    return g.winners(g.resize(x, [1, case.height, case.width, case.classes]), 3)


def width_then_matrices_classes_first(g: Graph, case: Case) -> str:
    wide = g.resize("logits", [1, case.classes, case.small[0], case.width])
    strips = []
    for weights in row_weights(case.small[0], case.height, False).split(ROWS_PER_STRIP // 2):
        needed = np.flatnonzero(weights.numpy().any(0))
        first, end = int(needed[0]), int(needed[-1]) + 1
        matrix = g.constant(weights[:, first:end].numpy(), np.float32)
        strips.append(g.winners(g("MatMul", matrix, g.rows(wide, first, end, 2)), 1))
    return g("Concat", *strips, axis=1)


def width_then_matrices(g: Graph, case: Case) -> str:
    return g("Concat", *(g.winners(strip, 3) for strip in strips_by_matrices(g, case)), axis=1)


def strips_by_matrices(g: Graph, case: Case) -> Iterator[str]:
    """(1, rows, W, classes), as exported files make them."""
    wide = g.resize("logits", [1, case.classes, case.small[0], case.width])
    x = g("Transpose", wide, perm=[0, 2, 3, 1])
    x = g("Reshape", x, g.constant([1, case.small[0], case.width * case.classes]))
    for weights in row_weights(case.small[0], case.height, False).split(ROWS_PER_STRIP):
        needed = np.flatnonzero(weights.numpy().any(0))
        first, end = int(needed[0]), int(needed[-1]) + 1
        matrix = g.constant(weights[:, first:end].numpy(), np.float32)
        strip = g("MatMul", matrix, g.rows(x, first, end, 1))
        yield g("Reshape", strip, g.constant([1, len(weights), case.width, case.classes]))


WAYS: dict[str, Callable[[Graph, Case], str]] = {
    "whole frame": whole,
    "whole frame, classes last": whole_classes_last,
    "strips with a halo": strips_with_halo,
    "height, then strips of the width": height_then_strips,
    "running maximum over classes": running_maximum,
    "width, then strips by matrix product, classes first": width_then_matrices_classes_first,
    "height, then width with classes last (free sizes)": two_resizes,
    "width, then strips by matrix product (fixed sizes)": width_then_matrices,
}


def runner(backend: str, model: bytes) -> Run:
    if backend == "openvino":
        import openvino

        core = openvino.Core()
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": THREADS}
        compiled = core.compile_model(core.read_model(model), "CPU", hints)
        return lambda logits: compiled(logits)[0]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    # Threads that wait in circles would be counted as CPU time, and of whatever runs next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda logits: session.run(None, {"logits": logits})[0]


def written(case: Case) -> dict[str, bytes]:
    """The ONNX model of each way."""
    models = {}
    for name, write in WAYS.items():
        graph = Graph()
        models[name] = graph.model(case, write(graph, case))
    return models


def resident(field: str) -> int:
    """Bytes of this process in memory, as Linux counts them: "VmRSS" now, "VmHWM" at most so far."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def peak_memory(make: Callable[[], Run], logits: np.ndarray) -> int:
    """Bytes that making and running a way adds to this process, which must be its own."""
    before = resident("VmRSS")
    run = make()
    for _ in range(2):
        run(logits)
    return resident("VmHWM") - before


def peak_memories(makes: Mapping[str, Callable[[], Run]], logits: np.ndarray) -> dict[str, int]:
    """``peak_memory`` of each way. To be called before this process runs a graph: its children are forks."""
    tasks = [(make, logits) for make in makes.values()]
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        return dict(zip(makes, pool.starmap(peak_memory, tasks, chunksize=1), strict=True))


def makes_of(backend: str, case: Case) -> dict[str, Callable[[], Run]]:
    return {name: partial(runner, backend, model) for name, model in written(case).items()}


def in_turns(runs: Mapping[str, Run], logits: np.ndarray, rounds: int) -> dict[str, np.ndarray]:
    """(rounds, 2) seconds by name, wall-clock and of the process's CPU time. Each is run once untimed before
    every timed run, as in a loop over frames."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(PAUSE_S)
            run(logits)
            wall, cpu = time.perf_counter(), time.process_time()
            run(logits)
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: np.array(values) for name, values in seconds.items()}


def limit_s(logits: np.ndarray, size: tuple[int, int]) -> float:
    """Seconds of reading the logits once and writing uint8 labels of ``size``."""
    return (logits.nbytes + size[0] * size[1]) / copy_rate(THREADS).bytes_per_s


def measured(
    runs: Mapping[str, Run], logits: np.ndarray, expected: np.ndarray, rounds: int
) -> dict[str, dict[str, float]]:
    """Per way: median times, the wall-clock's as a ratio to the first way's with its quartiles, the fraction
    of the limit that is reached, and the share of labels unlike the ``expected``."""
    unlike = {name: float((np.asarray(run(logits)) != expected).mean()) for name, run in runs.items()}
    seconds, limit = in_turns(runs, logits, rounds), limit_s(logits, expected.shape[-2:])
    first = next(iter(seconds.values()))[:, 0]
    rows = {}
    for name, values in seconds.items():
        wall, cpu = np.median(values, axis=0)
        low, ratio, high = np.percentile(values[:, 0] / first, [25, 50, 75])
        rows[name] = {
            "ratio": float(ratio),
            "ratio_low": float(low),
            "ratio_high": float(high),
            "ms": 1e3 * float(wall),
            "cpu_ms": 1e3 * float(cpu),
            "limit_ms": 1e3 * limit,
            "of_limit": limit / float(wall),
            "unlike": unlike[name],
        }
    return rows


def measure(backend: str, case: Case, rounds: int) -> dict[str, dict[str, float]]:
    """`measured` of the graphs on noise, held against torch."""
    logits, size = case.logits(), (case.height, case.width)
    upsampled = functional.interpolate(torch.from_numpy(logits), size=size, mode="bilinear")
    runs = {name: make() for name, make in makes_of(backend, case).items()}
    return measured(runs, logits, upsampled.argmax(1).numpy(), rounds)


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table per backend: a line per way, a column per case, each with ratio, times and memory."""
    lines = []
    for backend in dict.fromkeys(row["backend"] for row in rows):
        chosen = [row for row in rows if row["backend"] == backend]
        cases = list(dict.fromkeys(row["case"] for row in chosen))
        lines += [
            f"{backend}: time as a ratio to the first way; milliseconds, of the clock / of all CPUs; peak MB",
            "",
        ]
        lines += ["| way | " + " | ".join(cases) + " |", "| --- |" + " --- |" * len(cases)]
        for way in dict.fromkeys(row["way"] for row in chosen):
            cells = [next(row for row in chosen if (row["way"], row["case"]) == (way, c)) for c in cases]
            lines.append(f"| {way} | " + " | ".join(map(_cell, cells)) + " |")
        limits = [next(row["limit_ms"] for row in chosen if row["case"] == case) for case in cases]
        lines += ["| limit: memory | " + " | ".join(f"{limit:.2f} ms" for limit in limits) + " |", ""]
    worst = max(row["unlike"] for row in rows)
    return "\n".join([*lines, f"Labels unlike the expected: at most {worst:.4%} of the pixels.", ""])


def _cell(row: dict[str, Any]) -> str:
    return f"{row['ratio']:.2f}; {row['ms']:.1f} / {row['cpu_ms']:.1f}; {row['peak_mb']:.0f}"


def write(folder: Path, name: str, rows: list[dict[str, Any]], rounds: int) -> None:
    """``NAME.json`` and ``NAME.md``, and both on standard output."""
    facts = {
        "threads": THREADS,
        "rounds": rounds,
        "memory": copy_rate(THREADS).how,
        "memory_bytes_per_s": copy_rate(THREADS).bytes_per_s,
        "machine": dataclasses.asdict(describe_machine()),
        "versions": package_versions(),
        "rows": rows,
    }
    write_json(folder / f"{name}.json", facts)
    write_text(folder / f"{name}.md", markdown(rows))
    print(markdown(rows))
    print(json.dumps({f"{r['backend']}, {r['case']}, {r['way']}": round(r["ratio"], 3) for r in rows}))


@click.command(cls=Command)
@click.option("--size", "sizes", multiple=True, default=("512x1024", "1024x2048"), show_default=True)
@click.option("--classes", multiple=True, type=int, default=(19, 10), show_default=True)
@click.option("--stride", "strides", multiple=True, type=int, default=(8, 4), show_default=True)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(["onnxruntime", "openvino"]),
    default=("onnxruntime",),
    show_default=True,
)
@click.option("--rounds", default=9, show_default=True, help="Turns that each way takes.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("runs/upsampling"), show_default=True
)
def main(
    sizes: tuple[str, ...],
    classes: tuple[int, ...],
    strides: tuple[int, ...],
    backends: tuple[str, ...],
    rounds: int,
    output: Path,
) -> None:
    """Measure ways from logits to labels on this machine."""
    cases = [Case(c, s, *parse_size(size)) for size in sizes for c in classes for s in strides]
    folder = new_output_folder(output)
    todo = [(backend, case) for backend in backends for case in cases]
    memories = [peak_memories(makes_of(backend, case), case.logits()) for backend, case in todo]
    rows = [
        {"backend": backend, "case": case.title, "way": way, "peak_mb": memory[way] / 1e6, **values}
        for (backend, case), memory in zip(todo, memories, strict=True)
        for way, values in measure(backend, case, rounds).items()
    ]
    write(folder, "upsampling", rows, rounds)


if __name__ == "__main__":
    main()
