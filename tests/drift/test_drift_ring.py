"""Frames kept on disk: bounded, asked for, and ready to adapt to."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from full_disk import small_disk

from cpsl_deploy.data import open_dataset
from cpsl_deploy.drift import ring as ring_module
from cpsl_deploy.drift.ring import FrameRing
from cpsl_deploy.errors import InputError, OutputError


def picture(value: int, *, noise: bool = False) -> np.ndarray:
    if noise:
        return np.random.default_rng(value).integers(0, 256, (120, 160, 3), np.uint8)
    return np.full((120, 160, 3), value, np.uint8)


def levels(folder: Path) -> list[int]:
    """The grey of each file, in the order of names."""
    return [round(float(cv2.imread(str(path)).mean())) for path in sorted(folder.glob("*.jpg"))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "drift"


def test_nothing_is_written_without_an_alarm(folder: Path) -> None:
    ring = FrameRing(folder)
    for i in range(50):
        ring.offer("cam", picture(i), i, alarm=False)
    assert not folder.exists() and ring.snapshot()["kept"] == 0


def test_a_few_from_before_and_one_an_interval(folder: Path) -> None:
    ring = FrameRing(folder, interval_s=1.0, before=3)
    for i in range(40):
        ring.offer("cam", picture(5 * i), i / 4, alarm=i >= 24)
    assert levels(folder) == [60, 80, 100, 120, 140, 160, 180], (
        "3, 4 and 5 s before; 6, 7, 8 and 9 s with alarm"
    )
    assert ring.snapshot()["kept"] == 7


def test_names_have_the_time_and_the_source(folder: Path) -> None:
    FrameRing(folder).offer("../../rtsp://user:pw@front", picture(1), 0, alarm=True)
    (path,) = folder.iterdir()
    assert re.fullmatch(r"[0-9]{8}T[0-9]{9}Z-_rtsp_user_pw_front\.jpg", path.name)
    FrameRing(folder).offer("", picture(1), 0, alarm=True)
    assert [p.parent for p in folder.iterdir()] == [folder] * 2


def test_the_number_of_files_is_bounded_and_the_oldest_go(folder: Path) -> None:
    ring = FrameRing(folder, max_files=4, interval_s=1)
    for i in range(12):
        ring.offer("cam", picture(20 * i), i, alarm=True)
    assert levels(folder) == [160, 180, 200, 220]
    again = FrameRing(folder, max_files=3, interval_s=1)  # the next start of the program
    again.offer("cam", picture(7), 0, alarm=True)
    assert levels(folder) == [200, 220, 7] and again.snapshot()["files"] == 3


def test_the_bytes_are_bounded(folder: Path) -> None:
    ring = FrameRing(folder, max_mib=0.2, interval_s=0)
    for i in range(30):
        ring.offer("cam", picture(i, noise=True), i, alarm=True)
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 0.2 * 2**20
    assert 3 < len(list(folder.iterdir())) < 30
    assert ring.snapshot()["bytes"] == sum(path.stat().st_size for path in folder.iterdir())


def test_a_frame_above_the_limit_is_not_kept(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    ring = FrameRing(folder, max_mib=0.01)
    ring.offer("cam", picture(0, noise=True), 0, alarm=True)
    assert "above the limit" in str(ring.snapshot()["stopped"]) and not list(folder.glob("*"))
    assert len(caplog.records) == 1


def test_files_of_others_are_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"mine")
    outside = folder.parent / "outside.jpg"
    outside.write_bytes(b"x" * 1000)
    (folder / "20200101T000000000Z-cam.jpg").symlink_to(outside)
    ring = FrameRing(folder, max_files=2, interval_s=1)
    for i in range(6):
        ring.offer("cam", picture(i), i, alarm=True)
    assert (folder / "holiday.jpg").read_bytes() == b"mine" and outside.exists()
    assert len(list(folder.iterdir())) == 4


def test_memory_of_waiting_frames_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(ring_module._encoded(picture(0, noise=True)))
    monkeypatch.setattr(ring_module, "MOST_BEFORE_BYTES", 7 * size)
    ring = FrameRing(folder, before=5, interval_s=1)
    for i in range(20):
        for source in ("a", "b", "c"):
            ring.offer(source, picture(i, noise=True), i, alarm=False)
    waiting = [data for queue in ring._waiting.values() for _, data in queue]
    assert len(waiting) >= 5 and sum(map(len, waiting)) <= 7 * size


def test_every_source_has_its_own_interval_and_alarm(folder: Path) -> None:
    ring = FrameRing(folder, before=0, interval_s=1)
    for i in range(8):
        ring.offer("a", picture(10), i / 2, alarm=True)
        ring.offer("b", picture(200), i / 2, alarm=i >= 4)
    sources = [path.name.split("-")[1][0] for path in folder.iterdir()]
    assert sources.count("a") == 4 and sources.count("b") == 2


def test_a_full_disk_ends_the_keeping_until_the_next_alarm(caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(1) as disk:
        ring = FrameRing(disk / "drift", before=0, interval_s=1)
        for i in range(80):
            ring.offer("cam", picture(i, noise=True), i, alarm=True)
        kept = ring.kept
        assert 5 < kept < 80 and "disk is full" in ring.stopped
        assert [record.levelno for record in caplog.records] == [logging.WARNING], "said once"
        assert all(name.endswith(".jpg") and name[0] != "." for name in os.listdir(disk / "drift"))
        assert all(cv2.imread(str(path)) is not None for path in (disk / "drift").iterdir())
        for path in list((disk / "drift").iterdir())[:5]:
            path.unlink()
        ring.offer("cam", picture(1), 100, alarm=False)
        ring.offer("cam", picture(1), 101, alarm=True)
        assert ring.kept == kept + 1 and ring.stopped == ""


def test_a_folder_that_vanishes_is_made_again_or_told(folder: Path) -> None:
    ring = FrameRing(folder, before=0, interval_s=1)
    ring.offer("cam", picture(0), 0, alarm=True)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    ring.offer("cam", picture(0), 1, alarm=True)
    assert len(list(folder.iterdir())) == 1


def test_a_place_that_cannot_be_is_refused_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError):
            FrameRing(place).check()
    FrameRing(tmp_path / "new").check()


@pytest.mark.parametrize("values", [{"max_files": 0}, {"max_mib": 0}, {"interval_s": -1}, {"before": 1000}])
def test_limits_that_make_no_sense(folder: Path, values: dict) -> None:
    with pytest.raises(InputError, match="a ring of frames has"):
        FrameRing(folder, **values)


def test_several_threads(folder: Path) -> None:
    ring = FrameRing(folder, max_files=20, interval_s=0)

    def offer(source: str) -> None:
        for i in range(25):
            ring.offer(source, picture(i), i, alarm=i > 3)

    threads = [threading.Thread(target=offer, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(folder.iterdir())) == 20 == ring.snapshot()["files"] and ring.stopped == ""


def test_runs_that_share_a_folder_hold_its_limits_together(folder: Path) -> None:
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"mine")
    rings = [FrameRing(folder, max_files=8, interval_s=0, before=0) for _ in range(2)]
    for i in range(20):
        for name, ring in zip("ab", rings, strict=True):
            ring.offer(name, picture(i), i, alarm=True)
            assert len(list(folder.iterdir())) <= 8 + 1
    assert (folder / "holiday.jpg").exists()
    assert [ring.kept for ring in rings] == [20, 20]
    assert rings[1].snapshot()["files"] == 8, "those of both"
    assert not any(ring.stopped for ring in rings)


def test_the_bytes_of_another_run_count(folder: Path) -> None:
    rings = [FrameRing(folder, max_mib=0.2, interval_s=0, before=0) for _ in range(2)]
    for i in range(20):
        for ring in rings:
            ring.offer("cam", picture(i, noise=True), i, alarm=True)
            assert sum(path.stat().st_size for path in folder.iterdir()) <= 0.2 * 2**20


def test_frames_of_one_millisecond_do_not_replace_each_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring_module.time, "time", lambda: 1.8e9)
    rings = [FrameRing(folder, interval_s=0, before=0) for _ in range(2)]
    for i in range(3):
        for number, ring in enumerate(rings):
            ring.offer("cam", picture(40 * (2 * i + number)), i, alarm=True)
    assert sorted(levels(folder)) == [0, 40, 80, 120, 160, 200]
    assert all(ring_module._NAME.fullmatch(path.name) for path in folder.iterdir())


def test_a_file_that_another_process_is_writing_is_left_alone(folder: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    folder.mkdir()
    left, another = (folder / f".x.1.{pid}.tmp.jpg" for pid in (ended.pid, os.getppid()))
    for path in (left, another):
        path.write_bytes(b"half")
    FrameRing(folder).offer("cam", picture(1), 0, alarm=True)
    assert another.exists() and not left.exists()


def test_the_folder_is_a_target_to_adapt_to(folder: Path) -> None:
    ring = FrameRing(folder, interval_s=1)
    for i in range(30):
        ring.offer("cam", picture(8 * i, noise=True), i, alarm=i > 10)
    target = open_dataset(str(folder), "train", role="target")
    assert len(target) == len(list(folder.glob("*.jpg"))) == 24 and not target.has_labels
    assert target.image(0).shape == (120, 160, 3)
