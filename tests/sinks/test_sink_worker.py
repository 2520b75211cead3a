"""A sink in a thread: order, back-pressure, failures that end the run and failures that pass."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from pathlib import Path

import av
import pytest
from full_disk import small_disk
from sink_results import make_result, nothing_left, visible, wait_until

from cpsl_deploy.errors import InputError, OutputError
from cpsl_deploy.sinks import place
from cpsl_deploy.sinks.base import Sink
from cpsl_deploy.sinks.callback import CallbackSink
from cpsl_deploy.sinks.json_lines import AreasSink
from cpsl_deploy.sinks.label_png import LabelSink
from cpsl_deploy.sinks.overlay_video import OverlaySink
from cpsl_deploy.sinks.worker import SinkWorker
from cpsl_deploy.streams.result import StreamResult


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


class Recorder(Sink):
    """Notes what it gets; waits for ``gate``; raises ``problem`` while there is one."""

    name = "recorder"

    def __init__(self, *, open_gate: bool = True) -> None:
        self.got: list[int] = []
        self.events: list[str] = []
        self.gate = threading.Event()
        if open_gate:
            self.gate.set()
        self.problem: BaseException | None = None
        self.closing_problem: BaseException | None = None
        self.waits = 0

    def write(self, result: StreamResult) -> None:
        self.waits += 1
        assert self.gate.wait(10)
        if self.problem is not None:
            raise self.problem
        self.got.append(result.index)

    def close(self) -> None:
        self.events.append("close")
        if self.closing_problem is not None:
            raise self.closing_problem

    def abort(self) -> None:
        self.events.append("abort")

    def interrupt(self) -> None:
        self.gate.set()


def test_results_arrive_in_order_and_closing_drains() -> None:
    sink = Recorder()
    with nothing_left():
        worker = SinkWorker(sink, depth=2)
        for index in range(100):
            assert worker.put(make_result(index))
        worker.close()
        worker.close()
    assert sink.got == list(range(100))
    assert sink.events == ["close"]
    assert worker.snapshot() == {
        "name": "recorder",
        "state": "closed",
        "reason": "",
        "written": 100,
        "lost": 0,
        "failures": 0,
        "queue": 0,
        "busy_s": 0.0,
    }
    assert not worker.put(make_result())


def test_a_slow_sink_holds_back_and_tells_how_long_it_has_been_busy() -> None:
    sink = Recorder(open_gate=False)
    worker = SinkWorker(sink, depth=2)
    with nothing_left():
        assert worker.snapshot()["busy_s"] == 0
        assert worker.put(make_result(0))
        wait_until(lambda: sink.waits)
        assert worker.put(make_result(1))
        assert worker.put(make_result(2))
        assert worker.snapshot()["queue"] == 2
        held = threading.Thread(target=worker.put, args=(make_result(4),))
        held.start()
        held.join(0.05)
        assert held.is_alive(), "put did not wait for room"
        assert 0.05 <= worker.snapshot()["busy_s"] < 10
        sink.gate.set()
        held.join(5)
        worker.close()
    assert sink.got == [0, 1, 2, 4]
    assert worker.snapshot()["lost"] == 0


@pytest.mark.parametrize("error", [OutputError("full"), OSError("gone"), ZeroDivisionError("mine")])
def test_a_failure_ends_the_run_with_that_error(error: Exception) -> None:
    sink = Recorder()
    sink.problem = error
    worker = SinkWorker(sink)
    with nothing_left():
        worker.put(make_result(0))
        wait_until(lambda: worker.error is not None)
        with pytest.raises(type(error)) as raised:
            worker.put(make_result(1))
        assert raised.value is error
        worker.close()  # it has been raised already
    assert sink.events[0] == "abort"
    assert worker.snapshot()["state"] == "failed"
    assert worker.snapshot()["reason"] == str(error)


def test_a_failure_of_the_last_result_or_of_the_end_is_raised_by_closing() -> None:
    for attribute in ("problem", "closing_problem"):
        sink = Recorder()
        setattr(sink, attribute, OutputError("full"))
        worker = SinkWorker(sink)
        with nothing_left():
            worker.put(make_result())
            with pytest.raises(OutputError, match="full"):
                worker.close()
            worker.close()
        assert "abort" in sink.events


def test_a_live_sink_that_fails_is_tried_again_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cpsl_deploy.sinks")
    sink = Recorder()
    worker = SinkWorker(sink, on_failure="retry", retry_s=0.05)

    def put(index: int) -> None:
        before = worker.snapshot()
        worker.put(make_result(index))
        keys = ("written", "lost")
        wait_until(lambda: sum(worker.snapshot()[k] - before[k] for k in keys) == 1)  # type: ignore[operator, misc]

    with nothing_left():
        put(0)
        sink.problem = OutputError("the disk is full")
        put(1)
        assert worker.snapshot()["state"] == "failed"
        assert worker.snapshot()["reason"] == "the disk is full"
        tries = sink.waits
        put(2)
        assert sink.waits == tries, "it was tried again at once"
        time.sleep(0.06)
        put(3)
        assert sink.waits == tries + 1
        sink.problem = None
        time.sleep(0.06)
        put(4)
        assert worker.snapshot()["state"] == "ok"
        worker.close()
    assert sink.got == [0, 4]
    assert sink.events == ["close"], "what it had begun of other sources is gone"
    assert worker.snapshot()["lost"] == 3
    assert worker.snapshot()["failures"] == 2
    assert [(record.levelname, "recorder" in record.message) for record in caplog.records] == [
        ("ERROR", True),
        ("INFO", True),
    ]
    assert "the disk is full" in caplog.text
    assert "works again" in caplog.text


def test_a_full_disk_is_told_once_until_there_is_room_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "cpsl_deploy.sinks")
    monkeypatch.setattr(place, "LEAST_FREE", 1 << 20)
    with small_disk(2) as folder:
        (folder / "ballast").write_bytes(bytes(3 << 19))
        sinks = [make(folder, piece_s=0.1) for make in (OverlaySink, AreasSink, LabelSink)]
        workers = [SinkWorker(sink, on_failure="retry", retry_s=0.01) for sink in sinks]
        index = 0

        def put() -> None:
            nonlocal index
            for worker in workers:
                worker.put(make_result(index, time_s=index / 10))
            index += 1
            time.sleep(0.01)

        with nothing_left():
            wait_until(lambda: (put(), all(worker.snapshot()["failures"] > 5 for worker in workers))[1])  # type: ignore[operator]
            reasons = [worker.snapshot()["reason"] for worker in workers]
            told = [record.getMessage() for record in caplog.records]
            assert len(told) == len(workers)
            for text in [*told, *reasons]:
                assert "the disk is full" in text and "MiB free) while writing" in text
                assert "command again" not in text
            (folder / "ballast").unlink()
            wait_until(lambda: (put(), all(worker.snapshot()["state"] == "ok" for worker in workers))[1])
            for worker in workers:
                worker.close()
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3 + ["INFO"] * 3
    assert "works again" in caplog.text


def test_a_sink_that_has_failed_is_not_told_again_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    sink = Recorder()
    sink.problem = sink.closing_problem = OutputError("the disk is full. Run it again", reason="full")
    worker = SinkWorker(sink, on_failure="retry")
    worker.put(make_result())
    worker.close()
    assert len(caplog.records) == 1
    assert (worker.snapshot()["state"], worker.snapshot()["reason"]) == ("failed", "full")


def test_some_failures_never_pass() -> None:
    def broken(result: StreamResult) -> None:
        raise ConnectionRefusedError("the user's own")

    for sink in (Recorder(), CallbackSink(broken)):
        if isinstance(sink, Recorder):
            sink.problem = BrokenPipeError()
        worker = SinkWorker(sink, on_failure="retry", retry_s=0)
        worker.put(make_result())
        with nothing_left(), pytest.raises(OSError):
            worker.close()
        assert worker.snapshot()["state"] == "failed"
        assert worker.snapshot()["reason"]


def test_a_live_sink_that_cannot_finish_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    sink = Recorder()
    sink.closing_problem = OutputError("full")
    worker = SinkWorker(sink, on_failure="retry")
    worker.put(make_result())
    worker.close()
    assert "recorder could not be finished: full" in caplog.text
    told = worker.snapshot()
    assert (told["state"], told["reason"], told["failures"]) == ("failed", "full", 1)
    assert told["lost"] == 1, "it does not say how many, and it was something"


@pytest.mark.parametrize("make", [OverlaySink, AreasSink])
def test_results_of_a_live_piece_that_cannot_be_finished_are_lost(
    tmp_path: Path, make: type[Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sink = make(tmp_path, piece_s=600.0, several_sources=True)  # type: ignore[call-arg]
    worker = SinkWorker(sink, on_failure="retry")
    with nothing_left():
        for index in range(10):
            worker.put(make_result(index, time_s=index / 50, source="ab"[index % 2]))
        wait_until(lambda: worker.snapshot()["written"] == 10)
        monkeypatch.setattr(os, "fsync", full)
        worker.close()
    told = worker.snapshot()
    assert (told["lost"], told["failures"], told["state"]) == (10, 1, "failed")
    assert "disk is full" in str(told["reason"])
    assert visible(tmp_path) == []


def test_what_is_dropped_when_the_time_is_over_is_lost(tmp_path: Path) -> None:
    worker = SinkWorker(OverlaySink(tmp_path, piece_s=600.0), on_failure="retry")
    for index in range(3):
        worker.put(make_result(index, time_s=index / 50))
    wait_until(lambda: worker.snapshot()["written"] == 3)
    worker.close(finish=False)
    assert worker.snapshot()["lost"] == 3


def test_a_nearly_full_disk_ends_the_pieces_of_every_camera(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = SinkWorker(OverlaySink(tmp_path, piece_s=600.0), on_failure="retry")
    for index in range(6):
        worker.put(make_result(index, time_s=index / 50, source="ab"[index % 2]))
    wait_until(lambda: worker.snapshot()["written"] == 6)
    monkeypatch.setattr(place, "LEAST_FREE", 1 << 60)
    worker.put(make_result(6, time_s=0.2, source="a"))
    wait_until(lambda: worker.snapshot()["lost"])
    pieces = visible(tmp_path)  # before the end: the disk may be full by then
    assert [name.split(".")[0] for name in pieces] == ["a", "b"]
    worker.close()
    assert visible(tmp_path) == pieces
    assert worker.snapshot()["lost"] == 1


def test_a_source_that_cannot_be_written_leaves_the_recordings_of_the_others(tmp_path: Path) -> None:
    sink = OverlaySink(tmp_path, piece_s=600.0)
    worker = SinkWorker(sink, on_failure="retry", retry_s=0)
    for index in range(6):
        worker.put(make_result(index, time_s=index / 50, source="ab"[index % 2]))
    wait_until(lambda: worker.snapshot()["written"] == 6)

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    sink._recordings["a"].writer.append = broken  # type: ignore[method-assign]
    for index in range(6, 9):
        worker.put(make_result(index, time_s=index / 50, source="ab"[index % 2]))
    worker.close()
    assert worker.snapshot()["lost"] == 4, "three that were in the file, and the one that failed"
    assert worker.snapshot()["state"] == "closed", "it was tried again and worked"
    frames = {path.name[0]: len(times_of(path)) for path in sink.files}
    assert frames == {"a": 1, "b": 4}


def test_closing_without_finishing_drops_what_waits() -> None:
    sink = Recorder(open_gate=False)
    worker = SinkWorker(sink)
    with nothing_left():
        for index in range(4):
            worker.put(make_result(index))
        wait_until(lambda: sink.waits)
        worker.close(finish=False)
    assert sink.got == [0]
    assert sink.events[0] == "abort"
    assert worker.snapshot()["lost"] == 3


def test_a_sink_that_does_not_finish_in_time_is_interrupted(caplog: pytest.LogCaptureFixture) -> None:
    sink = Recorder(open_gate=False)
    worker = SinkWorker(sink)
    with nothing_left():
        for index in range(4):
            worker.put(make_result(index))
        worker.close(timeout_s=0.05)
    assert sink.events[0] == "abort"
    assert "did not finish within 0.05 s" in caplog.text


def test_a_put_that_waits_ends_when_the_worker_is_closed() -> None:
    sink = Recorder(open_gate=False)
    worker = SinkWorker(sink, depth=1)
    worker.put(make_result(0))
    wait_until(lambda: sink.waits)
    worker.put(make_result(1))
    answers: list[bool] = []
    held = threading.Thread(target=lambda: answers.append(worker.put(make_result(2))))
    held.start()
    worker.close(finish=False)
    held.join(5)
    assert answers == [False]


def test_a_sink_without_a_result_is_closed_all_the_same() -> None:
    for finish, events in ((True, ["close"]), (False, ["abort", "close"])):
        sink = Recorder()
        worker = SinkWorker(sink)
        worker.close(finish)
        worker.close(finish)
        assert sink.events == events


def test_no_result_is_kept_while_the_next_is_waited_for() -> None:
    import gc
    import weakref

    worker = SinkWorker(Recorder())
    result = make_result()
    alive = weakref.ref(result)
    worker.put(result)
    del result
    wait_until(lambda: worker.snapshot()["written"])
    gc.collect()
    wait_until(lambda: alive() is None)
    assert worker.snapshot()["written"] == 1
    worker.close()


def test_a_callback_gets_every_result() -> None:
    got: list[int] = []
    worker = SinkWorker(CallbackSink(lambda result: got.append(result.index)))
    for index in range(5):
        worker.put(make_result(index))
    worker.close()
    assert got == list(range(5))


def test_a_queue_without_room_is_refused() -> None:
    with pytest.raises(InputError, match="room for 1 or more"):
        SinkWorker(Recorder(), depth=0)
