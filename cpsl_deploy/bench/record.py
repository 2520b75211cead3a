"""A benchmark's record: one JSON document, whose schema is record.schema.json beside this file.

All that is shown of a benchmark is made of its record, and two of them can be compared, so a record is whole
in itself: configuration, hashes of model and data, versions, machine, every sample. Shares and IoU are from 0
to 1, times milliseconds, sizes bytes. ``null`` stands for what was not asked for, or has no such figure;
``{"unavailable": reason}`` for what was asked for and could not be measured.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import InputError

SCHEMA_VERSION = 2
KIND = "benchmark"
Record = dict[str, Any]
DAMAGE = (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError)
"""What code stumbles with over a part that is not what the schema says; `damaged` tells of it."""


@cache
def record_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a record."""
    return json.loads(Path(__file__).with_name("record.schema.json").read_text(encoding="utf-8"))


def read_record(path: str | os.PathLike[str]) -> Record:
    """A record from its file.

    Raises InputError if the file is not there, not JSON, of another kind or version, or lacks a part.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read the record {path}: {reason}. Name the bench.json of a run") from error
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not JSON ({error}). Name the bench.json of a run of cpsl-bench"
        ) from error
    return check_record(record, str(path))


def check_record(record: Any, origin: str) -> Record:
    """The record itself, if its kind, version and parts are those of the schema. ``origin``: for errors.

    Raises InputError otherwise.
    """
    if not isinstance(record, dict) or "schema_version" not in record:
        raise InputError(f"{origin} is no record of cpsl-bench: it has no schema_version")
    version, kind = record["schema_version"], record.get("kind", KIND)
    if version != SCHEMA_VERSION or kind != KIND:
        raise InputError(
            f"{origin} is a {kind!r} of schema {version!r}, and this version reads {KIND!r} of schema "
            f"{SCHEMA_VERSION}. Measure again with cpsl-bench, or use the version that wrote it"
        )
    if missing := [name for name in record_schema()["required"] if name not in record]:
        raise InputError(
            f"{origin} lacks {', '.join(missing)}: it was cut or edited. Measure again with cpsl-bench"
        )
    return record


def damaged(origin: str, error: Exception) -> InputError:
    """For who stumbles over a part that is there and not what the schema says."""
    return InputError(
        f"{origin} is not what schema {SCHEMA_VERSION} says ({type(error).__name__}: {error}): it was "
        "edited or damaged. Measure again with cpsl-bench"
    )


def unavailable(reason: object) -> dict[str, str]:
    """A section that was asked for and could not be measured."""
    return {"unavailable": str(reason)}


def measured(record: Record, name: str) -> Any:
    """A part of a record if it was measured and is not empty, else None."""
    return None if why_unavailable(record, name) is not None else record.get(name) or None


def why_unavailable(record: Record, name: str) -> str | None:
    """Why a part that was asked for could not be measured; None for any other part."""
    part = record.get(name)
    # The measured variants have a list of that name: those of them that could not be had.
    found = part.get("unavailable") if isinstance(part, dict) else None
    return found if isinstance(found, str) else None
