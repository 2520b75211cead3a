"""Freed memory is kept where glibc can, and nothing happens elsewhere."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

from cpsl_deploy.train.engine import memory

MEASURE = """
import resource, torch
from cpsl_deploy.train.engine.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        first = torch.ones(4_000_000)  # 16 MB
        second = first * 2
        del first, second
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
print(keep_freed_memory())
faults()
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone can be told to keep memory")
def test_large_temporaries_cost_no_page_faults_any_more() -> None:
    # Left to itself glibc sometimes learns to keep such blocks; told a number it stays with that one.
    told = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **told},
    )
    kept, counts = done.stdout.splitlines()
    before, after = map(int, counts.split())
    assert kept == "True"
    # 100 temporaries of 4,000 pages, or 8 huge ones. Where a small block lies in a freed one, the heap may
    # grow by one more.
    assert after <= before / 20


@pytest.mark.parametrize(("system", "libc"), [("darwin", "glibc"), ("linux", "")])
def test_elsewhere_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, system: str, libc: str
) -> None:
    monkeypatch.setattr(memory.sys, "platform", system)
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: (libc, ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    with caplog.at_level(logging.DEBUG, logger=memory.__name__):
        assert memory.keep_freed_memory.__wrapped__() is False
    assert "freed memory is not kept" in caplog.text
