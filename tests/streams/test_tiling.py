"""Tiling: weights that sum to 1, no seam, and the same answer as on the whole frame where that can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_onnx import CLASS_COLOURS, CLASS_NAMES, PALETTE, nearest_colour, street, write_tiny_onnx

from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import InputError, ModelFileError, UnavailableError
from cpsl_deploy.segmenter import Segmenter, load
from cpsl_deploy.spec import METADATA_KEY, ModelSpec
from cpsl_deploy.streams.tiling import Axis, Tiler, Tiling

BOTH = ("labels", "logits")


def cells_model(
    path: Path,
    *,
    size: tuple[int, int] = (64, 96),
    stride: int = 4,
    static: bool = False,
    batch: int | None = 1,
    align_corners: bool = False,
    outputs: tuple[str, ...] = ("logits",),
    border: float = 0.0,
) -> Path:
    """A file whose logits are those of `tiny_onnx` for the mean colour of each cell of ``stride`` pixels.
    ``border`` is added to class 0 in the cells along the border of what the file is given."""
    order = np.array(CLASS_COLOURS, np.float32)[:, ::-1]
    constants = {
        "weight": (2 * order)[:, :, None, None],
        "bias": -(order**2).sum(1),
        "edge_weight": np.array([border, 0, 0, 0], np.float32)[:, None, None, None] * np.ones((1, 1, 3, 3)),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float_image"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float_image"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool", ["planes"], ["means"], kernel_shape=[stride] * 2, strides=[stride] * 2
        ),
        helper.make_node("Conv", ["means", "weight", "bias"], ["inner"]),
        helper.make_node("ReduceMax", ["means"], ["some"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["some", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "one"], ["ones"]),
        helper.make_node("Conv", ["ones", "edge_weight"], ["edges"], pads=[1, 1, 1, 1]),
        helper.make_node("Sub", ["inner", "edges"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["classes"], axis=1, keepdims=0),
    ]
    constants["zero"], constants["one"] = np.zeros(1, np.float32), np.ones(1, np.float32)
    count = batch or "N"
    height, width = size if static else ("H", "W")
    graph = helper.make_graph(
        nodes,
        "cells",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [count, height, width, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [count, len(CLASS_NAMES), "h", "w"])],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    spec = ModelSpec(
        architecture="cells",
        class_names=CLASS_NAMES,
        palette=PALETTE,
        size=size,
        stride=stride,
        align_corners=align_corners,
    )
    metadata = {METADATA_KEY: spec.to_json(), **Contract(outputs=outputs).to_metadata()}
    helper.set_model_props(model, metadata)
    path.write_bytes(model.SerializeToString())
    return path


def whole(segmenter: Segmenter, frame: np.ndarray) -> dict[str, np.ndarray]:
    """What the file says of the frame itself, at its own resolution."""
    outputs = segmenter.backend.infer(frame[None])
    return {name: values[0] for name, values in outputs.items()}


def blobs(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A BGR image of rectangles in the class colours, less clear by noise."""
    rng = np.random.default_rng(seed)
    classes = np.zeros((height, width), np.int64)
    for _ in range(60):
        y, x = rng.integers(height), rng.integers(width)
        classes[y : y + rng.integers(4, 60), x : x + rng.integers(4, 60)] = rng.integers(4)
    image = np.array(CLASS_COLOURS)[classes][..., ::-1] + rng.integers(-20, 21, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def ramp_sum(axis: Axis) -> np.ndarray:
    total = np.zeros(max(axis.cells, axis.weights.shape[1]))
    for start, weights in zip(axis.starts, axis.weights, strict=True):
        total[start : start + len(weights)] += weights
    return total


def test_weights_sum_to_one_and_tiles_cover_the_frame_with_the_overlap_asked_for():
    rng = np.random.default_rng(0)
    for _ in range(400):
        step = int(rng.choice([1, 2, 4, 8, 16]))
        tile = step * int(rng.integers(4, 60))
        pixels = int(rng.integers(16, 2000))
        overlap = int(rng.integers(0, tile // 2 + 1))
        axis = Axis.of(pixels, tile, step, overlap)
        size = axis.weights.shape[1]
        assert np.allclose(ramp_sum(axis), 1, atol=1e-6)
        assert axis.weights.min() > 0
        assert axis.starts[0] == 0 and (axis.starts[-1] + size) * step >= pixels
        if len(axis.starts) > 1:
            gaps = np.diff(axis.starts)
            assert axis.starts[-1] + size == axis.cells
            assert gaps.max() <= size - min(round(overlap / step), size // 2)
            # As few as can be: one less would not do.
            fewer = (axis.cells - size) / max(len(axis.starts) - 2, 1)
            assert len(axis.starts) == 2 or fewer > size - min(round(overlap / step), size // 2)


def test_two_neighbours_ramps_are_linear_over_what_they_share():
    axis = Axis.of(28, 16, 1, 4)
    assert axis.starts == (0, 12)
    assert np.allclose(axis.weights[0], [1] * 12 + [0.875, 0.625, 0.375, 0.125])
    assert np.allclose(axis.weights[1], axis.weights[0][::-1])


@pytest.mark.parametrize("size", [(96, 160), (97, 161), (65, 200), (64, 97 * 4), (48, 300), (200, 40)])
@pytest.mark.parametrize("overlap", [0, 0.25, 40])
def test_a_model_that_looks_at_single_pixels_says_the_same_tiled_as_whole(tmp_path, size, overlap):
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 256, (*size, 3), np.uint8)
    if size == (97, 161):
        frame = np.ascontiguousarray(street(*size)[:, :, ::-1])
    path = write_tiny_onnx(tmp_path / "m.onnx", size=(64, 80), static=True, outputs=BOTH)
    with load(path) as segmenter:
        tiler = Tiler(segmenter, Tiling(overlap=overlap if overlap < 33 else 32))
        tiled = tiler.predict(frame)
        assert tiler.axes(*size) is not None
    assert np.array_equal(tiled.labels, nearest_colour(frame[:, :, ::-1]))
    assert tiled.labels.flags.c_contiguous and tiled.frame is frame
    colours = np.array(CLASS_COLOURS, np.float64)[:, ::-1]
    logits = (2.0 * frame @ colours.T - (colours**2).sum(1)).transpose(2, 0, 1)
    assert tiled.logits is not None and tiled.logits.dtype == np.float32
    assert np.allclose(tiled.logits, logits, rtol=1e-5, atol=0.1)
    assert set(tiled.timings_ms) == {"pre", "inference", "blend", "post"} and tiled.latency_ms > 0


@pytest.mark.parametrize("size", [(128, 192), (160, 100), (130, 223)])
def test_cells_fall_on_the_same_places_tiled_as_whole(tmp_path, size):
    frame = blobs(*size)
    with load(cells_model(tmp_path / "m.onnx")) as segmenter:
        tiled = Tiler(segmenter, Tiling()).predict(frame)
        padded = np.pad(frame, [(0, -side % 4) for side in size] + [(0, 0)], mode="reflect")
        expected = whole(segmenter, padded)["logits"]
    assert tiled.logits is not None and tiled.logits.shape == expected.shape
    # The model's logits lie 4 pixels apart. Upsampled here by the definition, cropped, and the argmax taken.
    at = [np.clip((np.arange(side) + 0.5) / 4 - 0.5, 0, None) for side in padded.shape[:2]]
    low = [np.minimum(a.astype(int), n - 1) for a, n in zip(at, expected.shape[1:], strict=True)]
    high = [np.minimum(i + 1, n - 1) for i, n in zip(low, expected.shape[1:], strict=True)]
    down, across = (a - i for a, i in zip(at, low, strict=True))
    rows = expected[:, low[0]] * (1 - down)[:, None] + expected[:, high[0]] * down[:, None]
    full = rows[:, :, low[1]] * (1 - across) + rows[:, :, high[1]] * across
    labels = full.argmax(0)[: size[0], : size[1]]
    top_two = np.sort(full, axis=0)[-2:, : size[0], : size[1]]
    clear = top_two[1] - top_two[0] > 1
    assert clear.mean() > 0.98
    assert np.array_equal(tiled.labels[clear], labels[clear])


def test_the_logits_given_lie_as_every_predictions_do(tmp_path):
    """A gradient from left to right: at a width that is no multiple of the stride the given logits are spread
    over the frame's width, and not over that of the cells which cover it."""
    width = 6 * 32 + 9
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    frame = np.broadcast_to(ramp[None, :, None], (64, width, 3)).copy()
    with load(cells_model(tmp_path / "m.onnx", size=(64, 64), stride=8)) as segmenter:
        logits = Tiler(segmenter, Tiling()).predict(frame).logits
    assert logits is not None and logits.shape == (4, 8, 26)
    at = (np.arange(26) + 0.5) * (width / 26) - 0.5
    grey = np.interp(at, np.arange(width), ramp)
    colour = np.array(CLASS_COLOURS[2], np.float64)
    expected = 2 * grey * colour.sum() - (colour**2).sum()
    inside = slice(1, -1)  # a cell at the border is as wide as the others, and mirrored
    assert np.abs(logits[2, 4] - expected)[inside].max() < 3 * 2 * colour.sum()


def test_seams_are_invisible_where_tiles_disagree_about_their_borders(tmp_path):
    """The model is wrong along the border of whatever it is given. Cut without overlap, that is seen at the
    seams; with overlap the wrong values have hardly any weight."""
    frame = np.full((64, 288, 3), CLASS_COLOURS[0][::-1], np.uint8)
    with load(cells_model(tmp_path / "m.onnx", border=20.0)) as segmenter:
        inside = whole(segmenter, frame)["logits"][0, 8]
        jumps = {}
        for overlap in (0, 0.5):
            logits = Tiler(segmenter, Tiling(overlap=overlap)).predict(frame).logits
            assert logits is not None
            off = np.abs(logits[0, 8] - inside)[2:-2]
            jumps[overlap] = float(np.abs(np.diff(off)).max()), float(off.max())
    # The border's cell is off by 60 (three cells outside): that times its weight, 0.5 / 12, with overlap.
    assert jumps[0][1] == pytest.approx(60, rel=0.01)
    assert jumps[0.5][1] == pytest.approx(60 * 0.5 / 12, rel=0.3)
    assert jumps[0.5][0] < 0.1 * jumps[0][0]


def test_a_gradient_across_the_seams_stays_one(tmp_path):
    ramp = np.linspace(0, 255, 400)
    frame = np.broadcast_to(ramp.astype(np.uint8)[None, :, None], (64, 400, 3)).copy()
    with load(cells_model(tmp_path / "m.onnx")) as segmenter:
        logits = Tiler(segmenter, Tiling()).predict(frame).logits
        expected = whole(segmenter, frame)["logits"]
    assert logits is not None
    assert np.allclose(logits, expected, rtol=1e-5, atol=0.1)


def test_logits_that_are_aligned_with_the_corners_are_brought_to_common_places(tmp_path):
    """Such logits lie (side - 1) / (cells - 1) pixels apart, so tiles' do not fall on each other's: they are
    interpolated, and so is what is given, which lies on the frame's corners again."""
    frame = blobs(64, 192)
    with load(cells_model(tmp_path / "m.onnx", align_corners=True)) as segmenter:
        tiled = Tiler(segmenter, Tiling(overlap=0)).predict(frame)
        halves = [whole(segmenter, np.ascontiguousarray(part))["logits"] for part in np.split(frame, 2, 1)]

    def along(values: np.ndarray, axis: int, at: np.ndarray, to: np.ndarray) -> np.ndarray:
        return np.apply_along_axis(lambda line: np.interp(to, at, line), axis, values)

    rows, columns = np.arange(16) * 4 + 1.5, np.arange(24) * 4 + 1.5
    canvas = np.concatenate(
        [
            along(along(half, 1, np.linspace(0, 63, 16), rows), 2, np.linspace(0, 95, 24), columns)
            for half in halves
        ],
        axis=2,
    )
    given = along(canvas, 1, rows, np.linspace(0, 63, 16))
    given = along(given, 2, np.arange(48) * 4 + 1.5, np.linspace(0, 191, 48))
    assert tiled.logits is not None and np.allclose(tiled.logits, given, rtol=1e-4, atol=0.1)


def test_frames_that_the_model_sees_as_they_are_go_the_normal_way(tmp_path):
    frames = [(64, 96), (63, 95), (65, 98), (128, 48), (40, 60)]
    with load(cells_model(tmp_path / "m.onnx")) as segmenter:
        tiler = Tiler(segmenter, Tiling())
        for size in frames:
            frame = blobs(*size)
            assert tiler.axes(*size) is None
            assert np.array_equal(tiler.predict(frame).labels, segmenter.predict(frame).labels)
        assert tiler.axes(72, 96) is not None
        with pytest.raises(InputError, match=r"uint8 \(H, W, 3\)"):
            tiler.predict(np.zeros((64, 96), np.uint8))


def test_a_static_file_cuts_by_its_own_size(tmp_path):
    with load(cells_model(tmp_path / "m.onnx", size=(32, 48), static=True)) as segmenter:
        tiler = Tiler(segmenter, Tiling())
        assert tiler.tile_size == (32, 48)
        assert tiler.axes(32, 48) is None and tiler.axes(20, 40) is None
        axes = tiler.axes(32, 200)
        assert axes is not None and axes[0].starts == (0,) and len(axes[1].starts) > 3
        assert tiler.predict(blobs(32, 200)).labels.shape == (32, 200)


@pytest.mark.parametrize(("batch", "wanted"), [(None, 4), (4, None), (1, None)])
def test_tiles_go_in_batches_where_the_file_takes_them(tmp_path, batch, wanted):
    frame = blobs(128, 200)
    path = cells_model(tmp_path / "m.onnx", batch=batch)
    with load(cells_model(tmp_path / "one.onnx")) as segmenter:
        expected = Tiler(segmenter, Tiling()).predict(frame).labels
    with load(path) as segmenter:
        counts: list[int] = []
        infer = segmenter.backend.infer_impl
        segmenter.backend.infer_impl = lambda frames: (counts.append(len(frames)), infer(frames))[1]
        tiled = Tiler(segmenter, Tiling(), batch=wanted).predict(frame)
    assert np.array_equal(tiled.labels, expected)
    assert sum(counts) >= 9 and max(counts) == (wanted or batch)
    if batch is not None:
        assert set(counts) == {batch}


def test_rgb_frames_and_confidence(tmp_path):
    frame = street(96, 160)
    path = write_tiny_onnx(
        tmp_path / "m.onnx", size=(64, 80), static=True, outputs=("labels", "confidence", "logits")
    )
    with load(path) as segmenter:
        tiled = Tiler(segmenter, Tiling()).predict(frame, colour_order="RGB")
    assert np.array_equal(tiled.labels, nearest_colour(frame)) and tiled.colour_order == "RGB"
    # Of the blended logits: colours of the classes themselves are sure. (The file's own says label + 100.)
    assert tiled.confidence is not None and tiled.confidence.shape == (96, 160)
    assert tiled.confidence.min() == 255


def test_the_frame_is_not_written_to(tmp_path):
    frame = blobs(130, 223)
    before = frame.copy()
    frame.setflags(write=False)
    with load(cells_model(tmp_path / "m.onnx")) as segmenter:
        Tiler(segmenter, Tiling()).predict(frame)
    assert np.array_equal(frame, before)


def test_a_file_without_logits_is_refused_with_the_remedy(tmp_path):
    with (
        load(write_tiny_onnx(tmp_path / "m.onnx")) as segmenter,
        pytest.raises(UnavailableError, match=r"gives labels alone.*cpsl-export RUN --outputs logits"),
    ):
        Tiler(segmenter, Tiling())


def test_logits_that_are_no_numbers_are_the_files_fault(tmp_path):
    with (
        load(cells_model(tmp_path / "m.onnx", border=float("inf"))) as segmenter,
        pytest.raises(ModelFileError, match=r"m\.onnx.*finite.*cpsl-export"),
    ):
        Tiler(segmenter, Tiling()).predict(blobs(128, 200))


@pytest.mark.parametrize("overlap", [-0.1, 0.6, 1, 1.5, 64.5, float("nan"), float("inf"), True, "0.25"])
def test_an_overlap_that_breaks_the_rule_is_refused(overlap):
    with pytest.raises(InputError, match=r"0 to 0\.5"):
        Tiling(overlap=overlap)


@pytest.mark.parametrize("text", ["", "a", "-0.1", "nan", "0.25,0.25", "1e2", "9" * 5000])
def test_text_that_is_no_overlap_is_refused(text):
    with pytest.raises(InputError, match=r"0 to 0\.5"):
        Tiling.parse(text)


def test_an_overlap_in_pixels_is_half_of_the_tile_at_most(tmp_path):
    assert Tiling.parse(" 32 ") == Tiling(overlap=32) and Tiling.parse("0.5").overlap == 0.5
    with load(cells_model(tmp_path / "m.onnx")) as segmenter:
        axes = Tiler(segmenter, Tiling(overlap=32)).axes(64, 96 * 3)
        assert axes is not None
        assert np.diff(axes[1].starts).max() * 4 <= 96 - 32
        with pytest.raises(InputError, match="32 pixels for tiles of 64x96"):
            Tiler(segmenter, Tiling(overlap=33))
