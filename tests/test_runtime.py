"""load() and Segmenter.predict against labels that NumPy computes on its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import cpsl_deploy
from cpsl_deploy import InputError, ModelFileError

tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)


@pytest.fixture
def noise() -> np.ndarray:
    """RGB, of the model's own size, with no two channels alike."""
    return np.random.default_rng(3).integers(0, 256, (96, 160, 3), dtype=np.uint8)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("model_order", ["BGR", "RGB"])
@pytest.mark.parametrize("frame_order", ["BGR", "RGB"])
def test_colour_orders(
    tmp_path: Path, noise: np.ndarray, backend: str, model_order: str, frame_order: str
) -> None:
    pytest.importorskip(backend)
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", colour_order=model_order)
    frame = noise if frame_order == "RGB" else noise[..., ::-1]
    with cpsl_deploy.load(model, backend=backend, threads=1) as segmenter:
        labels = segmenter.predict(frame, colour_order=frame_order).labels
    np.testing.assert_array_equal(labels, tiny_onnx.nearest_colour(noise))


@pytest.mark.parametrize("model_order", ["BGR", "RGB"])
@pytest.mark.parametrize("size", [(540, 960), (30, 50), (200, 150)])
def test_other_sizes_are_resized_and_labels_come_back(
    tmp_path: Path, size: tuple[int, int], model_order: str
) -> None:
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", colour_order=model_order)
    rgb = tiny_onnx.street(*size)
    with cpsl_deploy.load(model, threads=1) as segmenter:
        labels = segmenter.predict(rgb[..., ::-1]).labels
    expected = tiny_onnx.nearest_colour(rgb)
    assert labels.shape == size and labels.dtype == np.uint8
    assert (labels == expected).mean() > 0.9  # borders between the bands may move by a pixel of the model
    for row, column in ((0.1, 0.5), (0.42, 0.5), (0.62, 0.37), (0.9, 0.5)):
        at = int(row * size[0]), int(column * size[1])
        assert labels[at] == expected[at]


def test_labels_come_back_without_a_shift(tmp_path: Path) -> None:
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx")
    rgb = np.empty((288, 480, 3), np.uint8)
    rgb[:, :240], rgb[:, 240:] = tiny_onnx.CLASS_COLOURS[0], tiny_onnx.CLASS_COLOURS[1]
    with cpsl_deploy.load(model, threads=1) as segmenter:
        labels = segmenter.predict(rgb, colour_order="RGB").labels
    np.testing.assert_array_equal(labels, tiny_onnx.nearest_colour(rgb))


def test_input_size(tmp_path: Path) -> None:
    with cpsl_deploy.load(tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", size=(512, 1024))) as segmenter:
        assert segmenter.input_size(512, 1024) == (512, 1024)
        assert segmenter.input_size(540, 960) == (540, 960)  # 1.1 % fewer pixels: as it is
        height, width = segmenter.input_size(1080, 1920)
        assert (height % 8, width % 8) == (0, 0)
        assert abs(height * width / (512 * 1024) - 1) < 0.03
        assert abs(width / height - 16 / 9) < 0.03
        assert segmenter.input_size(4, 200_000)[0] == 8  # never less than one stride


def test_static_model_takes_every_frame_at_its_own_size(tmp_path: Path) -> None:
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", size=(64, 64), static=True)
    with cpsl_deploy.load(model, threads=1) as segmenter:
        assert segmenter.input_size(540, 960) == (64, 64)
        assert segmenter.predict(tiny_onnx.street(128, 256)).labels.shape == (128, 256)
        with pytest.raises(InputError, match="64x64"):
            segmenter.backend.infer(np.zeros((1, 64, 65, 3), np.uint8))


def test_predictions_are_not_overwritten_by_later_ones(tiny_model: Path, noise: np.ndarray) -> None:
    for backend in ("onnxruntime", "openvino"):
        pytest.importorskip(backend)
        with cpsl_deploy.load(tiny_model, backend=backend, threads=1) as segmenter:
            first = segmenter.predict(noise)
            kept = first.labels.copy()
            segmenter.predict(255 - noise)
            np.testing.assert_array_equal(first.labels, kept)


def test_non_contiguous_frames(tiny_model: Path, noise: np.ndarray) -> None:
    wide = np.concatenate([noise, noise], axis=1)
    with cpsl_deploy.load(tiny_model, threads=1) as segmenter:
        labels = segmenter.predict(wide[:, :160], colour_order="RGB").labels
        flipped = segmenter.predict(noise[:, ::-1, ::-1]).labels
    np.testing.assert_array_equal(labels, tiny_onnx.nearest_colour(noise))
    np.testing.assert_array_equal(flipped, tiny_onnx.nearest_colour(noise)[:, ::-1])


def test_prediction(tiny_model: Path) -> None:
    rgb = tiny_onnx.street()
    with cpsl_deploy.load(tiny_model, threads=1) as segmenter:
        prediction = segmenter.predict(rgb, colour_order="RGB")
    assert set(prediction.timings_ms) == {"pre", "inference", "post"}
    assert prediction.latency_ms == pytest.approx(sum(prediction.timings_ms.values())) and (
        min(prediction.timings_ms.values()) >= 0
    )
    areas = prediction.areas()
    assert areas == pytest.approx({"road": 0.4375, "sky": 1 / 3, "tree": 1 / 6, "car": 0.0625})
    mask = prediction.mask("car")
    assert mask.dtype == np.bool_ and mask.sum() == 24 * 40 and mask[48:72, 40:80].all()
    with pytest.raises(InputError, match="unknown class 'bus'"):
        prediction.mask("bus")
    # The overlay of an RGB frame is BGR: with no opacity it is the frame, reversed.
    np.testing.assert_array_equal(prediction.overlay(0, legend=False), rgb[..., ::-1])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((8, 8), np.uint8), "GRAY2BGR"),
        (np.zeros((8, 8, 4), np.uint8), "alpha"),
        (np.zeros((8, 8, 3), np.float32), "astype"),
        (np.zeros((0, 8, 3), np.uint8), "not empty"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"\(1, 8, 8, 3\)"),
        ([[0, 0, 0]], "list"),
    ],
)
def test_wrong_frames(tiny_model: Path, frame: object, message: str) -> None:
    with cpsl_deploy.load(tiny_model, threads=1) as segmenter, pytest.raises(InputError, match=message):
        segmenter.predict(frame)


def test_wrong_colour_order(tiny_model: Path) -> None:
    with cpsl_deploy.load(tiny_model) as segmenter, pytest.raises(InputError, match="BGR or RGB; got 'GBR'"):
        segmenter.predict(tiny_onnx.street(), colour_order="GBR")


def test_closed(tiny_model: Path) -> None:
    with cpsl_deploy.load(tiny_model, threads=1) as segmenter:
        pass
    segmenter.close()
    with pytest.raises(InputError, match="closed"):
        segmenter.predict(tiny_onnx.street())


def test_describe_is_json(tiny_model: Path) -> None:
    for backend in ("onnxruntime", "openvino"):
        pytest.importorskip(backend)
        with cpsl_deploy.load(tiny_model, backend=backend, threads=1) as segmenter:
            described = json.loads(json.dumps(segmenter.describe()))
        assert described["backend"] == backend and described["device"] == "cpu"
        assert described["threads"] == 1 and described["architecture"] == "nearest_colour"


def test_run_folder(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    with pytest.raises(ModelFileError, match=r"no model\.onnx.*cpsl-export"):
        cpsl_deploy.load(tmp_path)
    tiny_onnx.write_tiny_onnx(tmp_path / "export/model.onnx")
    cpsl_deploy.load(tmp_path).close()
    tiny_onnx.write_tiny_onnx(tmp_path / "model.onnx")
    with pytest.raises(ModelFileError, match="several models"):
        cpsl_deploy.load(tmp_path)
