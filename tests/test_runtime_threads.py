"""How many threads an inference has where the process has only a part of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cpsl_deploy.backends import cpu_threads, open_backend
from cpsl_deploy.backends.cpu_threads import STOP_SPINNING, inference_threads


def machine(
    patch: pytest.MonkeyPatch, *, cores: int, mine: set[int], quota: float | None = None, siblings: int = 1
) -> None:
    """One of ``cores``, ``siblings`` of them on a physical one, of which a process may use ``mine``."""
    usable = float(len(mine)) if quota is None else min(len(mine), quota)
    patch.setattr(os, "cpu_count", lambda: cores)
    patch.setattr(os, "sched_getaffinity", lambda process: mine, raising=False)
    patch.setattr(cpu_threads, "usable_cores", lambda: usable)
    physical = len({core // siblings for core in mine})
    patch.setattr(cpu_threads, "physical_cores", lambda: physical)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"cores": 8, "mine": set(range(8))}, None),
        ({"cores": 8, "mine": {0, 1, 2}}, 3),
        ({"cores": 64, "mine": set(range(64)), "quota": 2.0}, 2),
        ({"cores": 64, "mine": set(range(64)), "quota": 0.5}, 1),
        ({"cores": 16, "mine": set(range(8)), "siblings": 2}, 4),
    ],
    ids=["the whole machine", "bound to three", "a container of two", "of half a core", "two to a core"],
)
def test_as_many_as_there_are_cores_for(
    monkeypatch: pytest.MonkeyPatch, facts: dict, expected: int | None
) -> None:
    machine(monkeypatch, **facts)
    assert inference_threads(None) == expected
    assert inference_threads(5) == 5, "what is asked for is what there is"


def test_siblings_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 4, 7}, raising=False)
    for core, pair in ((0, "0,4"), (1, "1,5"), (4, "0,4")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{pair}\n")
    assert cpu_threads.physical_cores(tmp_path) == 3


def test_sessions_are_opened_that_way(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    machine(monkeypatch, cores=64, mine=set(range(64)), quota=3.0)
    with open_backend(tiny_model, backend="onnxruntime") as opened:
        options = opened._session.get_session_options()
        assert isinstance(options, onnxruntime.SessionOptions)
        assert options.intra_op_num_threads == opened.describe()["threads"] == 3
        assert options.get_session_config_entry(STOP_SPINNING) == "1"
