"""cpsl-run on sources that do not end: as a service would run it, signals and all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import psutil
import pytest
from live_servers import CameraServer, picture, until

tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)
pytest.importorskip("onnxruntime")

COMMAND = [sys.executable, "-c", "from cpsl_deploy.run_command import main; main()"]


class Run:
    """A running cpsl-run, its standard error in a file."""

    def __init__(self, folder: Path, *arguments: object, **popen: object) -> None:
        self.out = folder / "out"
        self.log = folder / "log.txt"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, *map(str, arguments), "--threads", "1"],
                stderr=log,
                cwd=folder,
                **{"stdout": subprocess.DEVNULL, **popen},  # type: ignore[call-overload]
            )

    @property
    def told(self) -> str:
        return self.log.read_text()

    def lines(self) -> int:
        """Of the areas file that is being written."""
        return sum(path.read_text().count("\n") for path in self.out.glob(".areas*.tmp.jsonl"))

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def camera() -> Iterator[CameraServer]:
    with CameraServer(size=(96, 160)) as server:
        yield server


def frames_of(path: Path) -> list[float]:
    """Time stamps of a video that is read to its end."""
    with av.open(str(path)) as file:
        return [float(frame.time or 0) for frame in file.decode(video=0)]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_finishes_the_files(
    tmp_path: Path, tiny_model: Path, camera: CameraServer, number: int, code: int
) -> None:
    with Run(tmp_path, tiny_model, camera.url, "-o", "out", "--labels") as run:
        until(lambda: run.lines() >= 10 or run.process.poll() is not None, "ten frames")
        assert run.end(number) == code, run.told
    (video,) = run.out.glob("*.overlay-*.mp4")
    (areas,) = run.out.glob("areas-*.jsonl")
    written = [json.loads(line) for line in areas.read_text().splitlines()]
    stamps = frames_of(video)
    assert len(written) == len(stamps) == len(list(run.out.glob("labels-*/*.png"))) >= 10
    assert stamps == sorted(set(stamps))
    assert not list(run.out.glob(".*")), "nothing unfinished is left"
    assert re.search(r"\d\d:\d\d:\d\d,\d+ INFO: .*connected", run.told)
    assert "Traceback" not in run.told and "frames are finished and can be used: out" in run.told
    by = signal.Signals(number).name
    assert re.search(rf"INFO: the stream ends: .*{by}", run.told)


def test_sigkill_leaves_no_broken_file_and_no_process(
    tmp_path: Path, tiny_model: Path, camera: CameraServer
) -> None:
    with Run(tmp_path, tiny_model, camera.url, "-o", "out", "--labels") as run:
        until(lambda: run.lines() >= 10 or run.process.poll() is not None, "ten frames")
        children = psutil.Process(run.process.pid).children(recursive=True)
        assert children, "a live source is read by a process of its own"
        run.end(signal.SIGKILL)
        until(lambda: not any(child.is_running() for child in children), "the reader's end")
    assert not [
        path for path in run.out.iterdir() if path.suffix in (".mp4", ".jsonl") and path.name[0] != "."
    ]
    for path in run.out.glob("labels-*/[!.]*"):
        assert cv2.imread(str(path)) is not None
    with Run(tmp_path, tiny_model, camera.url, "-o", "out", "--max-frames", 5) as again:
        assert again.process.wait(30) == 0, again.told
    assert not list(run.out.glob(".*")), "the next start clears away what was unfinished"


def test_a_camera_that_comes_back_is_one_recording(
    tmp_path: Path, tiny_model: Path, camera: CameraServer
) -> None:
    with Run(tmp_path, tiny_model, camera.url, "-o", "out") as run:
        until(lambda: run.lines() >= 5, "frames")
        camera.kill()
        until(lambda: "reconnecting" in run.told, "the loss")
        before = run.lines()
        camera.start()
        until(lambda: run.lines() > before + 5, "frames again")
        assert run.end(signal.SIGTERM) == 143
    for state in ("connected", "reconnecting", "resumed"):
        assert len(re.findall(rf": {state} \(", run.told)) == 1, run.told


def test_a_camera_that_is_not_there_yet_can_be_waited_for(
    tmp_path: Path, tiny_model: Path, camera: CameraServer
) -> None:
    camera.kill()
    with Run(tmp_path, tiny_model, camera.url, "-o", "out", "--wait", "--max-frames", 5) as run:
        until(lambda: "reconnecting" in run.told, "that it is not there")
        camera.start()
        assert run.process.wait(30) == 0, run.told
    assert len(re.findall(r": connected \(", run.told)) == 1, run.told


def test_a_camera_that_is_not_there_starts_nothing(tmp_path: Path, tiny_model: Path) -> None:
    with Run(tmp_path, tiny_model, "http://me:geheim@127.0.0.1:9/road", "-o", "out") as run:
        assert run.process.wait(30) == 2
    assert "geheim" not in run.told and "Traceback" not in run.told
    assert len([line for line in run.told.splitlines() if line.startswith("error: ")]) == 1
    assert not run.out.exists()


def test_raw_frames_in_and_raw_labels_out(tmp_path: Path, tiny_model: Path) -> None:
    streets = [np.roll(tiny_onnx.street(), 7 * i, axis=1)[..., ::-1].copy() for i in range(5)]
    arguments = (
        "-",
        "--raw",
        "--no-overlay",
        "--no-areas",
        "--stdin-format",
        "bgr24",
        "--stdin-size",
        "96x160",
    )
    with Run(tmp_path, tiny_model, *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        labels, _ = run.process.communicate(b"".join(s.tobytes() for s in streets), timeout=60)
        assert run.process.returncode == 0, run.told
    expected = b"".join(tiny_onnx.nearest_colour(s[..., ::-1]).tobytes() for s in streets)
    assert labels == expected
    assert "5 frames" in run.told and not run.out.exists()


def test_half_a_frame_on_standard_input_is_not_complete(tmp_path: Path, tiny_model: Path) -> None:
    street = tiny_onnx.street()[..., ::-1].tobytes()
    arguments = ("-", "-o", "out", "--stdin-format", "bgr24", "--stdin-size", "96x160")
    with Run(tmp_path, tiny_model, *arguments, stdin=subprocess.PIPE) as run:
        run.process.communicate(street + street[:1000], timeout=60)
        assert run.process.returncode == 2, run.told
    with Run(tmp_path, tiny_model, "-", "-o", "out2", stdin=subprocess.DEVNULL) as run:
        assert run.process.wait(60) == 2, run.told


def test_a_reader_of_raw_labels_that_leaves_ends_the_run_quietly(
    tmp_path: Path, tiny_model: Path, camera: CameraServer
) -> None:
    with Run(
        tmp_path, tiny_model, camera.url, "--raw", "--no-overlay", "--no-areas", stdout=subprocess.PIPE
    ) as run:
        assert run.process.stdout is not None
        assert len(run.process.stdout.read(96 * 160)) == 96 * 160
        run.process.stdout.close()
        assert run.process.wait(30) != 0
    assert "Traceback" not in run.told


def test_the_preview_tells_how_the_camera_is(tmp_path: Path, tiny_model: Path, camera: CameraServer) -> None:
    pytest.importorskip("aiohttp")
    pytest.importorskip("prometheus_client")
    with Run(tmp_path, tiny_model, camera.url, "--no-overlay", "--no-areas", "--preview", "0") as run:
        until(lambda: "preview: " in run.told or run.process.poll() is not None, "the address")
        address = re.search(r"preview: (http://127\.0\.0\.1:\d+/)", run.told)
        assert address, run.told

        def health() -> dict:
            with contextlib.suppress(urllib.error.HTTPError):
                return json.load(urllib.request.urlopen(f"{address[1]}health", timeout=10))
            return {"sources": [{"delivered": 0}]}

        until(lambda: health()["sources"][0]["delivered"] > 3, "frames")
        (source,) = health()["sources"]
        assert source["state"] == "connected"
        metrics = urllib.request.urlopen(f"{address[1]}metrics", timeout=10).read().decode()
        assert f'source="{source["name"]}"' in metrics
        picture_bytes = urllib.request.urlopen(f"{address[1]}frame/{source['name']}.jpg", timeout=10).read()
        image = cv2.imdecode(np.frombuffer(picture_bytes, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == picture(0, (96, 160)).shape
        assert run.end(signal.SIGTERM) == 143


def test_two_cameras_share_the_model(tmp_path: Path, tiny_model: Path, camera: CameraServer) -> None:
    with (
        CameraServer(size=(120, 160)) as other,
        Run(tmp_path, tiny_model, camera.url, other.url, "-o", "out", "--max-frames", 40) as run,
    ):
        assert run.process.wait(60) == 0, run.told
    (areas,) = run.out.glob("areas-*.jsonl")
    sources = [json.loads(line)["source"] for line in areas.read_text().splitlines()]
    assert len(sources) == 40 and min(sources.count(name) for name in set(sources)) >= 10
    assert len(list(run.out.glob("*.mp4"))) == 2 == len(set(sources))
    assert os.path.basename(run.out) == "out"
