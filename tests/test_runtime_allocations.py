"""A loop over frames needs no new memory of a frame's size once it is warm, and gives away what it gives."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from cpsl_deploy import InputError, load
from cpsl_deploy.overlay import blend
from cpsl_deploy.segmenter import FrameBuffers, Segmenter

tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)

SIZE = (384, 640)
SMALL = 24_000
"""Bytes: a tenth of the least array that has a value for each pixel."""
WARM_UP, FRAMES = 4, 12


@pytest.fixture(params=["onnxruntime", "openvino"])
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return request.param


def frames(count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """BGR, the last column and row of each another than of the others."""
    street = np.ascontiguousarray(tiny_onnx.street(*size)[..., ::-1])
    rng = np.random.default_rng(3)
    return [np.roll(street, rng.integers(size[0]), axis=0) ^ np.uint8(index % 3) for index in range(count)]


def most_allocated(step: Callable[[np.ndarray], object], images: list[np.ndarray]) -> int:
    """Bytes, of all steps after the first ones: how far memory rose above what it was before the step."""
    for image in images[:WARM_UP]:
        step(image)
    gc.collect()
    rises = []
    tracemalloc.start()
    try:
        for image in images[WARM_UP:]:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            step(image)
            rises.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    return max(rises)


def one_frame(segmenter: Segmenter, colour_order: str) -> Callable[[np.ndarray], object]:
    def step(image: np.ndarray) -> None:
        prediction = segmenter.predict(image, colour_order=colour_order)
        prediction.areas()
        prediction.overlay()

    return step


@pytest.mark.parametrize(
    ("outputs", "stride", "frame_size", "colour_order"),
    [
        (("labels",), 1, SIZE, "BGR"),
        (("labels", "confidence", "logits"), 1, SIZE, "RGB"),
        (("labels", "confidence"), 2, SIZE, "BGR"),
        (("labels",), 1, (480, 800), "BGR"),
    ],
    ids=["labels", "every output, RGB", "output stride", "resized frames"],
)
def test_a_warm_loop_allocates_nothing_of_a_frame_s_size(
    tmp_path: Path,
    backend: str,
    outputs: tuple[str, ...],
    stride: int,
    frame_size: tuple[int, int],
    colour_order: str,
) -> None:
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", size=SIZE, outputs=outputs, output_stride=stride)
    with load(model, backend=backend, threads=1) as segmenter:
        step = one_frame(segmenter, colour_order)
        assert most_allocated(step, frames(WARM_UP + FRAMES, frame_size)) < SMALL
        assert segmenter.predict(frames(1, frame_size)[0]).labels.size > 5 * SMALL  # it would have been seen


def test_labels_made_outside_the_graph_allocate_what_their_borders_need(tmp_path: Path, backend: str) -> None:
    """Less than one label map: numbers of the cells that classes share, but no labels and no canvas."""
    coarse_onnx = pytest.importorskip("coarse_onnx", exc_type=ImportError)
    model = coarse_onnx.write_coarse_onnx(tmp_path / "m.onnx", SIZE)
    with load(model, backend=backend, threads=1) as segmenter:
        assert segmenter.describe()["labels_outside"]
        assert most_allocated(one_frame(segmenter, "BGR"), frames(WARM_UP + FRAMES)) < SIZE[0] * SIZE[1]


def test_batches_allocate_nothing_either(tmp_path: Path, backend: str) -> None:
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", size=SIZE, batch=None)
    buffers = [FrameBuffers() for _ in range(3)]
    with load(model, backend=backend, threads=1) as segmenter:

        def step(image: np.ndarray) -> None:
            prepared = [segmenter.prepare(image, buffers=one) for one in buffers]
            for inferred in segmenter.infer(prepared):
                segmenter.finish(inferred).overlay()

        assert most_allocated(step, frames(WARM_UP + FRAMES)) < SMALL


def test_labels_without_a_class_cost_no_new_memory_either() -> None:
    image = frames(1)[0]
    labels = np.full(SIZE, 255, np.uint8)
    labels[:100] = 1
    classes = tiny_onnx.tiny_spec().classes
    step = lambda frame: blend(frame, labels, classes)  # noqa: E731
    assert most_allocated(step, [image] * (WARM_UP + FRAMES)) < SMALL


def test_results_that_are_kept_stay_as_they_are(tmp_path: Path, backend: str) -> None:
    """Whole or in part, while other sizes come and others' results go."""
    everything = ("labels", "confidence", "logits")
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", batch=None, outputs=everything)
    images = frames(15)
    with load(model, backend=backend, threads=1) as segmenter:
        kept = []
        for index, image in enumerate(images):
            shown = cv2.resize(image, (800, 480)) if index % 5 == 4 else image
            prediction = segmenter.predict(shown)
            if index % 3 == 1:
                continue  # let go at once: its memory is the next one's
            parts = [prediction.labels[7:, ::3], prediction.confidence, prediction.overlay()]
            parts.append(prediction.logits[1:3])
            kept.append((parts, [part.copy() for part in parts]))
        pair = segmenter.predict_batch(images[:2])
        copies = [one.labels.copy() for one in pair]
        segmenter.predict_batch(images[2:4])
        for parts, before in [*kept, ([one.labels for one in pair], copies)]:
            for part, copy in zip(parts, before, strict=True):
                np.testing.assert_array_equal(part, copy)
        np.testing.assert_array_equal(copies[1], tiny_onnx.nearest_colour(images[1][..., ::-1]))


def test_an_overlay_into_memory_that_is_given(tmp_path: Path) -> None:
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx")
    image = frames(1)[0]
    with load(model, threads=1) as segmenter:
        prediction = segmenter.predict(image)
        out = np.zeros_like(image)
        assert prediction.overlay(0.3, out=out) is out
        np.testing.assert_array_equal(out, prediction.overlay(0.3))
        for wrong in (
            image,
            image[::-1],
            out[:-1],
            out.astype(np.int16),
            np.zeros((2, *out.shape[1:]), np.uint8),
        ):
            with pytest.raises(InputError, match="not the frame itself"):
                prediction.overlay(out=wrong)
        assert (image == frames(1)[0]).all()


def test_frames_of_different_sizes_are_no_batch(tmp_path: Path) -> None:
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", batch=None)
    with load(model, threads=1) as segmenter:
        prepared = [segmenter.prepare(np.zeros((96, width, 3), np.uint8)) for width in (160, 164)]
        with pytest.raises(InputError, match="have one size"):
            segmenter.infer(prepared)
