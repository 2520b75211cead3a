"""Labels of upsampled logits: `cpsl_deploy.dense_argmax` against upsampling them all, in one run.

    python benchmarks/dense_argmax.py                          logits made here, 19 classes at stride 8
    python benchmarks/dense_argmax.py MODEL.onnx IMAGE...      the logits of a network on photos, too

Compared with ``full``: OpenCV's bilinear resize of every class and argmax; and with ``graph``: Resize, ArgMax
and Cast as an exported file has them, run by onnxruntime. The last line is one JSON document.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from cpsl_deploy.command_line import Command
from cpsl_deploy.dense_argmax import labels_from_logits

REPEATS = 9


def scene_logits(classes: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """float32 (classes, height, width): regions with smooth borders, as a network's are, and mild noise."""
    rng = np.random.default_rng(seed)
    regions = np.zeros((height, width), np.int64)
    regions[: height // 3] = 10
    regions[height // 3 : height // 2] = 2
    for _ in range(40):
        y, x = rng.integers(height), rng.integers(width)
        box = rng.integers(2, max(3, height // 5), 2)
        regions[y : y + box[0], x : x + 2 * box[1]] = rng.integers(classes)
    one_hot = (np.arange(classes)[:, None, None] == regions).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(12 * plane, (0, 0), 1.0) for plane in one_hot])
    return (smooth + rng.normal(0, 0.3, smooth.shape)).astype(np.float32)


def full(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    planes = [cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR) for plane in logits]
    return np.stack(planes).argmax(0).astype(np.uint8)


def graph(classes: int, size: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [4], [1, classes, *size])
    nodes = [
        helper.make_node("Resize", ["logits", "", "", "sizes"], ["dense"], mode="linear"),
        helper.make_node("ArgMax", ["dense"], ["indices"], axis=1, keepdims=0),
        helper.make_node("Cast", ["indices"], ["labels"], to=TensorProto.UINT8),
    ]
    shape = [1, classes, "h", "w"]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "tail",
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, *size])],
            [sizes],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return lambda logits: session.run(None, {"logits": logits[None]})[0][0]


def network_logits(model: Path, image: Path) -> np.ndarray:
    """The value ``logits`` inside an exported file, on a photo at the photo's own size."""
    proto = onnx.load(model)
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": cv2.imread(str(image))[None]})[0][0]


def compare(name: str, logits: np.ndarray, size: tuple[int, int]) -> dict[str, object]:
    """Milliseconds, the least of `REPEATS`, taken in turn so that a busy machine slows all alike."""
    tail = graph(len(logits), size)
    ways: dict[str, Callable[[], np.ndarray]] = {
        "dense_argmax": lambda: labels_from_logits(logits, size),
        "full": lambda: full(logits, size),
        "graph": lambda: tail(logits),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    labels: dict[str, np.ndarray] = {}
    for _ in range(REPEATS):
        for way, compute in ways.items():
            started = time.perf_counter()
            labels[way] = compute()
            times[way].append(1e3 * (time.perf_counter() - started))
    least = {way: round(min(taken), 2) for way, taken in times.items()}
    row = {
        "logits": name,
        "size": list(size),
        "classes": len(logits),
        "ms": least,
        "times_faster_than_full": round(least["full"] / least["dense_argmax"], 1),
        "times_faster_than_graph": round(least["graph"] / least["dense_argmax"], 1),
        "equal_to_full": float((labels["dense_argmax"] == labels["full"]).mean()),
        "equal_to_graph": float((labels["dense_argmax"] == labels["graph"]).mean()),
    }
    print(row)
    return row


@click.command(cls=Command)
@click.argument("model", required=False, type=click.Path(exists=True, path_type=Path))
@click.argument("images", nargs=-1, type=click.Path(exists=True, path_type=Path))
def main(model: Path | None, images: tuple[Path, ...]) -> None:
    """Compare ways to labels on logits made here, and on those of a MODEL on IMAGES."""
    cv2.setNumThreads(1)
    rows = []
    for size in ((512, 1024), (1024, 2048)):
        few = size[0] // 8, size[1] // 8
        rows.append(compare("scene", scene_logits(19, *few), size))
    noise = np.random.default_rng(0).normal(size=(19, 64, 128)).astype(np.float32)
    rows.append(compare("noise, the worst case", noise, (512, 1024)))
    for image in images if model else ():
        height, width = cv2.imread(str(image)).shape[:2]
        rows.append(compare(image.name, network_logits(model, image), (height, width)))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
