"""Several runs that write into one folder at the same moment: nothing is replaced, nothing is mixed."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sink_results import make_result, visible

from cpsl_deploy.errors import OutputError
from cpsl_deploy.files import atomic_path, put_unused, remove_leftovers
from cpsl_deploy.sinks import AreasSink, OverlaySink
from cpsl_deploy.sinks.place import make_unused_folder, piece_stamp, prepare_folder


def no_links(*_: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.fixture(params=["links", "no links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no links":
        monkeypatch.setattr(os, "link", no_links)


def at_once(work: Callable[[int], object], threads: int = 8) -> list:
    """Results of ``work`` in so many threads that begin together."""
    barrier = threading.Barrier(threads)

    def begin(number: int) -> object:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(begin, range(threads)))


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize("make", [OverlaySink, AreasSink])
def test_pieces_begun_in_the_same_second_are_all_kept(make: type, tmp_path: Path) -> None:
    now = time.monotonic()
    runs = [make(tmp_path, piece_s=600.0) for _ in range(3)]
    for index in range(4):
        for number, sink in enumerate(runs):
            sink.write(make_result(index + 10 * number, time_s=index / 50, captured_s=now + index / 50))
    for sink in runs:
        sink.close()
    stamp = piece_stamp(make_result(captured_s=now).frame)
    stem, suffix = ("cam.overlay", ".mp4") if make is OverlaySink else ("areas", ".jsonl")
    assert visible(tmp_path) == sorted(f"{stem}-{stamp}{end}{suffix}" for end in ("", "-2", "-3"))
    assert [path.name for sink in runs for path in sink.files] == [
        f"{stem}-{stamp}{end}{suffix}" for end in ("", "-2", "-3")
    ]
    if make is AreasSink:
        for number, sink in enumerate(runs):
            lines = [json.loads(line) for line in sink.files[0].read_text().splitlines()]
            assert [line["frame"] for line in lines] == [10 * number + index for index in range(4)]


@pytest.mark.usefixtures("links")
def test_no_two_writers_get_the_same_name(tmp_path: Path) -> None:
    def write(number: int) -> list[Path]:
        put: list[Path] = []
        for _ in range(20):
            with atomic_path(tmp_path / "a.txt", put=lambda new, at: put.append(put_unused(new, at))) as path:
                path.write_text(str(number))
        return put

    written = at_once(write)
    names = [path for paths in written for path in paths]
    assert len(set(names)) == len(names) == 160
    assert len(visible(tmp_path)) == 160
    for number, paths in enumerate(written):
        assert {path.read_text() for path in paths} == {str(number)}


def test_what_cannot_be_put_leaves_no_empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "replace", no_links)
    with pytest.raises(OutputError), atomic_path(tmp_path / "a.txt", put=put_unused) as path:
        path.write_text("x")
    assert visible(tmp_path) == []


def test_threads_that_make_the_same_file_do_not_share_a_temporary_one(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.txt") as first, atomic_path(tmp_path / "a.txt") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
        remove_leftovers(tmp_path)
        assert visible(tmp_path) == [], "a temporary name that nobody would clear away"
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a.txt").read_text() == "1"


def test_folders_made_at_once_are_different_ones(tmp_path: Path) -> None:
    made = at_once(lambda _: make_unused_folder(tmp_path / "labels-2026.11"))
    assert sorted(path.name for path in made) == sorted(
        ["labels-2026.11", *(f"labels-2026.11-{number}" for number in range(2, 9))]
    )


def test_a_folder_is_prepared_by_several_at_once(tmp_path: Path) -> None:
    def prepare(_: int) -> None:
        for _ in range(50):
            prepare_folder(tmp_path / "results")

    at_once(prepare)
    assert visible(tmp_path) == []
