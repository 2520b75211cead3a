"""Under torchrun one process that fails stops all, and its reason is what is told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

import torch.distributed as dist
from tiny_domains import write_domain, write_recipe

from cpsl_deploy.errors import TrainingError
from cpsl_deploy.train.engine import processes as procs
from cpsl_deploy.train.samples import Sampler


def test_a_process_that_fails_stops_all_with_its_reason(tmp_path: Path) -> None:
    """The second source image shown is damaged: of two processes, the second one reads it."""
    source = write_domain(tmp_path / "game", hue=200)
    target = write_domain(tmp_path / "camera", hue=240)
    damaged = tmp_path / f"game/images/train/{Sampler(6, seed=0).index(1)}.png"
    damaged.write_bytes(b"not a PNG")
    options = {
        "source": source,
        "target": target,
        "recipe": write_recipe(tmp_path),
        "output": tmp_path / "run",
    }
    began = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("-m", "cpsl_deploy.train.command", "--no-check", "--device", "cpu"),
            *(text for key, value in options.items() for text in (f"--{key}", str(value))),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode != 0
    assert time.monotonic() - began < 90, "gloo's own patience is half an hour"
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert sum(f"process 1: {damaged} is not a readable image" in line for line in told) == 1, done.stderr
    assert all("process 0: another process of this run has ended" in line for line in told[1:])
    assert "[rank0]: Traceback" not in done.stderr and "Warning" not in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/src/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"),
        dist.DistBackendError("NCCL communicator was aborted"),
    ],
)
def test_what_a_lost_process_looks_like_to_the_others(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    with pytest.raises(RuntimeError, match=r"closed|aborted"), procs.joined("cpu"):
        raise error
    monkeypatch.setattr(procs, "join", lambda device: procs.Processes(0, 2, "cpu"))
    with pytest.raises(TrainingError, match="another process of this run has ended"), procs.joined("cpu"):
        raise error
    with pytest.raises(RuntimeError, match="shape"), procs.joined("cpu"):
        raise RuntimeError("a wrong shape")
