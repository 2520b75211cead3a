"""What goes wrong when a model file is opened, and what is said."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import pytest
import stand_in_gpu

from cpsl_deploy import InputError, MissingExtraError, ModelFileError, UnavailableError, load
from cpsl_deploy.backends import gpu, onnxruntime_backend, open_backend, tensorrt_backend
from cpsl_deploy.segmenter import labels_of
from cpsl_deploy.spec import METADATA_KEY

tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)
onnx = pytest.importorskip("onnx")

needs_no_gpu = pytest.mark.skipif(gpu.nvidia_gpu_count() > 0, reason="this machine has an NVIDIA GPU")
BACKENDS = ["onnxruntime", "openvino"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no model file .*nothing\.onnx.*cpsl-export"):
        load(tmp_path / "nothing.onnx")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["noise", "cut off", "empty"])
def test_damaged_file(tmp_path: Path, tiny_model: Path, backend: str, kind: str) -> None:
    pytest.importorskip(backend)
    whole = tiny_model.read_bytes()
    data = {"noise": b"\x93" * 500, "cut off": whole[: len(whole) // 2], "empty": b""}[kind]
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(data)
    with pytest.raises(ModelFileError, match="cpsl-export"):
        load(damaged, backend=backend)


def test_checkpoint_is_not_a_model_to_run(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(b"1")
    with pytest.raises(ModelFileError, match=r"Export it first: cpsl-export"):
        load(checkpoint)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "no 'cpsl_deploy' entry"),
        ({METADATA_KEY: "{", "colour_order": "BGR"}, "damaged spec"),
        ({METADATA_KEY: tiny_onnx.tiny_spec().to_json()}, "no colour_order"),
        (tiny_onnx.tiny_metadata(colour_order="YUV"), "'YUV'"),
    ],
)
def test_unusable_metadata(tmp_path: Path, backend: str, metadata: dict[str, str], message: str) -> None:
    pytest.importorskip(backend)
    model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", metadata=metadata)
    with pytest.raises(ModelFileError, match=message):
        load(model, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_peoples_onnx(tmp_path: Path, backend: str) -> None:
    pytest.importorskip(backend)
    helper, tensor = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "other",
        [helper.make_tensor_value_info("x", tensor.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", tensor.FLOAT, [1, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path / "other.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="no 'cpsl_deploy' entry"):
        load(path, backend=backend)
    onnx.helper.set_model_props(model, tiny_onnx.tiny_metadata())
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=r"not a model of this project.*inputs \['x'\]"):
        load(path, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_infer_checks_its_input(tiny_model: Path, backend: str) -> None:
    pytest.importorskip(backend)
    with open_backend(tiny_model, backend=backend, threads=1) as opened:
        assert opened.name == backend and opened.device == "cpu" and opened.static_size is None
        assert opened.batch == 1
        for frame in (np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.int8)):
            with pytest.raises(InputError, match="uint8 frames of shape"):
                opened.infer(frame)
        assert opened.infer(np.zeros((1, 8, 9, 3), np.uint8))["labels"].shape == (1, 8, 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "torch"}, "a backend is auto, onnxruntime"),
        ({"device": "tpu"}, "a device is cpu or cuda"),
        ({"threads": 0}, "threads is 1 or more"),
        ({"backend": "tensorrt"}, "cannot be run by tensorrt"),
    ],
)
def test_wrong_arguments(tiny_model: Path, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(tiny_model, **arguments)


@needs_no_gpu
def test_an_absent_gpu_is_an_error_not_a_slow_run(tiny_model: Path) -> None:
    with pytest.raises(UnavailableError, match="no GPU"):
        load(tiny_model, device="cuda")
    with pytest.raises(UnavailableError, match="cuda"):
        load(tiny_model, device="cuda", backend="openvino")


def test_onnxruntime_that_falls_back_to_the_cpu_is_an_error(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with a GPU but without CUDA's libraries ONNX Runtime would go on with the CPU."""
    onnxruntime = pytest.importorskip("onnxruntime")

    class FallenBack(onnxruntime.InferenceSession):
        def __init__(self, path: str, options: object, providers: list[str], **rest: object) -> None:
            super().__init__(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime_backend, "nvidia_gpu_count", lambda: 1)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", FallenBack)
    with pytest.raises(UnavailableError, match=r"could not start CUDAExecutionProvider.*cuDNN"):
        load(tiny_model, device="cuda")


@pytest.mark.parametrize(("package", "extra"), [("onnxruntime", "cpu"), ("openvino", "openvino")])
def test_missing_extra_names_the_pip_command(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError) as raised:
        load(tiny_model, backend=package)
    assert f"pip install 'cpsl_deploy[{extra}]'" in str(raised.value)


def test_openvino_computes_in_f32_unless_asked(tiny_model: Path) -> None:
    pytest.importorskip("openvino")
    with load(tiny_model, backend="openvino", threads=1) as segmenter:
        assert segmenter.describe()["precision"] == "f32"
    with pytest.raises(InputError, match="f32, bf16, f16; got 'int8'"):
        load(tiny_model, backend="openvino", precision="int8")
    with pytest.raises(InputError, match=r"onnxruntime computes in the precision of the file.*'bf16'"):
        load(tiny_model, precision="bf16")


COMPUTES_IN = """
import sys, openvino
from cpsl_deploy import load
from cpsl_deploy.errors import UnavailableError
for precision in ("bf16", "f16"):
    model = openvino.Core().read_model(sys.argv[1])
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    got = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    try:
        with load(sys.argv[1], backend="openvino", precision=precision) as segmenter:
            print(precision, got, segmenter.describe()["precision"])
    except UnavailableError as error:
        print(precision, got, f"asked for {precision} " in str(error) and f"in {got} on CPU" in str(error))
"""


def test_openvino_says_what_it_really_computes_in(tiny_model: Path) -> None:
    """A precision that the CPU does not have is replaced by OpenVINO, and refused here.

    In a process of its own: after OpenVINO has compiled for bf16 on a CPU that has it, a signal ends a
    process in which faulthandler is on, as it is under pytest.
    """
    pytest.importorskip("openvino")
    done = subprocess.run(
        [sys.executable, "-c", COMPUTES_IN, str(tiny_model)], capture_output=True, text=True, timeout=120
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [asked for asked, _, _ in lines] == ["bf16", "f16"], done.stderr
    for asked, got, said in lines:
        assert said == (asked if got == asked else "True")


class TestProviders:
    """Which of ONNX Runtime's providers ran what."""

    def test_nodes_of_a_real_profile(self, tmp_path: Path, tiny_model: Path) -> None:
        onnxruntime = pytest.importorskip("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(tmp_path / "profile")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(tiny_model, options, providers=["CPUExecutionProvider"])
        for _ in range(2):
            session.run(None, {"image": tiny_onnx.street()[None]})
        profile = json.loads(Path(session.end_profiling()).read_text())
        # Slice, Cast, Transpose, Conv, ArgMax, Cast; the two of the confidence are dropped with it or not.
        assert onnxruntime_backend.nodes_by_provider(profile)["CPUExecutionProvider"] in (6, 8)
        with pytest.raises(UnavailableError, match=r"CUDA.* not what runs m\.onnx: \d nodes on CPU.*1 Conv"):
            onnxruntime_backend.require_on_gpu(profile, "CUDAExecutionProvider", "m.onnx")

    @staticmethod
    def profile(**operators: str) -> list[dict]:
        """One event per operator, in the form of a real profile."""
        events = [
            {"cat": "Node", "name": f"n{i}_kernel_time", "args": {"op_name": operator, "provider": provider}}
            for i, (operator, provider) in enumerate(operators.items())
        ]
        return [{"cat": "Session", "name": "model_run", "args": {}}, *events, *events]

    def test_a_convolution_on_the_cpu_is_an_error(self) -> None:
        cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
        counts = onnxruntime_backend.require_on_gpu(
            self.profile(Conv=cuda, Resize=cuda, ArgMax=cpu), cuda, "m.onnx"
        )
        assert counts == {cuda: 2, cpu: 1}
        with pytest.raises(UnavailableError, match="1 nodes on CUDAExecutionProvider, 1 Conv of them"):
            onnxruntime_backend.require_on_gpu(self.profile(Conv=cpu, Resize=cuda), cuda, "m.onnx")
        with pytest.raises(UnavailableError, match=r"m\.onnx: nothing"):
            onnxruntime_backend.require_on_gpu([], cuda, "m.onnx")

    @pytest.mark.parametrize(
        ("precision", "fp16", "int8"), [("fp32", False, False), ("fp16", True, False), ("int8", False, True)]
    )
    def test_tensorrt_options(self, tmp_path: Path, precision: str, fp16: bool, int8: bool) -> None:
        options = onnxruntime_backend.tensorrt_options(precision, tmp_path / "cache")
        assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == (fp16, int8)
        assert options["trt_engine_cache_enable"] and options["trt_engine_cache_path"].endswith("cache")

    def test_a_first_run_shows_what_the_gpu_ran(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All of a GPU's way through opening a file, with the CPU's provider in the GPU's place."""
        pytest.importorskip("onnxruntime")
        model = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx", batch=2, size=(64, 96), static=True)
        monkeypatch.setattr(onnxruntime_backend, "nvidia_gpu_count", lambda: 1)
        monkeypatch.setattr(onnxruntime_backend, "CUDA", "CPUExecutionProvider")
        monkeypatch.setattr(onnxruntime_backend, "CPU", "none")
        before = set(Path(tempfile.gettempdir()).glob("cpsl-profile-*"))
        monkeypatch.setattr(
            onnxruntime_backend.OnnxRuntimeBackend, "_providers", lambda self, path: ["CPUExecutionProvider"]
        )
        with load(model, device="cuda", threads=1) as segmenter:
            described = segmenter.describe()
            assert described["nodes_by_provider"]["CPUExecutionProvider"] >= 5
            assert len(segmenter.predict_batch([tiny_onnx.street(64, 96)] * 2)) == 2
        assert set(Path(tempfile.gettempdir()).glob("cpsl-profile-*")) == before

    @needs_no_gpu
    def test_tensorrt_provider_without_a_gpu(self, tiny_model: Path) -> None:
        with pytest.raises(UnavailableError, match="no GPU"):
            load(tiny_model, backend="onnxruntime-tensorrt")
        with pytest.raises(UnavailableError, match=r"NVIDIA GPU; for device 'cpu'"):
            load(tiny_model, backend="onnxruntime-tensorrt", device="cpu")
        assert not (tiny_model.parent / onnxruntime_backend.ENGINE_CACHE).exists()


class TestEngine:
    """What can be said of TensorRT engines without a GPU."""

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Path:
        path = tmp_path / "model.engine"
        path.write_bytes(b"ptrt")
        metadata = tiny_onnx.tiny_metadata()
        tensorrt_backend.write_sidecar(path, metadata)
        return path

    def test_sidecar_is_read_back(self, engine: Path) -> None:
        assert (engine.parent / "model.engine.json").is_file()
        metadata = tensorrt_backend.read_sidecar(engine)
        assert json.loads(metadata[METADATA_KEY])["architecture"] == "nearest_colour"

    @needs_no_gpu
    def test_without_a_gpu(self, engine: Path) -> None:
        with pytest.raises(UnavailableError, match=r"NVIDIA GPU.*\.onnx file"):
            load(engine)

    def test_without_tensorrt(self, engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tensorrt_backend, "nvidia_gpu_count", lambda: 1)
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        with pytest.raises(MissingExtraError, match=r"'tensorrt'.*cpsl_deploy\[trt\]"):
            load(engine)

    @pytest.mark.parametrize("content", [None, "{", "[]", '{"cpsl_deploy": 3}'])
    def test_sidecar_missing_or_damaged(self, engine: Path, content: str | None) -> None:
        sidecar = tensorrt_backend.sidecar_path(engine)
        sidecar.unlink()
        if content is not None:
            sidecar.write_text(content)
        with pytest.raises(ModelFileError, match=r"model\.engine\.json.*cpsl-export RUN --trt"):
            load(engine)

    def test_not_on_the_cpu(self, engine: Path) -> None:
        with pytest.raises(UnavailableError, match="device 'cpu'"):
            load(engine, device="cpu")
        with pytest.raises(InputError, match="cannot be run by onnxruntime"):
            load(engine, backend="onnxruntime")


class TestEngineWithAStandInForTheGpu:
    """The order of the calls, the copies and what is freed, with host memory in the place of a GPU's.

    It shows that the backend is consistent in itself, not that TensorRT accepts it: that takes a GPU.
    """

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

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Path:
        path = tmp_path / "model.engine"
        path.write_bytes(b"96x160")
        tensorrt_backend.write_sidecar(path, tiny_onnx.tiny_metadata())
        return path

    @pytest.mark.parametrize("content", ["96x160", "profile 96x160"])
    def test_predict_and_free(self, engine: Path, gpu_calls: stand_in_gpu.Cuda, content: str) -> None:
        engine.write_text(content)
        with load(engine) as segmenter:
            assert segmenter.describe()["backend"] == "tensorrt"
            first = segmenter.predict(tiny_onnx.street(), colour_order="RGB").labels
            kept = first.copy()
            second = segmenter.predict(255 - tiny_onnx.street(), colour_order="RGB").labels
        np.testing.assert_array_equal(first, kept)
        blue = tiny_onnx.street()[..., 2]
        np.testing.assert_array_equal(first, stand_in_gpu.label_of(blue))
        np.testing.assert_array_equal(second, stand_in_gpu.label_of(255 - blue))
        assert gpu_calls.allocated == {} and gpu_calls.streams == set()

    def test_engine_of_another_version(self, engine: Path, gpu_calls: stand_in_gpu.Cuda) -> None:
        engine.write_bytes(b"other version")
        with pytest.raises(ModelFileError, match=r"only with the version.*cpsl-export RUN --trt"):
            load(engine)

    def test_engine_with_free_sizes_and_batch(self, engine: Path, gpu_calls: stand_in_gpu.Cuda) -> None:
        """Frames between the ends of the profile run one after the other through the same buffers."""
        engine.write_bytes(b"profile 64x64 4x200x200")
        rng = np.random.default_rng(0)
        with open_backend(engine) as opened:
            assert opened.static_size is None and opened.batch is None
            for shape in ((1, 64, 64, 3), (4, 200, 200, 3), (2, 96, 160, 3)):
                frames = rng.integers(0, 256, shape, dtype=np.uint8)
                labels = opened.infer(frames)["labels"]
                np.testing.assert_array_equal(labels, stand_in_gpu.label_of(frames[..., 0]))
            for shape in ((5, 96, 160, 3), (1, 63, 64, 3), (1, 64, 201, 3)):
                with pytest.raises(InputError, match=r"from \(1, 64, 64, 3\) to \(4, 200, 200, 3\)"):
                    opened.infer(np.zeros(shape, np.uint8))
        assert gpu_calls.allocated == {} and gpu_calls.streams == set()

    @pytest.mark.parametrize(
        ("profile", "given"),
        [
            ("64x64 4x200x200", (88, 176)),  # within it, and as files of any size take it
            ("1x16x16 1x64x64", (64, 64)),
            ("1x256x256 1x512x512", (256, 256)),
            ("1x16x192 1x64x640", (64, 192)),
        ],
    )
    def test_frames_are_brought_into_the_profile(
        self, engine: Path, gpu_calls: stand_in_gpu.Cuda, profile: str, given: tuple[int, int]
    ) -> None:
        engine.write_text(f"profile {profile}")
        frame = np.zeros((100, 210, 3), np.uint8)
        with load(engine) as segmenter:
            assert segmenter.input_size(100, 210) == given
            assert segmenter.predict(frame).labels.shape == (100, 210)

    def test_a_file_that_resizes_inside_takes_what_the_profile_allows(
        self, engine: Path, gpu_calls: stand_in_gpu.Cuda
    ) -> None:
        engine.write_text("profile 1x16x16 1x64x512")
        tensorrt_backend.write_sidecar(engine, tiny_onnx.tiny_metadata(network_size="96x160"))
        with load(engine) as segmenter:
            assert segmenter.input_size(100, 210) == (64, 210)
            assert segmenter.predict(np.zeros((100, 210, 3), np.uint8)).labels.shape == (100, 210)

    def test_engine_for_two_frames_or_more(self, engine: Path, gpu_calls: stand_in_gpu.Cuda) -> None:
        engine.write_text("profile 2x64x64 4x200x200")
        frame = tiny_onnx.street()
        with load(engine) as segmenter:
            np.testing.assert_array_equal(labels_of(segmenter, frame), stand_in_gpu.label_of(frame[..., 0]))
            with pytest.raises(InputError, match=r"from \(2, 64, 64, 3\)"):
                segmenter.predict(frame)

    def test_engine_with_logits(self, engine: Path, gpu_calls: stand_in_gpu.Cuda) -> None:
        engine.write_bytes(b"96x160 logits")
        with pytest.raises(ModelFileError, match=r"outputs \['labels', 'logits'\]"):
            load(engine)
        tensorrt_backend.write_sidecar(engine, tiny_onnx.tiny_metadata(outputs="labels,logits"))
        with load(engine) as segmenter:
            prediction = segmenter.predict(tiny_onnx.street())
        assert prediction.logits is not None and prediction.logits.dtype == np.float32
        np.testing.assert_array_equal(prediction.logits.ravel(), np.arange(16))
        assert gpu_calls.allocated == {}

    def test_full_gpu_memory_is_told_and_nothing_leaks(
        self, engine: Path, gpu_calls: stand_in_gpu.Cuda
    ) -> None:
        gpu_calls.fail = "cudaMalloc"
        with pytest.raises(UnavailableError, match=r"cudaMalloc: cudaErrorMemoryAllocation"):
            load(engine)
        assert gpu_calls.allocated == {} and gpu_calls.streams == set()
