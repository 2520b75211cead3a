"""The exported file: what it computes, its shape, and what it carries."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from export_networks import CLASS_NAMES, PALETTE, RedSees, Small, small_model, spec_for

from cpsl_deploy.errors import InputError, ModelFileError
from cpsl_deploy.export.gate.frames import generated_frames
from cpsl_deploy.export.gate.reference import torch_labels
from cpsl_deploy.export.graph.onnx_file import export_onnx, operator_counts, read_metadata
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.models import build
from cpsl_deploy.train.models.base import SegmenterOutput


@pytest.fixture(scope="module")
def any_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = small_model()
    spec = spec_for(model, weights_sha256="12ab", provenance={"seed": 3})
    return export_onnx(model, spec, tmp_path_factory.mktemp("onnx") / "small.onnx")


def run(path: Path, frame: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["labels"], {"image": frame[None]})[0][0]


def agreement(path: Path, model: torch.nn.Module, size: tuple[int, int]) -> float:
    frame = next(generated_frames(size, 1))
    expected, got = torch_labels(model, spec_for(model), frame), run(path, frame)
    assert got.dtype == np.uint8 and got.shape == size and len(np.unique(got)) > 1
    return float((got == expected).mean())


@pytest.mark.parametrize("size", [(65, 97), (64, 128), (17, 16), (33, 520), (600, 1041)])
def test_one_file_takes_any_size(any_size: Path, size: tuple[int, int]) -> None:
    """Sizes around 512 as well: there the pyramid pools to one pixel or two."""
    assert agreement(any_size, small_model(), size) > 0.999


@pytest.mark.parametrize("name", ["squeezenet_fpn", "ddrnet23_slim"])
def test_registered_networks_export(name: str, tmp_path: Path) -> None:
    """DeepLab is left out for its 15 s; its entry into the graph is tested in test_export_graph.py."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(name, len(CLASS_NAMES)).eval()
    path = export_onnx(model, spec_for(model), tmp_path / "model.onnx", size=(65, 97))
    assert agreement(path, model, (65, 97)) > 0.999
    assert "GatherND" not in operator_counts(path)


def test_inputs_and_outputs(any_size: Path) -> None:
    session = ort.InferenceSession(str(any_size), providers=["CPUExecutionProvider"])
    ports = [(p.name, p.type, p.shape) for p in (*session.get_inputs(), *session.get_outputs())]
    assert ports == [
        ("image", "tensor(uint8)", [1, "height", "width", 3]),
        ("labels", "tensor(uint8)", [1, "height", "width"]),
    ]


def test_a_fixed_size_is_fixed(tmp_path: Path) -> None:
    path = export_onnx(small_model(), spec_for(small_model()), tmp_path / "m.onnx", size=(65, 97))
    graph = onnx.load(path).graph
    shapes = [[d.dim_value for d in p.type.tensor_type.shape.dim] for p in (*graph.input, *graph.output)]
    assert shapes == [[1, 65, 97, 3], [1, 65, 97]]
    assert graph.node[0].op_type == "Cast"
    assert "Shape" not in operator_counts(path)


def test_bytes_are_cast_first_and_labels_last(any_size: Path) -> None:
    """TensorRT: a uint8 input goes into a Cast, and int64 labels go over float to uint8."""
    graph = onnx.load(any_size).graph
    assert {n.op_type for n in graph.node if "image" in n.input} == {"Cast"}
    maker = {output: node for node in graph.node for output in node.output}
    last = maker["labels"]
    before = maker[last.input[0]]
    assert (last.op_type, last.attribute[0].i) == ("Cast", onnx.TensorProto.UINT8)
    assert (before.op_type, before.attribute[0].i) == ("Cast", onnx.TensorProto.FLOAT)
    assert maker[before.input[0]].op_type == "ArgMax"
    assert not {"GatherND", "Gather", "Slice"} & set(operator_counts(any_size))


def test_metadata(any_size: Path) -> None:
    metadata = read_metadata(any_size)
    spec = ModelSpec.from_json(metadata["cpsl_deploy"], "the file")
    assert spec == spec_for(small_model(), weights_sha256="12ab", provenance={"seed": 3})
    assert (spec.class_names, spec.palette) == (CLASS_NAMES, PALETTE)
    assert metadata["colour_order"] == "BGR"
    assert metadata["weights_sha256"] == "12ab"
    assert json.loads(metadata["cpsl_deploy"])["spec_version"] == 1


def test_one_file_without_names_of_folders(any_size: Path) -> None:
    """The exporter notes a stack trace on each node, with the folders of the one who exports."""
    assert [file.name for file in any_size.parent.iterdir()] == ["small.onnx"]
    content = any_size.read_bytes()
    assert b"site-packages" not in content and b".py" not in content


def test_bgr_reaches_the_file(tmp_path: Path) -> None:
    frame = np.zeros((16, 32, 3), np.uint8)
    frame[:, 16:, 2] = 255
    frame[:, :16, :2] = 255
    path = export_onnx(RedSees().eval(), spec_for(RedSees()), tmp_path / "red.onnx", size=(16, 32))
    labels = run(path, frame)
    assert (labels[:, :16] == 0).all() and (labels[:, 16:] == 3).all()


def test_the_exporter_is_quiet_and_leaves_logging_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export_onnx(small_model(), spec_for(small_model()), tmp_path / "m.onnx", size=(32, 32))
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


def test_a_network_that_cannot_be_traced_leaves_no_file(tmp_path: Path) -> None:
    class Undecided(Small):
        def forward(self, image: torch.Tensor) -> SegmenterOutput:
            output = super().forward(image)
            return output if float(output.logits.sum()) > 0 else super().forward(2 * image)

    with pytest.raises(ModelFileError, match="Undecided cannot be exported"):
        export_onnx(Undecided().eval(), spec_for(Undecided()), tmp_path / "m.onnx", size=(32, 32))
    assert not list(tmp_path.iterdir())


def test_a_size_below_one_stride_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 16 pixels a side and at most 32768; got 8x64"):
        export_onnx(small_model(), spec_for(small_model()), tmp_path / "m.onnx", size=(8, 64))


def test_reading_what_is_no_model(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\xff" * 64)
    with pytest.raises(ModelFileError, match="not a readable ONNX file"):
        read_metadata(broken)
    onnx.save(onnx.ModelProto(), tmp_path / "foreign.onnx")
    with pytest.raises(ModelFileError, match="carries no spec"):
        read_metadata(tmp_path / "foreign.onnx")
