"""The slowest layers: means over the frames that count, and what a library really ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from coarse_onnx import write_coarse_onnx
from tiny_onnx import write_tiny_onnx

from cpsl_deploy.bench import layer_profile as module
from cpsl_deploy.bench.layer_profile import SLOWEST, mean_profile, profile_layers
from cpsl_deploy.bench.node_profile import NodeRun, ProfiledRun, Tensor, profile_file
from cpsl_deploy.errors import ModelFileError, UnavailableError
from cpsl_deploy.segmenter import load


def ran(name: str, ms: float) -> NodeRun:
    tensor = Tensor(dtype="float", shape=(1, 2))
    return NodeRun(
        name=name,
        operator="Conv",
        inputs=(tensor,),
        outputs=(tensor,),
        initialiser_bytes=0,
        provider="CPUExecutionProvider",
        ms=ms,
    )


def test_means_are_of_the_frames_that_count() -> None:
    runs = [ran("a", 100.0), ran("b", 100.0), ran("a", 1.0), ran("b", 5.0), ran("a", 3.0), ran("b", 7.0)]
    profile = mean_profile(runs, 3, 1)
    assert [(one.name, one.ms) for one in profile.slowest] == [("b", 6.0), ("a", 2.0)]
    assert [one.share for one in profile.slowest] == [0.75, 0.25] and profile.profile_ms == 8.0
    assert profile.to_json()["slowest"][0] == {
        "name": "b", "operator": "Conv", "output_shape": [1, 2], "ms": 6.0, "share": 0.75,
    }  # fmt: skip


def test_the_rest_has_its_share_too() -> None:
    profile = mean_profile([ran(str(i), 1.0 + i) for i in range(40)], 1, 0)
    assert len(profile.slowest) == SLOWEST and profile.slowest[0].name == "39"
    assert profile.profile_ms == sum(range(1, 41)) and sum(one.share for one in profile.slowest) < 0.5


def test_runs_that_differ_are_no_mean() -> None:
    with pytest.raises(UnavailableError, match="3 layers"):
        mean_profile([ran("a", 1.0)] * 3, 2, 0)
    with pytest.raises(UnavailableError, match="0 layers"):
        mean_profile([], 2, 0)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_what_is_made_outside_is_no_layer(tmp_path: Path, backend: str) -> None:
    pytest.importorskip(backend)
    path = write_coarse_onnx(tmp_path / "m.onnx", (96, 160))
    with load(path, backend=backend, threads=1) as segmenter:
        runtime = segmenter.backend.describe()
    assert runtime["labels_outside"]
    outside, inside = (
        [layer.operator for layer in profile_layers(path, asked, (96, 160), frames=2).slowest]
        for asked in (runtime, {**runtime, "labels_outside": False})
    )
    after = {"Resize", "ArgMax", "TopK", "Interpolate"}
    assert outside and not after & set(outside) and after & set(inside)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_real_file(tmp_path: Path, backend: str) -> None:
    pytest.importorskip(backend)
    path = write_tiny_onnx(tmp_path / "m.onnx")
    with load(path, backend=backend, threads=1) as segmenter:
        runtime = segmenter.backend.describe()
    profile = profile_layers(path, runtime, (96, 160), frames=3)
    assert profile.library == backend and profile.profile_ms > 0
    assert sum(one.share for one in profile.slowest) == pytest.approx(1)
    assert [one.ms for one in profile.slowest] == sorted((one.ms for one in profile.slowest), reverse=True)
    assert any(one.operator.startswith("Conv") or "conv" in one.operator for one in profile.slowest)


def test_a_process_of_its_own(tmp_path: Path) -> None:
    """As for a GPU, where kernels are waited for; here with the CPU's provider."""
    path = write_tiny_onnx(tmp_path / "m.onnx")
    profile = module._in_child(path, (96, 160), 2, module.CPU)
    assert profile.library == "onnxruntime" and sum(one.share for one in profile.slowest) == pytest.approx(1)
    assert {"Conv", "ArgMax"} <= {one.operator for one in profile.slowest}
    with pytest.raises(UnavailableError, match=r"absent\.onnx"):
        module._in_child(tmp_path / "absent.onnx", (96, 160), 2, module.CPU)


def test_a_provider_that_ran_nothing_has_no_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime goes on with the CPU where a GPU's provider does not start."""

    def fallen_back(*arguments: Any, providers: Any, **options: Any) -> ProfiledRun:
        assert providers[0][0] == module.CUDA
        return profile_file(*arguments, **options)

    monkeypatch.setattr(module, "profile_file", fallen_back)
    with pytest.raises(UnavailableError, match="was run by CUDAExecutionProvider"):
        module._onnxruntime(write_tiny_onnx(tmp_path / "m.onnx"), (96, 160), 1, module.CUDA)


def test_what_has_no_times_of_layers_says_so(tmp_path: Path) -> None:
    path = write_tiny_onnx(tmp_path / "m.onnx")
    for runtime, reason in (
        ({"backend": "tensorrt", "device": "cuda"}, "tensorrt gives no times"),
        ({"backend": "onnxruntime-tensorrt", "device": "cuda"}, "onnxruntime-tensorrt gives no times"),
    ):
        with pytest.raises(UnavailableError, match=reason):
            profile_layers(path, runtime, (96, 160))
    with pytest.raises(ModelFileError, match="cannot be run"):
        profile_layers(tmp_path / "absent.onnx", {"backend": "onnxruntime", "device": "cpu"}, (96, 160))
