"""benchmarks/video_path.py and start_up.py: what they make of their measurements, and that they run."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("av")
pytest.importorskip("onnxruntime")

import start_up
import video_path
from click.testing import CliRunner
from thread_times import TASKS, ThreadTimes
from video_files import write_video
from video_path import INFERENCE, INFERENCE_ONE, LOOP, WHOLE, Rates


def test_the_lower_limit_counts() -> None:
    rates = {
        WHOLE: Rates(fps=[40.0, 45.0, 40.0], cpu_ms=[44.0] * 3),
        LOOP: Rates(fps=[1.0] * 3, cpu_ms=[500.0] * 3),
        INFERENCE: Rates(fps=[50.0] * 3, cpu_ms=[30.0] * 3),
        INFERENCE_ONE: Rates(fps=[20.0] * 3, cpu_ms=[40.0] * 3),
        "encoding": Rates(fps=[200.0] * 3, cpu_ms=[10.0] * 3),
    }
    two = video_path.limits(rates, cores=2)
    assert two["slowest_stage"]["name"] == INFERENCE
    assert two["slowest_stage"]["fps"] == 50 and two["slowest_stage"]["fraction"] == pytest.approx(0.8)
    assert two["cores"]["fps"] == pytest.approx(2000 / 40), "the CPU time of the stages alone"
    one = video_path.limits(rates, cores=1.8)
    assert one["both"]["fps"] == one["cores"]["fps"] == pytest.approx(45)
    assert one["both"]["fraction"] == pytest.approx(40 / 45)


def test_it_runs_on_a_video(tiny_model: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "drive.mp4", 20)
    out = tmp_path / "out"
    given = [str(tiny_model), str(video), "--rounds", "1", "--frames", "20", "--stage-frames", "4"]
    done = CliRunner().invoke(video_path.main, [*given, "-o", str(out)], catch_exceptions=False)
    told = json.loads(done.stdout.splitlines()[-1])
    written = json.loads((out / "video_path.json").read_text())
    assert told["limits"] == written["limits"] and told["rates"].keys() >= {WHOLE, LOOP, INFERENCE, "drawing"}
    assert all(one["fps"] > 0 and one["cpu_ms"] >= 0 for one in told["rates"].values())
    page = (out / "video_path.md").read_text()
    assert "drive.mp4, 160x96, 20 frames a round" in page and "| a plain loop |" in page


@pytest.mark.skipif(not TASKS.is_dir(), reason="the system does not tell the times of threads")
def test_times_of_threads_are_told_by_name() -> None:
    def work() -> None:
        end = time.thread_time() + 0.1
        while time.thread_time() < end or time.monotonic() < began + 0.3:  # it is looked at every 50 ms
            pass

    def idle() -> None:
        time.sleep(0.3)

    began = time.monotonic()

    with ThreadTimes() as times:
        threads = [threading.Thread(target=work, name="busy"), threading.Thread(target=idle, name="idle")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    table = times.table(frames=10)
    assert table["busy"]["cpu"] > 5 * table["idle"]["cpu"] and table["busy"]["cpu"] <= 45
    assert "thread-times" not in table


def test_start_up_holds_the_same_rounds_against_each_other(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_up, "COMMANDS", {"cpsl-run": "cpsl_deploy.run_command"})
    out = tmp_path / "out"
    given = [str(tiny_model), "--backend", "onnxruntime", "--rounds", "1", "-o", str(out)]
    done = CliRunner().invoke(start_up.main, given, catch_exceptions=False)
    told = json.loads(done.stdout.splitlines()[-1])
    ours, bare = told["medians"][start_up.OURS], told["medians"][start_up.BARE]
    assert ours["started"] < ours["imported"] < ours["loaded"] < ours["first"] < ours["ended"]
    assert told["ratios"]["ready / session ready"]["ratio"] == pytest.approx(ours["loaded"] / bare["loaded"])
    assert ours["modules"] > bare["modules"] > told["medians"][start_up.NOTHING]["modules"]
    helps = told["medians"]["cpsl-run --help"]
    assert helps["modules"] < told["medians"][start_up.EMPTY]["modules"] + 20
    assert "| cpsl-run --help |" in (out / "start_up.md").read_text()
