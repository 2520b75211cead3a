"""``benchmarks/frames.py``: common practice and ours give the same, and what is made of their times."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import frames
import frames_report
import onnx
from coarse_onnx import STRIDE, write_coarse_onnx
from frames_ways import BASELINE, OUR_NETWORK, STEPS, THEIR_NETWORK, Way, in_turns
from tiny_onnx import CLASS_COLOURS, street

from cpsl_deploy.spec import METADATA_KEY

SIZE = (64, 96)


def float_graph(path: Path, *, upsampled: bool) -> None:
    """The network of `write_coarse_onnx` as common practice has it: of normalised RGB floats."""
    colours = np.array(CLASS_COLOURS, np.float32)
    constants = {  # the image is from 0 to 1 here
        "weight": (2 * colours)[:, :, None, None],
        "bias": -(colours**2).sum(1) / 255,
        **({"scales": np.array([1, 1, STRIDE, STRIDE])} if upsampled else {}),
    }
    helper, last = onnx.helper, "logits" if not upsampled else "coarse"
    nodes = [
        helper.make_node(
            "AveragePool", ["image"], ["means"], kernel_shape=[STRIDE] * 2, strides=[STRIDE] * 2
        ),
        helper.make_node("Conv", ["means", "weight", "bias"], [last]),
    ]
    if upsampled:
        nodes.append(helper.make_node("Resize", ["coarse", "", "scales"], ["logits"], mode="linear"))
    graph = helper.make_graph(
        nodes,
        "common",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, *SIZE])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value.astype(np.float32), key) for key, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """As `frames_files.make_files` leaves them, but for INT8."""
    for name, outputs in (("labels", ("labels",)), ("logits", ("logits",))):
        path = write_coarse_onnx(tmp_path / f"{name}.onnx", SIZE, outputs=outputs)
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    (tmp_path / "spec.json").write_text(metadata[METADATA_KEY])
    float_graph(tmp_path / "common.onnx", upsampled=True)
    float_graph(tmp_path / "network.onnx", upsampled=False)
    for index in range(2):
        image = np.roll(street(*SIZE)[..., ::-1], 7 * index, axis=1)
        cv2.imwrite(str(tmp_path / f"frame{index}.jpg"), image)
    return tmp_path


def test_both_give_the_same_and_every_step_is_timed(files: Path) -> None:
    record = frames.measure(files, "fp32 onnxruntime", rounds=3, seconds=5)
    rows = {row["name"]: row for row in record["rows"]}
    assert list(rows) == [BASELINE, "fp32 onnxruntime", THEIR_NETWORK, OUR_NETWORK]
    ours = rows["fp32 onnxruntime"]
    assert ours["agreement"]["labels"] > 0.999 and ours["agreement"]["frames"] == 2
    assert ours["agreement"]["same_jpegs"] >= 1
    assert len(ours["cpu_ms"]) == len(ours["wall_ms"]) == len(STEPS)
    assert record["rounds"] == 3 and rows[BASELINE]["ratio"] == 1
    assert record["peak_mb"]["fp32 onnxruntime"] > 10
    least = record["limits"]["f32"]
    assert 0 < least["network_ms"] < 1 and least["rest_mb"] > 17 * 64 * 96 / 1e6
    whole = {"network": "coarse", "size": SIZE, "random_weights": True, **record}
    page = frames_report.markdown([whole])
    assert "| fp32 onnxruntime |" in page and "## coarse, 64x96, random weights" in page
    assert set(frames_report.shares(whole)) == {BASELINE, "fp32 onnxruntime"}


def test_ways_take_turns_and_a_budget_ends_them() -> None:
    calls: list[str] = []
    ways = [Way(name, [lambda value, name=name: calls.append(name)], files=[0]) for name in "ab"]
    assert in_turns(ways, rounds=4, budget_s=60) == 4
    assert calls[2:10] == list("aabb" + "bbaa")
    assert [len(way.wall_ms) for way in ways] == [4, 4]
    assert in_turns(ways, rounds=50, budget_s=0) == 3
