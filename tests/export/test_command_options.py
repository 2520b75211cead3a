"""Every option of ``cpsl-export`` that shapes one file: it does what it says, on a run of a tiny network."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from export_networks import Small
from exported_files import ANYTHING, Export, answers, frame_of, planted, report_of, says
from finished_run import Run
from torch import Tensor
from torch.nn import functional

import cpsl_deploy
from cpsl_deploy.contract import Contract
from cpsl_deploy.export import trials
from cpsl_deploy.export.command import main
from cpsl_deploy.export.graph.onnx_file import read_metadata
from cpsl_deploy.train.models import ARCHITECTURES

# ---- what the file takes


def test_a_batch_of_two(export: Export, folder: Path, finished: Run) -> None:
    says(export("--batch", 2), "image uint8 (2, any height, any width, 3), BGR")
    frames = np.stack([frame_of(finished), frame_of(finished, "train")])
    with cpsl_deploy.load(folder) as segmenter:
        first, second = (p.labels for p in segmenter.predict_batch(list(frames)))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(answers(folder / "model.onnx", frames)["labels"], [first, second])
    assert report_of(folder)["input"]["shape"] == [2, "height", "width", 3]


def test_a_batch_of_two_is_scored_and_timed_by_the_frame(
    export: Export, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real clock, and the score
    monkeypatch.setitem(ARCHITECTURES, "small", Small)
    result = CliRunner().invoke(main, [str(folder), "--batch", "2", "--precision", "int8"])
    assert result.exit_code == 0, result.output
    says(result, "this file", "times the float32 file's in onnxruntime here")
    assert "exported" in json.loads((folder / "results.json").read_text())


def test_a_free_batch(export: Export, folder: Path, finished: Run) -> None:
    says(export("--batch", "free", "--size", "96x128"), "(any batch, 96, 128, 3)")
    frame = frame_of(finished)
    for number in (1, 3):
        labels = answers(folder / "model.onnx", np.repeat(frame[None], number, axis=0))["labels"]
        assert labels.shape == (number, 96, 128) and (labels == labels[0]).all()


def test_rgb_files_see_the_same_scene(export: Export, folder: Path, finished: Run) -> None:
    frame = frame_of(finished)
    export("--size", "96x128")
    of_bgr = answers(folder / "model.onnx", frame[None])["labels"]
    says(export("--colour-order", "RGB", "--size", "96x128"), "(1, 96, 128, 3), RGB")
    of_rgb = answers(folder / "model.onnx", np.ascontiguousarray(frame[None, ..., ::-1]))["labels"]
    assert (of_bgr == of_rgb).mean() > 0.999 and read_metadata(folder / "model.onnx")["colour_order"] == "RGB"
    assert (answers(folder / "model.onnx", frame[None])["labels"] != of_rgb).mean() > 0.05


def test_a_file_that_resizes_is_compared_on_the_cameras_own_frames(
    export: Export, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        coarse = rng.integers(0, 256, (9, 12, 3), np.uint8)
        photo = cv2.resize(coarse, (200, 150), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.png"), photo)
    export("--resize", "96x128", "--frames", tmp_path / "photos")
    (candidate,) = report_of(folder)["candidates"]
    assert candidate["pixels"] == 2 * 150 * 200
    assert candidate["budget"] == {"min_agreement": 0.97, "max_iou_drop": 5, "max_class_iou_drop": 10}
    export("--frames", tmp_path / "photos")
    assert report_of(folder)["candidates"][0]["pixels"] == 2 * 96 * 128, "as the runtime resizes"
    export("--resize", "48x64", "--size", "96x128", "--frames", tmp_path / "photos", *ANYTHING)
    assert report_of(folder)["candidates"][0]["pixels"] == 2 * 96 * 128, "the file's own size"


def test_a_file_that_resizes_gives_labels_of_the_frames_size(export: Export, folder: Path) -> None:
    export("--resize", "48x64", *ANYTHING)
    assert read_metadata(folder / "model.onnx")["network_size"] == "48x64"
    labels = answers(folder / "model.onnx", np.zeros((1, 70, 90, 3), np.uint8))["labels"]
    assert labels.shape == (1, 70, 90)


# ---- what it gives


def test_three_outputs(export: Export, folder: Path, finished: Run) -> None:
    says(export("--outputs", "logits, confidence,labels"), "outputs labels, confidence, logits")
    given = answers(folder / "model.onnx", frame_of(finished)[None])
    assert list(given) == ["labels", "confidence", "logits"]
    assert given["logits"].shape == (1, 3, 24, 32) and given["logits"].dtype == np.float32
    maps = functional.interpolate(
        Tensor(given["logits"]), size=(96, 128), mode="bilinear", align_corners=False
    )
    assert (maps.argmax(1).numpy() == given["labels"]).mean() > 0.999
    probability = maps.softmax(1).amax(1).numpy()
    assert np.abs(given["confidence"] / 255 - probability).max() < 0.003


def test_confidence_with_logits_and_no_labels(export: Export, folder: Path, finished: Run) -> None:
    export("--outputs", "confidence,logits")
    assert list(answers(folder / "model.onnx", frame_of(finished)[None])) == ["confidence", "logits"]


def test_coarse_labels(export: Export, folder: Path, finished: Run) -> None:
    says(export("--output-stride", 4, *ANYTHING), "operators")
    assert answers(folder / "model.onnx", frame_of(finished)[None])["labels"].shape == (1, 24, 32)
    (candidate,) = report_of(folder)["candidates"]
    assert candidate["pixels"] == 2 * 96 * 128 and candidate["agreement"] < 1, "what it costs is seen"


def test_labels_coarser_than_the_network_are_refused_before_anything_slow(
    export: Export, folder: Path, traced_once: list[Contract], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpsl_deploy.export.exporter.make_reference", pytest.fail)
    says(
        export("--output-stride", 8, code=2), "got 8, and the network's is 4. Give --output-stride 4 or less"
    )
    says(export("--size", "16x40000", code=2), "at most 32768; got 16x40000")
    assert traced_once == [] and not (folder / "model.onnx").exists()


# ---- precisions


def test_half_precision(export: Export, folder: Path) -> None:
    says(
        export("--precision", "fp16", "--size", "96x128"),
        "3 classes, fp16)",
        "speed 1.00 times the float32 file's",
    )
    proto = onnx.load(folder / "model.onnx")
    weights = {i.data_type for i in proto.graph.initializer if len(i.dims) == 4}
    assert onnx.TensorProto.FLOAT16 in weights
    (candidate,) = report_of(folder)["candidates"]
    assert candidate["budget"]["min_agreement"] == 0.99 and candidate["precision"] == "fp16"


def test_int8_is_calibrated_on_what_the_run_trained_on(
    export: Export, folder: Path, finished: Run, calibrated_on: list[np.ndarray]
) -> None:
    export("--precision", "int8")
    images = sorted((finished.target.parent / "images/train").iterdir())
    assert len(calibrated_on) == len(images) == 6
    for frame, path in zip(calibrated_on, images, strict=True):
        np.testing.assert_array_equal(frame, cv2.imread(str(path)))
    metadata = read_metadata(folder / "model.onnx")
    assert metadata["precision"] == "int8" and json.loads(metadata["calibration"])["frames"] == 6
    report = report_of(folder)
    assert report["input"]["shape"] == [1, 96, 128, 3], "INT8 has the size of training"
    assert "(val) with labels" in report["candidates"][0]["compared_on"]


def test_calibration_frames_are_spread_over_the_images(
    export: Export, finished: Run, calibrated_on: list[np.ndarray]
) -> None:
    export("--precision", "int8", "--calibration-frames", 2)
    images = sorted((finished.target.parent / "images/train").iterdir())
    for frame, path in zip(calibrated_on, (images[0], images[-1]), strict=True):
        np.testing.assert_array_equal(frame, cv2.imread(str(path)))


def test_given_calibration_images_are_the_split_it_may_train_on(
    export: Export, finished: Run, calibrated_on: list[np.ndarray]
) -> None:
    """And not ``val``, on which the file is judged."""
    export("--precision", "int8", "--calibration", finished.source)
    assert len(calibrated_on) == 6
    first = cv2.imread(str(finished.source.parent / "images/train/0.png"))
    np.testing.assert_array_equal(calibrated_on[0], first)
    calibrated_on.clear()
    export("--precision", "int8", "--calibration", finished.target)
    assert len(calibrated_on) == 6, "val has 2"


def test_int8_for_tensorrt(export: Export, folder: Path) -> None:
    result = export("--precision", "int8", "--int8-for", "tensorrt")
    assert json.loads(read_metadata(folder / "model.onnx")["calibration"])["scheme"] == "tensorrt"
    assert "slower" not in result.output


def test_int8_of_logits_alone_that_resizes_rgb(export: Export, folder: Path, finished: Run) -> None:
    """Options that meet: the file is the one asked for, and right."""
    options = ("--outputs", "logits", "--colour-order", "RGB", "--resize", "72x96")
    export("--precision", "int8", *options, *ANYTHING)
    given = answers(folder / "model.onnx", np.ascontiguousarray(frame_of(finished)[None, ..., ::-1]))
    assert list(given) == ["logits"] and given["logits"].shape == (1, 3, 18, 24)
    (candidate,) = report_of(folder)["candidates"]
    assert candidate["agreement"] > 0.85 and report_of(folder)["contract"]["network_size"] == "72x96"


def test_advice_where_int8_is_slower(export: Export, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "compare_speed", planted({"int8 onnxruntime": 0.5}))
    result = export("--precision", "int8")
    says(
        result,
        "speed 0.50 times",
        "int8 is slower than fp32 (0.50 times as fast): export without --precision",
    )
    page = (folder / "model.export/export.md").read_text()
    assert "**Note**: on this machine's CPU int8 is slower" in page and report_of(folder)["advice"]
    monkeypatch.setattr(trials, "compare_speed", planted({"int8 onnxruntime": 2.0}))
    assert "slower" not in export("--precision", "int8").output
    assert report_of(folder)["advice"] == ""


def test_kept_layers_are_in_the_report(export: Export, folder: Path) -> None:
    """A budget that INT8 alone cannot keep."""
    result = export("--precision", "int8", "--min-agreement", 0.998, *ANYTHING[2:])
    report = report_of(folder)
    kept = [layer for layer in report["layers"] if layer["kept_in_float"]]
    says(result, f"in float {len(kept)} layers, see the report")
    assert 0 < len(kept) < len(report["layers"])
    assert report["candidates"][0]["kept_layers"] and report["candidates"][0]["agreement"] >= 0.998
    page = (folder / "model.export/export.md").read_text()
    assert "## Layers kept in float" in page and f"| {kept[0]['layer']} | Conv |" in page
