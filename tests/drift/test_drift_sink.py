"""The sink: a detector for each source, lines in a file, frames where a folder is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from drift_roads import road_reference, road_result
from sink_results import nothing_left

import cpsl_deploy
from cpsl_deploy.drift.detector import DriftPolicy
from cpsl_deploy.drift.reference import DriftReference
from cpsl_deploy.drift.ring import FrameRing
from cpsl_deploy.drift.sink import DriftSink
from cpsl_deploy.errors import InputError, ModelFileError, OutputError


@pytest.fixture(scope="module")
def reference() -> DriftReference:
    return road_reference()


def run(sink: DriftSink, seconds: int = 60, *, fps: int = 2) -> None:
    """Two cameras; in front of the second it gets dark after 30 s."""
    sink.check()
    for place in range(seconds * fps):
        time_s = place / fps
        for source, gain in (("front", 1.0), ("rear", 0.4 if time_s >= 30 else 1.0)):
            sink.write(road_result(400 + int(time_s), source=source, time_s=time_s, gain=gain))
    sink.close()
    sink.close()


def test_one_detector_for_each_source(reference: DriftReference, tmp_path: Path) -> None:
    sink = DriftSink(reference)
    with nothing_left():
        run(sink)
    found = json.loads(json.dumps(sink.snapshot()))
    assert found["sources"]["rear"]["alarm"] and not found["sources"]["front"]["alarm"]
    assert found["ring"] is None and list(tmp_path.iterdir()) == [], (
        "nothing is stored that was not asked for"
    )


def test_lines(reference: DriftReference, tmp_path: Path) -> None:
    with nothing_left():
        run(DriftSink(reference, log=tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["drift.jsonl"], "no frame without consent"
    lines = [json.loads(line) for line in (tmp_path / "out/drift.jsonl").read_text().splitlines()]
    rear = [line for line in lines if line["source"] == "rear"]
    (turned,) = [line for line in rear if line["changed"]]
    assert turned["alarm"] and turned["score"] > 1 and any("darker" in words for words in turned["causes"])
    assert [line["time_s"] for line in rear if line["time_s"] < 30] == [5, 15, 25]
    assert 10 <= len(lines) <= 14 and lines[0]["time"].endswith("+00:00")
    run(DriftSink(reference, log=tmp_path / "out"))
    assert len((tmp_path / "out/drift.jsonl").read_text().splitlines()) == 2 * len(lines), "added to"


def test_kept_frames(reference: DriftReference, tmp_path: Path) -> None:
    sink = DriftSink(reference, keep=tmp_path / "drift", policy=DriftPolicy(window_s=8))
    run(sink)
    names = [path.name for path in (tmp_path / "drift").iterdir()]
    assert all(name.endswith("-rear.jpg") for name in names) and 20 < len(names) < 40
    assert sink.snapshot()["ring"]["kept"] == len(names)  # type: ignore[index]


def test_an_alarm_says_whether_and_where_frames_are_kept(
    reference: DriftReference, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for keep, words in ((None, "; no frame is kept: --keep FOLDER would"), (tmp_path, str(tmp_path))):
        caplog.clear()
        run(DriftSink(reference, keep=keep))
        (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert line.startswith("rear: the model no longer fits") and line.endswith(words)
    assert line.endswith(f"; frames are kept in {tmp_path}")


def test_a_ring_of_ones_own(reference: DriftReference, tmp_path: Path) -> None:
    run(DriftSink(reference, keep=FrameRing(tmp_path / "drift", max_files=3)))
    assert len(list((tmp_path / "drift").iterdir())) == 3


def test_images_have_no_times_and_count_a_second_each(reference: DriftReference) -> None:
    sink = DriftSink(reference)
    for i in range(40):
        sink.write(road_result(i, gain=0.4))
    assert sink.snapshot()["sources"]["cam"]["alarm"]  # type: ignore[index]


def test_places_are_checked_before_the_start(reference: DriftReference, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for sink in (DriftSink(reference, log=tmp_path / "file/a"), DriftSink(reference, keep=tmp_path / "file")):
        with pytest.raises(OutputError):
            sink.check()


def test_a_log_that_cannot_be_written_is_told_and_tried_again(
    reference: DriftReference, tmp_path: Path
) -> None:
    sink = DriftSink(reference, log=tmp_path)
    (tmp_path / "drift.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"drift\.jsonl"):
        for i in range(20):
            sink.write(road_result(i, time_s=float(i)))
    (tmp_path / "drift.jsonl").rmdir()
    for i in range(20, 40):
        sink.write(road_result(i, time_s=float(i)))
    sink.close()
    assert (tmp_path / "drift.jsonl").read_text().count("\n") >= 2


def test_for_a_model_file(tiny_model: Path, reference: DriftReference, tmp_path: Path) -> None:
    stored = tmp_path / "reference.json"
    with cpsl_deploy.load(tiny_model, threads=1) as segmenter:
        with pytest.raises(ModelFileError, match=r"has no drift reference.*cpsl-drift .*--calibrate"):
            DriftSink.for_model(segmenter)
        stored.write_text(reference.to_json())
        with pytest.raises(InputError, match="of another"):
            DriftSink.for_model(segmenter, reference=stored)
        with pytest.raises(InputError, match="cannot read"):
            DriftSink.for_model(segmenter, reference=tmp_path / "missing.json")
        stored.write_bytes(b"\xff\xfe")
        with pytest.raises(InputError, match="cannot read"):
            DriftSink.for_model(segmenter, reference=stored)
