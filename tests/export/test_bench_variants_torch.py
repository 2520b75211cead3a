"""A network in torch against its files: the same labels, each mode doing what it says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_networks import RedSees, Small, small_model, spec_for
from finished_run import Run

from cpsl_deploy.backends import gpu
from cpsl_deploy.bench.variants import Variant, measure_variants
from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import InputError, UnavailableError
from cpsl_deploy.export import bench_variants, torch_backend
from cpsl_deploy.export.bench_variants import TORCH_MODES, network_variants, variants_of_run
from cpsl_deploy.export.gate.frames import generated_frames
from cpsl_deploy.export.torch_backend import TorchBackend, TorchMode
from cpsl_deploy.segmenter import Segmenter

SIZE = (64, 96)
FRAMES = list(generated_frames(SIZE, 2))
MODEL = small_model()
SPEC = spec_for(MODEL, weights_sha256="12ab")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Any:
        raise OSError("no driver")

    monkeypatch.setattr(gpu, "_driver", absent)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def not_compiled(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """``torch.compile`` gives what it is given, at once; returns what it was asked for."""
    asked: list[dict[str, Any]] = []

    def compile(run: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        asked.append(options)
        return run

    monkeypatch.setattr(torch, "compile", compile)
    return asked


@pytest.fixture
def compile_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def compiled(*arguments: Any) -> Any:
            raise RuntimeError(
                "backend='inductor' raised:\nInvalidCxxCompiler: No working C++ compiler\nmore"
            )

        return compiled

    monkeypatch.setattr(torch, "compile", fail)


def in_torch(**mode: Any) -> TorchBackend:
    return TorchBackend(MODEL, SPEC, TorchMode(**mode), size=SIZE)


def expected(frame: np.ndarray) -> np.ndarray:
    """Labels of the network by its own steps, without the graph that is deployed."""
    rgb = torch.from_numpy(frame[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (SPEC.mean, SPEC.std))
    with torch.no_grad():
        logits = MODEL((rgb - mean) / std).logits
    wide = torch.nn.functional.interpolate(logits, size=SIZE, mode="bilinear", align_corners=False)
    return wide.argmax(1)[0].numpy()


@pytest.mark.parametrize(
    ("mode", "least"),
    [({}, 0.999), ({"channels_last": True}, 0.999), ({"precision": "bf16", "channels_last": True}, 0.97)],
)
def test_a_mode_gives_the_network_s_labels(mode: dict[str, Any], least: float) -> None:
    with Segmenter(in_torch(**mode), "test") as segmenter:
        for frame in FRAMES:
            labels = segmenter.predict(frame).labels
            assert labels.dtype == np.uint8 and labels.shape == SIZE
            assert (labels == expected(frame)).mean() >= least
        described = segmenter.describe()
    assert described["backend"] == "torch" and described["device"] == "cpu"
    assert described["precision"] == mode.get("precision", "fp32")
    assert described["channels_last"] is mode.get("channels_last", False)


def test_frames_are_bgr() -> None:
    frame = np.zeros((32, 32, 3), np.uint8)
    frame[:16, :, 2] = 255
    network = RedSees()
    with TorchBackend(network, spec_for(network, size=(32, 32)), TorchMode(), size=(32, 32)) as backend:
        labels = backend.infer(frame[None])["labels"][0]
    assert (labels[:16] == 3).all() and (labels[16:] == 0).all()


def test_the_layout_is_what_the_network_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are channels last in memory by themselves, so the other layout has to be made."""
    seen: list[bool] = []
    real = Small.forward

    def watched(self: Small, image: torch.Tensor) -> Any:
        seen.append(image.is_contiguous())
        return real(self, image)

    monkeypatch.setattr(Small, "forward", watched)
    for layout in (False, True):
        with in_torch(channels_last=layout) as backend:
            seen.clear()
            backend.infer(FRAMES[0][None])
            assert seen == [not layout]


def test_a_batch_and_its_size_are_fixed() -> None:
    with TorchBackend(MODEL, SPEC, TorchMode(), size=SIZE, batch=2) as backend:
        both = backend.infer(np.stack(FRAMES))["labels"]
        assert both.shape == (2, *SIZE)
        assert all(
            (labels == expected(frame)).mean() > 0.999 for labels, frame in zip(both, FRAMES, strict=True)
        )
        with pytest.raises(InputError, match="2 frames at a time"):
            backend.infer(FRAMES[0][None])
    with pytest.raises(InputError, match="closed"):
        backend.infer(np.stack(FRAMES))


def test_labels_are_the_callers() -> None:
    with in_torch() as backend:
        first = backend.infer(FRAMES[0][None])["labels"]
        kept = first.copy()
        backend.infer(FRAMES[1][None])
        assert np.array_equal(first, kept)


def test_threads_are_torch_s_until_it_is_closed(one_thread: None) -> None:
    backend = TorchBackend(MODEL, SPEC, TorchMode(), size=SIZE, threads=2)
    assert backend.describe()["threads"] == 2
    backend.close()
    backend.close()
    assert torch.get_num_threads() == 1


def test_precision_is_what_the_network_really_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """An autocast that does nothing is seen, and the variant is refused by that."""
    real = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype, enabled: real(kind, dtype, enabled=False))

    def opened() -> Segmenter:
        return Segmenter(in_torch(precision="bf16"), "test")

    asked = {"backend": "torch", "device": "cpu", "precision": "bf16"}
    bf16 = Variant(name="bf16 torch", precision="bf16", asked=asked, open=opened)
    with pytest.raises(UnavailableError, match="precision 'fp32' instead of 'bf16'"):
        measure_variants([bf16], FRAMES, rounds=5)


def test_compiling_is_one_graph_of_one_size(not_compiled: list[dict[str, Any]]) -> None:
    with in_torch(compiled=True) as backend:
        assert backend.describe()["compiled"] is True
    assert not_compiled == [{"fullgraph": True, "dynamic": False, "mode": "default"}]


def test_without_a_compiler_the_reason_says_so(compile_fails: None) -> None:
    reason = r"raised: InvalidCxxCompiler: No working C\+\+ compiler\)\. .*Debian: g\+\+"
    with pytest.raises(UnavailableError, match=reason):
        in_torch(compiled=True)


def test_the_gpu_that_is_not_there() -> None:
    with pytest.raises(UnavailableError, match="no CUDA here"):
        in_torch(device="cuda")


@pytest.mark.parametrize(
    ("mode", "message"),
    [({"precision": "f32"}, "fp32, bf16, fp16"), ({"cuda_graph": True}, "for the device 'cuda'")],
)
def test_modes_that_there_are_not(mode: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TorchMode(**mode)


def test_modes_have_names_of_their_own() -> None:
    names = [mode.name for mode in TORCH_MODES]
    assert len(set(names)) == len(names)
    assert {"fp32 torch", "bf16 torch channels_last compiled", "fp16 torch cuda channels_last graph"} < set(
        names
    )


# All variants of a network.


@pytest.fixture
def variants(tmp_path: Path, traced_once: list[Contract]) -> Iterator[Callable[..., list[Variant]]]:
    def make(**options: Any) -> list[Variant]:
        (tmp_path / "files").mkdir()
        return network_variants(
            MODEL, SPEC, size=SIZE, folder=tmp_path / "files", calibration=lambda: FRAMES, **options
        )

    yield make


def test_all_variants_are_measured_or_listed(
    variants: Callable[..., list[Variant]], compile_fails: None, tmp_path: Path
) -> None:
    made = variants(threads=1)
    found = measure_variants(made, FRAMES, rounds=5)
    reasons = {one.name: one.reason for one in found.unavailable}
    rows = {row.name: row for row in found.rows}
    assert set(rows) | set(reasons) == {each.name for each in made}
    assert found.yardstick == "fp32 onnxruntime"
    assert {"int8 onnxruntime", "fp16 onnxruntime", "fp32 torch", "bf16 torch channels_last"} <= set(rows)
    assert rows["fp32 torch"].agreement > 0.999 and rows["fp16 onnxruntime"].agreement > 0.99
    assert rows["int8 onnxruntime"].agreement > 0.9
    assert rows["fp32 torch"].bytes is None and rows["fp32 torch"].runtime["threads"] == 1
    assert rows["int8 onnxruntime"].bytes != rows["fp32 onnxruntime"].bytes
    assert "C++ compiler" in reasons["fp32 torch channels_last compiled"]
    for name, reason in reasons.items():
        assert "cuda" not in name.split() or "GPU" in reason, name
    made_files = {path.name for path in (tmp_path / "files").iterdir()}
    assert made_files == {"fp32-cpu.onnx", "fp16-cpu.onnx", "int8-cpu.onnx"}, "none for what cannot be had"


def test_a_slower_network_is_slower_in_torch_and_not_in_its_files(
    variants: Callable[..., list[Variant]], monkeypatch: pytest.MonkeyPatch, not_compiled: Any
) -> None:
    real = torch_backend._Entrance.forward

    def late(self: Any, image: torch.Tensor) -> Any:
        time.sleep(0.03)
        return real(self, image)

    wanted = ("fp32 onnxruntime", "fp32 torch")
    chosen = [each for each in variants(threads=1) if each.name in wanted]
    before = measure_variants(chosen, FRAMES, rounds=5)
    monkeypatch.setattr(torch_backend._Entrance, "forward", late)
    after = measure_variants(chosen, FRAMES, rounds=5)
    assert 30 <= after.rows[1].p50_ms - before.rows[1].p50_ms + 5 < 90
    assert after.rows[1].ratio < before.rows[1].ratio


def test_the_gpu_s_variants_alone_begin_with_torch(variants: Callable[..., list[Variant]]) -> None:
    made = variants(devices=("cuda",))
    assert made[0].name == "fp32 torch cuda"
    assert {each.asked["device"] for each in made} == {"cuda"}


def test_variants_of_a_batch(variants: Callable[..., list[Variant]]) -> None:
    chosen = [each for each in variants(batch=2) if each.name in ("fp32 onnxruntime", "fp32 torch")]
    found = measure_variants(chosen, FRAMES, rounds=5)
    assert [row.name for row in found.rows] == ["fp32 onnxruntime", "fp32 torch"]
    assert found.rows[1].agreement > 0.999


def test_a_run_folder(
    folder: Path, tmp_path: Path, traced_once: list[Contract], monkeypatch: pytest.MonkeyPatch
) -> None:
    """INT8 is calibrated on what the run trained on, at the size of the files."""
    given: list[np.ndarray] = []
    real = bench_variants.calibration_frames

    def watched(*arguments: Any) -> list[np.ndarray]:
        given.extend(frames := real(*arguments))
        return frames

    monkeypatch.setattr(bench_variants, "calibration_frames", watched)
    (tmp_path / "files").mkdir()
    made = variants_of_run(folder, frame_size=(96, 128), folder=tmp_path / "files")
    chosen = [each for each in made if each.name in ("fp32 onnxruntime", "int8 onnxruntime", "fp32 torch")]
    frames = list(generated_frames((96, 128), 1))
    found = measure_variants(chosen, frames, rounds=5)
    assert len(found.rows) == 3 and not found.unavailable
    assert given and {frame.shape for frame in given} == {(96, 128, 3)}


def test_a_run_whose_images_are_gone_has_no_int8(
    finished: Run, folder: Path, tmp_path: Path, traced_once: list[Contract]
) -> None:
    text = (folder / "domains.json").read_text().replace(str(finished.target), str(tmp_path / "gone.yaml"))
    (folder / "domains.json").write_text(text)
    (tmp_path / "files").mkdir()
    made = variants_of_run(folder, frame_size=(96, 128), folder=tmp_path / "files")
    chosen = [each for each in made if each.name in ("fp32 onnxruntime", "int8 onnxruntime")]
    found = measure_variants(chosen, list(generated_frames((96, 128), 1)), rounds=5)
    assert [row.name for row in found.rows] == ["fp32 onnxruntime"]
    assert "real frames" in found.unavailable[0].reason
