"""Checkpoints: the last two, whole whatever happens, the one before where the last is damaged."""

# ruff: noqa: E402
from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from cpsl_deploy import files
from cpsl_deploy.errors import ModelFileError, OutputError
from cpsl_deploy.train.engine.checkpoint import Checkpoints


def state(iteration: int, stage: str = "warm_up", size: int = 1000) -> dict:
    weights = torch.full((size,), float(iteration))
    return {
        "stage": stage,
        "iteration": iteration,
        "seconds": 1.5,
        "module": {"weight": weights},
        "optimisers": [],
        "scaler": {},
    }


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoint.pt")


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.last.parent.iterdir())


def found(checkpoints: Checkpoints, stage: str = "warm_up") -> int | None:
    read = checkpoints.read(stage)
    return None if read is None else read["iteration"]


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def test_the_last_two_are_kept(checkpoints: Checkpoints):
    assert checkpoints.read("warm_up") is None and checkpoints.stages() == set()
    for iteration in (1, 2, 3):
        checkpoints.write(state(iteration))
        assert found(checkpoints) == iteration
    assert names(checkpoints) == ["checkpoint.before.pt", "checkpoint.pt"]
    checkpoints.remove()
    assert names(checkpoints) == []
    checkpoints.remove()


def test_a_damaged_one_is_passed_over_for_the_one_before_it(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
):
    for iteration in (1, 2):
        checkpoints.write(state(iteration))
    damage(checkpoints.last)
    with caplog.at_level(logging.WARNING):
        assert found(checkpoints) == 1
    assert (
        "checkpoint.pt is damaged; warm_up goes on from the checkpoint before it, iteration 1" in caplog.text
    )
    assert checkpoints.stages() == {"warm_up"}
    damage(checkpoints.before)
    with pytest.raises(ModelFileError, match=r"checkpoint\.pt cannot be read.*Delete it"):
        checkpoints.read("warm_up")
    with pytest.raises(ModelFileError, match="cannot be read"):
        checkpoints.stages()


def test_a_damaged_one_is_no_silent_start_from_nothing(checkpoints: Checkpoints):
    checkpoints.write(state(4, "source_only"))
    checkpoints.write(state(1, "warm_up"))
    damage(checkpoints.last)
    with pytest.raises(ModelFileError, match="Delete it"):
        checkpoints.read("warm_up")


def test_one_of_another_stage_is_none_of_this(checkpoints: Checkpoints):
    checkpoints.write(state(4, "source_only"))
    assert found(checkpoints) is None
    checkpoints.write(state(1, "warm_up"))
    assert found(checkpoints) == 1 and checkpoints.stages() == {"source_only", "warm_up"}


@pytest.mark.parametrize("moment", ["new one written", "former one moved", "new one in place"])
def test_killed_at_any_moment_of_writing_there_is_a_whole_one(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch, moment: str
):
    """Each rename of the third write is the last thing that happens: nothing after it runs."""
    for iteration in (1, 2):
        checkpoints.write(state(iteration))
    renames = {"new one written": 0, "former one moved": 1, "new one in place": 2}[moment]
    replace, done = os.replace, []

    def dies(*paths: object) -> None:
        if len(done) == renames:
            raise SystemExit
        replace(*paths)
        done.append(paths)

    monkeypatch.setattr(os, "replace", dies)
    monkeypatch.setattr(Path, "unlink", lambda path: None)
    try:
        checkpoints.write(state(3))
    except SystemExit:
        assert renames < 2
    assert found(Checkpoints(checkpoints.last)) == (3 if renames == 2 else 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("size", [10, 300_000])
def test_a_full_disk_leaves_both_as_they_are(
    checkpoints: Checkpoints, size: int, monkeypatch: pytest.MonkeyPatch
):
    """The temporary file is a link to a device that is always full."""
    for iteration in (1, 2):
        checkpoints.write(state(iteration))
    monkeypatch.setattr(files, "_beside", lambda path, number: path.with_name(f".tmp{path.suffix}"))
    checkpoints.last.with_name(".tmp.pt").symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"the disk is full .*checkpoint\.pt.*free some space"):
        checkpoints.write(state(3, size=size))
    assert names(checkpoints) == ["checkpoint.before.pt", "checkpoint.pt"]
    assert found(checkpoints) == 2
    damage(checkpoints.last)
    assert found(checkpoints) == 1


def test_a_disk_that_tells_it_is_full_when_flushed(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch):
    for iteration in (1, 2):
        checkpoints.write(state(iteration))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="the disk is full"):
            checkpoints.write(state(3))
    assert found(checkpoints) == 2 and checkpoints.before.is_file()
