"""Inferences whose transfers are timed apart give what the others give, and wait where they must."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import stand_in_gpu
from bench_backends import DeviceBackend, KnownBackend, grey, segmenter_of

from cpsl_deploy import load
from cpsl_deploy.backends import open_backend, tensorrt_backend
from cpsl_deploy.backends.onnxruntime_transfers import BoundRun
from cpsl_deploy.bench.synchronisation import check_synchronised
from cpsl_deploy.errors import InputError, ModelFileError

tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)
PARTS = ["host_to_device", "inference", "device_to_host"]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_without_memory_of_its_own_there_are_no_transfers(tiny_model: Path, name: str) -> None:
    pytest.importorskip(name)
    with open_backend(tiny_model, backend=name) as opened:
        outputs, parts_ms = opened.infer_timed(noise(1, 24, 40))
        np.testing.assert_array_equal(outputs["labels"], opened.infer(noise(1, 24, 40))["labels"])
        opened.synchronise()
    assert list(parts_ms) == ["inference"] and parts_ms["inference"] > 0
    opened.synchronise()


def test_timed_frames_are_checked_as_others() -> None:
    backend = KnownBackend()
    with pytest.raises(InputError, match="uint8 frames of shape"):
        backend.infer_timed(noise(8, 8))
    backend.labels_of = lambda frames: np.full(frames.shape[:3], 9, np.uint8)
    with pytest.raises(ModelFileError, match="gave the label 9"):
        backend.infer_timed(noise(1, 16, 24))
    backend.close()
    with pytest.raises(InputError, match="is closed"):
        backend.infer_timed(noise(1, 16, 24))


def test_timed_or_not_a_prediction_is_the_same_and_adds_up_the_same() -> None:
    segmenter = segmenter_of(DeviceBackend(0.002, batch=None))
    prepared = [segmenter.prepare(grey(value)) for value in (5, 6)]
    plain = [segmenter.finish(one) for one in segmenter.infer(prepared)]
    timed = [segmenter.finish(one) for one in segmenter.infer(prepared, timed=True)]
    for one, other in zip(plain, timed, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        assert list(one.timings_ms) == ["pre", "inference", "post"]
        assert list(other.timings_ms) == ["pre", "host_to_device", "device_to_host", "inference", "post"]
        # Each of two frames has its share: the whole is 2 ms of work and three times 2 ms of copies.
        assert other.timings_ms["host_to_device"] == pytest.approx(1.0)
        assert other.timings_ms["device_to_host"] == pytest.approx(2.0)
        assert other.timings_ms["inference"] >= 1.0
        assert one.timings_ms["inference"] >= 1.0 and other.latency_ms >= 4.0


class TestBoundRun:
    """The I/O binding, with the CPU's memory in the place of a GPU's."""

    def test_same_outputs_at_every_size_and_nothing_is_shared(self, tmp_path: Path) -> None:
        path = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", batch=None, outputs=("labels", "confidence"))
        with open_backend(path) as opened:
            bound = BoundRun(opened._session, ("labels", "confidence"), "cpu")
            kept = []
            for shape in ((1, 8, 12), (1, 8, 12), (2, 8, 12), (1, 20, 8), (1, 8, 12)):
                frames = noise(*shape)
                outputs, transfers_ms = bound.run(frames)
                expected = opened.infer(frames)
                assert list(outputs) == ["labels", "confidence"]
                assert list(transfers_ms) == ["host_to_device", "device_to_host"]
                assert min(transfers_ms.values()) > 0
                kept += [(outputs[name], expected[name]) for name in outputs]
            bound.run(255 - frames)
            bound.synchronise()
        for got, wanted in kept:
            np.testing.assert_array_equal(got, wanted)

    def test_a_backend_that_uses_it(self, tiny_model: Path) -> None:
        with load(tiny_model) as segmenter:
            segmenter.backend._bound = BoundRun(segmenter.backend._session, ("labels",), "cpu")
            outputs, parts_ms = segmenter.backend.infer_timed(noise(1, 24, 40))
            np.testing.assert_array_equal(
                outputs["labels"], segmenter.backend.infer(noise(1, 24, 40))["labels"]
            )
            assert sorted(parts_ms) == sorted(PARTS)
            found = check_synchronised(segmenter, [noise(96, 160)], pause_s=0.02)
        assert found.checked_frames == 1 and segmenter.backend._bound is None


class TestEngine:
    """The order of the calls on the stream, with host memory in the place of a GPU's."""

    @pytest.fixture
    def gpu_calls(self, monkeypatch: pytest.MonkeyPatch) -> stand_in_gpu.Cuda:
        cuda = stand_in_gpu.Cuda()
        bindings = types.ModuleType("cuda.bindings")
        bindings.runtime = cuda
        monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
        monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
        monkeypatch.setitem(sys.modules, "tensorrt", stand_in_gpu.tensorrt_module())
        monkeypatch.setattr(tensorrt_backend, "nvidia_gpu_count", lambda: 1)
        return cuda

    def test_the_stream_is_waited_for_between_the_parts_only_where_they_are_timed(
        self, tmp_path: Path, gpu_calls: stand_in_gpu.Cuda
    ) -> None:
        path = tmp_path / "model.engine"
        path.write_bytes(b"96x160")
        tensorrt_backend.write_sidecar(path, tiny_onnx.tiny_metadata())
        up, wait, down = "cudaMemcpyHostToDevice", "synchronise", "cudaMemcpyDeviceToHost"
        frames = noise(1, 96, 160)
        with load(path) as segmenter:
            plain = segmenter.backend.infer(frames)["labels"]
            assert gpu_calls.calls == [up, down, wait]
            gpu_calls.calls.clear()
            outputs, parts_ms = segmenter.backend.infer_timed(frames)
            assert gpu_calls.calls == [up, wait, wait, down, wait]
            assert sorted(parts_ms) == sorted(PARTS) and min(parts_ms.values()) > 0
            np.testing.assert_array_equal(outputs["labels"], plain)
            np.testing.assert_array_equal(plain, stand_in_gpu.label_of(frames[..., 0]))
            assert check_synchronised(segmenter, [frames[0]], pause_s=0.02).checked_frames == 1
        segmenter.backend.synchronise()  # of a closed engine: nothing is left, and nothing is called
        assert gpu_calls.allocated == {} and gpu_calls.streams == set()
