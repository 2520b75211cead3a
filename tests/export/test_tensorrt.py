"""The engine builder against a stand-in for TensorRT's Python API: what it asks for and what it writes.

TensorRT itself needs a GPU; that the stand-in's names are the real ones is in test_tensorrt_api.py.
"""

from __future__ import annotations

import _thread
import errno
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from export_networks import small_model, spec_for
from stand_in_tensorrt import WORKSPACE, Driver, FakeTensorRT, contents

from cpsl_deploy.backends.tensorrt_backend import read_sidecar
from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import InputError, ModelFileError, OutputError, UnavailableError
from cpsl_deploy.export.tensorrt.engine import build_engine, ensure_engine
from cpsl_deploy.export.tensorrt.profile import Profile
from cpsl_deploy.files import sha256


@pytest.mark.parametrize(("version", "flags"), [("10.3.0", 0b10), ("10.16.1.11", 0b10), ("11.4.0.106", 0)])
def test_one_path_for_both_major_versions(
    onnx_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch, version: str, flags: int
) -> None:
    fake = FakeTensorRT(version=version)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    engine = ensure_engine(onnx_path)
    assert fake.calls["flags"] == flags
    assert fake.calls["onnx"] == onnx_path.read_bytes()
    assert "profile" not in fake.calls and "pool" not in fake.calls
    assert engine.path.read_bytes() == b"engine 1" and not engine.reused


def test_beside_the_model_are_the_engine_and_its_key(onnx_path: Path, trt: FakeTensorRT) -> None:
    engine = ensure_engine(onnx_path, workspace_gib=2)
    assert sorted(contents(onnx_path.parent)) == ["model.engine", "model.engine.json", "model.onnx"]
    sidecar = read_sidecar(engine.path)
    assert json.loads(sidecar.pop("cpsl_deploy"))["class_names"] == list(spec_for(small_model()).class_names)
    expected = {
        "weights_sha256": "12ab",
        "onnx_sha256": sha256(onnx_path),
        "tensorrt_version": "10.16.1.11",
        "gpu": "Some GPU",
        "compute_capability": "8.7",
        "driver_version": "580.95.05",
        "driver_cuda_version": "13.0",
        "profile": "1x64x96",
        "workspace_gib": "2",
        "engine_sha256": sha256(engine.path),
    }
    assert expected.items() <= sidecar.items()
    assert Contract.from_metadata(sidecar, "engine") == Contract()
    assert trt.calls["pool"] == (WORKSPACE, 2 * 2**30)
    assert trt.calls["cleared"] == trt.BuilderFlag.TF32, "float32 files compute in float32"


def test_messages_go_to_the_log_and_verbose_ones_on_demand(
    onnx_path: Path, trt: FakeTensorRT, caplog: pytest.LogCaptureFixture
) -> None:
    def talks(monitor: Any) -> bool:
        for severity in range(5):
            trt.log(severity, f"note {severity}")
        return True

    trt.during = talks
    caplog.set_level(logging.DEBUG, logger="cpsl_deploy.export")
    levels = []
    for verbose in (False, True):
        caplog.clear()
        build_engine(onnx_path, verbose=verbose)
        levels.append([r.levelname for r in caplog.records if "TensorRT: note" in r.getMessage()])
    assert levels == [
        ["ERROR", "ERROR", "WARNING", "DEBUG", "DEBUG"],
        ["ERROR", "ERROR", "WARNING", "INFO", "INFO"],
    ]


def test_a_free_input_gets_a_profile(free_onnx: Path, tmp_path: Path, trt: FakeTensorRT) -> None:
    path = tmp_path / "model.engine"
    ensure_engine(free_onnx, path)
    one = (1, 64, 96, 3)
    assert trt.calls["profile"] == ("image", one, one, one)
    ensure_engine(free_onnx, path, profile=Profile.from_text("1x64x96,2x96x128,8x544x960"))
    assert trt.calls["profile"] == ("image", one, (2, 96, 128, 3), (8, 544, 960, 3))
    assert read_sidecar(path)["profile"] == "1x64x96,2x96x128,8x544x960"
    trt.profile_fits = False
    with pytest.raises(InputError, match="does not accept the profile 1x32x32"):
        ensure_engine(free_onnx, path, profile=Profile.fixed(32, 32))


def test_kernel_times_are_kept_and_those_of_another_gpu_dropped(
    onnx_path: Path, tmp_path: Path, trt: FakeTensorRT, caplog: pytest.LogCaptureFixture
) -> None:
    build_engine(onnx_path)
    assert (tmp_path / "cache/tensorrt/Some-GPU-8.7-trt10.16.1.11.timing").read_bytes() == b"times"
    build_engine(onnx_path)
    assert trt.calls["caches"] == [b"", b"times"]
    trt.cache_fits = False
    build_engine(onnx_path)
    assert trt.calls["caches"][2:] == [b"times", b""]
    assert "of another GPU or version; kernels are timed anew" in caplog.text


def test_kernel_times_that_cannot_be_kept_are_no_error(
    onnx_path: Path, tmp_path: Path, trt: FakeTensorRT, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file in the folder's place")
    assert ensure_engine(onnx_path).path.is_file()
    assert "timing cache was not kept" in caplog.text


@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        ("parses", ModelFileError, r"cannot read .*model\.onnx: no kernel \(node conv1, Conv\)"),
        ("builds", ModelFileError, r"cannot build .* for Some GPU: out of memory\. .*--workspace-gib"),
        (
            "starts",
            UnavailableError,
            r"cannot use Some GPU: CUDA init.*error: 35\. .*CUDA 13\.0;.*driver 580",
        ),
    ],
)
def test_a_failed_build_has_tensorrts_words_and_leaves_the_earlier_engine(
    onnx_path: Path, trt: FakeTensorRT, broken: str, error: type[Exception], message: str
) -> None:
    ensure_engine(onnx_path)
    before = contents(onnx_path.parent)
    setattr(trt, broken, False)
    with pytest.raises(error, match=message):
        build_engine(onnx_path)
    assert contents(onnx_path.parent) == before


def test_progress_is_told(onnx_path: Path, trt: FakeTensorRT) -> None:
    seen: list[tuple[str, float]] = []

    def slowly(monitor: Any) -> bool:
        monitor.phase_start("Building", None, 2)
        monitor.step_complete("Building", 0)
        monitor.phase_start("Timing", "Building", 4)
        monitor.step_complete("Timing", 1)
        while ("Building > Timing", 0.75) not in seen:
            pass
        monitor.phase_finish("Timing")
        monitor.phase_finish("Building")
        return True

    trt.during = slowly
    ensure_engine(onnx_path, on_progress=lambda phases, share: seen.append((phases, share)))
    assert seen[-1] == ("Building > Timing", 0.75)


def test_ctrl_c_stops_at_the_next_step_and_leaves_the_earlier_engine(
    onnx_path: Path, trt: FakeTensorRT
) -> None:
    ensure_engine(onnx_path)
    before = contents(onnx_path.parent)
    steps = []

    def until_stopped(monitor: Any) -> bool:
        monitor.phase_start("Building", None, 10**9)
        _thread.interrupt_main()
        while monitor.step_complete("Building", len(steps)):
            steps.append(1)
        return False

    trt.during = until_stopped
    with pytest.raises(KeyboardInterrupt, match=r"No engine was written.*model\.onnx"):
        build_engine(onnx_path)
    assert steps and contents(onnx_path.parent) == before


def test_an_error_while_showing_progress_ends_the_build(onnx_path: Path, trt: FakeTensorRT) -> None:
    def until_stopped(monitor: Any) -> bool:
        while monitor.step_complete("Building", 0):
            pass
        return False

    def broken_pipe(phases: str, share: float) -> None:
        raise BrokenPipeError

    trt.during = until_stopped
    with pytest.raises(BrokenPipeError):
        ensure_engine(onnx_path, on_progress=broken_pipe)


@pytest.mark.parametrize("call", [1, 2])
def test_a_full_disk_leaves_both_earlier_files(
    onnx_path: Path, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    ensure_engine(onnx_path)
    before = contents(onnx_path.parent)
    writers = {1: "write_bytes", 2: "write_text"}

    def full(path: Path, *args: Any, **kwargs: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, writers[call], full)
    with pytest.raises(OutputError, match=r"disk is full.*What was there before is untouched"):
        build_engine(onnx_path)
    monkeypatch.undo()
    assert contents(onnx_path.parent) == before


def test_a_limit_that_tensorrt_leaves_out_is_an_error(onnx_path: Path, trt: FakeTensorRT) -> None:
    trt.limit_fits = False
    with pytest.raises(InputError, match=r"not accept a workspace limit of 64 GiB on Some GPU"):
        ensure_engine(onnx_path, workspace_gib=64)
    assert trt.calls["builds"] == 0


def test_a_place_that_cannot_be_written_is_told_before_the_build(onnx_path: Path, trt: FakeTensorRT) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        ensure_engine(onnx_path, onnx_path / "model.engine")
    assert trt.calls["builds"] == 0
