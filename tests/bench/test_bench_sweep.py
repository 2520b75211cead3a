"""Sweeps over sizes and batches: what is run, in which order, and what a file does not take."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import stand_in_gpu
from bench_backends import SIZE, DeviceBackend, KnownBackend, grey_frames, segmenter_of

from cpsl_deploy import load
from cpsl_deploy.backends import tensorrt_backend
from cpsl_deploy.bench.frames import synthetic_frames
from cpsl_deploy.bench.sweep import LEAST_ROUNDS, SLOW_MS, SweepGap, SweepPoint, measure_sweep
from cpsl_deploy.errors import InputError, UnavailableError

FRAMES = grey_frames(4, 9, 14)


def sweep_cells(*arguments, **options):
    """The cells of a sweep, whose section is made of them."""
    found = measure_sweep(*arguments, **options)
    assert found.to_json() == [cell.to_json() for cell in found.cells]
    return found.cells


def test_every_size_with_every_batch_each_as_the_file_gets_it():
    backend = KnownBackend(batch=None)
    found = sweep_cells(
        segmenter_of(backend),
        FRAMES,
        sizes=[(16, 24), (32, 48), (8, 48)],
        batches=[1, 3],
        rounds=2,
        per_round=2,
    )
    assert [(one.frame_size, one.batch) for one in found] == [
        (size, batch) for size in ((16, 24), (32, 48), (8, 48)) for batch in (1, 3)
    ]
    # About as many pixels as the model is for: 384. The last has as many, and is given as it is.
    assert [one.input_size for one in found] == 4 * [(16, 24)] + 2 * [(8, 48)]
    for point in found:
        assert list(point.stages_ms) == ["pre", "inference", "post", "total"]
        assert all(summary.count == 4 for summary in point.stages_ms.values())
        assert point.fps == pytest.approx(1000 / point.stages_ms["total"].mean)
        section = point.to_json()
        assert set(section) == {"frame_size", "batch", "input_size", "stages_ms", "fps"}
        assert section["frame_size"] == list(point.frame_size) and section["stages_ms"]["total"]["count"] == 4


def test_frames_at_their_own_size():
    backend = KnownBackend(batch=None)
    found = sweep_cells(
        segmenter_of(backend), FRAMES, sizes=[(20, 24), (32, 48)], own_size=True, rounds=1, per_round=1
    )
    assert [one.input_size for one in found] == [(20, 24), (32, 48)]
    assert {shape[1:3] for shape in backend.shapes} == {(20, 24), (32, 48)}


def test_configurations_take_turns_and_each_visit_begins_with_a_batch_that_is_not_counted():
    backend = KnownBackend(batch=None)
    sweep_cells(segmenter_of(backend), FRAMES, sizes=[SIZE], batches=[1, 2, 3], rounds=3, per_round=2)
    batches = [shape[0] for shape in backend.shapes[9:]]  # without the warm-up of three each
    assert batches == [one for order in ((1, 2, 3), (2, 3, 1), (3, 1, 2)) for one in order for _ in range(3)]


def test_times_are_of_one_frame():
    """20 ms a batch, however many frames are in it; the copies, too, have their share."""
    found = sweep_cells(
        segmenter_of(DeviceBackend(0.02, batch=None)), FRAMES, batches=[1, 4], rounds=2, per_round=2
    )
    one, four = found
    assert list(one.stages_ms) == ["pre", "host_to_device", "inference", "device_to_host", "post", "total"]
    assert one.frame_size == SIZE  # of the model, without sizes
    assert one.stages_ms["host_to_device"].p50 == pytest.approx(2.0)
    assert four.stages_ms["host_to_device"].p50 == pytest.approx(0.5)
    assert one.stages_ms["inference"].p50 >= 20.0 > four.stages_ms["inference"].p50 >= 5.0
    assert one.stages_ms["total"].p50 > 2 * four.stages_ms["total"].p50 and four.fps > 2 * one.fps


def test_a_file_of_one_batch_and_one_size(tmp_path):
    tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)
    pytest.importorskip("onnxruntime")
    path = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", size=(32, 64), static=True, batch=2)
    frames = synthetic_frames((48, 80), 2)
    with load(path) as segmenter:
        arguments = {"sizes": [(32, 64), (64, 64)], "batches": [1, 2, 4], "rounds": 1, "per_round": 1}
        resized = sweep_cells(segmenter, frames, **arguments)
        own = sweep_cells(segmenter, frames, own_size=True, **arguments)
    taken = [(one.frame_size, one.batch) for one in resized if isinstance(one, SweepPoint)]
    assert taken == [((32, 64), 2), ((64, 64), 2)]
    assert all(
        "this file takes 2 frames at a time" in one.reason for one in resized if isinstance(one, SweepGap)
    )
    assert [isinstance(one, SweepPoint) for one in own] == [False, True, False, False, False, False]
    assert "takes frames of 32x64 (height x width) only" in own[4].reason
    assert own[4].to_json() == {"frame_size": [64, 64], "batch": 2, "unavailable": own[4].reason}


@pytest.mark.parametrize(
    ("own_size", "inside", "reason"),
    [
        (False, (122, 122), "would be given to it at 96x160"),
        (
            True,
            (80, 80),
            "takes frames (N, H, W, 3) from (1, 64, 64, 3) to (2, 128, 150, 3); got (2, 96, 160, 3)",
        ),
    ],
)
def test_sizes_outside_an_engines_profile(tmp_path, monkeypatch, own_size, inside, reason):
    tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)
    bindings = types.ModuleType("cuda.bindings")
    bindings.runtime = stand_in_gpu.Cuda()
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in_gpu.tensorrt_module())
    monkeypatch.setattr(tensorrt_backend, "nvidia_gpu_count", lambda: 1)
    engine = tmp_path / "model.engine"
    engine.write_text("profile 1x64x64 2x128x150")
    tensorrt_backend.write_sidecar(engine, tiny_onnx.tiny_metadata())
    with load(engine) as segmenter:
        found = sweep_cells(
            segmenter,
            synthetic_frames((96, 160), 1),
            sizes=[(96, 160), inside],
            batches=[2, 3],
            own_size=own_size,
            rounds=1,
            per_round=1,
        )
    outside, _, taken, too_many = found
    assert isinstance(outside, SweepGap) and reason in outside.reason
    assert isinstance(taken, SweepPoint) and taken.input_size == ((80, 80) if own_size else (120, 120))
    assert isinstance(too_many, SweepGap) and "from (1, 64, 64, 3)" in too_many.reason


def test_memory_that_is_not_to_be_had_is_a_gap_and_the_others_are_measured():
    class Small(KnownBackend):
        def infer_impl(self, frames):
            if len(frames) > 2:
                raise UnavailableError("memory for frames is not to be had")
            return super().infer_impl(frames)

    one, _, eight = sweep_cells(
        segmenter_of(Small(batch=None)), FRAMES, batches=[1, 2, 8], rounds=1, per_round=3
    )
    assert isinstance(one, SweepPoint) and one.stages_ms["total"].count == 3
    assert eight == SweepGap(frame_size=SIZE, batch=8, reason="memory for frames is not to be had")


def test_a_budget_takes_rounds_away():
    def batches_of(budget_s):
        (point,) = sweep_cells(
            segmenter_of(KnownBackend(0.002)), FRAMES, rounds=8, per_round=2, budget_s=budget_s
        )
        return point.stages_ms["total"].count

    assert batches_of(60.0) == 16 and batches_of(1e-6) == 2 * LEAST_ROUNDS


def test_slow_batches_are_all_counted(monkeypatch):
    monkeypatch.setattr("cpsl_deploy.bench.sweep.SLOW_MS", 1.0)
    backend = KnownBackend(0.002)
    (point,) = sweep_cells(segmenter_of(backend), FRAMES, rounds=3, per_round=5)
    assert point.stages_ms["total"].count == 6 and len(backend.seen) == 1 + 6 and SLOW_MS > 1


@pytest.mark.parametrize(
    "wrong", [{"sizes": [(0, 16)]}, {"batches": [0]}, {"rounds": 0}, {"per_round": 0}, {"frames": []}]
)
def test_what_cannot_be_swept_is_refused(wrong):
    frames = wrong.pop("frames", FRAMES)
    with pytest.raises(InputError, match="a sweep is of one frame or more"):
        sweep_cells(segmenter_of(KnownBackend()), frames, **wrong)


def test_different_frames_go_round():
    backend = KnownBackend()
    sweep_cells(segmenter_of(backend), FRAMES, rounds=1, per_round=2)
    assert backend.seen == [4, 9, 14, 4, 9, 14] and np.unique(backend.shapes, axis=0).tolist() == [
        [1, *SIZE, 3]
    ]
