"""On a CPU labels are made of the logits outside the graph: the same ones as inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cpsl_deploy import ModelFileError, load
from cpsl_deploy.backends import open_backend
from cpsl_deploy.backends.graph_cut import up_to_logits

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
coarse_onnx = pytest.importorskip("coarse_onnx", exc_type=ImportError)

SIZE = (96, 160)


@pytest.fixture(params=["onnxruntime", "openvino"])
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return request.param


def frames(count: int) -> np.ndarray:
    """BGR of blotches, so that labels have borders."""
    few = np.random.default_rng(5).integers(0, 256, (count, 12, 20, 3), dtype=np.uint8)
    return few.repeat(8, 1).repeat(8, 2)


def in_the_graph(path: Path, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["labels"], {"image": images})[0]


@pytest.mark.parametrize("outputs", [("labels",), ("labels", "logits")])
@pytest.mark.parametrize("count", [1, 3])
def test_the_labels_of_the_graph(tmp_path: Path, backend: str, outputs: tuple[str, ...], count: int) -> None:
    path = coarse_onnx.write_coarse_onnx(tmp_path / "m.onnx", SIZE, outputs=outputs, batch=None)
    images = frames(count)
    with open_backend(path, backend=backend, threads=1) as opened:
        assert opened.labels_outside and opened.describe()["labels_outside"]
        found = opened.infer(images)
        timed, _ = opened.infer_timed(images)
    assert list(found) == list(outputs) == list(timed)
    expected = in_the_graph(path, images)
    assert found["labels"].shape == expected.shape and found["labels"].dtype == np.uint8
    assert len(np.unique(expected)) == 4
    np.testing.assert_array_equal(timed["labels"], found["labels"])
    assert (found["labels"] == expected).mean() > 0.9995  # all but ties


@pytest.mark.parametrize(
    ("outputs", "arguments"),
    [
        (("labels", "confidence"), {}),
        (("logits",), {}),
        (("labels",), {"name": "scores"}),
    ],
    ids=["confidence needs every logit", "logits alone", "logits by another name"],
)
def test_labels_stay_in_the_graph(tmp_path: Path, outputs: tuple[str, ...], arguments: dict) -> None:
    path = coarse_onnx.write_coarse_onnx(tmp_path / "m.onnx", SIZE, outputs=outputs, **arguments)
    images = frames(1)
    with load(path, threads=1) as segmenter:
        assert not segmenter.backend.labels_outside
        labels = segmenter.predict(images[0]).labels
    if "labels" in outputs:
        np.testing.assert_array_equal(labels, in_the_graph(path, images)[0])


def test_what_is_left_of_the_graph(tmp_path: Path) -> None:
    path = coarse_onnx.write_coarse_onnx(tmp_path / "m.onnx", SIZE)
    whole, cut = onnx.load(path), onnx.load_from_string(up_to_logits(path))
    onnx.checker.check_model(cut, full_check=True)
    assert [node.op_type for node in cut.graph.node] == ["Cast", "Transpose", "AveragePool", "Conv"]
    assert [output.name for output in cut.graph.output] == ["logits"]
    assert {tensor.name for tensor in cut.graph.initializer} == {"weight", "bias"}
    for field in ("ir_version", "opset_import", "metadata_props"):
        assert getattr(cut, field) == getattr(whole, field)
    assert list(cut.graph.input) == list(whole.graph.input)


def test_graphs_inside_nodes_are_not_followed(tmp_path: Path) -> None:
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["logits"], ["inner"])],
        "inner",
        [],
        [onnx.helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, None)],
    )
    node = onnx.helper.make_node("If", ["always"], ["chosen"], then_branch=inner, else_branch=inner)
    path = coarse_onnx.write_coarse_onnx(tmp_path / "plain.onnx", SIZE)
    assert up_to_logits(path) is not None
    proto = onnx.load(path)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "always"))
    proto.graph.node.append(node)
    onnx.save(proto, tmp_path / "nested.onnx")
    assert up_to_logits(tmp_path / "nested.onnx") is None


def test_logits_that_are_not_finite(tmp_path: Path) -> None:
    path = coarse_onnx.write_coarse_onnx(tmp_path / "m.onnx", SIZE)
    proto = onnx.load(path)
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(4, np.inf, np.float32), "bias"))
    onnx.save(proto, path)
    with load(path, threads=1) as segmenter, pytest.raises(ModelFileError, match="finite"):
        segmenter.predict(frames(1)[0])
