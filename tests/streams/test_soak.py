"""The soak's arithmetic, and that it says what was done however it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the soak's model is written with onnx")
pytest.importorskip("psutil", reason="the soak measures memory with psutil")
pytest.importorskip("aiohttp", reason="the soak polls the preview")

from soak_measures import slope

SOAK = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "soak.py"


def test_a_slope_has_an_interval_that_holds_the_truth() -> None:
    random = np.random.default_rng(0)
    times = np.arange(0.0, 3600.0, 2.0)
    held = 0
    for _ in range(100):
        found = slope(times, 500 + 12 * times / 3600 + random.normal(0, 5, len(times)))
        assert found is not None
        held += found["low"] <= 12 <= found["high"]
    assert 88 <= held <= 100
    assert slope(times, np.full(len(times), 7.0)) == {"slope": 0, "low": 0, "high": 0}
    assert slope(times[:20], times[:20]) is None


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks into /proc: Linux only")
def test_an_interrupted_soak_says_what_was_done() -> None:
    command = [sys.executable, str(SOAK), "--minutes", "10", "--every", "1", "--ways", "http", "--seed", "37"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "reconnecting" in line:
                break
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    record = json.loads(out)
    assert record["interrupted"] and not record["failed"]
    assert record["frames"]["out"] > 0 and sum(record["faults"].values()) >= 1
    assert record["frames"]["out"] == record["pieces"]["mp4_frames"] == record["pieces"]["jsonl_frames"]
    assert record["damaged"] == record["not_newer"] == 0
    assert not record["pieces"]["unreadable"] and not record["pieces"]["unfinished"]
    for name in ("threads", "descriptors", "readers"):
        assert record["held"][name]["start"] >= record["held"][name]["end"], record["held"]
    assert record["preview"]["/metrics 200"] >= 1
