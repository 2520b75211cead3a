"""Nothing is left behind: no process, thread, descriptor or memory, whatever dies first."""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from live_servers import CameraServer, next_frame, running, until

from cpsl_deploy.errors import DataError
from cpsl_deploy.sources.backoff import ReconnectOptions
from cpsl_deploy.sources.live import LiveFeed
from cpsl_deploy.sources.reader_process import _search_path
from cpsl_deploy.streams.inbox import Inbox

QUICK = ReconnectOptions(initial_s=0.05, max_s=0.2, stall_after_s=0.6, open_timeout_s=5)
pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks into /proc")


def belongings() -> tuple[int, set[str], int, int]:
    """Descriptors, threads, children and maps of shared memory of this process."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text().count("cpsl-frames")
    threads = {thread.name for thread in threading.enumerate() if thread.name.startswith("cpsl-")}
    return len(os.listdir("/proc/self/fd")), threads, len(psutil.Process().children()), maps


def gone(pid: int) -> bool:
    """Ended; where nobody collects orphans it stays in the table as a zombie."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_nothing_is_left_after_closing() -> None:
    # Looking at belongings takes a while in a process that has run many tests: it is no stall.
    patient = dataclasses.replace(QUICK, stall_after_s=30)
    with CameraServer() as server:
        before = belongings()
        for round_ in range(3):
            feed = LiveFeed(server.url, reconnect=patient)
            with running(feed, "lossless" if round_ == 1 else "latest") as inbox:
                held = next_frame(inbox)
                if round_ == 2:
                    os.kill(feed._process.pid, signal.SIGKILL)
                    until(lambda feed=feed: feed.status.state == "resumed")
                _, threads, _, maps = belongings()
                assert threads and maps
            feed.close()  # twice is fine
            assert held.image.shape == (48, 64, 3)
        until(lambda: len(server._connections) >= 4)
        server.kill()
        server.start()
        del held
        assert belongings() == before


def test_closing_at_any_moment() -> None:
    with CameraServer() as server:
        before = belongings()
        LiveFeed(server.url).close()  # never opened
        feed = LiveFeed(server.url, reconnect=QUICK)
        feed.open()
        feed.close()  # never started
        feed = LiveFeed(server.url, reconnect=ReconnectOptions(initial_s=20))
        with running(feed):
            os.kill(feed._process.pid, signal.SIGKILL)
            until(lambda: feed.status.state == "reconnecting")
            started_s = time.monotonic()  # within a long wait
        assert time.monotonic() - started_s < 2
        server.answer = server.silence
        feed = LiveFeed(server.url)
        refused: list[Exception] = []

        def open_it() -> None:
            try:
                feed.open()
            except DataError as error:
                refused.append(error)

        opening = threading.Thread(target=open_it)
        opening.start()
        until(lambda: feed._process is not None)
        feed.close()  # within open
        opening.join(10)
        assert not opening.is_alive() and refused
        server.kill()
        server.start()
        assert belongings() == before


def test_frames_outlive_the_source_that_gave_them() -> None:
    with CameraServer() as server:
        before = belongings()
        feed, inbox = LiveFeed(server.url), Inbox("lossless")
        feed.open()
        feed.start(inbox)
        until(lambda: inbox.ready)
        feed.close()
        frame = inbox.take()
        assert frame is not None and frame.image.shape == (48, 64, 3)
        inbox.close()
        del frame
        server.kill()
        server.start()
        assert belongings() == before


PARENT = """
import sys, time
from cpsl_deploy.sources.live import LiveFeed
from cpsl_deploy.streams.inbox import Inbox
feed, inbox = LiveFeed(sys.argv[1]), Inbox("latest")
feed.open()
feed.start(inbox)
while not inbox.ready:
    time.sleep(0.01)
print(feed._process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_the_reader_dies_with_its_parent(stopped: bool) -> None:
    with CameraServer() as server:
        parent = subprocess.Popen([sys.executable, "-c", PARENT, server.url], stdout=subprocess.PIPE)
        try:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            assert not gone(child)
            if stopped:  # no frame comes, so no message fails: the pipe alone tells
                server.running.clear()
                time.sleep(0.2)
            parent.kill()
            parent.wait()
            until(lambda: gone(child), "the reader's end", 5)
        finally:
            parent.kill()
            parent.communicate()


def test_the_signals_of_a_terminal_are_the_parents_affair() -> None:
    with CameraServer() as server:
        feed = LiveFeed(server.url, reconnect=QUICK)
        with running(feed) as inbox:
            next_frame(inbox)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(feed._process.pid, number)
            index = next_frame(inbox).index
            until(lambda: next_frame(inbox).index > index + 5)
            assert feed.status.counters.reconnects == 0


def test_a_script_without_an_end_ends_all_the_same() -> None:
    """Forgetting to close costs nothing: no process stays, and the interpreter does not hang."""
    with CameraServer() as server:
        script = PARENT.replace("time.sleep(60)", "")
        done = subprocess.run(
            [sys.executable, "-c", script, server.url], capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0
        until(lambda: gone(int(done.stdout)), "the reader's end", 5)


def test_the_reader_needs_little() -> None:
    """Start-up is part of every recovery: neither OpenCV nor anything of the models is imported."""
    script = (
        "import sys; import cpsl_deploy.sources.reader, cpsl_deploy.sources.network;"
        "heavy = {'cv2', 'onnxruntime', 'openvino', 'torch', 'yaml', 'click', 'rich', 'PIL', 'onnx'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture
def hostile_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with modules that leave a trace when they are imported."""
    trace = f"open({str(tmp_path / 'trace')!r}, 'a').write(__name__ + ' ')\n"
    package = tmp_path / "cpsl_deploy" / "sources"
    package.mkdir(parents=True)
    for folder, names in (
        (tmp_path, ("json", "numpy", "av", "sitecustomize")),
        (package, ("__init__", "reader")),
    ):
        for name in names:
            (folder / f"{name}.py").write_text(trace)
    (package.parent / "__init__.py").write_text(trace)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep + ".")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return tmp_path


@pytest.mark.parametrize("entry", ["", ".", "absolute"])
def test_the_reader_runs_nothing_of_the_current_folder(
    entry: str, hostile_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which an interpreter that was started with ``-c`` or ``-m`` looks into first, and a reader is told
    passwords."""
    monkeypatch.setattr(sys, "path", [str(hostile_folder) if entry == "absolute" else entry, *sys.path])
    with CameraServer() as server, running(LiveFeed(server.url, reconnect=QUICK)) as inbox:
        assert next_frame(inbox).image.shape == (48, 64, 3)
    assert not (hostile_folder / "trace").exists()


def test_the_reader_finds_what_its_parent_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same order: also in the current folder, if it is asked for, and in one with a colon in it."""
    odd = tmp_path / "a:b"
    odd.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(odd), *sys.path, str(tmp_path)])
    assert _search_path() == sys.path[:-1]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert _search_path() == sys.path
    monkeypatch.setattr(sys, "path", [str(odd)])
    assert _search_path() == [str(odd), str(Path(__file__).parents[2])]
    monkeypatch.chdir(odd)
    odd.rmdir()
    assert _search_path()[0] == str(odd)


def test_nobody_sees_an_address_at_the_reader() -> None:
    with CameraServer() as server:
        url = server.url.replace("http://", "http://admin:hunter2@") + "?token=tick3"
        feed = LiveFeed(url, reconnect=QUICK)
        with running(feed) as inbox:
            next_frame(inbox)
            for what in ("cmdline", "environ", "comm", "maps"):
                seen = Path(f"/proc/{feed._process.pid}/{what}").read_bytes()
                assert seen and not any(secret in seen for secret in (b"hunter2", b"tick3", b"http://")), what
