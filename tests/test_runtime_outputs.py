"""Batches, confidence, logits and output strides: what a file may give beyond labels of one frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cpsl_deploy
from cpsl_deploy import InputError, ModelFileError
from cpsl_deploy.backends import open_backend

tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)

BACKENDS = ["onnxruntime", "openvino"]
EVERYTHING = ("labels", "confidence", "logits")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return request.param


def noise(count: int, size: tuple[int, int] = (96, 160)) -> np.ndarray:
    """BGR (count, H, W, 3)."""
    return np.random.default_rng(9).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def expected(frame: np.ndarray) -> np.ndarray:
    return tiny_onnx.nearest_colour(frame[..., ::-1])


def test_every_output(tmp_path: Path, backend: str) -> None:
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", outputs=EVERYTHING)
    frame = noise(1)[0]
    with cpsl_deploy.load(model, backend=backend, threads=1) as segmenter:
        prediction = segmenter.predict(frame)
        again = segmenter.predict(255 - frame)
        assert segmenter.describe()["outputs"] == list(EVERYTHING)
    np.testing.assert_array_equal(prediction.labels, expected(frame))
    np.testing.assert_array_equal(prediction.confidence, expected(frame) + 100)
    assert prediction.logits.dtype == np.float32 and prediction.logits.shape == (4, 96, 160)
    np.testing.assert_array_equal(prediction.logits.argmax(0), expected(frame))
    np.testing.assert_array_equal(again.confidence, expected(255 - frame) + 100)


def test_no_confidence_and_no_logits_are_none(tiny_model: Path) -> None:
    with cpsl_deploy.load(tiny_model, threads=1) as segmenter:
        prediction = segmenter.predict(noise(1)[0])
    assert prediction.confidence is None and prediction.logits is None


@pytest.mark.parametrize("stride", [1, 4])
def test_labels_of_a_file_with_logits_alone(tmp_path: Path, backend: str, stride: int) -> None:
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", outputs=("logits",), output_stride=stride)
    frame = noise(1)[0]
    with cpsl_deploy.load(model, backend=backend, threads=1) as segmenter:
        prediction = segmenter.predict(frame)
    assert prediction.logits.shape == (4, 96 // stride, 160 // stride)
    assert prediction.labels.shape == (96, 160) and prediction.labels.dtype == np.uint8
    dense = prediction.logits.argmax(0)
    np.testing.assert_array_equal(prediction.labels, dense.repeat(stride, 0).repeat(stride, 1))


def test_logits_that_are_not_finite(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    proto = tiny_onnx.tiny_proto((96, 160), False, 1, "BGR", ("logits",), 1)
    onnx.helper.set_model_props(proto, tiny_onnx.tiny_metadata(outputs="logits"))
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(4, np.nan, np.float32), "bias"))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with (
        cpsl_deploy.load(tmp_path / "m.onnx", threads=1) as segmenter,
        pytest.raises(ModelFileError, match="finite"),
    ):
        segmenter.predict(noise(1)[0])


def test_output_stride_comes_back_by_nearest(tmp_path: Path) -> None:
    """Sides that are no multiple of the stride: the last label stands for the rest."""
    model = tiny_onnx.write_tiny_onnx(
        tmp_path / "m.onnx", size=(98, 155), outputs=("labels", "confidence"), output_stride=4
    )
    frame = tiny_onnx.street(98, 155)[..., ::-1]
    with cpsl_deploy.load(model, threads=1) as segmenter:
        few = segmenter.backend.infer(frame[None])["labels"]
        prediction = segmenter.predict(frame)
    assert few.shape == (1, 25, 39)
    centres = [
        np.floor((np.arange(n) + 0.5) * few.shape[i + 1] / n).astype(int) for i, n in enumerate((98, 155))
    ]
    np.testing.assert_array_equal(prediction.labels, few[0][centres[0][:, None], centres[1]])
    np.testing.assert_array_equal(prediction.confidence, prediction.labels + 100)
    assert (prediction.labels == expected(frame)).mean() > 0.9


def test_output_stride_of_aligned_corners(tmp_path: Path) -> None:
    """Label i lies on pixel i * (H - 1) / (h - 1) then, so that the outermost ones reach half as far."""
    metadata = tiny_onnx.tiny_metadata((17, 17), output_stride="2")
    aligned = metadata["cpsl_deploy"].replace('"align_corners": false', '"align_corners": true')
    metadata["cpsl_deploy"] = aligned
    model = tiny_onnx.write_tiny_onnx(
        tmp_path / "m.onnx", size=(17, 17), static=True, output_stride=2, metadata=metadata
    )
    columns = np.array(tiny_onnx.CLASS_COLOURS, np.uint8)[np.arange(17) // 2 % 4]
    frame = np.ascontiguousarray(np.broadcast_to(columns, (17, 17, 3)))
    with cpsl_deploy.load(model, threads=1) as segmenter:
        labels = segmenter.predict(frame, colour_order="RGB").labels
    nearest = np.rint(np.arange(17) * 8 / 16).astype(int)  # of nine labels over seventeen pixels
    np.testing.assert_array_equal(labels[0], nearest % 4)


@pytest.mark.parametrize("size", [(96, 160), (540, 960)])
def test_free_batch_runs_at_once(tmp_path: Path, backend: str, size: tuple[int, int]) -> None:
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", batch=None, outputs=EVERYTHING)
    frames = noise(3, size)
    with cpsl_deploy.load(model, backend=backend, threads=1) as segmenter:
        calls = []
        infer = segmenter.backend.infer
        segmenter.backend.infer = lambda batch: calls.append(len(batch)) or infer(batch)
        batch = segmenter.predict_batch(list(frames))
        assert calls == [3]
        single = [segmenter.predict(frame) for frame in frames]
        assert segmenter.predict_batch([]) == []
    for one, other, frame in zip(batch, single, frames, strict=True):
        assert one.frame.shape == frame.shape and np.shares_memory(one.frame, frame)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.confidence, other.confidence)
        np.testing.assert_array_equal(one.logits, other.logits)
        assert one.latency_ms > 0


def test_static_batch_takes_as_many_as_it_says(tmp_path: Path, backend: str) -> None:
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", batch=2, static=True)
    frames = noise(3)
    with cpsl_deploy.load(model, backend=backend, threads=1) as segmenter:
        assert segmenter.backend.batch == 2
        for prediction, frame in zip(segmenter.predict_batch(frames[:2]), frames[:2], strict=True):
            np.testing.assert_array_equal(prediction.labels, expected(frame))
        with pytest.raises(InputError, match=r"takes 2 frames at a time.*got 3"):
            segmenter.predict_batch(frames)
        with pytest.raises(InputError, match=r"takes 2 frames at a time.*predict_batch"):
            segmenter.predict(frames[0])
        with pytest.raises(InputError, match=r"takes 2 frames at a time.*got 1"):
            segmenter.backend.infer(frames[:1])


def test_single_frame_files_loop(tiny_model: Path) -> None:
    frames = noise(3)
    with cpsl_deploy.load(tiny_model, threads=1) as segmenter:
        predictions = segmenter.predict_batch(list(frames[..., ::-1]), colour_order="RGB")
    for prediction, frame in zip(predictions, frames, strict=True):
        np.testing.assert_array_equal(prediction.labels, expected(frame))


def test_frames_of_a_batch_have_one_size(tiny_model: Path) -> None:
    with (
        cpsl_deploy.load(tiny_model) as segmenter,
        pytest.raises(InputError, match=r"\(8, 8\), \(8, 9\)"),
    ):
        segmenter.predict_batch([np.zeros((8, 9, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)])


def test_files_that_resize_inside_get_the_frame_as_it_is(tmp_path: Path) -> None:
    metadata = tiny_onnx.tiny_metadata(network_size="96x160")
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", metadata=metadata)
    frame = noise(1, (300, 500))[0]
    with cpsl_deploy.load(model, threads=1) as segmenter:
        assert segmenter.input_size(300, 500) == (300, 500)
        np.testing.assert_array_equal(segmenter.predict(frame).labels, expected(frame))
        assert segmenter.describe()["size"] == [96, 160]
    static = tiny_onnx.write_tiny_onnx(tmp_path / "s.onnx", static=True, metadata=metadata)
    with cpsl_deploy.load(static, threads=1) as segmenter:
        assert segmenter.input_size(300, 500) == (96, 160)


@pytest.mark.parametrize(
    ("written", "stated", "message"),
    [
        (("labels",), "labels,confidence", r"outputs \['labels'\]"),
        (EVERYTHING, "labels", r"outputs \['confidence', 'labels', 'logits'\]"),
        (("labels", "logits"), "labels,confidence", "as its metadata say, outputs labels, confidence"),
    ],
)
def test_outputs_are_those_of_the_contract(
    tmp_path: Path, backend: str, written: tuple[str, ...], stated: str, message: str
) -> None:
    metadata = tiny_onnx.tiny_metadata(outputs=stated)
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", outputs=written, metadata=metadata)
    with pytest.raises(ModelFileError, match=message):
        cpsl_deploy.load(model, backend=backend)


def test_a_stride_that_is_not_the_stated_one(tmp_path: Path, backend: str) -> None:
    model = tiny_onnx.write_tiny_onnx(
        tmp_path / "m.onnx", output_stride=2, metadata=tiny_onnx.tiny_metadata(output_stride="4")
    )
    with (
        open_backend(model, backend=backend) as opened,
        pytest.raises(ModelFileError, match=r"\(1, 24, 40\)"),
    ):
        opened.infer(noise(1))


def with_classes(count: int, **contract: str) -> dict[str, str]:
    """Metadata whose spec names another number of classes than the model's four."""
    import json

    metadata = tiny_onnx.tiny_metadata(**contract)
    spec = json.loads(metadata["cpsl_deploy"])
    spec["class_names"] = [f"class {i}" for i in range(count)]
    spec["palette"] = [[i, i, i] for i in range(count)]
    return {**metadata, "cpsl_deploy": json.dumps(spec)}


def test_class_count_of_logits(tmp_path: Path, backend: str) -> None:
    metadata = with_classes(5, outputs="labels,logits")
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", outputs=("labels", "logits"), metadata=metadata)
    with pytest.raises(ModelFileError, match="4 classes and its spec names 5"):
        cpsl_deploy.load(model, backend=backend)


def test_a_label_without_a_class(tmp_path: Path, backend: str) -> None:
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", metadata=with_classes(3))
    with cpsl_deploy.load(model, backend=backend, threads=1) as segmenter:
        sky = np.full((96, 160, 3), tiny_onnx.CLASS_COLOURS[1], np.uint8)
        assert (segmenter.predict(sky, colour_order="RGB").labels == 1).all()
        sky[0, 0] = tiny_onnx.CLASS_COLOURS[3]
        with pytest.raises(ModelFileError, match=r"label 3 .* 3 classes, 0 to 2"):
            segmenter.predict(sky, colour_order="RGB")
