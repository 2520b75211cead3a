"""Overlays, label images and JSON lines: names, contents, pieces, a full disk, a killed process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from full_disk import small_disk
from sink_results import CLASSES, make_result, nothing_left, visible, wait_until

from cpsl_deploy.data.images import read_mask
from cpsl_deploy.errors import InputError, OutputError, UnavailableError
from cpsl_deploy.sinks import place
from cpsl_deploy.sinks.base import Sink
from cpsl_deploy.sinks.json_lines import AreasSink
from cpsl_deploy.sinks.label_png import LabelSink
from cpsl_deploy.sinks.overlay_video import OverlaySink
from cpsl_deploy.sinks.place import piece_stamp


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [round(frame.time, 4) for frame in container.decode(video=0)]


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_image_gives_an_image_without_loss_if_it_had_none(tmp_path: Path) -> None:
    sink = OverlaySink(tmp_path, opacity=0.25, legend=False)
    png, jpg = make_result(3, name="a", suffix=".png"), make_result(4, name="b", suffix=".jpg")
    sink.write(png)
    sink.write(jpg)
    sink.close()
    assert visible(tmp_path) == ["a.overlay.png", "b.overlay.jpg"]
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.overlay.png")), png.overlay(0.25, False))


def test_a_video_keeps_its_stamps_and_each_source_has_its_own(tmp_path: Path) -> None:
    sink = OverlaySink(tmp_path, fps={"left": 10.0, "right": None})
    stamps = {"left": [0.0, 0.1, 0.2], "right": [0.0, 0.033, 0.9]}
    with nothing_left():
        for index in range(3):
            for source, size in (("left", (48, 64)), ("right", (64, 96))):
                sink.write(make_result(index, source=source, time_s=stamps[source][index], size=size))
        sink.close()
        sink.close()
    assert visible(tmp_path) == ["left.overlay.mp4", "right.overlay.mp4"]
    for source, times in stamps.items():
        assert times_of(tmp_path / f"{source}.overlay.mp4") == pytest.approx(times, abs=1e-4)
    assert sorted(path.name for path in sink.files) == visible(tmp_path)


def test_another_frame_size_begins_another_file(tmp_path: Path) -> None:
    sink = OverlaySink(tmp_path)
    for index, size in enumerate([(48, 64), (48, 64), (96, 128), (48, 64)]):
        sink.write(make_result(index, time_s=index / 10, size=size))
    sink.close()
    assert visible(tmp_path) == ["cam.overlay-2.mp4", "cam.overlay-3.mp4", "cam.overlay.mp4"]
    assert times_of(tmp_path / "cam.overlay.mp4") == [0, 0.1]
    assert times_of(tmp_path / "cam.overlay-2.mp4") == [0.2]


def test_a_live_source_is_written_in_pieces_that_begin_at_zero(tmp_path: Path) -> None:
    sink = OverlaySink(tmp_path, piece_s={"cam": 1.0})
    now = time.monotonic()
    results = [make_result(i, time_s=5 + 0.4 * i, captured_s=now - 60 + 0.4 * i) for i in range(6)]
    for number, result in enumerate(results):
        sink.write(result)
        assert len([name for name in visible(tmp_path) if ".tmp." not in name]) == number // 3
    sink.close()
    stamps = [piece_stamp(results[0].frame), piece_stamp(results[3].frame)]
    assert visible(tmp_path) == sorted(f"cam.overlay-{stamp}.mp4" for stamp in stamps)
    assert time.strptime(stamps[0], "%Y%m%dT%H%M%SZ")
    for stamp in stamps:
        assert times_of(tmp_path / f"cam.overlay-{stamp}.mp4") == pytest.approx([0, 0.4, 0.8], abs=1e-4)


def test_pieces_of_the_same_second_do_not_replace_each_other(tmp_path: Path) -> None:
    sink = OverlaySink(tmp_path, piece_s=600)
    now = time.monotonic()
    for index, size in enumerate([(48, 64), (96, 128), (48, 64)]):
        sink.write(make_result(index, time_s=0.1 * index, size=size, captured_s=now))
    sink.close()
    stamp = piece_stamp(make_result(captured_s=now).frame)
    assert visible(tmp_path) == sorted(f"cam.overlay-{stamp}{end}.mp4" for end in ("", "-2", "-3"))


def test_labels_are_palette_images_of_their_values(tmp_path: Path) -> None:
    sink = LabelSink(tmp_path)
    moving, still = make_result(7, time_s=0.1), make_result(1, name="a")
    sink.write(moving)
    sink.write(still)
    sink.close()
    assert visible(tmp_path) == ["a.labels.png", "labels/cam-000007.png"]
    for name, result in (("a.labels.png", still), ("labels/cam-000007.png", moving)):
        data = (tmp_path / name).read_bytes()
        assert data[25] == 3, "the PNG is not indexed"
        np.testing.assert_array_equal(read_mask(tmp_path / name), result.labels)


def test_labels_of_a_second_live_run_leave_those_of_the_first_alone(tmp_path: Path) -> None:
    now = time.monotonic() - 60
    pieces = {"left": 1.0, "right": 1.0, "file": None}
    for run in range(2):
        sink = LabelSink(tmp_path, several_sources=True, piece_s=pieces)
        for index in range(6):
            for source in pieces:
                result = make_result(index, source=source, time_s=0.4 * index, captured_s=now + 0.4 * index)
                result.labels[:] = run
                sink.write(result)
        sink.close()
    folders = sorted(path.name for path in tmp_path.iterdir())
    first, second = (piece_stamp(make_result(captured_s=now + s).frame) for s in (0.0, 1.2))
    assert folders == sorted(
        ["labels", *(f"labels-{stamp}{again}" for stamp in (first, second) for again in ("", "-2"))]
    )
    for run, again in enumerate(("", "-2")):
        for stamp, indices in ((first, range(3)), (second, range(3, 6))):
            folder = tmp_path / f"labels-{stamp}{again}"
            names = sorted(f"{source}-{index:06d}.png" for source in ("left", "right") for index in indices)
            assert sorted(path.name for path in folder.iterdir()) == names
            assert all((read_mask(path) == run).all() for path in folder.iterdir())
    assert len(list((tmp_path / "labels").iterdir())) == 6


def test_images_of_several_sources_do_not_meet(tmp_path: Path) -> None:
    for sink in (LabelSink(tmp_path, several_sources=True), OverlaySink(tmp_path, several_sources=True)):
        for source in ("left", "right"):
            sink.write(make_result(name="a", source=source))
        sink.close()
    files = ("a.labels.png", "a.overlay.jpg")
    assert visible(tmp_path) == sorted(f"{source}/{file}" for source in ("left", "right") for file in files)


def test_areas_say_what_each_frame_shows(tmp_path: Path) -> None:
    sink = AreasSink(tmp_path)
    sink.write(make_result(0, name="a"))
    sink.write(make_result(5, time_s=0.21, size=(30, 90)))
    (unfinished,) = tmp_path.glob(f".areas.*.{os.getpid()}.tmp.jsonl")
    assert len(lines_of(unfinished)) == 2, "lines cannot be read while the file grows"
    sink.close()
    assert visible(tmp_path) == ["areas.jsonl"]
    first, second = lines_of(tmp_path / "areas.jsonl")
    assert first == {
        "frame": 0,
        "name": "a",
        "areas": {"road": 0.5, "sky": 0.5},
        "latency_ms": 7.5,
        "age_ms": 12.5,
    }
    assert second["time_s"] == 0.21
    assert list(second["areas"]) == list(CLASSES.names)


def test_areas_of_several_sources_name_them_and_come_in_pieces(tmp_path: Path) -> None:
    sink = AreasSink(tmp_path, several_sources=True, piece_s=10)
    now = time.monotonic() - 100
    for index in range(6):
        sink.write(make_result(index, source="ab"[index % 2], time_s=4.0 * index, captured_s=now + 4 * index))
    sink.close()
    assert len(sink.files) == 2
    pieces = [lines_of(tmp_path / name) for name in visible(tmp_path)]
    assert [[line["frame"] for line in piece] for piece in pieces] == [[0, 1, 2], [3, 4, 5]]
    assert [line["source"] for line in pieces[0]] == ["a", "b", "a"]
    for line in pieces[0] + pieces[1]:
        captured = datetime.fromisoformat(line["time"])
        assert captured.utcoffset() == timedelta(0)
        assert captured.timestamp() == pytest.approx(time.time() - 100 + 4 * line["frame"], abs=2)
    assert all(name.startswith("areas-20") and name.endswith("Z.jsonl") for name in visible(tmp_path))


@pytest.mark.parametrize("make", [OverlaySink, LabelSink, AreasSink])
def test_aborting_leaves_nothing_unfinished_and_the_next_result_begins_afresh(tmp_path: Path, make) -> None:
    sink: Sink = make(tmp_path)
    with nothing_left():
        sink.write(make_result(0, time_s=0.0))
        sink.abort()
        sink.abort()
        assert not [name for name in visible(tmp_path) if "labels/" not in name]
        sink.write(make_result(1, time_s=0.1))
        sink.close()
    (name,) = [name for name in visible(tmp_path) if name != "labels/cam-000000.png"]
    if name.endswith(".mp4"):
        assert times_of(tmp_path / name) == [0.1]
    if name.endswith(".jsonl"):
        assert [line["frame"] for line in lines_of(tmp_path / name)] == [1]


@pytest.mark.parametrize("name", ["../a", "a/b", "..", "", "a\\b", "a\0b", "/etc/a"])
def test_names_from_outside_never_leave_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    for sink in (OverlaySink(folder), OverlaySink(folder, several_sources=True)):
        with pytest.raises(OutputError, match="no file name"):
            sink.write(make_result(source=name, time_s=0.0))
        with pytest.raises(OutputError, match="no file name"):
            sink.write(make_result(source=name, name=name or "/"))
    for labels in (LabelSink(folder), LabelSink(folder, several_sources=True)):
        with pytest.raises(OutputError, match="no file name"):
            labels.write(make_result(source=name, name=name or "/"))
    assert visible(tmp_path) == []


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"opacity is from 0 to 1; got 1\.5"):
        OverlaySink(tmp_path, opacity=1.5)
    for seconds in (0, -1, float("nan")):
        with pytest.raises(InputError, match="longer than 0 seconds"):
            OverlaySink(tmp_path, piece_s=seconds)
        with pytest.raises(InputError, match="longer than 0 seconds"):
            AreasSink(tmp_path, piece_s=seconds)
        with pytest.raises(InputError, match="longer than 0 seconds"):
            LabelSink(tmp_path, piece_s={"a": None, "b": seconds})
    with pytest.raises(UnavailableError, match=r"These work for \.mp4 files"):
        OverlaySink(tmp_path, codec="QQQQ").check()
    (tmp_path / "file").write_text("")
    for sink in (OverlaySink(tmp_path / "file"), LabelSink(tmp_path / "file"), AreasSink(tmp_path / "file")):
        with pytest.raises(OutputError, match="cannot write"):
            sink.check()


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f".cam.overlay.{ended.pid}.tmp.mp4"
    another = tmp_path / f".cam.overlay.{os.getppid()}.tmp.mp4"
    same_number = tmp_path / f".before.{os.getpid()}.tmp.jsonl"
    kept = (tmp_path / ".hidden.mp4", tmp_path / f".mine.{os.getpid()}.tmp.jsonl", another)
    for path in (left, same_number, *kept):
        path.write_bytes(b"x")
    os.utime(same_number, (1e9, 1e9))
    AreasSink(tmp_path).check()
    assert visible(tmp_path) == sorted(path.name for path in kept)


@pytest.mark.parametrize("make", [OverlaySink, LabelSink, AreasSink])
def test_a_full_disk_is_told_and_leaves_nothing_unfinished(make) -> None:
    with small_disk(1) as folder:
        sink: Sink = make(folder)
        sink.check()
        with nothing_left(), pytest.raises(OutputError, match="the disk is full"):
            for index in range(20_000):
                sink.write(make_result(index, time_s=index / 25, size=(240, 320), noise=index < 400))
        written = visible(folder)
        assert not [name for name in written if ".tmp" in name or not name.startswith("labels/")]
        assert all(read_mask(folder / name).shape == (240, 320) for name in written[-3:])
        for path in folder.glob("labels/*"):
            path.unlink()
        sink.write(make_result(1, time_s=0.0))
        sink.close()
        assert len(visible(folder)) == 1


def test_a_live_piece_is_finished_while_there_is_still_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "LEAST_FREE", 1 << 20)
    with small_disk(4) as folder:
        sinks: list[Sink] = [make(folder, piece_s=600) for make in (OverlaySink, AreasSink, LabelSink)]
        for sink in sinks:
            sink.write(make_result(0, time_s=0.0))
            sink.write(make_result(1, time_s=0.1))
        (folder / "ballast").write_bytes(bytes(3 << 20))
        for sink in sinks:
            with nothing_left(), pytest.raises(OutputError, match="the disk is full"):
                sink.write(make_result(2, time_s=0.2))
            with pytest.raises(OutputError, match="the disk is full"):
                sink.write(make_result(3, time_s=0.3))
        areas, _, video, labels = sorted(folder.iterdir())
        assert len(list(labels.iterdir())) == 2
        assert [line["frame"] for line in lines_of(areas)] == [0, 1]
        assert times_of(video) == [0, 0.1]


_ENDLESS = """
import sys
from sink_results import make_result
from cpsl_deploy.sinks.json_lines import AreasSink
from cpsl_deploy.sinks.label_png import LabelSink
from cpsl_deploy.sinks.overlay_video import OverlaySink
sinks = [
    OverlaySink(sys.argv[1], piece_s=0.2), AreasSink(sys.argv[1], piece_s=0.1), LabelSink(sys.argv[1])
]
for index in range(1000000):
    for sink in sinks:
        sink.write(make_result(index, time_s=index / 25, size=(240, 320), noise=True))
    if index == 60:
        print("writing", flush=True)
"""


def test_a_killed_process_leaves_whole_files_or_none(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    command = [sys.executable, "-c", _ENDLESS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"writing\n"
            wait_until(lambda: any(".tmp.mp4" in name for name in visible(tmp_path)))
        finally:
            process.send_signal(signal.SIGKILL)
    videos, areas = list(tmp_path.glob("cam*.mp4")), list(tmp_path.glob("areas*.jsonl"))
    labels = list(tmp_path.glob("labels/cam*.png"))
    assert videos
    assert areas
    assert labels
    assert all(times_of(path) for path in videos)
    assert all(lines_of(path) for path in areas)
    assert all(read_mask(path).shape == (240, 320) for path in labels)
    assert any(name.startswith(".") for name in visible(tmp_path))
    OverlaySink(tmp_path).check()
    assert not [name for name in visible(tmp_path) if name.startswith(".")]
