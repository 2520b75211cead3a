"""INT8 files: what computes in integers, of which kind, from which ranges; and what stays as it was."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from export_networks import spec_for
from onnx import ModelProto, NodeProto, helper, numpy_helper
from quantisable_onnx import LAYERS, frames, quantisable

from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import CpslError, InputError, ModelFileError
from cpsl_deploy.export.graph.onnx_file import onnx_model
from cpsl_deploy.export.precision import insertion
from cpsl_deploy.export.precision.calibration import calibrate
from cpsl_deploy.export.precision.float_graph import FloatGraph
from cpsl_deploy.export.precision.int8 import Quantiser, layers, quantise
from cpsl_deploy.train.models import build

NORM = "node_norm_2"
"""The batch norm with a ReLU behind it, which no convolution can take up."""


@pytest.fixture(scope="module")
def cpu() -> Quantiser:
    return Quantiser(quantisable(), frames(4), reduce_range=False)


@pytest.fixture(scope="module")
def tensorrt() -> Quantiser:
    return Quantiser(quantisable(), frames(4), scheme="tensorrt", method="minmax")


class Wiring:
    """Who makes a value, and constants by name."""

    def __init__(self, model: ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.constant = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}

    def named(self, name: str) -> NodeProto:
        return next(node for node in self.nodes if node.name == name)

    def dequantised(self, value: str) -> bool:
        return value in self.maker and self.maker[value].op_type == "DequantizeLinear"

    def zero_points(self) -> list[np.ndarray]:
        """Of the activations."""
        return [self.constant[n.input[2]] for n in self.nodes if n.op_type == "QuantizeLinear"]


def run(model: ModelProto, name: str, frame: np.ndarray) -> np.ndarray:
    """An inner value as onnxruntime computes it."""
    copy = ModelProto()
    copy.CopyFrom(model)
    if name != "labels":
        copy.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = ort.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([name], {"image": frame[None]})[0]


def test_cpu_scheme_is_uint8_with_int8_weights_per_channel(cpu: Quantiser) -> None:
    wiring = Wiring(cpu.model())
    points = wiring.zero_points()
    assert {point.dtype for point in points} == {np.dtype(np.uint8)} and any(point > 0 for point in points)
    for name in [*LAYERS, NORM]:
        layer = wiring.named(name)
        assert all(wiring.dequantised(value) for value in layer.input)
        quantised, scale, zero = (wiring.constant[value] for value in wiring.maker[layer.input[1]].input)
        assert quantised.dtype == np.int8 and np.abs(quantised.astype(int)).max() == 127
        assert scale.shape == (len(quantised),) and not zero.any()
        assert wiring.constant[wiring.maker[layer.input[2]].input[0]].dtype == np.int32


def test_only_the_network_is_quantised(cpu: Quantiser) -> None:
    wiring = Wiring(cpu.model())
    assert wiring.maker["normalised"].op_type == "Add"
    assert not any(wiring.dequantised(value) for value in wiring.maker["normalised"].input)
    assert wiring.dequantised(wiring.named("node_large").input[0])
    assert not wiring.dequantised(wiring.named("node_classes").input[0])


def optimised_operators(model: ModelProto, folder: Path) -> Counter[str]:
    """How often onnxruntime runs which operator, after its own optimisation."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def test_onnxruntime_runs_the_network_in_integers_throughout(cpu: Quantiser, tmp_path: Path) -> None:
    counts = optimised_operators(cpu.model(), tmp_path)
    assert counts["QLinearConv"] == len(LAYERS) + 1
    assert counts["QLinearConcat"] == counts["QLinearAdd"] == 1
    assert counts["QuantizeLinear"] == counts["DequantizeLinear"] == 1
    assert not {"Conv", "FusedConv", "Relu", "BatchNormalization"} & set(counts)


@pytest.mark.parametrize("name", ["squeezenet_fpn", "ddrnet23_slim"])
def test_registered_networks_run_in_integers_throughout(name: str, tmp_path: Path) -> None:
    """Whatever a network is made of; a float operator between integers would cost two conversions."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(name, 4).eval()
    proto = onnx_model(model, spec_for(model), size=(64, 128))
    given = [frame.repeat(2, axis=0).repeat(3, axis=1)[:, :128] for frame in frames(2)]
    quantiser = Quantiser(proto, given, reduce_range=False)
    counts = optimised_operators(quantiser.model(), tmp_path)
    assert counts["QLinearConv"] == len(quantiser.layers)
    assert not {"Conv", "FusedConv", "Relu", "BatchNormalization", "ReduceMean", "MaxPool"} & set(counts)


def test_tensorrt_scheme_is_symmetric_with_float_biases(tensorrt: Quantiser) -> None:
    wiring = Wiring(tensorrt.model())
    points = wiring.zero_points()
    assert {point.dtype for point in points} == {np.dtype(np.int8)} and not np.any(points)
    for name in LAYERS:
        layer = wiring.named(name)
        assert wiring.dequantised(layer.input[0]) and wiring.dequantised(layer.input[1])
        weight, _, zero = (wiring.constant[value] for value in wiring.maker[layer.input[1]].input)
        assert weight.dtype == np.int8 and not zero.any()
        assert wiring.constant[layer.input[2]].dtype == np.float32
    # The Add joins the convolution e, whose output stays as it is; its shortcut is rounded.
    shortcut = [wiring.dequantised(value) for value in wiring.named("node_sum").input]
    assert shortcut == [False, True]
    assert not wiring.dequantised(wiring.named("node_large").input[0])


@pytest.mark.parametrize("scheme", ["cpu", "tensorrt"])
def test_integers_give_what_float_gives(scheme: str, request: pytest.FixtureRequest) -> None:
    quantiser, float_model = request.getfixturevalue(scheme), quantisable()
    unseen = frames(1, seed=9)[0]
    want, have = run(float_model, "labels", unseen), run(quantiser.model(), "labels", unseen)
    assert len(np.unique(want)) > 1 and (want == have).mean() > 0.95
    want, have = (run(m, "logits", unseen) for m in (float_model, quantiser.model()))
    assert 10 * np.log10(np.square(want).sum() / np.square(want - have).sum()) > 25


@pytest.mark.parametrize("integers", [False, True])
def test_rewrites_are_exact(integers: bool) -> None:
    graph = FloatGraph(quantisable())
    graph.prepare(integers=integers)
    frame = frames(1)[0]
    np.testing.assert_allclose(
        run(graph.model, "logits", frame), run(quantisable(), "logits", frame), atol=1e-4
    )
    counts = Counter(node.op_type for node in graph.graph.node)
    assert counts["BatchNormalization"] == (0 if integers else 1)
    assert all(graph.readers(name)[0].op_type == "Relu" for name in ("b", "c"))
    shift = next(node for node in graph.graph.node if node.name == "shift")
    assert graph.array(shift.input[1]).shape == (1, 3, 1, 48 if integers else 1)


@pytest.mark.parametrize(("lowest", "moved"), [(0.5, True), (-0.5, False)])
def test_a_batch_norm_passes_a_max_pool_only_if_it_grows(lowest: float, moved: bool) -> None:
    model = quantisable()
    pool = helper.make_node("MaxPool", ["norm_1"], ["pooled"], "pool", kernel_shape=[3, 3], pads=[1] * 4)
    scale = next(t for t in model.graph.initializer if t.name == "norm_1.weight")
    values = numpy_helper.to_array(scale).copy()
    values[0] = lowest
    scale.CopyFrom(numpy_helper.from_array(values, scale.name))
    place = next(i for i, node in enumerate(model.graph.node) if node.name == "d")
    model.graph.node[place].input[0] = "pooled"
    model.graph.node.insert(place, pool)
    graph = FloatGraph(model)
    graph.prepare(integers=False)
    assert ("node_norm_1" not in {node.name for node in graph.network()}) == moved
    frame = frames(1)[0]
    np.testing.assert_allclose(run(graph.model, "logits", frame), run(model, "logits", frame), atol=1e-4)


def test_a_batch_norm_stays_before_a_padded_convolution() -> None:
    graph = FloatGraph(quantisable())
    graph.prepare(integers=False)
    assert "node_norm_2" in {node.name for node in graph.network()}
    d = next(node for node in graph.network() if node.name == "d")
    # The other norm did move into it, under the name that tells the layer.
    before = next(t for t in quantisable().graph.initializer if t.name == d.input[1] == "d.weight")
    assert not np.array_equal(graph.array("d.weight"), numpy_helper.to_array(before))


class Lazy(Sequence[np.ndarray]):
    """Frames read when asked for."""

    def __init__(self, given: list[np.ndarray]) -> None:
        self.given, self.asked = given, []

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        self.asked.append(index)
        return self.given[index]


def test_ranges_are_those_of_the_activations() -> None:
    graph, given, seen = FloatGraph(quantisable()), Lazy(frames(3)), []
    ranges = calibrate(graph, given, progress=lambda done, of: seen.append((done, of, len(given.asked))))
    assert set(ranges) == {"normalised"} | {name for n in graph.network() for name in n.output}
    for name in ("normalised", "relu_a", "sum", "logits"):
        values = [run(quantisable(), name, frame) for frame in given.given]
        np.testing.assert_allclose(ranges[name], (np.min(values), np.max(values)), rtol=1e-5)
    # One frame is read, used and reported before the next is read.
    assert seen == [(1, 3, 1), (2, 3, 2), (3, 3, 3)]


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_histograms_cut_within_what_was_seen(method: str) -> None:
    graph = FloatGraph(quantisable())
    cut, whole = (calibrate(graph, frames(2), method=m) for m in (method, "minmax"))
    assert set(cut) == set(whole)
    for name, (low, high) in cut.items():
        bin_width = 2 * max(map(abs, whole[name])) / 128
        assert whole[name][0] - 2 * bin_width <= low <= high <= whole[name][1] + 2 * bin_width
    assert cut != whole


def test_kept_layers_are_float(cpu: Quantiser) -> None:
    wiring = Wiring(cpu.model(keep=["e", "classifier"]))
    for name in ("e", "classifier"):
        layer = wiring.named(name)
        assert all(wiring.constant[value].dtype == np.float32 for value in layer.input[1:])
    assert not wiring.dequantised(wiring.named("node_large").input[0])
    assert wiring.dequantised(wiring.named("f").input[1])
    # What a float layer gives is not rounded by the Add behind it.
    assert wiring.named("node_sum").input[0] == "e"


def test_all_layers_kept_is_the_float_network(cpu: Quantiser) -> None:
    model = cpu.model(keep=cpu.layers)
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in model.graph.node}


def test_layers_are_named_in_graph_order() -> None:
    assert layers(quantisable(), "tensorrt") == LAYERS
    assert layers(quantisable()) == [*LAYERS[:5], NORM, *LAYERS[5:]]


def test_a_file_without_inner_names_has_the_same_network() -> None:
    assert layers(quantisable(names=False)) == layers(quantisable())


@pytest.mark.parametrize("scheme", ["cpu", "tensorrt"])
def test_metadata_and_opset_are_kept(scheme: str, tmp_path: Path) -> None:
    float_model, path = quantisable(), tmp_path / "int8.onnx"
    onnx.save(float_model, tmp_path / "float.onnx")
    quantise(tmp_path / "float.onnx", path, frames(2), scheme=scheme, method="minmax", keep=["a"])
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    before, after = ({e.key: e.value for e in m.metadata_props} for m in (float_model, model))
    described = json.loads(after.pop("calibration"))
    assert {key: described[key] for key in ("frames", "method", "scheme", "kept")} == {
        "frames": 2,
        "method": "minmax",
        "scheme": scheme,
        "kept": ["a"],
    }
    assert Contract.from_metadata(after, "file").precision == "int8"
    assert {**after, "precision": "fp32"} == before
    assert {o.domain: o.version for o in model.opset_import}[""] == 18
    assert model.graph.input == float_model.graph.input and model.graph.output == float_model.graph.output


def test_weights_of_seven_bits_for_processors_that_saturate() -> None:
    wiring = Wiring(Quantiser(quantisable(), frames(1), reduce_range=True).model())
    weight = wiring.constant[wiring.maker[wiring.named("a").input[1]].input[0]]
    assert np.abs(weight.astype(int)).max() == 64


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "avx2 avx512f", True),
        ("x86_64", "avx2 avx_vnni", False),
        ("AMD64", "avx512_vnni", False),
        ("aarch64", "", False),
    ],
)
def test_what_saturates(machine: str, flags: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insertion.platform, "machine", lambda: machine)
    monkeypatch.setattr(insertion.Path, "read_text", lambda path: flags)
    assert insertion.saturates() == expected


def free_size() -> ModelProto:
    model = quantisable()
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[1].dim_param = "height"
    return model


def altered(name: str, array: np.ndarray) -> ModelProto:
    """The file with another constant."""
    model = quantisable()
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    return model


def not_finite() -> ModelProto:
    return altered("e.bias", np.full(8, np.inf))


@pytest.mark.parametrize(
    ("broken", "error", "says"),
    [
        (lambda: Quantiser(quantisable(), []), InputError, "one target frame or more"),
        (lambda: Quantiser(quantisable(), [np.zeros((8, 8, 3), np.uint8)]), InputError, r"\(32, 48, 3\)"),
        (lambda: Quantiser(quantisable(), frames(1), scheme="gpu"), InputError, "cpu or tensorrt"),
        (
            lambda: Quantiser(quantisable(), frames(1), method="mse"),
            InputError,
            "minmax, entropy, percentile",
        ),
        (lambda: Quantiser(quantisable(), frames(1)).model(["g"]), InputError, "no g"),
        (lambda: Quantiser(quantisable(precision="fp16"), frames(1)), ModelFileError, "is fp16"),
        (lambda: Quantiser(free_size(), frames(1)), ModelFileError, "--size"),
        (lambda: Quantiser(not_finite(), frames(1)), ModelFileError, "finite"),
        (lambda: Quantiser(not_finite(), frames(1), method="entropy"), ModelFileError, "finite"),
        (
            lambda: Quantiser(altered("e.weight", np.ones((8, 5, 3, 3, 1))), frames(1)),
            ModelFileError,
            "do not fit",
        ),
        (lambda: Quantiser("missing.onnx", frames(1)), ModelFileError, "not a readable"),
    ],
)
def test_what_cannot_be_quantised_says_why(
    broken: Callable[[], object], error: type[CpslError], says: str
) -> None:
    with pytest.raises(error, match=says):
        broken()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, instead of the system's place."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def test_an_interruption_leaves_the_earlier_file(tmp_path: Path, temporary: Path) -> None:
    output = tmp_path / "out" / "int8.onnx"
    output.parent.mkdir()
    output.write_bytes(b"earlier")

    def interrupt(done: int, of: int) -> None:
        assert any(temporary.iterdir())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantise(quantisable(), output, frames(2), progress=interrupt)
    assert output.read_bytes() == b"earlier"
    assert list(output.parent.iterdir()) == [output] and not list(temporary.iterdir())


def test_quantising_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Quantiser(quantisable(), frames(1), method="percentile").model()
    assert capsys.readouterr() == ("", "")
