"""Raw labels into pipes: whole frames, readers that go and readers that sleep."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from sink_results import make_result, nothing_left, open_files, wait_until

from cpsl_deploy.errors import OutputError
from cpsl_deploy.sinks.raw_labels import RawLabelsSink
from cpsl_deploy.sinks.worker import SinkWorker


def test_every_frame_is_there_byte_for_byte_and_its_size_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cpsl_deploy.sinks")
    results = [make_result(0), make_result(1), make_result(2, size=(300, 500))]
    stream = io.BytesIO()
    sink = RawLabelsSink(stream)
    for result in results:
        sink.write(result)
    sink.close()
    assert stream.getvalue() == b"".join(result.labels.tobytes() for result in results)
    assert [record.message.split(":")[1] for record in caplog.records] == [
        " raw labels are 64x48 (width x height), one byte each, from byte 0 on",
        f" raw labels are 500x300 (width x height), one byte each, from byte {2 * 48 * 64} on",
    ]


def test_a_pipe_gets_frames_larger_than_it_holds() -> None:
    result = make_result(size=(540, 960))
    given, taken = os.pipe()
    read: list[bytes] = []

    def reader() -> None:
        with open(given, "rb") as pipe:
            read.append(pipe.read())

    with nothing_left():
        thread = threading.Thread(target=reader)
        thread.start()
        with open(taken, "wb") as stream:
            sink = RawLabelsSink(stream)
            sink.write(result)
            sink.write(result)
            sink.close()
        thread.join(10)
        given = taken = -1
    np.testing.assert_array_equal(
        np.frombuffer(read[0], np.uint8).reshape(2, 540, 960), np.stack([result.labels] * 2)
    )


def test_a_reader_that_has_gone_is_a_broken_pipe() -> None:
    given, taken = os.pipe()
    os.close(given)
    with open(taken, "wb", buffering=0) as stream:
        sink = RawLabelsSink(stream)
        with pytest.raises(BrokenPipeError):
            sink.write(make_result())
        sink.abort()


def test_a_reader_that_sleeps_does_not_keep_the_run_from_ending() -> None:
    before = open_files()
    given, taken = os.pipe()
    with open(given, "rb"), open(taken, "wb", buffering=0) as stream:
        worker = SinkWorker(RawLabelsSink(stream), on_failure="retry")
        for index in range(3):
            worker.put(make_result(index, size=(540, 960)))
        wait_until(lambda: worker.snapshot()["queue"] == 2)
        worker.close(finish=False)
        assert worker.snapshot()["written"] == 0
    assert open_files() <= before


def test_a_full_disk_behind_standard_output_is_told() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "wb", buffering=0) as stream:
        sink = RawLabelsSink(stream)
        with pytest.raises(OutputError, match="standard output"):
            sink.write(make_result())
        sink.abort()


def test_standard_output_is_the_default() -> None:
    code = (
        "from sink_results import make_result\n"
        "from cpsl_deploy.sinks.raw_labels import RawLabelsSink\n"
        "sink = RawLabelsSink()\n"
        "sink.write(make_result(size=(300, 500)))\n"
        "sink.close()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
    assert done.stdout == make_result(size=(300, 500)).labels.tobytes()
