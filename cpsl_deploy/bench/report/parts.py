"""Parts of a record: measured, not asked for, or asked for and not to be had."""

from __future__ import annotations

from typing import Any

from ..record import Record


def measured(record: Record, name: str) -> Any:
    """A part of a record if it was measured and is not empty, else None."""
    return None if why_unavailable(record, name) is not None else record.get(name) or None


def why_unavailable(record: Record, name: str) -> str | None:
    """Why a part that was asked for could not be measured; None for any other part."""
    part = record.get(name)
    # The measured variants have a list of that name: those of them that could not be had.
    found = part.get("unavailable") if isinstance(part, dict) else None
    return found if isinstance(found, str) else None
