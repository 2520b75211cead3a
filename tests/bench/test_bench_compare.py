"""Two records held against each other: equal runs differ in nothing, regressions are found and named."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from bench_records import OPTIONAL, complete_record, smallest_record, summary, without
from click.testing import CliRunner, Result

from cpsl_deploy.bench.comparison.command import compare as command
from cpsl_deploy.bench.comparison.compare import Comparison
from cpsl_deploy.bench.comparison.compare import compare as compare_records
from cpsl_deploy.bench.comparison.page import markdown
from cpsl_deploy.bench.record import record_schema
from cpsl_deploy.errors import InputError

Record = dict[str, Any]
CLASSES = ("road", "tree", "car")
FRAMES = 200


def record_of(seed: int, *, slower: float = 1.0, memory: float = 0.5, noise: float = 0.03) -> Record:
    """A run of FRAMES frames, whose noise is its own and whose frames and images are everyone's."""
    content = np.random.default_rng(100)
    random = np.random.default_rng(seed)
    steps = random.normal(0, noise, FRAMES)
    for i in range(1, FRAMES):
        steps[i] = memory * steps[i - 1] + np.sqrt(1 - memory**2) * steps[i]
    inference = 40 * slower * np.exp(steps + 0.6 * (random.random(FRAMES) < 0.02))
    decode = content.uniform(3, 6, FRAMES)
    record = complete_record(CLASSES, frames=FRAMES)
    record["samples"]["stages_ms"] = {
        "decode": decode.tolist(),
        "pre": [0.0] * FRAMES,
        "inference": inference.tolist(),
        "post": [0.3] * FRAMES,
        "total": (decode + inference + 0.35).tolist(),
    }
    pixels = np.full((FRAMES, 3), 1000)
    pixels[::3, 2] = 0  # a car is in two of three frames
    record["samples"]["predicted_pixels"] = pixels.tolist()
    times = record["samples"]["stages_ms"]
    record["latency"]["stages_ms"] = {stage: summary(values) for stage, values in times.items()}
    labelled = content.integers(500, 1500, (FRAMES, 3))
    labelled[:, 1] = 0  # no tree in the data
    _set_hits(record, labelled, np.full((FRAMES, 3), 0.8) + content.normal(0, 0.05, (FRAMES, 3)))
    return record


def _set_hits(record: Record, labelled: np.ndarray, recall: np.ndarray) -> None:
    hits = np.rint(labelled * np.clip(recall, 0, 1)).astype(int)
    record["accuracy"]["images"] |= {
        "hits": hits.tolist(),
        "labelled": labelled.tolist(),
        "predicted": (hits + 100).tolist(),
    }


def images(record: Record) -> dict[str, np.ndarray]:
    found = record["accuracy"]["images"]
    return {name: np.array(found[name]) for name in ("hits", "labelled", "predicted")}


def rows(found: Comparison) -> dict[str, Any]:
    return {row.name: row for row in found.rows}


def compared(a: Record, b: Record, **options: Any) -> Comparison:
    return compare_records(a, b, **{"resamples": 500, **options})


def test_the_records_of_these_tests_are_records() -> None:
    jsonschema.validate(record_of(0), record_schema())


def test_a_run_and_itself_differ_in_nothing() -> None:
    found = compared(record_of(0), record_of(0))
    assert {row.verdict for row in found.rows} == {"same"}
    assert all(row.change == 0 or (row.change is None and row.a == 0) for row in found.rows)
    assert not found.differences
    assert "The model files are the same." in found.notes
    for record in (complete_record(), smallest_record()):
        assert {row.verdict for row in compared(record, record).rows} <= {"same", "n/a"}


@pytest.mark.parametrize("memory", [0.0, 0.6])
def test_equal_models_regress_in_at_most_one_of_twenty_comparisons(memory: float) -> None:
    """With noise so large that the limit alone would be broken often."""
    plain = [without(record_of(seed, memory=memory, noise=0.3), *OPTIONAL, "command") for seed in range(80)]
    found = [compared(a, b, resamples=199) for a, b in zip(plain[::2], plain[1::2], strict=True)]
    beyond = [abs(rows(one)["total p90"].change) > 0.05 for one in found]
    assert sum(beyond) > 10
    assert sum(bool(one.regressions) for one in found) <= 2


def test_a_tenth_slower_is_a_regression_overall_and_of_every_class() -> None:
    found = compared(record_of(0), record_of(1, slower=1.12))
    seen = rows(found)
    names = {row.name for row in found.regressions}
    assert {"total mean", "total p50", "road, latency p50", "car, latency p50"} <= names
    assert seen["total p50"].change == pytest.approx(0.107, abs=0.02)
    assert seen["total p50"].p <= 0.05
    # Stages explain and do not fail; decoding and accuracy are as they were.
    assert (seen["inference p50"].verdict, seen["inference p50"].gates) == ("worse", False)
    assert seen["decode p50"].verdict == seen["mIoU"].verdict == "same"
    assert {row.name: row.verdict for row in compared(record_of(1, slower=1.12), record_of(0)).rows}[
        "total p50"
    ] == "better"


def test_a_little_slower_is_worse_and_no_regression() -> None:
    a, b = record_of(0), record_of(1, slower=1.035)
    found = compared(a, b, max_regression=0.05)
    assert rows(found)["total p50"].verdict == "worse"
    assert not found.regressions
    assert "total p50" in {row.name for row in compared(a, b, max_regression=0.02).regressions}


def test_one_class_that_is_half_as_good_is_found_and_named() -> None:
    a, b = record_of(0), record_of(1)
    counts = images(a)
    recall = counts["hits"] / np.maximum(counts["labelled"], 1)
    recall[:, 2] /= 2
    _set_hits(b, counts["labelled"], recall)
    found = compared(a, b)
    assert {row.class_name for row in found.regressions if "IoU" in row.name} == {None, "car"}
    assert {"mIoU", "pixel accuracy", "car, IoU"} <= {row.name for row in found.regressions}
    seen = rows(found)
    assert (seen["road, IoU"].verdict, seen["road, IoU"].change) == ("same", 0)
    assert "tree, IoU" not in seen  # the data has no tree
    for name, of in (("a", images(a)), ("b", images(b))):
        totals = {key: counts[:, 2].sum() for key, counts in of.items()}
        expected = totals["hits"] / (totals["labelled"] + totals["predicted"] - totals["hits"])
        assert getattr(seen["car, IoU"], name) == pytest.approx(expected)
    assert seen["mIoU"].a == pytest.approx((seen["road, IoU"].a + seen["car, IoU"].a) / 2)


def test_iou_has_a_limit_in_points_and_a_relative_one() -> None:
    """From 0.80 to about 0.78: 2.5 % of itself, 2 points."""
    a, b = record_of(0), record_of(0)
    counts = images(a)
    recall = counts["hits"] / np.maximum(counts["labelled"], 1)
    _set_hits(b, counts["labelled"], 0.975 * recall)
    assert "mIoU" in {row.name for row in compared(a, b).regressions}
    relative = compared(a, b, max_iou_drop=None)
    assert not relative.regressions
    assert rows(relative)["mIoU"].verdict == "worse"
    assert "mIoU" in {row.name for row in compared(a, b, max_iou_drop=None, max_regression=0.01).regressions}


def test_a_drop_that_a_few_images_make_is_not_significant() -> None:
    a, b = record_of(0), record_of(0)
    counts = images(a)
    counts["hits"][:2] = 0
    counts["hits"][2:5] = counts["labelled"][2:5]
    counts["predicted"] = counts["hits"] + 100
    b["accuracy"]["images"] |= {name: values.tolist() for name, values in counts.items()}
    row = rows(compared(a, b, max_iou_drop=0.0, max_regression=0.0))["mIoU"]
    assert row.change < 0
    assert row.verdict == "undecided"


def few_images(count: int, memory_of: int) -> tuple[Record, Record]:
    """Runs of which B hits 30 % less of the cars, and as much more or less of everything, in stretches."""
    a, b = record_of(0), record_of(0)
    counts = {name: values[:count] for name, values in images(a).items()}
    random = np.random.default_rng(8)
    counts["labelled"][:, 1] = 800
    drift = np.repeat(random.normal(0, 0.08, (count // memory_of + 1, 3)), memory_of, axis=0)[:count]
    for record, recall in ((a, np.full((count, 3), 0.8)), (b, 0.8 * np.array([1, 1, 0.7]) + drift)):
        _set_hits(record, counts["labelled"], recall)
        record["accuracy"] |= {"unknown_to_data": []}
        record["accuracy"]["images"]["names"] = record["accuracy"]["images"]["names"][:count]
    return a, b


def test_what_is_beyond_a_limit_and_not_significant_is_undecided(tmp_path: Path) -> None:
    a, b = few_images(40, 7)
    found = compared(a, b)
    assert not found.regressions
    assert "car, IoU" in {row.name for row in found.undecided}
    assert any("images in 6 blocks no class's IoU can be found significant" in n for n in found.notes)
    page = markdown(found)
    assert "No regression was shown." in page and "No regression.*" not in page
    assert "car, IoU" in page.split("**")[1]
    done = run_command(tmp_path, a, b)
    assert done.exit_code == 0
    assert "No regression." not in done.stdout
    last = json.loads(done.stdout.splitlines()[-1])
    assert "car, IoU" in last["undecided"] and last["regressions"] == []
    assert run_command(tmp_path, a, b, "--strict").exit_code == 3


def test_enough_images_are_not_called_too_few() -> None:
    a, b = few_images(200, 1)
    assert "car, IoU" in {row.name for row in compared(a, b).regressions}
    assert not any("measure more images" in note for note in compared(a, b).notes)
    assert not any("measure more images" in note for note in compared(a, a).notes)


def test_latencies_whose_memory_is_longer_than_the_blocks_are_undecided() -> None:
    a, b = record_of(0), record_of(0)
    drift = np.linspace(1.05, 1.3, FRAMES)
    b["samples"]["stages_ms"]["total"] = (np.array(a["samples"]["stages_ms"]["total"]) * drift).tolist()
    found = compared(a, b)
    assert not found.regressions
    assert "total p50" in {row.name for row in found.undecided}
    assert any("shorter than the memory of the latencies" in note for note in found.notes)


def test_latencies_of_few_frames_are_undecided() -> None:
    runs = []
    for factor in (1.0, 1.5):
        record = complete_record(CLASSES, frames=30)
        times = record["samples"]["stages_ms"]
        times["total"] = (factor * np.random.default_rng(int(2 * factor)).uniform(40, 41, 30)).tolist()
        runs.append(record)
    found = compared(*runs)
    assert not found.regressions
    assert "total p50" in {row.name for row in found.undecided}


def test_the_headline_counts_rows_that_can_fail_and_regressions_among_the_worse() -> None:
    found = compared(record_of(0), record_of(1, slower=1.12))
    headline = found.headline()
    assert headline["worse"] >= len(headline["regressions"]) > 0
    assert headline["worse"] == sum(
        row.gates and row.verdict in ("worse", "regression") for row in found.rows
    )
    a, b = record_of(0), record_of(0)
    b["throughput"]["fps"] *= 0.5
    b["warm_up"]["first_frame_ms"] *= 0.5
    assert (compared(a, b).headline()["worse"], compared(a, b).headline()["better"]) == (0, 0)


@pytest.mark.parametrize(
    ("argument", "rule"),
    [("--max-regression=-1", "x>=0"), ("--max-iou-drop=-2", "x>=0"), ("--level=1.5", "<x<1")],
)
def test_an_option_beyond_its_range_is_named_as_typed(tmp_path: Path, argument: str, rule: str) -> None:
    done = run_command(tmp_path, smallest_record(), smallest_record(), argument)
    name, value = argument.split("=")
    assert done.exit_code == 2
    assert f"'{name}': {float(value)}" in done.stderr
    assert rule in done.stderr


def test_images_that_only_one_run_has_are_left_out() -> None:
    a, b = record_of(0), record_of(0)
    for name in ("names", "hits", "labelled", "predicted"):
        del b["accuracy"]["images"][name][150:]
    found = compared(a, b)
    assert rows(found)["mIoU"].change == 0
    assert "IoU is over the 150 images of both; 50 are only in one." in found.notes


@pytest.mark.parametrize("missing", [OPTIONAL, ("accuracy",), ("sustained", "variants", "load")])
def test_sections_that_one_run_lacks_are_told_of(missing: tuple[str, ...]) -> None:
    a, b = record_of(0), record_of(0)
    found = compared(a, without(b, *missing))
    assert not found.regressions
    assert any(note.startswith("Only in A: ") for note in found.notes)
    assert all(json.dumps(row.name) for row in found.rows)
    unavailable = b | {name: {"unavailable": "no such thing here"} for name in missing}
    assert len(compared(unavailable, a).rows) == len(found.rows)


def test_single_figures_get_worse_and_do_not_fail() -> None:
    a, b = record_of(0), record_of(0)
    b["throughput"]["fps"] *= 0.8
    b["warm_up"]["first_frame_ms"] *= 0.5
    b["sustained"]["energy_per_frame_j"]["package"] *= 1.5
    found = compared(a, b)
    seen = rows(found)
    assert not found.regressions
    assert {seen[name].verdict for name in ("throughput", "sustained, energy per frame, package")} == {
        "worse"
    }
    assert seen["first frame"].verdict == "better"
    assert seen["throughput"].p is None


def test_a_variant_is_compared_by_its_rounds() -> None:
    a, b = record_of(0), record_of(0)
    times = b["variants"]["samples_ms"]
    times["openvino f32"] = [1.5 * ms for ms in times["openvino f32"]]
    seen = rows(compared(a, b))
    assert (seen["variant openvino f32 p50"].verdict, seen["variant openvino f32 p50"].gates) == (
        "worse",
        False,
    )
    assert seen["variant openvino bf16 p50"].verdict == "same"


def _change(record: Record, path: str, value: Any) -> Record:
    changed = copy.deepcopy(record)
    *folders, last = path.split(".")
    place = changed
    for folder in folders:
        place = place[folder]
    place[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        ("machine.cpu", "Another CPU", "processor: Example CPU 8-Core in A and Another CPU in B"),
        ("machine.usable_cores", 2.0, "usable cores"),
        ("machine.gpus", ["NVIDIA X, 550"], "GPUs: none in A and NVIDIA X in B"),
        ("machine.jetson", {"board": "Orin", "module": "p3701", "power_mode": "15W"}, "Jetson"),
        ("data.sha256", "c" * 64, "data's hash"),
        ("data.split", "test", "split: val in A and test in B"),
        ("data", None, "data's hash"),
        ("runtime.threads", 4, "threads: 2 in A and 4 in B"),
        ("runtime.device", "cuda", "device: cpu in A and cuda in B"),
        ("samples.frames", [f"other{i}" for i in range(FRAMES)], "measured frames: 200"),
        ("samples.sizes", [[256, 512]] * FRAMES, "sizes of the frames"),
    ],
)
def test_records_of_other_conditions_are_refused_unless_allowed(path: str, value: Any, word: str) -> None:
    a = record_of(0)
    b = _change(a, path, value)
    with pytest.raises(InputError, match="measured on one machine in the same way") as refused:
        compared(a, b)
    assert word in str(refused.value)
    found = compared(a, b, allow_different=True)
    assert any(word in line for line in found.differences)
    assert not found.regressions


def test_a_driver_or_library_may_change_and_is_told_of() -> None:
    a = _change(record_of(0), "machine.gpus", ["NVIDIA X, 550"])
    b = _change(a, "machine.gpus", ["NVIDIA X, 560"])
    b = _change(b, "versions.onnxruntime", "1.32.0")
    b = _change(b, "runtime.precision", "bf16")
    b["warm_up"]["steady"] = False
    notes = " ".join(compared(a, b).notes)
    assert "onnxruntime is 1.31.1 in A and 1.32.0 in B." in notes
    assert "The precision is f32 in A and bf16 in B." in notes
    assert "The latency of B had not become steady." in notes


def test_other_classes_and_frames_are_compared_as_far_as_they_go() -> None:
    a, b = record_of(0), record_of(1, slower=1.2)
    b["classes"][2]["name"] = "van"
    b["samples"]["frames"] = [f"other{i}" for i in range(FRAMES)]
    found = compared(a, b, allow_different=True)
    seen = rows(found)
    assert "car, IoU" not in seen and "van, IoU" not in seen
    assert seen["total p50"].verdict == "regression"
    assert seen["road, latency p50"].verdict == "regression"
    assert any(note.startswith("Only in A: class car") for note in found.notes)


def test_a_class_that_is_never_shown_has_no_latency() -> None:
    a = record_of(0)
    for row in a["samples"]["predicted_pixels"]:
        row[1] = 0
    row = rows(compared(a, record_of(0)))["tree, latency p50"]
    assert (row.a, row.change, row.p, row.verdict) == (None, None, None, "n/a")


def test_stray_pixels_do_not_make_a_frame_one_of_a_class() -> None:
    a = record_of(0)
    before = rows(compared(a, a))["car, latency p50"].a
    for row in a["samples"]["predicted_pixels"]:
        row[2] = row[2] or 5
    assert rows(compared(a, a))["car, latency p50"].a == before


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("schema_version", 1, "schema 1"),
        ("kind", "run", "'run'"),
        ("samples", None, "not what schema 2 says"),
        ("samples.stages_ms", {"inference": [1.0] * FRAMES}, "without the total"),
        ("samples.stages_ms.total", [1.0, 2.0], "not what schema 2 says"),
        ("samples.stages_ms.total", [float("nan")] * FRAMES, "not finite"),
        ("samples.stages_ms.total", [-1.0] * FRAMES, "below 0"),
        ("samples.predicted_pixels", [[1, 2]] * FRAMES, "shape"),
        ("accuracy.images.hits", [[9999] * 3] * FRAMES, "more hits"),
        ("accuracy.images", {}, "names"),
        ("classes", [{}], "name"),
        ("throughput", {"fps": "fast"}, "could not convert"),
        ("warm_up", {}, "first_frame_ms"),
    ],
)
def test_a_damaged_record_is_named(path: str, value: Any, words: str) -> None:
    a = record_of(0)
    with pytest.raises(InputError, match=r"new\.json") as refused:
        compared(a, _change(a, path, value), names=("old.json", "new.json"))
    assert words in str(refused.value)
    with pytest.raises(InputError, match="lacks latency"):
        compared({name: part for name, part in a.items() if name != "latency"}, a)


@pytest.mark.parametrize("options", [{"max_regression": -0.1}, {"max_iou_drop": -1.0}, {"level": 1.0}])
def test_limits_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(InputError, match=f"^{name}, .*; got {options[name]:g}$"):
        compared(smallest_record(), smallest_record(), **options)


def test_too_few_frames_are_told_of() -> None:
    notes = " ".join(compared(smallest_record(), smallest_record()).notes)
    assert "too few frames" in notes


def test_a_page_has_every_row_and_names_regressions_first() -> None:
    found = compared(record_of(0), record_of(1, slower=1.3), names=("old|1.json", "new.json"))
    page = markdown(found)
    assert page.startswith("# old\\|1.json (A) and new.json (B)\n\n**")
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert len({line.count("|") - line.count("\\|") for line in lines}) == 1
    for row in found.rows:
        assert any(line.startswith(f"| {row.name}") for line in lines)
    assert "regression |" in page.split("## Every figure")[0]
    json.dumps(found.to_json(), allow_nan=False)
    assert found.to_json()["regressions"] == [row.name for row in found.regressions]


def run_command(folder: Path, a: Record, b: Record, *arguments: str) -> Result:
    for name, record in (("a.json", a), ("b.json", b)):
        (folder / name).write_text(json.dumps(record))
    return CliRunner().invoke(command, [str(folder / "a.json"), str(folder / "b.json"), *arguments])


def test_the_command_tells_a_regression_by_its_exit_code(tmp_path: Path) -> None:
    page = tmp_path / "out" / "change.md"
    done = run_command(tmp_path, record_of(0), record_of(1, slower=1.12), "-o", str(page))
    assert done.exit_code == 3
    last = json.loads(done.stdout.splitlines()[-1])
    assert "total p50" in last["regressions"]
    assert last["p50_change"] == pytest.approx(0.107, abs=0.02)
    assert last["paths"] == {"markdown": str(page)}
    assert "total p50" in page.read_text()
    lenient = run_command(tmp_path, record_of(0), record_of(1, slower=1.12), "--max-regression", "30")
    assert lenient.exit_code == 0
    assert json.loads(lenient.stdout.splitlines()[-1])["regressions"] == []


def test_the_command_refuses_what_cannot_be_compared(tmp_path: Path) -> None:
    a = record_of(0)
    other = _change(a, "machine.cpu", "Another CPU")
    refused = run_command(tmp_path, a, other)
    assert refused.exit_code == 2
    assert "--allow-different" in refused.stderr
    assert run_command(tmp_path, a, other, "--allow-different").exit_code == 0
    (tmp_path / "b.json").write_text("{")
    done = CliRunner().invoke(command, [str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert (done.exit_code, "is not JSON" in done.stderr) == (2, True)
    assert run_command(tmp_path, a, a, "--seed", "-1").exit_code == 2


@pytest.mark.parametrize(
    ("part", "value"),
    [("machine", None), ("versions", None), ("runtime", "cpu"), ("data", 3)],
)
def test_a_part_of_another_kind_is_an_error_and_no_accident(part: str, value: Any) -> None:
    record = complete_record(CLASSES, frames=FRAMES)
    with pytest.raises(InputError, match="is not what schema 2 says"):
        compare_records(record, {**record, part: value}, allow_different=True)
