"""Benchmarks of a model small enough to check by hand: accuracy, files, the command and its errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

import cpsl_deploy
from cpsl_deploy.bench import QUICK, benchmark, evaluate, read_record, runner, sections, write_report
from cpsl_deploy.bench.accuracy import ClassAccuracy, ImageCounts
from cpsl_deploy.bench.command import main
from cpsl_deploy.bench.fingerprint import data_sha256
from cpsl_deploy.bench.record import record_schema, why_unavailable
from cpsl_deploy.data import open_dataset
from cpsl_deploy.errors import DataError, InputError, ModelFileError, OutputError, UnavailableError

tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)

DATA_NAMES = ("road", "tree", "car", "bus")
DATA_FILE = """
name: tiny-road
splits:
  val: {images: images, labels: labels}
  bare: {images: images}
classes: [road, tree, car, bus]
ids: {road: 10, tree: 20, car: 30, bus: 40}
ignore: [0]
"""


def write_pair(folder: Path, index: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy street as PNG and its mask of raw ids; gives (RGB image, mask)."""
    random = np.random.default_rng(index)
    image = tiny_onnx.street(40 + 8 * index, 64)
    ids = np.array([10, 0, 20, 30], np.uint8)[tiny_onnx.nearest_colour(image)]
    ids[-6:, -12:] = 40
    image = np.clip(image + random.normal(0, 45, image.shape), 0, 255).astype(np.uint8)
    cv2.imwrite(str(folder / f"images/{index}.png"), image[..., ::-1])
    cv2.imwrite(str(folder / f"labels/{index}.png"), ids)
    return image, ids


@pytest.fixture
def pairs(tmp_path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Three images with masks under tmp_path, described by data.yaml there."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "data.yaml").write_text(DATA_FILE)
    return [write_pair(tmp_path, index) for index in range(3)]


@pytest.fixture
def exact_model(tmp_path: Path) -> Path:
    """The tiny model at a size whose pixel count fits none of the images: frames of static size."""
    return tiny_onnx.write_tiny_onnx(tmp_path / "exact.onnx", size=(40, 64))


def independent_scores(
    pairs: list[tuple[np.ndarray, np.ndarray]], segmenter
) -> tuple[dict[str, float], float]:
    """IoU by class name and pixel accuracy over the pixels of road, tree and car, without the package."""
    hits, unions = dict.fromkeys(("road", "tree", "car"), 0), dict.fromkeys(("road", "tree", "car"), 0)
    right = scored = 0
    for image, ids in pairs:
        predicted = segmenter.predict(np.ascontiguousarray(image[..., ::-1])).labels
        known = np.isin(ids, (10, 20, 30))
        for name, raw, value in (("road", 10, 0), ("tree", 20, 2), ("car", 30, 3)):
            truth, found = known & (ids == raw), known & (predicted == value)
            hits[name] += int((truth & found).sum())
            unions[name] += int((truth | found).sum())
            right += int((truth & found).sum())
        scored += int(known.sum())
    return {name: hits[name] / unions[name] for name in hits}, right / scored


def test_accuracy_equals_an_independent_computation(exact_model, pairs, tmp_path):
    dataset = open_dataset(tmp_path / "data.yaml", "val")
    with cpsl_deploy.load(exact_model) as segmenter:
        accuracy = evaluate(segmenter, dataset)
        iou, pixel_accuracy = independent_scores(pairs, segmenter)
    assert accuracy.names == tiny_onnx.CLASS_NAMES and accuracy.frames == 3
    assert accuracy.unknown_to_data == ("sky",) and accuracy.unknown_to_model == ("bus",)
    got = dict(zip(accuracy.names, accuracy.iou, strict=True))
    assert np.isnan(got.pop("sky"))
    assert got == pytest.approx(iou)
    assert 0.3 < min(iou.values()) < max(iou.values()) < 1  # the noise makes it a real test
    assert accuracy.mean_iou == pytest.approx(np.mean(list(iou.values())))
    assert accuracy.pixel_accuracy == pytest.approx(pixel_accuracy)
    labelled = sum(int(np.isin(ids, (10, 20, 30)).sum()) for _, ids in pairs)
    assert accuracy.confusion.sum() == labelled
    assert accuracy.label_share[3] == pytest.approx(sum((ids == 30).sum() for _, ids in pairs) / labelled)


def test_class_the_data_lacks_counts_as_an_error_but_has_no_iou():
    confusion = np.array([[3, 1], [0, 0]])
    accuracy = ClassAccuracy(
        names=("road", "sky"),
        confusion=confusion,
        unknown_to_data=("sky",),
        images=ImageCounts.of(["0"], [confusion]),
    )
    assert accuracy.iou[0] == 0.75 and np.isnan(accuracy.iou[1])
    assert accuracy.mean_iou == 0.75 and accuracy.pixel_accuracy == 0.75
    assert accuracy.predicted_share.tolist() == [0.75, 0.25]


def test_accuracy_needs_labels_and_a_common_class(tiny_model, pairs, tmp_path):
    other = DATA_FILE.replace("road", "street").replace("tree", "wood").replace("car", "auto")
    (tmp_path / "other.yaml").write_text(other)
    with cpsl_deploy.load(tiny_model) as segmenter:
        with pytest.raises(DataError, match=r"no class name in common.*bus"):
            evaluate(segmenter, open_dataset(tmp_path / "other.yaml", "val"))
        with pytest.raises(DataError, match="'bare' of tiny-road has none"):
            evaluate(segmenter, open_dataset(tmp_path / "data.yaml", "bare"))


def test_result_on_labelled_data(exact_model, pairs, tmp_path):
    result = benchmark(exact_model, tmp_path / "data.yaml", frames=5, **QUICK, warm_up=1, threads=1)
    assert result.samples.frames == ("0", "1", "2", "0", "1")
    assert result.samples.sizes == tuple((40 + 8 * i, 64) for i in (0, 1, 2, 0, 1))
    assert result.accuracy.frames == 3  # every image is scored once, however often it is timed
    assert result.samples.first_frame_ms > 0
    parts = sum(times for stage, times in result.samples.stages_ms.items() if stage != "total")
    assert (result.samples.stages_ms["total"] >= parts * 0.999).all()
    road, sky, _, car = result.record["classes"]
    assert sky["iou"] is None and sky["label_share"] is None and sky["predicted_share"] > 0
    assert car["iou"] == pytest.approx(result.accuracy.iou[3]) and car["extraction"]["frames"] == 3
    assert road["latency"]["frames"] == 5 and road["latency"]["p99_ms"] >= road["latency"]["p50_ms"] > 0
    assert sum(c["predicted_share"] for c in result.record["classes"]) == pytest.approx(1)
    notes = " ".join(result.notes)
    assert "does not have them: sky" in notes and "labelled bus" in notes and "gone round" in notes


def test_fewer_frames_than_the_split_are_spread_over_it_and_said(tiny_model, pairs, tmp_path):
    result = benchmark(tiny_model, tmp_path / "data.yaml", frames=2, **QUICK, warm_up=0, threads=1)
    assert result.samples.frames == ("0", "2") and result.accuracy.frames == 2
    assert any("2 of the split's 3 images" in note for note in result.notes)


def test_data_without_labels_gives_latency_only_and_says_so(tiny_model, pairs, tmp_path):
    result = benchmark(tiny_model, tmp_path / "data.yaml", split="bare", **QUICK, warm_up=0, threads=1)
    assert result.accuracy is None and result.mean_iou is None and len(result.samples.frames) == 3
    assert all(c["iou"] is None for c in result.record["classes"])
    assert any("no labels: latency is measured, accuracy is not" in note for note in result.notes)


def test_a_folder_of_photos_needs_no_split(tiny_model, pairs, tmp_path):
    result = benchmark(tiny_model, tmp_path / "images", **QUICK, warm_up=0, threads=1)
    assert (
        result.record["settings"]["split"] == "train"
        and len(result.samples.frames) == 3
        and result.accuracy is None
    )


def test_labels_are_not_turned_by_exif_but_photos_are(tiny_model, tmp_path):
    """Labelled frames are timed as the accuracy sees them: as stored."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "data.yaml").write_text(DATA_FILE)
    cv2.imwrite(str(tmp_path / "plain.jpg"), tiny_onnx.street(48, 80))
    plain = (tmp_path / "plain.jpg").read_bytes()
    tag = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    exif = b"\xff\xe1" + (len(tag) + 8).to_bytes(2, "big") + b"Exif\0\0" + tag
    (tmp_path / "images/0.jpg").write_bytes(plain[:2] + exif + plain[2:])
    cv2.imwrite(str(tmp_path / "labels/0.png"), np.full((48, 80), 10, np.uint8))
    sizes = {
        split: benchmark(
            tiny_model, tmp_path / "data.yaml", split=split, **QUICK, warm_up=0, threads=1
        ).samples.sizes
        for split in ("val", "bare")
    }
    assert sizes == {"val": ((48, 80),), "bare": ((80, 48),)}


def test_every_part_is_in_a_record_that_keeps_to_the_schema(tiny_model, pairs, tmp_path):
    jsonschema = pytest.importorskip("jsonschema", reason="needs the extra 'dev'")
    result = benchmark(
        tiny_model,
        tmp_path / "data.yaml",
        command="cpsl-bench tiny.onnx",
        warm_up=1,
        threads=1,
        cold_starts=1,
        stream_seconds=0.3,
        max_age_ms=5000.0,
        sweep_sizes=((32, 48), (40, 64)),
        sweep_batches=(1, 2),
        variants=True,
        matrix_tflops=0.1,
        copy_gbs=10.0,
        sustain_minutes=0.01,
    )
    record = result.record
    jsonschema.validate(record, record_schema())
    for part in record_schema()["properties"]:
        assert record[part] is not None, part
        assert why_unavailable(record, part) is None
    assert record["data"]["images"] == 3 and record["data"]["labelled"]
    assert record["command"] == "cpsl-bench tiny.onnx" and record["settings"]["max_age_ms"] == 5000
    refused = [cell for cell in record["sweep"] if "unavailable" in cell]
    assert len(record["sweep"]) == 4 and {cell["batch"] for cell in refused} <= {2}
    assert record["roofline"]["rates"]["stated"] and record["load"]["streams"] >= 1
    assert all(row["stream_age"]["frames"] > 0 for row in record["classes"] if row["predicted_share"] > 0.1)
    report = write_report(result, tmp_path / "out", plot=False)
    assert read_record(report.json) == record


def test_what_cannot_be_measured_costs_nothing_of_the_rest(tiny_model, monkeypatch):
    def fails(*_, **__):
        raise UnavailableError("no process can be started. Free some memory")

    monkeypatch.setattr(sections, "measure_cold_start", fails)
    record = benchmark(tiny_model, frames=2, size=(32, 48), **{**QUICK, "cold_starts": 1}).record
    assert record["cold_start"] == {"unavailable": "no process can be started. Free some memory"}
    assert record["latency"]["stages_ms"]["total"]["count"] == 2 and record["throughput"] is None


def test_the_data_s_hash_is_of_its_contents_and_not_of_its_place(tiny_model, pairs, tmp_path):
    def of_data() -> str:
        return data_sha256(open_dataset(tmp_path / "data.yaml", "val"))

    before = of_data()
    shutil.copytree(tmp_path, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("elsewhere"))
    assert data_sha256(open_dataset(tmp_path / "elsewhere/data.yaml", "val")) == before
    label = cv2.imread(str(tmp_path / "labels/1.png"), cv2.IMREAD_UNCHANGED)
    label[0, 0] = 20 if label[0, 0] != 20 else 10
    cv2.imwrite(str(tmp_path / "labels/1.png"), label)
    assert of_data() != before


def test_records_that_are_none_are_refused(tmp_path):
    whole = {name: None for name in record_schema()["required"]} | {"schema_version": 2, "kind": "benchmark"}
    cases = {
        "cannot read the record": None,
        "is not JSON": "{",
        "has no schema_version": "[]",
        "of schema 1, and this version reads": '{"schema_version": 1}',
        "lacks classes: it was cut": json.dumps({k: v for k, v in whole.items() if k != "classes"}),
    }
    for reason, text in cases.items():
        file = tmp_path / "record.json"
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
        with pytest.raises(InputError, match=reason):
            read_record(file)


def test_settings_that_break_a_rule_are_refused(tiny_model, pairs, tmp_path):
    for wrong in ({"frames": 0}, {"warm_up": -1}, {"threads": 0}):
        with pytest.raises(InputError, match="or more"):
            benchmark(tiny_model, **wrong)
    for wrong in ({"stream_fps": 0}, {"max_age_ms": float("nan")}, {"sustain_minutes": -1}):
        with pytest.raises(InputError, match=r"is a number( of minutes)? above 0"):
            benchmark(tiny_model, **wrong)
    with pytest.raises(InputError, match="given together"):
        benchmark(tiny_model, copy_gbs=10.0)
    with pytest.raises(InputError, match=r"the settings backend, .*; got warmup"):
        benchmark(tiny_model, warmup=3)
    with pytest.raises(InputError, match="a size or data, not both"):
        benchmark(tiny_model, tmp_path / "data.yaml", size=(32, 32))
    with pytest.raises(ModelFileError, match="cpsl-export"):
        benchmark(tmp_path / "missing.onnx")


def test_damaged_image_is_named(tiny_model, pairs, tmp_path):
    whole = (tmp_path / "images/1.png").read_bytes()
    (tmp_path / "images/1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"1\.png is truncated"):
        benchmark(tiny_model, tmp_path / "data.yaml", split="bare", **QUICK, warm_up=0, threads=1)


def test_files_hold_every_sample_and_what_is_needed_to_believe_them(tiny_model, pairs, tmp_path):
    result = benchmark(tiny_model, tmp_path / "data.yaml", **QUICK, warm_up=0, threads=1)
    paths = write_report(result, tmp_path / "out", plot=False)
    assert paths.plot is None
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"bench.json", "bench.md", "bench.html"}
    document = json.loads(paths.json.read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    assert document["schema_version"] == 2
    assert {"cpu", "cores", "usable_cores", "memory_gib", "os", "gpus"} <= document["machine"].keys()
    assert document["versions"]["numpy"] == np.__version__
    assert {"python", "opencv", "onnxruntime", "openvino", "cpsl_deploy"} <= document["versions"].keys()
    assert document["model"]["name"] == "tiny.onnx" and len(document["model"]["sha256"]) == 64
    assert document["model"]["spec"]["class_names"] == list(tiny_onnx.CLASS_NAMES)
    assert document["settings"]["threads"] == 1 and document["runtime"]["backend"] == "onnxruntime"
    assert document["accuracy"]["miou"] == pytest.approx(result.accuracy.mean_iou)
    for stage, samples in document["samples"]["stages_ms"].items():
        assert len(samples) == 3
        assert document["latency"]["stages_ms"][stage]["p90"] == pytest.approx(np.percentile(samples, 90))
    sky = document["classes"][1]
    assert sky["name"] == "sky" and sky["iou"] is None and sky["extraction"]["contours_ms"] > 0
    text = paths.markdown.read_text()
    assert "| sky | n/a | n/a |" in text and "| total |" in text and "bench.png" not in text


def test_plot_is_a_picture(tiny_model, pairs, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the plot extra")
    for name, data in (("labelled", tmp_path / "data.yaml"), ("synthetic", None)):
        result = benchmark(tiny_model, data, frames=3, **QUICK, warm_up=0, threads=1)
        paths = write_report(result, tmp_path / name)
        picture = cv2.imread(str(paths.plot))
        assert picture.shape[0] > 400 and picture.shape[1] > 1000
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_a_full_output_folder_is_left_as_it_was(tiny_model, tmp_path):
    result = benchmark(tiny_model, frames=1, **QUICK, warm_up=0, size=(32, 48), threads=1)
    assert result.samples.sizes == ((32, 48),)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/bench.md").write_text("earlier")
    with pytest.raises(OutputError, match="not empty"):
        write_report(result, tmp_path / "out", plot=False)
    assert (tmp_path / "out/bench.md").read_text() == "earlier"
    write_report(result, tmp_path / "out", plot=False, overwrite=True)
    assert "tiny.onnx" in (tmp_path / "out/bench.md").read_text()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_command_ends_with_one_line_of_json(tiny_model, pairs, tmp_path):
    done = run(tiny_model, "--quick", "--data", tmp_path / "data.yaml", "-o", tmp_path / "out", "--no-plot")
    assert done.exit_code == 0, done.output
    headline = json.loads(done.stdout.splitlines()[-1])
    document = json.loads(Path(headline["paths"]["json"]).read_text())
    assert headline["miou"] == pytest.approx(document["accuracy"]["miou"], abs=1e-4)
    assert headline["p90_ms"] == pytest.approx(document["latency"]["stages_ms"]["total"]["p90"], abs=1e-3)
    assert {"p50_ms", "p99_ms", "fps"} <= headline.keys() and Path(headline["paths"]["markdown"]).is_file()
    assert "note: n/a, because the data does not have them: sky." in " ".join(done.stdout.split())


def test_command_refuses_bad_input_with_exit_code_2(tiny_model, pairs, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/bench.json").write_text("{}")
    (tmp_path / "damaged.onnx").write_bytes(tiny_model.read_bytes()[:200])
    (tmp_path / "empty").mkdir()
    new = ("--no-plot", "-o", tmp_path / "new")
    refusals = {
        "there is no model file": (tmp_path / "missing.onnx", *new),
        "damaged": (tmp_path / "damaged.onnx", "--frames", 1, *new),
        "is not empty": (tiny_model, "--no-plot", "-o", tmp_path / "full"),
        "a size is written": (tiny_model, "--size", "640", *new),
        "a split is a part of data": (tiny_model, "--split", "val", *new),
        "data is looked for in it, and none is given": (tiny_model, "--data-root", tmp_path, *new),
        "sustain is a number of minutes above 0": (tiny_model, "--sustain", "-1", *new),
        "batches are whole numbers": (tiny_model, "--sweep-batches", "1,x", *new),
        "has 134217728 pixels at most": (tiny_model, "--sweep-sizes", "99999x99999", *new),
        "stream-seconds is 0 or more, and below": (tiny_model, "--stream-seconds", "inf", *new),
        "frames is 1 or more, and below": (tiny_model, "--frames", 10**12, *new),
        "a result is 40 ms old before": (tiny_model, "--max-age-ms", "30", *new),
        "a size or data": (tiny_model, "--size", "32x32", "--data", tmp_path / "data.yaml", *new),
        "has no split 'test'": (tiny_model, "--data", tmp_path / "data.yaml", "--split", "test", *new),
        "holds no photos": (tiny_model, "--data", tmp_path / "empty", *new),
    }
    for reason, arguments in refusals.items():
        done = run(*arguments)
        assert done.exit_code == 2 and reason in " ".join(done.output.split()), (reason, done.output)
        assert "Traceback" not in done.output
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "full/bench.json").read_text() == "{}"
    assert list((tmp_path / "full").iterdir()) == [tmp_path / "full/bench.json"]


def test_memory_that_is_not_to_be_had_costs_one_part(tiny_model, monkeypatch):
    def fails(*_, **__):
        raise MemoryError("Unable to allocate 3 TiB")

    monkeypatch.setattr(sections, "measure_sweep", fails)
    record = benchmark(tiny_model, frames=1, size=(32, 48), sweep_batches=(2,), **QUICK).record
    assert "Unable to allocate" in record["sweep"]["unavailable"] and record["latency"]["fps"] > 0


def test_parts_are_measured_with_what_they_are_about(tiny_model, monkeypatch):
    """The roofline is of the inference alone, a sweep of the network's own sizes, sensors of its device."""
    asked = {}

    def roofline(path, runtime, size, measured_ms, **named):
        asked["ms"], asked["size"] = measured_ms, size
        raise UnavailableError("seen")

    def sweep(segmenter, frames, **named):
        asked["own_size"] = named["own_size"]
        raise UnavailableError("seen")

    monkeypatch.setattr(sections, "measure_roofline", roofline)
    monkeypatch.setattr(sections, "measure_sweep", sweep)
    settings = {**QUICK, "roofline": True, "sweep_batches": (1,)}
    result = benchmark(tiny_model, frames=3, size=(32, 48), **settings)
    assert asked["ms"] == np.median(result.samples.stages_ms["inference"])
    assert asked["own_size"] is True  # the tiny model takes any size


def test_a_folder_of_the_user_stays_when_a_run_fails(tiny_model, tmp_path):
    (tmp_path / "mine").mkdir()
    assert run(tiny_model, "--data", tmp_path / "gone", "--no-plot", "-o", tmp_path / "mine").exit_code == 2
    assert (tmp_path / "mine").is_dir()


def test_an_interrupted_run_says_that_nothing_was_written_and_leaves_nothing(
    tiny_model, tmp_path, monkeypatch
):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "measure_latency", interrupted)
    done = run(tiny_model, "--quick", "--no-plot", "-o", tmp_path / "out")
    assert done.exit_code == 130 and "Nothing was written" in done.output
    assert not (tmp_path / "out").exists()


def test_parts_are_told_of_where_there_is_no_terminal(tiny_model, tmp_path):
    done = run(tiny_model, "--quick", "--frames", 2, "--warm-up", 1, "--no-plot", "-o", tmp_path / "out")
    assert [line for line in done.stderr.splitlines() if line == "latency: 2"]


def test_pages_are_made_again_from_a_record(tiny_model, tmp_path):
    assert run(tiny_model, "--quick", "--frames", 2, "--no-plot", "-o", tmp_path / "out").exit_code == 0
    page = (tmp_path / "out/bench.md").read_text()
    (tmp_path / "out/bench.md").write_text("edited")
    done = run("report", tmp_path / "out/bench.json", "--no-plot")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out/bench.md").read_text() == page
    assert json.loads(done.stdout.splitlines()[-1])["paths"]["markdown"] == str(tmp_path / "out/bench.md")
    assert run("report", tmp_path / "gone.json").exit_code == 2


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom cpsl_deploy.bench.command import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "assert not {'cv2', 'onnxruntime', 'matplotlib', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--max-age-ms" in done.stdout and "cpsl-bench compare" in done.stdout


def test_benchmarking_never_imports_torch(tiny_model, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from cpsl_deploy.bench.command import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "assert not any(name.partition('.')[0] == 'torch' and module for name, module in sys.modules.items())"
    )
    arguments = [str(tiny_model), "--frames", "1", "--warm-up", "0", "--no-plot", "--cold-starts", "1"]
    arguments += ["--stream-seconds", "0.2", "-o", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/bench.json").is_file()
