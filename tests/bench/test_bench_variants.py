"""One model in several ways: what is measured, what is listed as not to be had, and what is an error."""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs the extra 'cpu'")
pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)

import jsonschema
from tiny_onnx import CLASS_NAMES, nearest_colour, street, tiny_metadata, write_tiny_onnx

from cpsl_deploy.backends import gpu, openvino_backend
from cpsl_deploy.backends.ways import ONNXRUNTIME, PREFERRED_KEY
from cpsl_deploy.bench import variant_files
from cpsl_deploy.bench.record import record_schema
from cpsl_deploy.bench.variant_files import computed_precision, file_variants, variants_of
from cpsl_deploy.bench.variants import Variant, measure_variants, require_as_asked, unavailable_variant
from cpsl_deploy.data import open_dataset
from cpsl_deploy.errors import InputError, ModelFileError, UnavailableError
from cpsl_deploy.segmenter import Segmenter, load

FRAMES = [np.ascontiguousarray(street()[..., ::-1])]
ON_THE_CPU = {"backend": "onnxruntime", "device": "cpu", "precision": "fp32"}
Wrap = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def variant(path: Path, name: str, *, change: Wrap | None = None, **asked: Any) -> Variant:
    """The file in onnxruntime; ``change`` is made to what it gives."""

    def opened() -> Segmenter:
        segmenter = load(path)
        if change is not None:
            real = segmenter.backend.infer_impl
            segmenter.backend.infer_impl = lambda frames: change(real(frames))  # type: ignore[method-assign]
        return segmenter

    return Variant(name=name, precision="fp32", asked={**ON_THE_CPU, **asked}, open=opened)


def slower(seconds: float) -> Wrap:
    def change(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        time.sleep(seconds)
        return outputs

    return change


def left_half_is_road(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    outputs["labels"][:, :, : outputs["labels"].shape[2] // 2] = 0
    return outputs


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Any:
        raise OSError("no driver")

    monkeypatch.setattr(gpu, "_driver", absent)


@pytest.fixture
def labelled(tmp_path: Path) -> Any:
    """One street with its labels."""
    for folder, content in (("images", FRAMES[0]), ("labels", nearest_colour(street()))):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "0.png"), content)
    (tmp_path / "camera.yaml").write_text(
        "splits: {val: {images: images, labels: labels}}\n"
        f"classes: [{', '.join(CLASS_NAMES)}]\n"
        f"ids: {{{', '.join(f'{name}: {i}' for i, name in enumerate(CLASS_NAMES))}}}\n"
    )
    return open_dataset(tmp_path / "camera.yaml", "val")


def test_a_variant_that_takes_longer_is_seen_to(tiny_model: Path) -> None:
    """20 ms more a frame, whatever the machine is: the medians of rounds in turns differ by that."""
    found = measure_variants(
        [variant(tiny_model, "a"), variant(tiny_model, "late", change=slower(0.02))], FRAMES, rounds=9
    )
    first, late = found.rows
    assert (found.yardstick, first.name, first.ratio, first.agreement) == ("a", "a", 1, 1)
    assert 20 <= late.p50_ms - first.p50_ms < 60
    assert late.ratio == pytest.approx(np.median(found.samples_ms["a"] / found.samples_ms["late"]))
    assert late.ratio_low <= late.ratio <= late.ratio_high < 1
    assert late.p50_ms <= late.p90_ms <= late.p99_ms
    assert found.rounds == 9 and found.size == (96, 160) and late.bytes == tiny_model.stat().st_size


def test_what_a_variant_gets_wrong_shows_in_agreement_and_miou(tiny_model: Path, labelled: Any) -> None:
    wrong = variant(tiny_model, "wrong", change=left_half_is_road)
    found = measure_variants([variant(tiny_model, "right"), wrong], FRAMES, dataset=labelled, rounds=5)
    right, wrong_row = found.rows
    truth = nearest_colour(street())
    given = truth.copy()
    given[:, :80] = 0
    assert wrong_row.agreement == pytest.approx((given == truth).mean())
    assert right.miou == 1
    classes = range(len(CLASS_NAMES))
    each = [((given == k) & (truth == k)).sum() / ((given == k) | (truth == k)).sum() for k in classes]
    assert wrong_row.miou == pytest.approx(np.mean(each))


def test_the_section_is_what_the_schema_says(tiny_model: Path, no_gpu: None) -> None:
    gone = unavailable_variant("gone", UnavailableError("it is gone"))
    section = measure_variants([variant(tiny_model, "a"), gone], FRAMES, rounds=5).to_json()
    section = json.loads(json.dumps(section, allow_nan=False))
    schema = record_schema()
    jsonschema.validate(section, {"$defs": schema["$defs"], **schema["properties"]["variants"]})
    assert section["unavailable"] == [{"name": "gone", "reason": "it is gone"}]
    assert len(section["samples_ms"]["a"]) == section["rounds"] == 5
    assert section["rows"][0]["miou"] is None and section["rows"][0]["roofline_fraction"] is None


@pytest.mark.parametrize("error", [UnavailableError("no such GPU"), ModelFileError("refused by the library")])
def test_what_cannot_be_opened_is_listed_with_the_reason(tiny_model: Path, error: Exception) -> None:
    def refuse() -> Segmenter:
        raise error

    refused = Variant(name="refused", precision="fp32", asked={}, open=refuse)
    found = measure_variants([refused, variant(tiny_model, "a")], FRAMES, rounds=5)
    assert [(one.name, one.reason) for one in found.unavailable] == [("refused", str(error))]
    assert found.yardstick == "a", "the first that can be had"


def test_what_fails_with_its_first_frame_is_listed_too(tiny_model: Path) -> None:
    def full(outputs: Any) -> Any:
        raise UnavailableError("the GPU's memory is full")

    found = measure_variants(
        [variant(tiny_model, "a"), variant(tiny_model, "b", change=full)], FRAMES, rounds=5
    )
    assert [row.name for row in found.rows] == ["a"] and "memory" in found.unavailable[0].reason


@pytest.mark.parametrize("asked", [{"device": "cuda"}, {"precision": "bf16"}, {"backend": "openvino"}])
def test_what_was_replaced_in_silence_is_an_error(tiny_model: Path, asked: dict[str, str]) -> None:
    """It opens and runs, and says itself that it is something else."""
    with pytest.raises(UnavailableError, match=r"'b' opened.*replaced in silence"):
        measure_variants([variant(tiny_model, "a"), variant(tiny_model, "b", **asked)], FRAMES, rounds=5)


def test_what_a_backend_does_not_tell_is_not_as_asked() -> None:
    asked = Variant(name="v", precision="fp32", asked={"device": "cuda"}, open=lambda: None)  # type: ignore
    with pytest.raises(UnavailableError, match="device None instead of 'cuda'"):
        require_as_asked(asked, {"backend": "onnxruntime"})


def test_nothing_at_all_is_an_error(tiny_model: Path) -> None:
    with pytest.raises(UnavailableError, match=r"in no way at all here\. gone: it is gone"):
        measure_variants([unavailable_variant("gone", UnavailableError("it is gone"))], FRAMES)


@pytest.mark.parametrize(
    ("frames", "message"),
    [([], "got no frame"), ([FRAMES[0], FRAMES[0][:50]], r"one size; got \(50, 160\), \(96, 160\)")],
)
def test_frames_of_one_size_are_wanted(tiny_model: Path, frames: list[np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure_variants([variant(tiny_model, "a")], frames)


def test_names_tell_variants_apart(tiny_model: Path) -> None:
    with pytest.raises(InputError, match="names; got a, a"):
        measure_variants([variant(tiny_model, "a"), variant(tiny_model, "a")], FRAMES)


def test_files_that_take_several_frames_are_told_by_the_frame(tmp_path: Path) -> None:
    single, eight = (
        write_tiny_onnx(tmp_path / f"{batch}.onnx", batch=batch, static=True) for batch in (1, 8)
    )
    found = measure_variants([variant(single, "one"), variant(eight, "eight")], FRAMES, rounds=5)
    calls = 8 * found.samples_ms["eight"]
    assert found.rows[1].agreement == 1 and (calls > found.samples_ms["eight"]).all()
    late = measure_variants([variant(eight, "late", change=slower(0.08))], FRAMES, rounds=5)
    assert 10 <= late.rows[0].p50_ms < 40


def test_every_row_is_held_against_the_roofline_of_its_file(tiny_model: Path) -> None:
    """One that runs no file against that of the first float32 file."""

    def no_file() -> Segmenter:
        segmenter = load(tiny_model)
        segmenter.origin = "the network in torch"
        return segmenter

    asked = []

    def fraction(path: Path, runtime: Any, size: tuple[int, int], measured_ms: float) -> float:
        asked.append((path, runtime["backend"], runtime["precision"], size))
        return 2 / measured_ms

    torch = Variant(name="torch", precision="bf16", asked={}, open=no_file)
    found = measure_variants([torch, variant(tiny_model, "a")], FRAMES, rounds=5, fraction=fraction)
    assert asked == [(tiny_model, "onnxruntime", kind, (96, 160)) for kind in ("bf16", "fp32")]
    assert [row.roofline_fraction for row in found.rows] == [2 / row.p50_ms for row in found.rows]
    assert [row.bytes for row in found.rows] == [None, tiny_model.stat().st_size]

    measure_variants([torch], FRAMES, rounds=5, fraction=fraction)
    assert len(asked) == 2, "nothing to hold it against"
    given = tiny_model.with_name("other.onnx")
    measure_variants([torch], FRAMES, rounds=5, fraction=fraction, graph=given)
    assert asked[2:] == [(given, "onnxruntime", "bf16", (96, 160))]


# Which variants a file has.


def test_every_backend_device_and_precision_of_a_file_is_a_variant(tiny_model: Path) -> None:
    found = {each.name: each for each in file_variants(tiny_model)}
    assert list(found) == [
        "fp32 onnxruntime",
        "fp32 openvino f32",
        "fp32 openvino bf16",
        "fp32 openvino f16",
        "fp32 onnxruntime cuda",
        "fp32 onnxruntime-tensorrt cuda",
        "fp32 tensorrt cuda",
    ]
    assert found["fp32 openvino bf16"].precision == "bf16"
    assert found["fp32 openvino bf16"].asked == {
        "backend": "openvino",
        "device": "cpu",
        "precision": "bf16",
    }


@pytest.mark.parametrize(
    ("precision", "how", "wanted"),
    [
        ("fp32", ("onnxruntime", "cpu"), "fp32"),
        ("fp16", ("onnxruntime", "cuda"), "fp16"),
        ("int8", ("onnxruntime", "cpu"), "int8"),
        ("fp32", ("openvino", "cpu", "f16"), "fp16"),
        ("fp16", ("openvino", "cpu", "f32"), "fp32"),
        ("int8", ("openvino", "cpu", "f32"), "int8"),
        ("int8", ("openvino", "cpu", "bf16"), "int8+bf16"),
    ],
)
def test_what_a_network_computes_in(precision: str, how: Any, wanted: str) -> None:
    assert computed_precision(precision, *how) == wanted


@pytest.mark.parametrize(("machine", "wanted"), [("x86_64", "fp32"), ("AMD64", "fp32"), ("aarch64", "fp16")])
def test_fp16_is_computed_in_fp32_where_onnxruntime_has_no_kernels(
    machine: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variant_files.platform, "machine", lambda: machine)
    assert computed_precision("fp16", "onnxruntime", "cpu") == wanted


def test_a_file_s_own_precision_names_its_variants(tmp_path: Path) -> None:
    path = write_tiny_onnx(tmp_path / "tiny.onnx", metadata=tiny_metadata(precision="int8"))
    names = [each.name for each in file_variants(path)]
    assert names[0] == "int8 onnxruntime" and all(name.startswith("int8") for name in names)


def test_a_plain_file_without_a_gpu(tiny_model: Path, tmp_path: Path, no_gpu: None) -> None:
    """What needs a GPU and what needs weights is listed; nothing is left out."""
    variants = variants_of(tiny_model, frame_size=(96, 160), folder=tmp_path / "none")
    found = measure_variants(variants, FRAMES, rounds=5)
    reasons = {one.name: one.reason for one in found.unavailable}
    assert {row.name for row in found.rows} | set(reasons) == {each.name for each in variants}
    assert found.yardstick == "fp32 onnxruntime"
    for name in ("fp32 onnxruntime cuda", "fp32 onnxruntime-tensorrt cuda", "fp32 tensorrt cuda"):
        assert "GPU" in reasons[name], name
    assert "name the run folder" in reasons["torch"]
    assert all(row.agreement > 0.99 for row in found.rows)


def test_a_missing_package_is_listed_with_its_pip_command(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, no_gpu: None
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    found = measure_variants(file_variants(tiny_model), FRAMES, rounds=5)
    reasons = {one.name: one.reason for one in found.unavailable}
    assert "pip install 'cpsl_deploy[openvino]'" in reasons["fp32 openvino f32"]


def test_a_precision_that_openvino_replaces_is_listed(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, no_gpu: None
) -> None:
    pytest.importorskip("openvino", reason="needs the extra 'openvino'")
    real = openvino_backend._require_really

    def replaced(compiled: Any, precision: str) -> str:
        kind = SimpleNamespace(to_string=lambda: "f32")
        properties = {"EXECUTION_DEVICES": ["CPU"], "INFERENCE_PRECISION_HINT": kind}
        return real(SimpleNamespace(get_property=properties.__getitem__), precision)

    monkeypatch.setattr(openvino_backend, "_require_really", replaced)
    found = measure_variants(file_variants(tiny_model), FRAMES, rounds=5)
    reasons = {one.name: one.reason for one in found.unavailable}
    assert "would compute in f32" in reasons["fp32 openvino bf16"]
    assert "fp32 openvino f32" not in reasons


def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variant_files, "gpu_problem", lambda: "")


def test_the_engine_beside_a_file_must_be_of_that_file(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpu(monkeypatch)
    opened: list[Path] = []
    monkeypatch.setattr(variant_files, "load", lambda path, **options: opened.append(path))
    engine, sidecar = tiny_model.with_suffix(".engine"), tiny_model.with_suffix(".engine.json")
    open_engine = file_variants(tiny_model)[-1].open
    with pytest.raises(UnavailableError, match=r"no engine beside tiny\.onnx"):
        open_engine()
    engine.write_bytes(b"of another file")
    sidecar.write_text(json.dumps({**tiny_metadata(), "onnx_sha256": "0" * 64}))
    with pytest.raises(UnavailableError, match="cpsl-export RUN --trt"):
        open_engine()
    sidecar.write_text(json.dumps({"onnx_sha256": variant_files.sha256(tiny_model)}))
    open_engine()
    assert opened == [engine]


def test_an_engine_has_itself_as_variant(tmp_path: Path, no_gpu: None) -> None:
    (tmp_path / "m.engine").write_bytes(b"")
    (tmp_path / "m.engine.json").write_text(json.dumps(tiny_metadata(precision="fp16")))
    (only,) = file_variants(tmp_path / "m.engine")
    assert only.name == "fp16 tensorrt cuda"
    with pytest.raises(UnavailableError, match="NVIDIA"):
        only.open()


# Which variants a run folder has.


class Entries:
    """Entry points as installed packages name them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *loaded: Callable[[], Any]) -> None:
        self.asked: list[str] = []
        points = [SimpleNamespace(name=f"e{i}", load=load) for i, load in enumerate(loaded)]

        def entry_points(*, group: str) -> list[Any]:
            self.asked.append(group)
            return points

        monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with an exported file that prefers onnxruntime."""
    (tmp_path / "run").mkdir()
    prefers = {PREFERRED_KEY: ONNXRUNTIME.words}
    write_tiny_onnx(tmp_path / "run/model.onnx", metadata={**tiny_metadata(), **prefers})
    return tmp_path / "run"


def test_a_run_s_variants_come_by_entry_points(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def of_run(weights: Path, **options: Any) -> list[Variant]:
        calls.append((weights, options))
        return [variant(run / "model.onnx", "first"), variant(run / "model.onnx", "second")]

    entries = Entries(monkeypatch, lambda: of_run)
    found = variants_of(run, frame_size=(96, 160), folder=tmp_path, threads=2)
    assert entries.asked == ["cpsl_deploy.bench.variants"]
    assert calls == [(run, {"frame_size": (96, 160), "folder": tmp_path, "threads": 2})]
    assert [each.name for each in found] == [
        "first",
        "model.onnx as deployed (fp32 onnxruntime)",
        "second",
    ]
    assert [row.agreement for row in measure_variants(found, FRAMES, rounds=5).rows] == [1, 1, 1]


def test_a_run_without_an_exported_file_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = (run / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    Entries(monkeypatch, lambda: lambda weights, **options: [variant(model, "first")])
    found = measure_variants(variants_of(run, frame_size=(96, 160), folder=tmp_path), FRAMES, rounds=5)
    assert [row.name for row in found.rows] == ["first"]
    assert "cpsl-export" in found.unavailable[0].reason


def test_without_torch_a_run_has_the_variants_of_its_file(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> Any:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    Entries(monkeypatch, load)
    found = {each.name: each for each in variants_of(run, frame_size=(96, 160), folder=tmp_path)}
    assert "fp32 onnxruntime" in found and "fp32 openvino f32" in found
    with pytest.raises(UnavailableError, match=r"'torch'.*pip install 'cpsl_deploy\[export\]'"):
        found["torch (e0)"].open()


def test_an_installation_without_the_entry_point_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Entries(monkeypatch)
    found = {each.name: each for each in variants_of(run, frame_size=(96, 160), folder=tmp_path)}
    with pytest.raises(UnavailableError, match="Install it again"):
        found["torch"].open()


def test_a_fault_in_an_entry_point_is_not_taken_for_a_missing_package(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> Any:
        raise ImportError("cannot import name 'x' from 'y'")

    Entries(monkeypatch, load)
    with pytest.raises(ImportError, match="cannot import name"):
        variants_of(run, frame_size=(96, 160), folder=tmp_path)


def test_the_project_names_the_entry_point_that_there_is() -> None:
    """Read from pyproject.toml: an editable install may be older."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    section = text.split(f'[project.entry-points."{variant_files.ENTRY_POINTS}"]')[1].split("[")[0]
    assert section.strip() == 'export = "cpsl_deploy.export.bench_variants:variants_of_run"'
