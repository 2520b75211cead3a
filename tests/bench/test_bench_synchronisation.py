"""Backends that return before their work is done are refused, and no others."""

from __future__ import annotations

import pytest
from bench_backends import (
    DeviceBackend,
    KnownBackend,
    LateBackend,
    SharingBackend,
    grey,
    grey_frames,
    segmenter_of,
)

from cpsl_deploy import load
from cpsl_deploy.bench.latency import measure_latency
from cpsl_deploy.bench.synchronisation import check_synchronised
from cpsl_deploy.errors import InputError, UnavailableError

FRAMES = [grey(1), grey(6), grey(3)]


@pytest.mark.parametrize(
    "backend", [KnownBackend(), KnownBackend(0.003), DeviceBackend(), KnownBackend(batch=4)]
)
def test_a_sound_backend_passes(backend):
    found = check_synchronised(segmenter_of(backend), FRAMES, pause_s=0.01)
    assert found.checked_frames == 3 and 0 <= found.left_after_return_ms < 0.2
    assert found.to_json() == {"checked_frames": 3, "left_after_return_ms": found.left_after_return_ms}


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_the_libraries_pass(tmp_path, name):
    pytest.importorskip(name)
    tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)
    path = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", batch=None, outputs=("labels", "logits"))
    with load(path, backend=name) as segmenter:
        assert check_synchronised(segmenter, FRAMES, pause_s=0.05).checked_frames == 3


@pytest.mark.parametrize("blank", [True, False])
def test_work_that_synchronise_waits_for_is_seen_by_its_time(blank):
    backend = LateBackend(0.02, waits=True, blank=blank)
    with pytest.raises(UnavailableError, match=r"late returns before its device is done.*left to wait for"):
        check_synchronised(segmenter_of(backend), FRAMES, pause_s=0.01)
    backend.finish()


@pytest.mark.parametrize("blank", [True, False], ids=["blank", "as before"])
def test_work_that_is_silently_late_is_seen_by_what_it_writes(blank):
    """Also where the same labels lay in the memory already: what is written is noticed, not a difference."""
    backend = LateBackend(0.02, waits=False, blank=blank)
    with pytest.raises(UnavailableError, match=r"late still writes labels after its infer has returned"):
        check_synchronised(segmenter_of(backend), FRAMES, pause_s=0.3)
    backend.finish()


def test_outputs_that_a_later_inference_writes_into_are_seen():
    with pytest.raises(UnavailableError, match="a later inference writes into what an earlier one gave"):
        check_synchronised(segmenter_of(SharingBackend()), FRAMES, pause_s=0.01)


def test_a_timed_inference_that_is_late_is_seen():
    class LateWhenTimed(LateBackend):
        def infer_impl(self, frames):
            return KnownBackend.infer_impl(self, frames)

        def infer_timed_impl(self, frames):
            return LateBackend.infer_impl(self, frames), {}

    backend = LateWhenTimed(0.02, waits=False, blank=True)
    with pytest.raises(UnavailableError, match="still writes labels"):
        check_synchronised(segmenter_of(backend), FRAMES, pause_s=0.3)
    backend.finish()


@pytest.mark.parametrize("waits", [True, False])
def test_nothing_is_measured_of_an_unsynchronised_device(waits):
    backend = LateBackend(0.02, waits=waits, blank=True)
    with pytest.raises(UnavailableError, match="of asking, not of computing"):
        measure_latency(segmenter_of(backend), grey_frames(1, 6, 3), count=1, warm_up=0)
    backend.finish()


def test_no_frames_prove_nothing():
    with pytest.raises(InputError, match="there are none"):
        check_synchronised(segmenter_of(KnownBackend()), [])
