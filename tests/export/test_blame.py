"""Which step or layer is responsible: a mistake is planted in one, and that one must be named."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
from export_networks import small_model, spec_for
from gate_files import SIZE, TwoLayers, gate_file, model_and_spec
from onnx import helper, numpy_helper

from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import AccuracyError, InputError, ModelFileError
from cpsl_deploy.export.gate.blame import NETWORK, PRE_PROCESSING, STEPS, UPSAMPLING, Blame, find_blame
from cpsl_deploy.export.gate.budget import Budget
from cpsl_deploy.export.gate.frames import Frames, generated_frames
from cpsl_deploy.export.gate.judge import judge
from cpsl_deploy.export.gate.layers import layer_noise
from cpsl_deploy.export.gate.probe import Probe
from cpsl_deploy.export.gate.reference import Reference, make_reference
from cpsl_deploy.export.graph.onnx_file import onnx_model


def reference_for(model: TwoLayers, **contract: object) -> Reference:
    frames = Frames.of(list(generated_frames(SIZE, 2)), described="2 generated frames")
    return make_reference(model, spec_for(model, size=SIZE), frames, contract=Contract(**contract))


def blamed(file: onnx.ModelProto, model: TwoLayers) -> Blame:
    """The gate's way: the file fails, and is then looked into."""
    reference = reference_for(model)
    probe = Probe(file)
    verdict = judge(
        (probe.labels(frame) for frame in reference.frames.images()),
        reference,
        Budget.for_precision("fp32", labelled=False),
    )
    assert not verdict.passed
    blame = find_blame(file, model, reference, frames=[verdict.worst_frame])
    with pytest.raises(AccuracyError, match="Responsible: the step"):
        verdict.require(blame)
    return blame


def test_a_right_file_has_no_step_that_deviates() -> None:
    model, spec = model_and_spec()
    for order in ("BGR", "RGB"):
        contract = Contract(colour_order=order)
        blame = find_blame(gate_file(model, spec, contract=contract), model, reference_for(model))
        assert [step.name for step in blame.steps] == list(STEPS)
        assert not any(step.deviates for step in blame.steps) and blame.responsible is None
        assert blame.sentence.startswith("no step of the file")
        assert blame.steps[0].max_abs < 1e-5 and blame.steps[1].max_abs < 1e-4


def test_a_wrong_mean_is_pre_processing() -> None:
    model, spec = model_and_spec()
    wrong = tuple(value + 0.1 for value in spec.mean)
    blame = blamed(gate_file(model, spec, mean=wrong), model)
    step = blame.responsible
    assert step is not None and step.name == PRE_PROCESSING and "mean" in step.remark
    # 0.1 over standard deviations of 0.25, 0.2 and 0.15
    assert step.max_abs == pytest.approx(0.1 / 0.15, rel=1e-3)
    assert step.mean_abs == pytest.approx((0.1 / 0.25 + 0.1 / 0.2 + 0.1 / 0.15) / 3, rel=1e-3)
    assert not blame.steps[1].deviates, "the network is right for what it is given"


@pytest.mark.parametrize("grey_mean", [False, True])
def test_a_wrong_channel_order_is_pre_processing(grey_mean: bool) -> None:
    """With the same mean for every channel the normalised image alone does not show it."""
    model = TwoLayers(grey_mean=grey_mean)
    blame = blamed(gate_file(model, spec_for(model, size=SIZE), entry_in_rgb=True), model)
    assert blame.responsible is not None and blame.responsible.name == PRE_PROCESSING
    assert "channel order" in blame.responsible.remark and "channel order" in blame.sentence


def test_wrong_weights_are_the_network() -> None:
    model, spec = model_and_spec()
    blame = blamed(gate_file(model, spec, noise=0.1), model)
    assert blame.responsible is not None and blame.responsible.name == NETWORK
    assert blame.steps[0].share == 0 and not blame.steps[2].deviates


def test_another_upsampling_is_the_last_step() -> None:
    model, spec = model_and_spec()
    blame = blamed(gate_file(model, spec, coordinates="asymmetric"), model)
    assert blame.responsible is not None and blame.responsible.name == UPSAMPLING
    assert blame.steps[1].max_abs < 1e-4 and "upsampling and argmax (changes" in blame.sentence


def test_a_file_without_inner_values_is_said_to_have_none(tmp_path: Path) -> None:
    model, spec = model_and_spec()
    path = tmp_path / "m.onnx"
    onnx.save(gate_file(model, spec, inner=False), str(path))
    blame = find_blame(path, model, reference_for(model))
    assert blame.steps == () and blame.responsible is None
    assert "keeps no value normalised and logits" in blame.sentence
    with pytest.raises(InputError, match="has no normalised"):
        Probe(path, inner=("normalised",))


def test_a_file_of_logits_has_no_last_step() -> None:
    model, spec = model_and_spec()
    file = gate_file(model, spec, contract=Contract(outputs=("logits",)))
    blame = find_blame(file, model, reference_for(model))
    assert [step.name for step in blame.steps] == [PRE_PROCESSING, NETWORK]
    assert "gives logits alone" in blame.remarks[0]


def rounded(proto: onnx.ModelProto, layer: str, step: float, zero: int = 128) -> onnx.ModelProto:
    """The file with what one layer is given rounded to 8 bits of a certain step, as a Q/DQ pair does."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    place, node = next((i, n) for i, n in enumerate(changed.graph.node) if n.name == layer)
    given = node.input[0]
    changed.graph.initializer.append(numpy_helper.from_array(np.float32(step), "step"))
    changed.graph.initializer.append(numpy_helper.from_array(np.uint8(zero), "zero"))
    node.input[0] = "given_back"
    for pair in (
        helper.make_node("DequantizeLinear", ["given_small", "step", "zero"], ["given_back"]),
        helper.make_node("QuantizeLinear", [given, "step", "zero"], ["given_small"]),
    ):
        changed.graph.node.insert(place, pair)
    return changed


@pytest.mark.parametrize(("layer", "value"), [("body_conv", "body"), ("head_conv", "logits")])
def test_the_layer_that_adds_the_noise_is_named(layer: str, value: str) -> None:
    model, spec = model_and_spec()
    original = gate_file(model, spec)
    candidate = rounded(original, layer, 0.3)
    frames = list(generated_frames(SIZE, 1))
    noise, skipped = layer_noise(original, candidate, frames)
    assert skipped == 0 and noise[0].name == layer and noise[0].value == value
    right = Probe(original, inner=[value]).values(frames[0])[value]
    got = Probe(candidate, inner=[value]).values(frames[0])[value]
    power, error = (right**2).sum(), ((got - right) ** 2).sum()
    assert noise[0].sqnr_db == pytest.approx(10 * np.log10(power / error), rel=1e-4)
    assert noise[1].added < 0.1 * noise[0].added, "the layer after a noisy one is not blamed for it"
    blame = find_blame(candidate, model, reference_for(model), float_file=original)
    assert blame.responsible is not None and blame.responsible.name == NETWORK
    weight = layer.replace("conv", "w")
    assert f"signal-to-noise ratio: {weight} (" in blame.sentence
    assert blame.as_dict()["layers"][0]["layer"] == weight and blame.layers[0].name == layer


def test_layers_go_by_the_names_of_the_models_own_parts() -> None:
    """Not by those that the exporter gave its nodes."""
    model = small_model()
    file = onnx_model(model, spec_for(model, size=SIZE), size=SIZE)
    frames = list(generated_frames(SIZE, 1))
    noise, skipped = layer_noise(file, file, frames)
    named = {layer.parameter for layer in noise if layer.operator == "Conv"}
    assert named == {"stem.0", "body", "classifier"} <= {name for name, _ in model.named_modules()}
    assert not skipped and all(n.parameter == n.name for n in noise if n.operator == "MatMul")


def test_a_layer_that_took_up_its_activation_is_compared_behind_it() -> None:
    """As quantisers do: what is rounded to unsigned integers needs no ReLU before."""
    model, spec = model_and_spec()
    other = rounded(gate_file(model, spec), "head_conv", 0.02, zero=0)
    next(n for n in other.graph.node if n.name == "body_conv").output[0] = "features"
    other.graph.node.remove(next(n for n in other.graph.node if n.op_type == "Relu"))
    noise, skipped = layer_noise(gate_file(model, spec), other, list(generated_frames(SIZE, 1)))
    assert skipped == 0
    found = {n.name: n for n in noise}
    assert found["body_conv"].value == "features"
    assert found["body_conv"].sqnr_db > 30, "the values below 0 are no noise"


def test_layers_that_cannot_be_compared_are_counted() -> None:
    model, spec = model_and_spec()
    other = gate_file(model, spec)
    node = next(n for n in other.graph.node if n.name == "body_conv")
    node.output[0] = "renamed"
    relu = next(n for n in other.graph.node if n.op_type == "Relu")
    relu.input[0], relu.output[0] = "renamed", "features too"
    next(n for n in other.graph.node if n.name == "head_conv").input[0] = "features too"
    noise, skipped = layer_noise(gate_file(model, spec), other, list(generated_frames(SIZE, 1)))
    assert (len(noise), skipped) == (1, 1)
    assert noise[0].sqnr_db == 200 and noise[0].added == 0
    blame = find_blame(other, model, reference_for(model), float_file=gate_file(model, spec))
    assert "1 layers have no value of the same name" in blame.remarks[0]


def test_a_file_that_does_not_run_is_a_model_file_error(tmp_path: Path) -> None:
    model, spec = model_and_spec()
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ModelFileError, match="not a readable ONNX file"):
        find_blame(path, model, reference_for(model))
    proto = gate_file(model, spec)
    proto.ClearField("metadata_props")
    with pytest.raises(ModelFileError, match="carries no spec"):
        find_blame(proto, model, reference_for(model))


@pytest.mark.parametrize(
    ("mistake", "word"), [("none", ""), ("mean", "mean"), ("order", "channel order"), ("weights", "")]
)
def test_mistakes_in_the_exporters_own_graph(mistake: str, word: str) -> None:
    model = small_model()
    right = spec_for(model, size=SIZE)
    exported, spec = copy.deepcopy(model), right
    entry = exported.stem[0].weight.data
    if mistake == "mean":
        spec = spec_for(model, size=SIZE, mean=(0.3, 0.3, 0.3))
    elif mistake == "order":
        entry.copy_(entry.flip(1))
    elif mistake == "weights":
        entry.mul_(1.5)
    file = onnx_model(exported, spec, size=SIZE)
    frames = Frames.of(list(generated_frames(SIZE, 1)), described="1 generated frame")
    blame = find_blame(file, model, make_reference(model, right, frames))
    deviating = [step.name for step in blame.steps if step.deviates]
    expected = {"none": [], "weights": [NETWORK]}.get(mistake, [PRE_PROCESSING])
    assert deviating == expected
    assert not word or (blame.responsible is not None and word in blame.responsible.remark)
