"""Checkpoints of the stage under way: the last and the one before it, so that a damaged one costs little."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from cpsl_deploy.errors import ModelFileError
from cpsl_deploy.files import atomic_path

_log = logging.getLogger(__name__)


class Checkpoints:
    """Two files, each there whole or not at all, whenever the process that writes them is killed."""

    def __init__(self, last: Path) -> None:
        self.last = last
        self.before = last.with_name(f"{last.stem}.before{last.suffix}")

    def write(self, state: dict[str, Any]) -> None:
        """Write the last one; what was the last becomes the one before it, and that one goes.

        Raises OutputError, and leaves both as they are, if the disk is full.
        """
        with atomic_path(self.last) as path:
            _write(state, path)
            if self.last.exists():  # not before the new one is on the disk
                os.replace(self.last, self.before)

    def read(self, stage: str) -> dict[str, Any] | None:
        """The latest state of a stage, None if there is none of it.

        A damaged file is passed over, with a warning, for the one before it. Raises ModelFileError if that is
        none of this stage.
        """
        damaged: ModelFileError | None = None
        for path in self._there():
            try:
                state = read_checkpoint(path)
            except ModelFileError as error:
                damaged = damaged or error
                continue
            if state["stage"] == stage:
                if damaged is not None:
                    words = "%s is damaged; %s goes on from the checkpoint before it, iteration %d"
                    _log.warning(words, self.last, stage, state["iteration"])
                return state
        if damaged is not None:
            raise damaged
        return None

    def stages(self) -> set[str]:
        """The stages there is a checkpoint of. Raises ModelFileError if none can be read."""
        found, damaged = set(), None
        for path in self._there():
            try:
                found.add(read_checkpoint(path)["stage"])
            except ModelFileError as error:
                damaged = error
        if damaged is not None and not found:
            raise damaged
        return found

    def remove(self) -> None:
        for path in self._there():
            path.unlink()

    def _there(self) -> list[Path]:
        return [path for path in (self.last, self.before) if path.is_file()]


def _write(state: dict[str, Any], path: Path) -> None:
    """torch.save, onto the disk, with an OSError where it is full."""
    with open(path, "wb") as file:  # given the path, torch hides that error
        try:
            torch.save(state, file)
        except RuntimeError as error:  # of closing the archive that could not be written
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content. Raises ModelFileError if it is damaged; runs no code from it."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for part in ("stage", "iteration", "module", "optimisers", "scaler"):
            state[part]
    except Exception as error:
        raise ModelFileError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}). Delete it to start its stage "
            "again with --resume; finished stages are kept."
        ) from error
    return state
