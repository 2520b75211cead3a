"""Runs a function of a test module in two processes that find each other as torchrun's do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

LEAVE = (
    "import os, torch.distributed as d; d.is_initialized() and (d.barrier(), d.destroy_process_group()); "
    "sys.stdout.flush(); sys.stderr.flush(); os._exit(0)"
)
"""All is done and written by then. A group's threads that still want Python while it ends take the process
down ("terminate called without an active exception"), now and then and even after the group was left."""


def in_two_processes(test_file: str, function: str, folder: Path, seconds: float = 60) -> None:
    """``function(folder)`` of a test file in both; what is not true there fails here with its traceback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here, above = Path(test_file), Path(__file__).parent
    code = f"import sys, pathlib, {here.stem} as test; test.{function}(pathlib.Path(sys.argv[1])); {LEAVE}"
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(here.parent), str(above), os.environ.get("PYTHONPATH", "")]),
    }
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        errors = [worker.communicate(timeout=seconds)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    if any(worker.returncode for worker in workers):
        pytest.fail("\n".join(errors))
