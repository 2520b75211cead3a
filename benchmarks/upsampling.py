"""Ways from logits at the network's stride to labels of the frame: time and memory of each.

    python benchmarks/upsampling.py --rounds 9 -o runs/upsampling

Small ONNX graphs, each a way of writing "upsample bilinearly, then argmax", run on the CPU with two threads.
They take turns, so that a busy machine slows them alike, and figures are ratios to the first, which makes
the logits of the whole frame. Every graph's labels are compared with torch's. Memory is what a process of
its own needs to load and run a graph (Linux alone). Writes ``upsampling.json`` and ``upsampling.md``; the
last line on standard output is one compact JSON document. The last two ways are those of exported files
(``export/graph/upsampling.py``).
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
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

THREADS = 2


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

    def model(self, case: Case, result: str) -> bytes:
        labels = self("Cast", result, to=TensorProto.UINT8)
        graph = helper.make_graph(
            self.nodes,
            "labels_from_logits",
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, case.classes, *case.small])],
            [helper.make_tensor_value_info(labels, TensorProto.UINT8, [1, case.height, case.width])],
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


def width_then_matrices(g: Graph, case: Case) -> str:
    wide = g.resize("logits", [1, case.classes, case.small[0], case.width])
    x = g("Transpose", wide, perm=[0, 2, 3, 1])
    x = g("Reshape", x, g.constant([1, case.small[0], case.width * case.classes]))
    strips = []
    for weights in row_weights(case.small[0], case.height, False).split(ROWS_PER_STRIP):
        needed = np.flatnonzero(weights.numpy().any(0))
        first, end = int(needed[0]), int(needed[-1]) + 1
        matrix = g.constant(weights[:, first:end].numpy(), np.float32)
        strip = g("MatMul", matrix, g.rows(x, first, end, 1))
        shape = g.constant([1, len(weights), case.width, case.classes])
        strips.append(g.winners(g("Reshape", strip, shape), 3))
    return g("Concat", *strips, axis=1)


WAYS: dict[str, Callable[[Graph, Case], str]] = {
    "whole frame": whole,
    "whole frame, classes last": whole_classes_last,
    "strips with a halo": strips_with_halo,
    "height, then strips of the width": height_then_strips,
    "running maximum over classes": running_maximum,
    "height, then width with classes last (free sizes)": two_resizes,
    "width, then strips by matrix product (fixed sizes)": width_then_matrices,
}


def runner(backend: str, model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """A function from logits to labels."""
    if backend == "openvino":
        import openvino

        core = openvino.Core()
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": THREADS}
        compiled = core.compile_model(core.read_model(model), "CPU", hints)
        return lambda logits: compiled(logits)[0]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
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


def peak_memory(backend: str, model: bytes, logits: np.ndarray) -> int:
    """Bytes that running a graph adds to this process, which must be its own."""
    before = resident("VmRSS")
    run = runner(backend, model)
    for _ in range(2):
        run(logits)
    return resident("VmHWM") - before


def peak_memories(backend: str, case: Case) -> dict[str, int]:
    """``peak_memory`` of each way. To be called before this process runs a graph: its children are forks."""
    tasks = [(backend, model, case.logits()) for model in written(case).values()]
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        return dict(zip(WAYS, pool.starmap(peak_memory, tasks, chunksize=1), strict=True))


def measure(backend: str, case: Case, rounds: int) -> dict[str, dict[str, float]]:
    """Per way: its median time, that as a ratio to the first way's, the share of labels unlike torch's."""
    logits, size = case.logits(), (case.height, case.width)
    upsampled = functional.interpolate(torch.from_numpy(logits), size=size, mode="bilinear")
    expected = upsampled.argmax(1).numpy()
    runs = {name: runner(backend, model) for name, model in written(case).items()}
    unlike = {name: float((run(logits) != expected).mean()) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run(logits)
            seconds[name].append(time.perf_counter() - began)
    first = np.array(next(iter(seconds.values())))
    return {
        name: {
            "ratio": float(np.median(np.array(values) / first)),
            "ms": 1000 * float(np.median(values)),
            "unlike_torch": unlike[name],
        }
        for name, values in seconds.items()
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table per backend: a line per way, a column per case, each with ratio and memory."""
    lines = []
    for backend in dict.fromkeys(row["backend"] for row in rows):
        chosen = [row for row in rows if row["backend"] == backend]
        cases = list(dict.fromkeys(row["case"] for row in chosen))
        lines += [f"{backend}: time as a ratio to the first way, and peak memory in MB", ""]
        lines += ["| way | " + " | ".join(cases) + " |", "| --- |" + " --- |" * len(cases)]
        for way in WAYS:
            cells = {row["case"]: row for row in chosen if row["way"] == way}
            texts = [f"{cells[case]['ratio']:.2f}, {cells[case]['peak_mb']:.0f}" for case in cases]
            lines.append(f"| {way} | " + " | ".join(texts) + " |")
        lines.append("")
    worst = max(row["unlike_torch"] for row in rows)
    return "\n".join([*lines, f"Labels unlike torch's: at most {worst:.4%} of the pixels of any graph.", ""])


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
    machine = describe_machine()
    todo = [(backend, case) for backend in backends for case in cases]
    memories = [peak_memories(backend, case) for backend, case in todo]
    rows = [
        {"backend": backend, "case": case.title, "way": way, "peak_mb": memory[way] / 1e6, **values}
        for (backend, case), memory in zip(todo, memories, strict=True)
        for way, values in measure(backend, case, rounds).items()
    ]
    write_json(
        folder / "upsampling.json",
        {
            "threads": THREADS,
            "rounds": rounds,
            "machine": dataclasses.asdict(machine),
            "versions": package_versions(),
            "rows": rows,
        },
    )
    write_text(folder / "upsampling.md", markdown(rows))
    print(markdown(rows))
    print(json.dumps({f"{r['backend']}, {r['case']}, {r['way']}": round(r["ratio"], 3) for r in rows}))


if __name__ == "__main__":
    main()
