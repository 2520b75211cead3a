"""Labels of upsampled logits: `cpsl_deploy.dense_argmax` against upsampling them all, in one run.

    python benchmarks/dense_argmax.py -o runs/dense-argmax             logits made here: streets, and noise
    python benchmarks/dense_argmax.py MODEL.onnx IMAGE... -o FOLDER    a network's on photos as well

Per library: the graph of an exported file and the fastest others of ``upsampling.py``, common practice
(OpenCV's bilinear resize of every class, NumPy's argmax), and the labels that the runtime makes outside of a
graph, without and with confidence; a graph with confidence beside that. On noise, its worst case, nearly
every cell is interpolated. All have two threads but ``labels_from_logits``, which has one. Ways take turns.
Writes ``dense_argmax.json`` and ``dense_argmax.md``, with CPU time, memory and limit as in ``upsampling.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from upsampling import (
    THREADS,
    Case,
    Graph,
    Run,
    measured,
    peak_memories,
    runner,
    strips_by_matrices,
    whole,
    whole_classes_last,
    width_then_matrices,
    width_then_matrices_classes_first,
    write,
)

from cpsl_deploy.command_line import Command, parse_size
from cpsl_deploy.dense_argmax import labels_from_logits
from cpsl_deploy.files import new_output_folder

GRAPHS: dict[str, Callable[[Graph, Case], str]] = {
    "graph of an exported file": width_then_matrices,
    "graph, classes first": width_then_matrices_classes_first,
    "graph, whole frame": whole,
    "graph, whole frame, classes last": whole_classes_last,
}
OUTSIDE = "labels_from_logits"


def scene_logits(classes: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """float32 (classes, height, width): regions with smooth borders, as a network's are, and mild noise."""
    rng = np.random.default_rng(seed)
    regions = np.zeros((height, width), np.int64)
    regions[: height // 3] = classes // 2
    regions[height // 3 : height // 2] = 2
    for _ in range(40):
        y, x = rng.integers(height), rng.integers(width)
        box = rng.integers(2, max(3, height // 5), 2)
        regions[y : y + box[0], x : x + 2 * box[1]] = rng.integers(classes)
    one_hot = (np.arange(classes)[:, None, None] == regions).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(12 * plane, (0, 0), 1.0) for plane in one_hot])
    return (smooth + rng.normal(0, 0.3, smooth.shape)).astype(np.float32)


def noise_logits(classes: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((classes, height, width)).astype(np.float32)


def common_practice(size: tuple[int, int]) -> Run:
    def run(logits: np.ndarray) -> np.ndarray:
        planes = [cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR) for plane in logits[0]]
        return np.stack(planes).argmax(0).astype(np.uint8)

    return run


def outside(size: tuple[int, int]) -> Run:
    return lambda logits: labels_from_logits(logits[0], size)


def outside_with_confidence(size: tuple[int, int]) -> Run:
    return lambda logits: labels_from_logits(logits[0], size, confidence=True)[0]


def graph_with_confidence(backend: str, case: Case) -> Run:
    """As an exported file makes both, one below the other; gives the labels."""
    g, labels, confidence = Graph(), [], []
    for strip in strips_by_matrices(g, case):
        labels.append(g.winners(strip, 3))
        rest = g("Sub", strip, g("ReduceMax", strip, g.constant([3]), keepdims=1))
        total = g("ReduceSum", g("Exp", rest), g.constant([3]), keepdims=0)
        confidence.append(g("Round", g("Div", g.constant(255, np.float32), total)))
    run = runner(backend, g.model(case, g("Concat", *labels, *confidence, axis=1), maps=2))
    return lambda logits: run(logits)[:, : case.height]


def network_logits(model: Path, image: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """The value ``logits`` inside an exported file, and the size (height, width) they are for: the file's
    own, or that of the photo, shrunk to multiples of 32 pixels."""
    proto = onnx.load(model)
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    photo, sides = cv2.imread(str(image)), session.get_inputs()[0].shape[1:3]
    if not all(isinstance(side, int) for side in sides):
        sides = [max(1, side // 32) * 32 for side in photo.shape[:2]]
    photo = cv2.resize(photo, sides[::-1], interpolation=cv2.INTER_AREA)
    return session.run(["logits"], {"image": photo[None]})[0][0], (sides[0], sides[1])


def ways(backend: str, case: Case) -> dict[str, Callable[[], Run]]:
    size, models = (case.height, case.width), {}
    for name, build in GRAPHS.items():
        g = Graph()
        models[name] = g.model(case, build(g, case))
    return {
        **{name: partial(runner, backend, model) for name, model in models.items()},
        "common practice": partial(common_practice, size),
        OUTSIDE: partial(outside, size),
        "graph of an exported file, with confidence": partial(graph_with_confidence, backend, case),
        f"{OUTSIDE}, with confidence": partial(outside_with_confidence, size),
    }


def compare(
    backend: str, name: str, logits: np.ndarray, size: tuple[int, int], rounds: int
) -> list[dict[str, Any]]:
    """A row for each way, on logits (classes, h, w)."""
    case = Case(len(logits), size[0] // logits.shape[1], *size)
    makes, batch = ways(backend, case), logits[None]
    memory = peak_memories(makes, batch)
    runs = {way: make() for way, make in makes.items()}
    rows = measured(runs, batch, runs["common practice"](batch), rounds)
    title = f"{name}: {case.title}"
    return [
        {"backend": backend, "case": title, "way": way, "peak_mb": memory[way] / 1e6, **row}
        for way, row in rows.items()
    ]


@click.command(cls=Command)
@click.argument("model", required=False, type=click.Path(exists=True, path_type=Path))
@click.argument("images", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--size", "sizes", multiple=True, default=("512x1024", "1024x2048"), show_default=True)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(["onnxruntime", "openvino"]),
    default=("onnxruntime", "openvino"),
    show_default=True,
)
@click.option("--rounds", default=7, show_default=True, help="Turns that each way takes.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("runs/dense-argmax"), show_default=True
)
def main(
    model: Path | None,
    images: tuple[Path, ...],
    sizes: tuple[str, ...],
    backends: tuple[str, ...],
    rounds: int,
    output: Path,
) -> None:
    """Compare ways to labels on logits made here, and on those of a MODEL on IMAGES."""
    cv2.setNumThreads(THREADS)
    folder = new_output_folder(output)
    cases = []
    for size in map(parse_size, sizes):
        for classes, stride in ((10, 4), (19, 8)):
            few = size[0] // stride, size[1] // stride
            cases.append(("street", scene_logits(classes, *few), size))
            cases.append(("noise", noise_logits(classes, *few), size))
    for image in images if model else ():
        cases.append((image.name, *network_logits(model, image)))
    rows = [row for backend in backends for case in cases for row in compare(backend, *case, rounds)]
    write(folder, "dense_argmax", rows, rounds)


if __name__ == "__main__":
    main()
