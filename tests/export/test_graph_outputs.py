"""What an exported file gives, for each entry of its contract, against plain computation."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_networks import RedSees, Small, small_model, spec_for
from torch.nn import functional

from cpsl_deploy.contract import OUTPUTS, Contract
from cpsl_deploy.errors import InputError
from cpsl_deploy.export.graph.onnx_file import onnx_model
from cpsl_deploy.export.graph.upsampling import ROWS_PER_STRIP, StripUpsampling, upsample_whole

NETWORK_SIZE = (48, 80)


@functools.cache
def sure_model() -> Small:
    """Logits far enough apart that confidence takes many values."""
    model = small_model()
    with torch.no_grad():
        model.classifier.weight *= 20
        model.classifier.bias *= 20
    return model


@functools.cache
def exported(
    size: tuple[int, int] | None, batch: int | None = 1, **contract: object
) -> tuple[onnx.ModelProto, onnxruntime.InferenceSession]:
    model = sure_model()
    proto = onnx_model(model, spec_for(model), contract=Contract(**contract), size=size, batch=batch)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return proto, session


def noise(batch: int, size: tuple[int, int]) -> np.ndarray:
    """Smooth frames, uint8 (N, H, W, 3), in which every class wins somewhere."""
    blobs = np.random.default_rng(1).integers(0, 256, (batch, 3, 7, 9)).astype(np.float32)
    smooth = functional.interpolate(torch.from_numpy(blobs), size=size, mode="bicubic").clamp(0, 255)
    return smooth.permute(0, 2, 3, 1).to(torch.uint8).numpy()


@torch.no_grad()
def expected(
    frames: np.ndarray, *, stride: int = 1, network_size: tuple[int, int] | None = None, order: str = "BGR"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, confidence and logits as the contract defines them, by torch from RGB pixels."""
    model = sure_model()
    rgb = frames[..., ::-1] if order == "BGR" else frames
    pixels = torch.from_numpy(rgb.astype(np.float32)).permute(0, 3, 1, 2) / 255
    if network_size:
        pixels = functional.interpolate(pixels, size=network_size, mode="bilinear", antialias=False)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (model.mean, model.std))
    logits = model((pixels - mean) / std).logits
    size = [-(-side // stride) for side in frames.shape[1:3]]
    shares = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False).softmax(1)
    largest, labels = shares.max(1)
    return labels.numpy(), (255 * largest).round().numpy(), logits.numpy()


def check(session: onnxruntime.InferenceSession, frames: np.ndarray, **how: object) -> None:
    labels, confidence, logits = session.run(None, {"image": frames})
    want_labels, want_confidence, want_logits = expected(frames, **how)
    assert labels.dtype == confidence.dtype == np.uint8 and logits.dtype == np.float32
    assert labels.shape == confidence.shape == want_labels.shape
    assert (labels == want_labels).mean() > 0.999 and len(np.unique(labels)) > 2
    assert np.abs(confidence - want_confidence).max() <= 1 and len(np.unique(confidence)) > 20
    np.testing.assert_allclose(logits, want_logits, atol=4e-3)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_fixed_file(stride: int) -> None:
    size = (2 * ROWS_PER_STRIP + 3, 90)  # strips that end unevenly
    _, session = exported(size, 2, outputs=OUTPUTS, output_stride=stride)
    check(session, noise(2, size), stride=stride)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_free_file(batch: int) -> None:
    _, session = exported(None, None, outputs=OUTPUTS, output_stride=2)
    for size in ((65, 97), (130, 200)):
        check(session, noise(batch, size), stride=2)


def test_a_fixed_size_takes_a_free_batch() -> None:
    _, session = exported((100, 90), None, outputs=OUTPUTS)
    for batch in (1, 2):
        check(session, noise(batch, (100, 90)))


def test_frames_are_resized_inside() -> None:
    _, fixed = exported((70, 113), outputs=OUTPUTS, network_size=NETWORK_SIZE, colour_order="RGB")
    _, free = exported(None, outputs=OUTPUTS, network_size=NETWORK_SIZE)
    frames = noise(1, (70, 113))
    check(fixed, frames, network_size=NETWORK_SIZE, order="RGB")
    check(free, frames, network_size=NETWORK_SIZE)
    assert free.get_outputs()[2].shape == [1, 4, 12, 20]


def test_frames_of_the_inner_size_are_not_resized() -> None:
    plain, _ = exported(NETWORK_SIZE, outputs=("logits",))
    same, _ = exported(NETWORK_SIZE, outputs=("logits",), network_size=NETWORK_SIZE)
    assert [n.op_type for n in same.graph.node] == [n.op_type for n in plain.graph.node]


@pytest.mark.parametrize("outputs", [("labels",), ("logits",), ("labels", "logits"), OUTPUTS])
def test_only_what_is_asked_for(outputs: tuple[str, ...]) -> None:
    proto, session = exported((100, 90), outputs=outputs)
    assert tuple(port.name for port in session.get_outputs()) == outputs
    used = {node.op_type for node in proto.graph.node}
    assert ({"Exp", "ReduceMax"} <= used) == ("confidence" in outputs)
    assert ("ArgMax" in used) == ("labels" in outputs)
    # Two values go by their names in every file.
    made = {name for node in proto.graph.node for name in node.output}
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.value_info, *proto.graph.output)
    }
    assert {"normalised", "logits"} <= made
    assert shapes["normalised"] == [1, 3, 100, 90] and shapes["logits"] == [1, 4, 25, 23]
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert Contract.from_metadata(metadata, "it").outputs == outputs


def test_the_inner_values_are_what_they_say() -> None:
    proto, _ = exported((100, 90), outputs=("labels",))
    opened = onnx.ModelProto.FromString(proto.SerializeToString())
    opened.graph.output.extend(v for v in proto.graph.value_info if v.name in ("normalised", "logits"))
    session = onnxruntime.InferenceSession(opened.SerializeToString(), providers=["CPUExecutionProvider"])
    frames, model = noise(1, (100, 90)), sure_model()
    normalised, logits = session.run(["normalised", "logits"], {"image": frames})
    bgr = (frames / 255 - np.array(model.mean[::-1])) / np.array(model.std[::-1])
    np.testing.assert_allclose(normalised, bgr.transpose(0, 3, 1, 2), atol=1e-4)
    np.testing.assert_allclose(logits, expected(frames)[2], atol=4e-3)


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_the_colour_order_stated_is_the_one_taken(order: str) -> None:
    model = RedSees().eval()
    proto = onnx_model(model, spec_for(model), contract=Contract(colour_order=order), size=(16, 32))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    frame = np.zeros((1, 16, 32, 3), np.uint8)
    frame[..., order.index("R")] = 255
    assert (session.run(None, {"image": frame})[0] == 3).all()
    assert (session.run(None, {"image": frame[..., ::-1].copy()})[0] == 0).all()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("target", [(200, 300), (131, 97), (17, 33), (16, 24)])
def test_upsampling_is_torchs(target: tuple[int, int], align_corners: bool) -> None:
    logits = torch.randn(2, 5, 16, 24, generator=torch.Generator().manual_seed(0))
    whole = functional.interpolate(logits, size=target, mode="bilinear", align_corners=align_corners)
    strips = list(StripUpsampling((16, 24), target, align_corners=align_corners)(logits))
    assert len(strips) == -(-target[0] // ROWS_PER_STRIP) and all(s.shape[3] == 5 for s in strips)
    torch.testing.assert_close(torch.cat(strips, 1), whole.permute(0, 2, 3, 1), rtol=0, atol=2e-6)
    free = upsample_whole(logits, *target, align_corners)
    torch.testing.assert_close(free, whole.permute(0, 2, 3, 1), rtol=0, atol=2e-6)


def test_a_fixed_file_never_holds_the_frames_logits() -> None:
    proto, _ = exported((320, 90), outputs=("labels",))
    sizes = {
        value.name: int(np.prod([dim.dim_value for dim in value.type.tensor_type.shape.dim]))
        for value in proto.graph.value_info
    }
    after = [name for node in proto.graph.node if node.op_type == "ArgMax" for name in node.input]
    assert len(after) == 5 and max(sizes[name] for name in after) == ROWS_PER_STRIP * 90 * 4


@pytest.mark.parametrize(
    ("contract", "arguments", "message"),
    [
        ({"output_stride": 8}, {}, "at most the network's stride.*got 8, and the network's is 4"),
        ({"precision": "int8"}, {}, "traced in fp32 or fp16; got int8"),
        ({}, {"batch": 0}, "batch is 1 frame or more, or free; got 0"),
        ({}, {"size": (8, 64)}, "an exported size is at least 16 pixels a side and at most 32768; got 8x64"),
    ],
)
def test_refusals(contract: dict[str, object], arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        onnx_model(small_model(), spec_for(small_model()), contract=Contract(**contract), **arguments)
