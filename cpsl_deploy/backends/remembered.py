"""Which way of running a model file was the fastest here, kept from one start to the next.

One JSON file for all models. What cannot be read, or is not as it was written, counts as nothing: it is
measured again. What cannot be written is measured at every start.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cache_folder import cache_folder
from ..errors import OutputError
from ..files import write_json

_log = logging.getLogger(__name__)

FILE_NAME = "fastest.json"
MOST_ENTRIES = 200
"""The oldest are forgotten first."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What came of measuring: the pick, and the milliseconds of one inference of all that were measured."""

    picked: str
    milliseconds: Mapping[str, float]
    on: str
    """Date, as 2026-11-30."""

    @classmethod
    def today(cls, picked: str, milliseconds: Mapping[str, float]) -> Measured:
        return cls(picked=picked, milliseconds=dict(milliseconds), on=datetime.date.today().isoformat())

    @classmethod
    def from_json(cls, value: Any) -> Measured | None:
        """None for what `to_json` did not make."""
        if not isinstance(value, dict) or not isinstance(value.get("milliseconds"), dict):
            return None
        picked, times, on = value.get("picked"), value["milliseconds"], value.get("on")
        numbers = all(type(time) is float and math.isfinite(time) for time in times.values())
        if not isinstance(on, str) or not numbers or not isinstance(picked, str) or picked not in times:
            return None
        return cls(picked=picked, milliseconds=times, on=on)

    def to_json(self) -> dict[str, Any]:
        return {"picked": self.picked, "milliseconds": dict(self.milliseconds), "on": self.on}


def remembered_file() -> Path | None:
    """None where the user has no home and names no folder."""
    try:
        return cache_folder() / FILE_NAME
    except RuntimeError:
        return None


def recall(facts: Mapping[str, Any]) -> Measured | None:
    """What was measured under these facts, ready for JSON; None if nothing was."""
    return Measured.from_json(_entries(remembered_file()).get(_key(facts)))


def remember(facts: Mapping[str, Any], measured: Measured) -> Path | None:
    """Keep what was measured under these facts; where, or None if it cannot be kept."""
    file = remembered_file()
    if file is None:
        _log.debug("what was measured cannot be kept: no home folder, and $CPSL_CACHE is not set")
        return None
    key, entries = _key(facts), _entries(file)
    entries.pop(key, None)  # so that it is the newest
    entries[key] = {**measured.to_json(), **facts}
    try:
        write_json(file, dict(list(entries.items())[-MOST_ENTRIES:]))
    except OutputError as error:
        _log.debug("what was measured cannot be kept: %s", error)
        return None
    return file


def _entries(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _key(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
