"""The model repository for Triton Inference Server, parsed back with Triton's own message definitions."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tiny_onnx import CLASS_NAMES, tiny_metadata, tiny_spec, write_tiny_onnx

from cpsl_deploy.backends.tensorrt_backend import write_sidecar
from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import InputError, ModelFileError, OutputError
from cpsl_deploy.export.triton.repository import Repository, write_repository
from cpsl_deploy.export.triton.text_format import Name, to_text
from cpsl_deploy.files import sha256
from cpsl_deploy.spec import METADATA_KEY, ModelSpec

try:
    from tritonclient.grpc import model_config_pb2 as triton
except ModuleNotFoundError:
    triton = None

needs_definitions = pytest.mark.skipif(triton is None, reason="needs tritonclient[grpc], of the extra 'dev'")
TYPES = {"labels": TensorProto.UINT8, "confidence": TensorProto.UINT8, "logits": TensorProto.FLOAT}


def parsed(made: Repository) -> Any:
    return text_format.Parse(made.config.read_text(), triton.ModelConfig())


def write_model(
    path: Path,
    batch: int | str = "batch",
    size: tuple[Any, Any] = ("height", "width"),
    *,
    outputs: tuple[str, ...] = ("labels",),
    spec: ModelSpec | None = None,
    weights: str = "0" * 64,
    **tensors: list[Any],
) -> Path:
    """A file that has the tensors and metadata of an export, and nothing between them."""
    labels = [batch, *size]
    shapes = {
        "labels": labels,
        "confidence": labels,
        "logits": [batch, len(CLASS_NAMES), "h", "w"],
        **tensors,
    }
    graph = helper.make_graph(
        [],
        "tensors",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, tensors.get("image", [batch, *size, 3]))],
        [helper.make_tensor_value_info(name, TYPES[name], shapes[name]) for name in outputs],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    values = {
        METADATA_KEY: (spec or tiny_spec()).to_json(),
        **Contract(outputs=outputs).to_metadata(),
        "weights_sha256": weights,
    }
    helper.set_model_props(proto, values)
    path.write_bytes(proto.SerializeToString())
    return path


def write_engine(path: Path, **facts: str) -> Path:
    path.write_bytes(b"an engine")
    facts = {"profile": "1x96x160", "tensorrt_version": "10.16.1", "gpu": "NVIDIA L4", **facts}
    write_sidecar(path, {**tiny_metadata(), "weights_sha256": "0" * 64, **facts})
    return path


def contents(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


# ---- what is written


def test_the_folder_is_what_a_server_reads(tmp_path: Path) -> None:
    model = write_tiny_onnx(tmp_path / "any name.onnx")
    made = write_repository(tmp_path / "models", model)
    files = contents(tmp_path / "models")
    assert list(files) == ["segmenter/1/model.onnx", "segmenter/config.pbtxt", "segmenter/labels.txt"]
    assert files["segmenter/1/model.onnx"] == model.read_bytes()
    assert files["segmenter/labels.txt"].decode().splitlines() == list(CLASS_NAMES)
    assert made.model == tmp_path / "models/segmenter/1/model.onnx"
    assert (made.path, made.name) == (tmp_path / "models", "segmenter")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["segmenter"]


@needs_definitions
def test_a_file_with_a_free_batch_is_batched(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.onnx", outputs=("labels", "confidence", "logits"))
    config = parsed(write_repository(tmp_path / "models", model, instances=2, gpu=False))
    assert (config.name, config.backend, config.platform) == ("segmenter", "onnxruntime", "onnxruntime_onnx")
    assert config.max_batch_size == 8
    assert [(p.name, p.data_type, list(p.dims)) for p in config.input] == [
        ("image", triton.TYPE_UINT8, [-1, -1, 3])
    ]
    assert [(p.name, p.data_type, list(p.dims)) for p in config.output] == [
        ("labels", triton.TYPE_UINT8, [-1, -1]),
        ("confidence", triton.TYPE_UINT8, [-1, -1]),
        ("logits", triton.TYPE_FP32, [4, -1, -1]),
    ]
    assert config.HasField("dynamic_batching") and not config.HasField("optimization")
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    assert list(config.dynamic_batching.preferred_batch_size) == []
    (group,) = config.instance_group
    assert (group.kind, group.count, list(group.gpus)) == (triton.ModelInstanceGroup.KIND_CPU, 2, [])
    assert [sample.batch_size for sample in config.model_warmup] == [1, 8]
    for sample in config.model_warmup:
        assert set(sample.inputs) == {"image"} and sample.inputs["image"].random_data
        assert sample.inputs["image"].data_type == triton.TYPE_UINT8
        assert list(sample.inputs["image"].dims) == [96, 160, 3], "the spec's size"
    stated = {key: value.string_value for key, value in config.parameters.items()}
    assert stated == {
        METADATA_KEY: tiny_spec().to_json(),
        **Contract(outputs=("labels", "confidence", "logits")).to_metadata(),
        "weights_sha256": "0" * 64,
        "model_sha256": sha256(model),
    }


@needs_definitions
@pytest.mark.parametrize(("batch", "size"), [(1, (48, 64)), (4, (48, 64)), (1, ("height", "width"))])
def test_a_file_of_a_fixed_batch_is_not_batched(tmp_path: Path, batch: int, size: tuple[Any, Any]) -> None:
    made = write_repository(tmp_path / "models", write_model(tmp_path / "m.onnx", batch, size))
    config = parsed(made)
    sides = [side if isinstance(side, int) else -1 for side in size]
    assert config.max_batch_size == made.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [batch, *sides, 3]
    assert list(config.output[0].dims) == [batch, *sides]
    (sample,) = config.model_warmup
    assert sample.batch_size == 1, "all a server allows where it does not batch"
    typical = list(size) if isinstance(size[0], int) else [96, 160]
    assert list(sample.inputs["image"].dims) == [batch, *typical, 3]
    assert config.instance_group[0].kind == triton.ModelInstanceGroup.KIND_AUTO


@needs_definitions
def test_what_is_asked_for_is_written(tmp_path: Path) -> None:
    config = parsed(
        write_repository(
            tmp_path / "models",
            write_model(tmp_path / "m.onnx"),
            name="front-camera_2",
            max_batch=16,
            preferred_batches=[4, 16],
            queue_delay_us=0,
            gpu=True,
            tensorrt=True,
            warm_up=False,
        )
    )
    assert (config.name, config.max_batch_size, len(config.model_warmup)) == ("front-camera_2", 16, 0)
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert config.instance_group[0].kind == triton.ModelInstanceGroup.KIND_GPU
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, dict(accelerator.parameters)) == ("tensorrt", {"precision_mode": "FP32"})


@needs_definitions
def test_batches_of_one_frame_wait_for_nothing(tmp_path: Path) -> None:
    config = parsed(write_repository(tmp_path / "models", write_model(tmp_path / "m.onnx"), max_batch=1))
    assert config.max_batch_size == 1 and not config.HasField("dynamic_batching")
    assert [sample.batch_size for sample in config.model_warmup] == [1]


@needs_definitions
def test_an_engine_is_served_by_tensorrt(tmp_path: Path) -> None:
    made = write_repository(tmp_path / "models", write_engine(tmp_path / "m.engine"))
    config = parsed(made)
    assert (config.backend, config.platform) == ("tensorrt", "tensorrt_plan")
    assert made.model.name == "model.plan" and made.model.read_bytes() == b"an engine"
    assert config.max_batch_size == 0 and list(config.input[0].dims) == [1, 96, 160, 3]
    assert list(config.output[0].dims) == [1, 96, 160]
    assert config.instance_group[0].kind == triton.ModelInstanceGroup.KIND_GPU
    assert config.parameters["gpu"].string_value == "NVIDIA L4"
    assert config.parameters["tensorrt_version"].string_value == "10.16.1"


@needs_definitions
def test_an_engine_batches_as_far_as_it_was_built_for(tmp_path: Path) -> None:
    engine = write_engine(
        tmp_path / "m.plan", profile="1x96x160,2x96x160,4x96x160", output_stride="8", outputs="labels,logits"
    )
    config = parsed(write_repository(tmp_path / "models", engine))
    assert config.max_batch_size == 4 and list(config.input[0].dims) == [96, 160, 3]
    assert [list(port.dims) for port in config.output] == [[12, 20], [4, 96, 160]]
    assert [sample.batch_size for sample in config.model_warmup] == [1, 4]
    with pytest.raises(InputError, match="at most 4; got 8"):
        write_repository(tmp_path / "models", engine, max_batch=8)


@needs_definitions
def test_every_text_survives(tmp_path: Path) -> None:
    names = ('a "quoted" one', "back\\slash", "Straße 道路", "{ # }", "it's")
    spec = ModelSpec(
        architecture="x",
        class_names=names,
        palette=((1, 2, 3),) * 5,
        size=(96, 160),
        provenance={"note": "line\nbreak\ttab\x00\x7f\\n"},
    )
    made = write_repository(tmp_path / "models", write_model(tmp_path / "m.onnx", spec=spec))
    text = parsed(made).parameters[METADATA_KEY].string_value
    assert ModelSpec.from_json(text, "config") == spec and text == spec.to_json()
    assert made.config.read_bytes().isascii()
    assert (made.config.parent / "labels.txt").read_text("utf-8").splitlines() == list(names)
    for value in (*names, "line\nbreak\r\n\t\x00\x01\x7f\\n \\101 \udfff".replace("\udfff", ""), ""):
        assert text_format.Parse(to_text({"name": value}), triton.ModelConfig()).name == value


def test_the_text_format() -> None:
    message = {
        "a": [1, -1],
        "b": Name("KIND_GPU"),
        "c": True,
        "d": [],
        "e": [{"f": "g"}, {"f": "h"}],
        "i": {},
    }
    expected = 'a: [ 1, -1 ]\nb: KIND_GPU\nc: true\ne {\n  f: "g"\n}\ne {\n  f: "h"\n}\ni {\n}\n'
    assert to_text(message) == expected
    with pytest.raises(TypeError, match="float"):
        to_text({"a": 0.5})


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../up"}, "a model's name"),
        ({"name": ".hidden"}, "a model's name"),
        ({"name": ""}, "a model's name"),
        ({"name": "new\nline"}, "a model's name"),
        ({"max_batch": 0}, "batch size is 1 to"),
        ({"max_batch": 4, "preferred_batches": [8]}, "at most the largest batch, 4; got 8"),
        ({"preferred_batches": [0]}, "preferred batch size is 1 to"),
        ({"queue_delay_us": -1}, "queue delay"),
        ({"instances": 0}, "number of instances"),
        ({"tensorrt": True}, "needs a GPU"),
    ],
)
def test_options_that_break_a_rule(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_repository(tmp_path / "models", write_model(tmp_path / "m.onnx"), **options)
    assert not (tmp_path / "models").exists()


def test_a_batch_for_a_file_of_one_frame_says_how_to_export_it(tmp_path: Path) -> None:
    model = write_tiny_onnx(tmp_path / "m.onnx")
    for options in ({"max_batch": 4}, {"preferred_batches": [2]}):
        with pytest.raises(InputError, match="--batch free"):
            write_repository(tmp_path / "models", model, **options)


@pytest.mark.parametrize("options", [{"gpu": False}, {"gpu": True, "tensorrt": True}])
def test_an_engine_needs_its_gpu(tmp_path: Path, options: dict[str, bool]) -> None:
    with pytest.raises(InputError, match="is a TensorRT engine"):
        write_repository(tmp_path / "models", write_engine(tmp_path / "m.engine"), **options)


def test_an_engine_of_free_sides_is_warmed_up_at_its_best(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "m.plan", profile="1x48x64,1x96x128,1x192x256")
    made = write_repository(tmp_path / "models", engine)
    assert made.max_batch_size == 0
    text = made.config.read_text()
    assert "dims: [ 1, -1, -1, 3 ]" in text and "dims: [ 1, 96, 128, 3 ]" in text


def test_an_engine_that_takes_no_single_frame_is_refused(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "m.plan", profile="2x48x64,2x48x64,4x48x64")
    with pytest.raises(ModelFileError, match="one frame alone"):
        write_repository(tmp_path / "models", engine)


def damaged(path: Path) -> Path:
    write_tiny_onnx(path)
    path.write_bytes(path.read_bytes()[:-40])
    return path


def external(path: Path) -> Path:
    proto = onnx.load(write_tiny_onnx(path))
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    path.write_bytes(proto.SerializeToString())
    return path


def sizeless(path: Path) -> Path:
    return write_engine(path.with_suffix(".engine"), profile="large")


WRONG = {
    "missing": (lambda path: path, "there is no model file"),
    "truncated": (damaged, "ONNX file"),
    "no spec": (lambda path: write_tiny_onnx(path, metadata={"colour_order": "BGR"}), "carries no spec"),
    "weights elsewhere": (external, "weights in another file"),
    "other outputs": (
        lambda path: write_model(path, outputs=("labels", "logits"), logits=[1, 4, 2]),
        "logits",
    ),
    "batch of one output": (lambda path: write_model(path, labels=[1, "h", "w"]), "its labels is UINT8"),
    "channels": (lambda path: write_model(path, image=["n", "h", "w", 4]), "4 channels"),
    "classes": (
        lambda path: write_model(path, outputs=("labels", "logits"), logits=["n", 7, "h", "w"]),
        "logits of 7 classes and names 4",
    ),
    "engine without size": (sizeless, "does not say for which frames"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_is_no_export(tmp_path: Path, case: str) -> None:
    make, message = WRONG[case]
    with pytest.raises(ModelFileError, match=message):
        write_repository(tmp_path / "models", make(tmp_path / "m.onnx"))
    assert not (tmp_path / "models").exists()


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"exported \.onnx file"):
        write_repository(tmp_path / "models", tmp_path / "model.safetensors")


# ---- what was there before


def test_the_same_weights_are_replaced_and_others_are_not(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_repository(models, write_model(tmp_path / "a.onnx", 1))
    again = write_repository(models, write_model(tmp_path / "b.onnx", "batch"))
    assert again.max_batch_size == 8 and again.model.read_bytes() == (tmp_path / "b.onnx").read_bytes()
    other = write_model(tmp_path / "c.onnx", weights="1" * 64)
    before = contents(models)
    with pytest.raises(OutputError, match="--overwrite"):
        write_repository(models, other)
    assert contents(models) == before
    write_repository(models, other, name="other")
    write_repository(models, other, overwrite=True)
    assert sorted(path.name for path in models.iterdir()) == ["other", "segmenter"]
    assert (models / "segmenter/1/model.onnx").read_bytes() == other.read_bytes()


def test_an_engine_takes_the_place_of_its_onnx_file(tmp_path: Path) -> None:
    write_repository(tmp_path / "models", write_model(tmp_path / "m.onnx"))
    write_repository(tmp_path / "models", write_engine(tmp_path / "m.engine"))
    names = ["segmenter/1/model.plan", "segmenter/config.pbtxt", "segmenter/labels.txt"]
    assert list(contents(tmp_path / "models")) == names


@pytest.mark.parametrize("extra", ["2/model.onnx", "configs/h100.pbtxt", "1/model.onnx.bak"])
def test_files_of_somebody_else_are_never_removed(tmp_path: Path, extra: str) -> None:
    made = write_repository(tmp_path / "models", write_model(tmp_path / "m.onnx"))
    (made.config.parent / extra).parent.mkdir(exist_ok=True)
    (made.config.parent / extra).write_text("mine")
    before = contents(made.path)
    with pytest.raises(OutputError, match=f"did not write: {extra}"):
        write_repository(tmp_path / "models", tmp_path / "m.onnx", overwrite=True)
    assert contents(made.path) == before


@pytest.mark.parametrize("kind", ["model", "file", "link", "repository"])
def test_a_place_that_is_taken(tmp_path: Path, kind: str) -> None:
    models, place = tmp_path / "models", tmp_path / "models/segmenter"
    if kind == "repository":
        models.write_text("notes")
    elif kind == "model":
        (place / "1").mkdir(parents=True)
        (place / "config.pbtxt").write_text('name: "segmenter"\n')
        (place / "1/model.onnx").write_text("of somebody else")
    elif kind == "file":
        models.mkdir()
        place.write_text("notes")
    else:
        models.mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path)
    model = write_model(tmp_path / "m.onnx")
    with pytest.raises(OutputError, match=r"[Cc]hoose another name"):
        write_repository(models, model, overwrite=True)
    assert {name: data for name, data in contents(tmp_path).items() if name != "m.onnx"} == before


@pytest.mark.parametrize("moment", ["copyfile", "rename 1", "rename 2", "rmtree"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interruption_leaves_the_earlier_model_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, error: BaseException
) -> None:
    models = tmp_path / "models"
    write_repository(models, write_model(tmp_path / "a.onnx", 1))
    write_repository(models, tmp_path / "a.onnx", name="other")
    new, earlier = write_model(tmp_path / "b.onnx", "batch"), contents(models)
    write_repository(tmp_path / "wanted", new)
    wanted = contents(tmp_path / "wanted") | {k: v for k, v in earlier.items() if k.startswith("other/")}
    left = {"copyfile": 1, "rename 1": 1, "rename 2": 2, "rmtree": 1}[moment]
    module: Any = os if moment.startswith("rename") else shutil
    real = getattr(module, moment.partition(" ")[0])

    def fail(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(module, moment.partition(" ")[0], fail)
    try:
        write_repository(models, new)
    except OutputError as told:
        assert "disk is full" in str(told)
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()
    assert {k: v for k, v in contents(models).items() if not k.startswith(".")} in (earlier, wanted)
    write_repository(models, new)
    assert contents(models) == wanted, "and the next one works"


def test_a_killed_process_is_repaired_by_the_next(tmp_path: Path) -> None:
    """Between the two renames at the end the earlier model has another name."""
    models = tmp_path / "models"
    made = write_repository(models, write_model(tmp_path / "m.onnx"))
    made.config.parent.rename(models / ".segmenter.old")
    with pytest.raises(ModelFileError):
        write_repository(models, tmp_path / "gone.onnx")
    write_repository(models, tmp_path / "m.onnx")
    assert [path.name for path in models.iterdir()] == ["segmenter"]


def test_the_written_spec_is_json(tmp_path: Path) -> None:
    made = write_repository(tmp_path / "models", write_tiny_onnx(tmp_path / "m.onnx"))
    line = next(line for line in made.config.read_text().splitlines() if "spec_version" in line)
    assert json.loads(line.partition(": ")[2].strip()[1:-1].replace('\\"', '"'))["size"] == [96, 160]
