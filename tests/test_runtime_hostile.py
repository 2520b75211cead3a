"""Damaged and hostile model files: our own error and nothing else, whatever the bytes are."""

from __future__ import annotations

import random
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from cpsl_deploy import CpslError, ModelFileError, load
from cpsl_deploy.backends.onnx_file import MAX_METADATA_BYTES, read_onnx_metadata

tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)
onnx = pytest.importorskip("onnx")

BACKENDS = ["onnxruntime", "openvino"]
OUTPUTS = ("labels", "confidence", "logits")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """A file whose graph comes first and whose metadata come last."""
    return tiny_onnx.write_tiny_onnx(tmp_path / "whole.onnx", outputs=OUTPUTS).read_bytes()


def changed(path: Path, change: Callable[[onnx.ModelProto], None], **contract: str) -> Path:
    proto = tiny_onnx.tiny_proto((96, 160), False, 1, "BGR", ("labels",), 1)
    onnx.helper.set_model_props(proto, tiny_onnx.tiny_metadata(**contract))
    change(proto)
    path.write_bytes(proto.SerializeToString())
    return path


def mutated(whole: bytes, rng: random.Random) -> bytes:
    data = bytearray(whole)
    # Most of such a small file is metadata; the graph before it is what a library reads.
    end = rng.choice([len(data), data.index(b"cpsl_deploy"), data.index(b"cpsl_deploy")])
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(data[: rng.randrange(end)])
    for _ in range(rng.randrange(1, 8)):
        at = rng.randrange(end)
        if kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at] = rng.randrange(256)
        else:
            data[at : at + rng.randrange(6)] = rng.randbytes(rng.randrange(6))
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_only_our_own_error_for_damaged_files(
    tmp_path: Path, whole: bytes, backend: str, seed: int, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(seed)
    path = tmp_path / "damaged.onnx"
    refused = 0
    for _ in range(60):
        path.write_bytes(mutated(whole, rng))
        try:
            with load(path, backend=backend, threads=1) as segmenter:
                labels = segmenter.predict(tiny_onnx.street()).labels
        except CpslError as error:
            assert len(str(error)) < 1000
            refused += 1
        else:
            assert labels.shape == (96, 160) and labels.max() < 4
    assert 30 < refused <= 60
    assert capfd.readouterr().out == "", "a library's complaints belong to the error"


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes(tmp_path: Path, backend: str, seed: int) -> None:
    path = tmp_path / "noise.onnx"
    rng = random.Random(seed)
    for size in (1, 2, 10, 1000, 100_000):
        path.write_bytes(rng.randbytes(size))
        with pytest.raises(ModelFileError, match="not a usable ONNX file"):
            load(path, backend=backend)


def _weight(proto: onnx.ModelProto) -> onnx.TensorProto:
    return next(tensor for tensor in proto.graph.initializer if tensor.name == "weight")


def _huge_fill(proto: onnx.ModelProto) -> None:
    """64 TB of zeros, of thirty bytes, added to the confidence."""
    tensor, node = onnx.helper.make_tensor, onnx.helper.make_node
    proto.graph.initializer.append(tensor("count", onnx.TensorProto.INT64, [1], [1 << 44]))
    nodes = [
        node("ConstantOfShape", ["count"], ["zeros"]),
        node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
        node("Cast", ["zero"], ["nothing"], to=onnx.TensorProto.INT64),
    ]
    last = next(node for node in proto.graph.node if "hundred" in node.input)
    last.input[1] = "nothing"
    others = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *others])
    shape = [1, "h", "w"]
    output = onnx.helper.make_tensor_value_info("confidence", onnx.TensorProto.UINT8, shape)
    proto.graph.output.append(output)


def _huge_side(proto: onnx.ModelProto) -> None:
    for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:3]:
        dim.dim_value = 1 << 40


@pytest.mark.parametrize(
    ("change", "contract"),
    [
        (lambda proto: _weight(proto).dims.__setitem__(0, 1 << 40), {}),
        (lambda proto: _weight(proto).dims.__setitem__(0, -4), {}),
        (lambda proto: _weight(proto).dims.extend([1 << 31] * 4), {}),
        (_huge_side, {}),
        (_huge_fill, {"outputs": "labels,confidence"}),
    ],
    ids=["initialiser", "negative", "overflow", "side", "fill"],
)
def test_huge_dimensions_cost_no_memory(
    tmp_path: Path, backend: str, change: Callable[[onnx.ModelProto], None], contract: dict[str, str]
) -> None:
    load(tiny_onnx.write_tiny_onnx(tmp_path / "first.onnx"), backend=backend).close()
    path = changed(tmp_path / "huge.onnx", change, **contract)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CpslError), load(path, backend=backend, threads=1) as segmenter:
        segmenter.predict(tiny_onnx.street())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kB"


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "weights.bin"])
@pytest.mark.parametrize("place", ["initialiser", "constant", "branch", "function"])
def test_weights_in_other_files_are_refused(tmp_path: Path, backend: str, location: str, place: str) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\0" * 4096)

    def change(proto: onnx.ModelProto) -> None:
        tensor = onnx.TensorProto(name="outside", data_type=onnx.TensorProto.FLOAT, dims=[12])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        constant = onnx.helper.make_node("Constant", [], ["outside"], value=tensor)
        branch = onnx.helper.make_graph([constant], "branch", [], [])
        if place == "initialiser":
            proto.graph.initializer.append(tensor)
        elif place == "constant":
            proto.graph.node.insert(0, constant)
        elif place == "branch":
            node = onnx.helper.make_node("If", ["c"], ["o"], then_branch=branch, else_branch=branch)
            proto.graph.node.append(node)
        else:
            opsets = [onnx.helper.make_opsetid("", 18)]
            proto.functions.append(onnx.helper.make_function("own", "f", [], ["outside"], [constant], opsets))

    with pytest.raises(ModelFileError, match=f"weights in another file, '{location}'"):
        load(changed(tmp_path / "m.onnx", change), backend=backend)


def test_unknown_opset(tmp_path: Path, backend: str) -> None:
    def change(proto: onnx.ModelProto) -> None:
        proto.opset_import[0].version = 999

    with pytest.raises(ModelFileError, match="opset 999, and 30 is the newest"):
        load(changed(tmp_path / "m.onnx", change), backend=backend)


def test_an_operator_that_nobody_knows(tmp_path: Path, backend: str) -> None:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.node[3].op_type = "Nonsense"

    with pytest.raises(ModelFileError, match="not a usable ONNX file"):
        load(changed(tmp_path / "m.onnx", change), backend=backend)


class TestMetadata:
    def test_read_as_onnx_reads_them(self, tmp_path: Path, whole: bytes) -> None:
        proto = onnx.load_from_string(whole)
        expected = {entry.key: entry.value for entry in proto.metadata_props}
        assert read_onnx_metadata(tmp_path / "whole.onnx") == expected

    def test_not_utf8(self, tmp_path: Path, whole: bytes, backend: str) -> None:
        path = tmp_path / "m.onnx"
        path.write_bytes(whole.replace(b"nearest_colour", b"nearest_\xff\xfelour"))
        with pytest.raises(ModelFileError, match="not UTF-8"):
            load(path, backend=backend)

    def test_absurd_size(self, tmp_path: Path, backend: str) -> None:
        def change(proto: onnx.ModelProto) -> None:
            proto.metadata_props.add(key="note", value="x" * MAX_METADATA_BYTES)

        with pytest.raises(ModelFileError, match="metadata are above 1,048,576 bytes"):
            load(changed(tmp_path / "m.onnx", change), backend=backend)

    def test_a_file_that_names_more_than_it_holds(self, tmp_path: Path) -> None:
        path = tmp_path / "m.onnx"
        path.write_bytes(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f")  # a graph of 2^63 - 1 bytes
        with pytest.raises(ModelFileError, match="cut off"):
            read_onnx_metadata(path)

    def test_graphs_nested_without_end(self, tmp_path: Path) -> None:
        """No library writes or reads this; its bytes are put together here, from the innermost graph out."""
        graph = b""
        for _ in range(200):
            for field in (6, 5, 1):  # the graph of an attribute of a node of a graph
                graph = bytes([field << 3 | 2]) + varint(len(graph)) + graph
        path = tmp_path / "m.onnx"
        path.write_bytes(b"\x3a" + varint(len(graph)) + graph)
        with pytest.raises(ModelFileError, match="nested deeper"):
            read_onnx_metadata(path)


def varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])
